//! `submit` and `plan`: the job file on its way to the daemon.

use crate::fake_daemon::{Act, FakeDaemon};
use crate::fixtures as fix;
use crate::harness::{Home, golden};
use crate::shape::shape;
use r1d_proto::control::job::{Activity, JobStatus};
use r1d_proto::control::{Request, Response};
use serde_json::Value;
use std::time::Duration;

pub(crate) const JOB_FILE: &str = r#"
name = "tiny"
priority = 5

[model]
path = "models/tiny"

[data.train]
path = "data/train.jsonl"
prompt = "question"
reference = "answer"

[[stage]]
name = "reasoning"
kind = "grpo"
data = "train"
steps = 2

  [[stage.reward]]
  plugin = "accuracy"
"#;

fn submitted() -> Response {
    Response::Submitted {
        job: fix::id(),
        warnings: vec!["data.train has 12 rows: each is seen 3 times".into()],
        plugins: [("accuracy".to_owned(), "ab".repeat(32))].into(),
    }
}

fn job_of(request: &Request) -> String {
    match request {
        Request::Submit { job, .. } | Request::Plan { job, .. } => job.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_id_is_the_data_and_all_else_is_talk() {
    let home = Home::new();
    home.write("jobs/job.toml", JOB_FILE);
    let daemon = FakeDaemon::answering(&home.socket(), submitted());
    let run = home
        .run(&["submit", "jobs/job.toml", "--priority", "-7"])
        .expect(0);
    assert_eq!(run.stdout, format!("{}\n", fix::JOB));
    golden("table/submit.stderr.txt", &run.stderr);
    let json = home
        .run(&["submit", "jobs/job.toml", "-o", "json"])
        .expect(0)
        .stdout;
    golden("json/submit.json", &json);
    golden(
        "schema/submit.txt",
        &shape(&[serde_json::from_str::<Value>(&json).unwrap()]),
    );
    let priorities: Vec<Option<i32>> = daemon
        .requests()
        .iter()
        .map(|r| {
            if let Request::Submit { priority, .. } = r {
                *priority
            } else {
                Some(99)
            }
        })
        .collect();
    assert_eq!(
        priorities,
        [Some(-7), None],
        "without the option the job file's own counts, which travels in it"
    );
}

#[test]
fn the_readme_s_job_file_is_one() {
    let home = Home::new();
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    home.write("job.toml", example);
    let daemon = FakeDaemon::answering(&home.socket(), submitted());
    home.run(&["submit", "job.toml"]).expect(0);
    assert_eq!(daemon.requests().len(), 1);
}

#[test]
fn relative_paths_are_of_the_job_file_s_own_directory() {
    let home = Home::new();
    home.write("jobs/job.toml", JOB_FILE);
    let daemon = FakeDaemon::answering(&home.socket(), submitted());
    home.run(&["submit", "jobs/job.toml"]).expect(0);
    let job = job_of(&daemon.requests()[0]);
    for path in ["jobs/models/tiny", "jobs/data/train.jsonl"] {
        let absolute = home.path().join(path);
        assert!(
            job.contains(absolute.to_str().unwrap()),
            "{path} is not absolute in\n{job}"
        );
    }
    // What is sent is a job file again: the daemon reads the same job from it.
    let again = r1d_job::Job::parse(&job, std::path::Path::new("/elsewhere")).unwrap();
    assert_eq!(again.to_toml(), job);
}

#[test]
fn a_wrong_job_file_is_told_with_file_and_key_before_a_daemon_is_asked() {
    let home = Home::new();
    let cases = [
        (
            JOB_FILE.replace("steps = 2", "setps = 2"),
            vec!["bad.toml", "setps", "steps"],
        ),
        (
            JOB_FILE.replace("steps = 2", "steps = \"two\""),
            vec!["bad.toml", "steps"],
        ),
        (
            JOB_FILE.replace("steps = 2", "steps = 2\nnum_generations = 1"),
            vec!["bad.toml", "num_generations"],
        ),
        ("name = \"x".into(), vec!["bad.toml"]),
    ];
    for (text, parts) in cases {
        home.write("bad.toml", &text);
        for command in ["submit", "plan"] {
            let run = home.run(&[command, "bad.toml"]).expect(1);
            assert_eq!(run.stdout, "");
            for part in &parts {
                assert!(
                    run.stderr.contains(part),
                    "{command}: no {part} in\n{}",
                    run.stderr
                );
            }
        }
    }
    let error = home.run(&["submit", "absent.toml"]).expect(1).stderr;
    assert!(
        error.contains("absent.toml") && error.contains("No such file"),
        "{error}"
    );
}

#[test]
fn plan() {
    let home = Home::new();
    home.write("job.toml", JOB_FILE);
    let daemon = FakeDaemon::answering(&home.socket(), Response::Plan(Box::new(fix::plan())));
    golden(
        "table/plan.txt",
        &home.run(&["plan", "job.toml"]).expect(0).stdout,
    );
    let toml = home.run(&["plan", "job.toml", "--toml"]).expect(0).stdout;
    assert_eq!(toml, fix::plan().resolved);
    for stage in fix::plan().stages {
        let amounts = [stage.memory, stage.host_memory, stage.disk];
        for holder in amounts.iter().flat_map(|amounts| amounts.keys()) {
            let said = home.run(&["explain", &holder.to_uppercase()]).expect(0);
            assert!(said.stdout.contains(" above a column\n  "), "{holder}");
        }
    }
    let json = home
        .run(&["plan", "job.toml", "-o", "json"])
        .expect(0)
        .stdout;
    golden("json/plan.json", &json);
    let documents = [
        serde_json::from_str(&json).unwrap(),
        serde_json::to_value(fix::bare_plan()).unwrap(),
    ];
    golden("schema/plan.txt", &shape(&documents));
    assert!(
        daemon
            .requests()
            .iter()
            .all(|request| matches!(request, Request::Plan { .. }))
    );
}

#[test]
fn waiting_goes_from_the_id_to_the_summary() {
    let home = Home::new();
    home.write("job.toml", JOB_FILE);
    let script = |last: fn() -> JobStatus| {
        move |request: &Request, _| match request {
            Request::Submit { .. } => vec![Act::Send(submitted())],
            _ => vec![
                Act::Send(Response::Status(Box::new(last()))),
                Act::Send(Response::End),
            ],
        }
    };
    let daemon = FakeDaemon::start(&home.socket(), script(fix::succeeded));
    let run = home.run(&["submit", "job.toml", "--wait"]).expect(0);
    assert!(
        run.stderr.contains("submitted as k3v9qx7a"),
        "{}",
        run.stderr
    );
    assert!(
        run.stdout.contains("87.5 %") && run.stdout.contains("/final"),
        "{}",
        run.stdout
    );
    assert_eq!(
        daemon.requests()[1],
        Request::Watch {
            job: fix::JOB.into()
        }
    );
    drop(daemon);
    let _daemon = FakeDaemon::start(&home.socket(), script(fix::failed));
    let run = home
        .run(&["submit", "job.toml", "-w", "-o", "json"])
        .expect(2);
    assert_eq!(
        serde_json::from_str::<JobStatus>(&run.stdout).unwrap(),
        fix::failed()
    );
}

#[test]
fn explain_is_of_the_table_that_checks_the_keys() {
    let home = Home::new();
    let text = home.run(&["explain", "num_generations"]).expect(0).stdout;
    assert!(text.starts_with("stage.num_generations in"), "{text}");
    let by_part = home.run(&["explain", "num_generation"]).expect(0);
    assert_eq!(by_part.stdout, text);
    let run = home.run(&["explain", "num_generatoins"]).expect(1);
    assert!(
        run.stdout.is_empty() && run.stderr.contains("the nearest is `num_generations`"),
        "{}",
        run.stderr
    );
    let json: Value = serde_json::from_str(
        &home
            .run(&["explain", "beta", "-o", "json"])
            .expect(0)
            .stdout,
    )
    .unwrap();
    golden("schema/explain.txt", &shape(&[json]));
    assert!(
        home.run(&["explain"])
            .expect(0)
            .stdout
            .contains("learning_rate")
    );
    let schema: Value =
        serde_json::from_str(&home.run(&["explain", "-o", "json"]).expect(0).stdout).unwrap();
    assert!(schema.get("$schema").is_some());
}

fn pins(request: &Request) -> Vec<(String, String)> {
    match request {
        Request::Submit { pins, .. } => pins.clone().into_iter().collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_submission_pins_the_plugins_and_later_ones_ask_for_the_same() {
    let home = Home::new();
    home.write("jobs/job.toml", JOB_FILE);
    let daemon = FakeDaemon::answering(&home.socket(), submitted());
    let first = home.run(&["submit", "jobs/job.toml"]).expect(0);
    assert!(
        first.stderr.contains("plugins pinned in HOME/jobs/r1.lock"),
        "{}",
        first.stderr
    );
    let lock = std::fs::read_to_string(home.path().join("jobs/r1.lock")).unwrap();
    golden("table/r1.lock.txt", &lock);
    let second = home.run(&["submit", "jobs/job.toml", "--locked"]).expect(0);
    assert!(
        !second.stderr.contains("r1.lock"),
        "nothing new: {}",
        second.stderr
    );
    home.run(&["submit", "jobs/job.toml", "--update-lock"])
        .expect(0);
    let accuracy = vec![("accuracy".to_owned(), "ab".repeat(32))];
    assert_eq!(
        daemon.requests().iter().map(pins).collect::<Vec<_>>(),
        [vec![], accuracy, vec![]]
    );
    assert_eq!(
        std::fs::read_to_string(home.path().join("jobs/r1.lock")).unwrap(),
        lock
    );
}

#[test]
fn a_locked_submission_needs_a_lock_that_is_whole() {
    let home = Home::new();
    home.write("jobs/job.toml", JOB_FILE);
    let missing = home
        .run(&["submit", "jobs/job.toml", "--locked"])
        .expect(1)
        .stderr;
    assert!(
        missing.contains("r1.lock") && missing.contains("no pin of accuracy"),
        "{missing}"
    );
    for (text, part) in [
        ("version = 7", "version is 7"),
        ("version", "r1.lock"),
        ("version = 1\nplugins = []", "plugins"),
    ] {
        home.write("jobs/r1.lock", text);
        let refused = home.run(&["submit", "jobs/job.toml"]).expect(1).stderr;
        assert!(
            refused.contains("r1.lock") && refused.contains(part),
            "{text}: {refused}"
        );
    }
}

/// What takes the daemon long is waited for as long as it says that it is at it.
#[test]
fn a_daemon_that_is_at_it_may_take_longer_than_the_timeout() {
    let home = Home::new();
    home.write("job.toml", JOB_FILE);
    let at = |done| Activity {
        doing: format!("reading part {done}"),
        done,
        total: 5,
        unit: "parts".into(),
    };
    let _daemon = FakeDaemon::start(&home.socket(), move |_, _| {
        let words = (0..5).flat_map(|done| {
            [
                Act::Pause(Duration::from_millis(500)),
                Act::Send(Response::Progress(at(done))),
            ]
        });
        words.chain([Act::Send(submitted())]).collect()
    });
    let run = home
        .run(&["submit", "job.toml", "--timeout", "1"])
        .expect(0);
    assert_eq!(run.stdout, format!("{}\n", fix::JOB));
    assert!(
        !run.stderr.contains("reading part"),
        "nobody watches: {}",
        run.stderr
    );
}

#[test]
fn silence_is_an_error_that_says_what_becomes_of_the_submission() {
    let home = Home::new();
    home.write("job.toml", JOB_FILE);
    let _daemon = FakeDaemon::start(&home.socket(), |_, _| vec![Act::Hang]);
    let error = home
        .run(&["submit", "job.toml", "--timeout", "1"])
        .expect(1)
        .stderr;
    assert!(
        error.contains("no answer within 1 s") && error.contains("finds its job"),
        "{error}"
    );
}

/// The longest job file that the daemon takes has 1 MiB.
#[test]
fn a_request_that_no_daemon_takes_is_not_sent() {
    let home = Home::new();
    let comment = "x".repeat(3 << 20);
    home.write(
        "job.toml",
        &JOB_FILE.replace("name = \"tiny\"", &format!("name = \"{comment}\"")),
    );
    let daemon = FakeDaemon::answering(&home.socket(), submitted());
    let error = home.run(&["submit", "job.toml"]).expect(1).stderr;
    assert!(
        daemon.requests().is_empty() && error.len() < 1000,
        "{} bytes: {}",
        error.len(),
        &error[..error.len().min(500)]
    );
}
