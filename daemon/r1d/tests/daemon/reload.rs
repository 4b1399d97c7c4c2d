//! Who judges a running job: whole groups, pinned components, and components that take another's
//! place at a step's boundary.

use crate::guests::{Guest, component, core, group_core, returns, sharing};
use crate::test_daemon::TestDaemon;
use r1d_proto::control::content::Sample;
use r1d_proto::control::{Request, Response, SampleSort};
use r1d_proto::verdict::Outcome;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const FORMAT: &str = "  plugin = \"format\"\n  weight = 0.5";

/// A component that scores this always, and brings a golden case that expects `golden`.
fn constant(value: f32, golden: Option<f32>) -> Vec<u8> {
    let bytes = component(&Guest {
        score: &returns(&format!("(f32.const {value})")),
        ..Guest::default()
    });
    let case = |score| {
        format!(r#"{{"case": "always", "completion": "", "expect": {{"score": {score}}}}}"#)
    };
    golden.map_or(bytes.clone(), |score| {
        r1d_rewards::golden::embed(&bytes, &case(score)).unwrap()
    })
}

fn put(daemon: &TestDaemon, name: &str, bytes: Vec<u8>) -> PathBuf {
    let path = daemon.path(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The job with the second reward's plugin replaced.
fn job(daemon: &TestDaemon, plugin: &Path, changes: &[(&str, &str)]) -> String {
    let reward = format!("  plugin = \"{}\"\n  name = \"constant\"", plugin.display());
    daemon.job(&[&[(FORMAT, reward.as_str())], changes].concat())
}

fn samples(daemon: &TestDaemon, job: &str, step: u64) -> Vec<Sample> {
    let request = Request::Samples {
        job: job.into(),
        stage: Some("reasoning".into()),
        step: Some(step),
        sort: SampleSort::Order,
        limit: 1000,
    };
    match daemon.ask(request) {
        Response::Samples(samples) => samples,
        other => panic!("{other:?}"),
    }
}

/// What the reward `constant` gave in a step; the same for all of it.
fn given(daemon: &TestDaemon, job: &str, step: u64) -> (f32, String) {
    let samples = samples(daemon, job, step);
    let verdict = |sample: &Sample| {
        sample
            .verdicts
            .iter()
            .find(|verdict| verdict.plugin == "constant")
            .cloned()
            .unwrap()
    };
    let first = verdict(&samples[0]);
    assert!(
        samples
            .iter()
            .all(|sample| verdict(sample).module_sha256 == first.module_sha256),
        "a step has one judge"
    );
    match first.outcome {
        Outcome::Score { value, .. } => (value, first.module_sha256),
        other => panic!("{other:?}"),
    }
}

fn reload(
    daemon: &TestDaemon,
    job: &str,
    plugin: &str,
    file: &Path,
) -> Result<(u64, String), String> {
    match daemon.ask(Request::Reload {
        job: job.into(),
        plugin: plugin.into(),
        file: file.into(),
    }) {
        Response::Reloaded {
            stage,
            step,
            sha256,
            ..
        } if stage == "reasoning" => Ok((step, sha256)),
        Response::Error(error) => Err(error.message),
        other => panic!("{other:?}"),
    }
}

fn wait_for_step(daemon: &mut TestDaemon, job: &str, step: u64) {
    let job = job.to_owned();
    daemon.wait("a step of reasoning", |daemon| {
        let status = daemon.try_status(&job)?;
        status
            .stages
            .iter()
            .any(|stage| stage.name == "reasoning" && stage.step >= step)
            .then_some(())
    });
}

#[test]
fn a_group_reward_sees_each_prompts_samples_together() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let plugin = put(&daemon, "share.wasm", sharing());
    let id = daemon.submit(job(&daemon, &plugin, &[]));
    daemon.wait_succeeded(&id);
    for step in 1..=6 {
        assert_eq!(
            given(&daemon, &id, step).0,
            0.25,
            "1 / num_generations, in step {step}"
        );
    }
}

#[test]
fn a_reloaded_plugin_judges_from_the_next_step_on_whatever_is_killed() {
    let mut daemon = TestDaemon::new().with_delay_ms(30);
    daemon.start();
    let (old, new) = (
        put(&daemon, "old.wasm", constant(0.25, Some(0.25))),
        put(&daemon, "new.wasm", constant(0.75, Some(0.75))),
    );
    let id = daemon.submit(job(&daemon, &old, &[("steps = 6", "steps = 12")]));
    wait_for_step(&mut daemon, &id, 2);
    let (from, sha256) = reload(&daemon, &id, "constant", &new).unwrap();
    assert!((3..=12).contains(&from), "{from}");
    // Neither the files nor the process need last: components are kept, and the ledger knows who
    // judges.
    std::fs::remove_file(&old).unwrap();
    std::fs::remove_file(&new).unwrap();
    daemon.kill();
    let status = daemon.wait_succeeded(&id);
    for step in 1..=12 {
        let (value, judge) = given(&daemon, &id, step);
        assert_eq!(
            (value, judge == sha256),
            if step < from {
                (0.25, false)
            } else {
                (0.75, true)
            },
            "step {step}, reloaded from {from}"
        );
    }
    assert!(
        daemon
            .log_lines(&id)
            .iter()
            .any(|line| line.message.contains("reloaded") && line.message.contains(&sha256))
    );
    assert!(status.directory.exists());
    assert!(
        reload(&daemon, &id, "constant", &new)
            .unwrap_err()
            .contains("new.wasm"),
        "there is no such file any more"
    );
}

#[test]
fn what_is_untried_or_unlike_takes_no_place() {
    let mut daemon = TestDaemon::new().with_delay_ms(30);
    daemon.start();
    let old = put(&daemon, "old.wasm", constant(0.25, Some(0.25)));
    let id = daemon.submit(job(&daemon, &old, &[("steps = 6", "steps = 40")]));
    wait_for_step(&mut daemon, &id, 1);
    let wider = Guest {
        describe: "(f32.store (i32.const 1044) (f32.const 2)) (i32.const 1024)",
        score: &returns("(f32.const 0.5)"),
        ..Guest::default()
    };
    let cases = [
        (
            "untried.wasm",
            constant(0.75, None),
            "brings no golden cases",
        ),
        (
            "wrong.wasm",
            constant(0.75, Some(0.5)),
            "1 of its 1 golden cases differ",
        ),
        ("wider.wasm", component(&wider), "the range is 0 to 2"),
        (
            "group.wasm",
            r1d_rewards::componentize(&group_core("(unreachable)")).unwrap(),
            "the world is group-reward",
        ),
        (
            "core.wasm",
            core(&Guest::default(), "reward"),
            "plugin build",
        ),
    ];
    for (name, bytes, part) in cases {
        let file = put(&daemon, name, bytes);
        let refused = reload(&daemon, &id, "constant", &file).unwrap_err();
        assert!(
            refused.contains(part) && refused.contains(name),
            "{name}: {refused}"
        );
    }
    assert!(
        reload(&daemon, &id, "nobody", &old)
            .unwrap_err()
            .contains("constant")
    );
    daemon.ask(Request::Cancel { job: id.clone() });
    assert!(
        reload(&daemon, &id, "constant", &old)
            .unwrap_err()
            .contains("cancelled")
    );
}

#[test]
fn a_pin_holds_or_the_job_is_refused_and_a_changed_file_is_no_matter_later() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let plugin = put(&daemon, "old.wasm", constant(0.25, Some(0.25)));
    let text = job(&daemon, &plugin, &[]);
    let submit = |daemon: &TestDaemon, pins: &[(String, String)]| {
        daemon.ask(Request::Submit {
            job: text.clone(),
            priority: None,
            pins: pins.iter().cloned().collect(),
            no_reuse: false,
            hold: false,
        })
    };
    let Response::Submitted {
        job: id, plugins, ..
    } = submit(&daemon, &[])
    else {
        panic!("refused")
    };
    assert_eq!(
        plugins.keys().map(String::as_str).collect::<Vec<_>>(),
        [plugin.to_str().unwrap(), "accuracy"]
    );
    let pins: Vec<(String, String)> = plugins.into_iter().collect();
    put(&daemon, "old.wasm", constant(0.75, Some(0.75)));
    daemon.wait_succeeded(&id.0);
    assert_eq!(
        given(&daemon, &id.0, 6).0,
        0.25,
        "judged by what it was submitted with"
    );
    // The pinned component is kept: the pin can still be met. One that is not kept cannot.
    let Response::Submitted {
        job: again,
        warnings,
        ..
    } = submit(&daemon, &pins)
    else {
        panic!("refused")
    };
    let words = format!("r1.lock pins {}…, which judges this job", &pins[0].1[..12]);
    assert!(
        warnings.iter().any(|warning| warning.contains(&words)),
        "{warnings:?}"
    );
    let plan = Request::Plan {
        job: text.clone(),
        pins: pins.iter().cloned().collect(),
    };
    match daemon.ask(plan) {
        Response::Plan(plan) => assert_eq!(plan.warnings, warnings),
        other => panic!("{other:?}"),
    }
    daemon.wait_succeeded(&again.0);
    assert_eq!(given(&daemon, &again.0, 1).0, 0.25);
    let words = format!("submitted with {}…, which judges it", &pins[0].1[..12]);
    let logged = daemon.log_lines(&again.0);
    assert!(
        logged
            .iter()
            .any(|line| line.level == "warn" && line.message.contains(&words)),
        "{logged:?}"
    );
    // Over a restart too. Kept components that no job names are let go.
    let plugins = daemon.path("state/plugins");
    let nobodys =
        ["ab".repeat(32) + ".wasm", "ab".repeat(32) + ".wasm.sig"].map(|name| plugins.join(name));
    nobodys
        .iter()
        .for_each(|path| std::fs::write(path, "").unwrap());
    std::fs::write(plugins.join("notes.txt"), "").unwrap();
    daemon.kill();
    daemon.start();
    assert!(
        pins.iter()
            .all(|(_, sha256)| plugins.join(format!("{sha256}.wasm")).is_file())
    );
    assert!(plugins.join("notes.txt").is_file() && !nobodys.iter().any(|path| path.exists()));
    let unknown = vec![(pins[0].0.clone(), "ab".repeat(32))];
    match submit(&daemon, &unknown) {
        Response::Error(error) => {
            assert!(
                error.message.contains("the job pins abab")
                    && error.message.contains("--update-lock"),
                "{}",
                error.message
            )
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_is_compared_with_another_grader() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let plugin = put(&daemon, "old.wasm", constant(0.25, None));
    let id = daemon.submit(job(&daemon, &plugin, &[]));
    let status = daemon.wait_succeeded(&id);
    let rescore = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_r1d"));
        command
            .args(["plugin", "rescore"])
            .arg(&status.directory)
            .args(words)
            .env("XDG_CACHE_HOME", daemon.path("cache"));
        let ran = command.output().unwrap();
        (
            ran.status.success(),
            serde_json::from_slice::<Value>(&ran.stdout).ok(),
            String::from_utf8(ran.stderr).unwrap(),
        )
    };
    let (_, same, said) = rescore(&["--plugin", plugin.to_str().unwrap(), "--reward", "constant"]);
    let same = same.unwrap_or_else(|| panic!("{said}"));
    let completions = same["completions"].as_u64().unwrap();
    assert!(
        completions >= 6 * 8
            && same["agreeing"] == json!(completions)
            && same["disagreements"] == json!([]),
        "{same}"
    );

    let other = put(&daemon, "other.wasm", constant(0.75, None));
    let (passed, other, said) = rescore(&[
        "--plugin",
        other.to_str().unwrap(),
        "--reward",
        "constant",
        "--limit",
        "2",
    ]);
    let other = other.unwrap_or_else(|| panic!("{said}"));
    assert!(passed && other["agreeing"] == json!(0), "{other}");
    assert_eq!(
        other["pairs"],
        json!([{"recorded": "score 0.25", "rescored": "score 0.75", "completions": completions}])
    );
    let first = &other["disagreements"][0];
    assert_eq!(
        (
            first["step"].as_u64(),
            other["disagreements"].as_array().unwrap().len()
        ),
        (Some(1), 2)
    );
    assert!(
        first["prompt"]
            .as_str()
            .is_some_and(|prompt| !prompt.is_empty())
            && first["reference"].is_string(),
        "{first}"
    );

    // The recorded reward `accuracy`, by the plugin that gave it: references, token counts and
    // configuration are what they were.
    let accuracy = crate::guests::shipped().join("accuracy.wasm");
    let (_, accuracy, said) = rescore(&["--plugin", accuracy.to_str().unwrap()]);
    let accuracy = accuracy.unwrap_or_else(|| panic!("{said}"));
    assert!(
        accuracy["reward"] == "accuracy" && accuracy["agreeing"] == accuracy["completions"],
        "{accuracy}"
    );
    let (passed, _, said) = rescore(&["--plugin", plugin.to_str().unwrap()]);
    assert!(
        !passed && said.contains("--reward names one of: accuracy, constant"),
        "{said}"
    );
}
