//! What a user of the daemon relies on: outputs, the queue, cancelling, honest errors.

use crate::test_daemon::{Outcome, TestDaemon};
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::job::State;
use r1d_proto::control::{Request, Response, SampleSort};
use r1d_proto::trace::Lane;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn a_job_leaves_what_it_should() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let watched = daemon.stream(Request::Watch { job: job.clone() });
    let last = match watched.last() {
        Some(Response::Status(status)) => status.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(last.state, State::Succeeded, "{:?}", last.error);
    let status = daemon.wait_succeeded(&job);

    let text = fs::read_to_string(status.directory.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let places: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["stage"].as_str().unwrap(),
                line["step"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [("reading", 3), ("cold-start", 3), ("reasoning", 6)];
    assert_eq!(
        places,
        expected
            .iter()
            .flat_map(|(stage, steps)| (1..=*steps).map(|step| (*stage, step)))
            .collect::<Vec<_>>()
    );
    for name in [
        "reward",
        "rewards/accuracy/mean",
        "rewards/format/mean",
        "kl",
        "num_tokens",
        "step_time",
        "completions/clipped_ratio",
    ] {
        assert!(
            lines[11][name].is_number(),
            "{name} is not in {}",
            lines[11]
        );
    }

    let rollouts: BTreeSet<_> = fs::read_dir(status.directory.join("rollouts"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        rollouts,
        (1..=6)
            .map(|step| format!("reasoning-step-{step:06}.parquet"))
            .collect()
    );
    let kept = |stage: &str| -> BTreeSet<_> {
        let entries = fs::read_dir(status.directory.join("checkpoints").join(stage)).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert_eq!(
        kept("reasoning"),
        BTreeSet::from(["step-4".into(), "step-6".into()])
    );
    assert_eq!(
        kept("reading"),
        BTreeSet::from(["step-2".into(), "step-3".into()])
    );
    assert!(status.directory.join("final/state").exists());
    assert!(
        fs::read_to_string(status.directory.join("job.toml"))
            .unwrap()
            .contains("num_generations = 4")
    );
    assert!(
        status
            .directory
            .join("tensorboard/reasoning")
            .read_dir()
            .unwrap()
            .count()
            == 1
    );

    let evals: Vec<_> = status
        .evals
        .iter()
        .map(|e| (e.stage.as_deref(), e.step))
        .collect();
    assert_eq!(
        evals,
        [
            (None, 0),
            (Some("reading"), 3),
            (Some("cold-start"), 3),
            (Some("reasoning"), 3),
            (Some("reasoning"), 6)
        ]
    );
    let example = status.evals[0].example.as_ref().unwrap();
    assert_eq!(
        (example.prompt.as_str(), example.reference.as_deref()),
        ("0 0", Some("0"))
    );
    assert!(!example.completion.is_empty());
    assert!(
        status
            .evals
            .iter()
            .all(|e| (0.0..=1.0).contains(&e.metrics["pass@1"]))
    );

    let of = |step, sort, limit| match daemon.ask(Request::Samples {
        job: job[..5].into(),
        stage: None,
        step,
        sort,
        limit,
    }) {
        Response::Samples(samples) => samples,
        other => panic!("{other:?}"),
    };
    let samples = of(Some(2), SampleSort::Order, 3);
    assert_eq!(
        samples
            .iter()
            .map(|s| (s.step, s.prompt_index, s.sample_index))
            .collect::<Vec<_>>(),
        [(2, 0, 0), (2, 0, 1), (2, 0, 2)]
    );
    assert!(
        samples[0]
            .completion
            .split(' ')
            .all(|word| !word.is_empty())
            && !samples[0].completion.contains("</s>")
    );
    let best = of(None, SampleSort::Reward, 100);
    assert_eq!(best[0].step, 6);
    assert!(best.windows(2).all(|pair| pair[0].reward >= pair[1].reward));
    assert!(
        best.iter()
            .all(|s| s.verdicts.len() == 2 && s.verdicts[0].module_sha256.len() == 64)
    );
    let absent = Request::Samples {
        job: job.clone(),
        stage: None,
        step: Some(99),
        sort: SampleSort::Order,
        limit: 3,
    };
    let Response::Error(error) = daemon.ask(absent) else {
        panic!("samples of a step that never was")
    };
    assert!(
        error.message.contains("step 99") && error.message.contains("1 to 6"),
        "{}",
        error.message
    );

    let log = daemon.log_lines(&job);
    assert!(
        log.iter()
            .any(|line| line.message.contains("evaluation on train")),
        "{log:?}"
    );
    assert_eq!(
        status
            .stages
            .iter()
            .map(|s| (s.step, s.steps, s.durable_step))
            .collect::<Vec<_>>(),
        [(3, 3, 3), (3, 3, 3), (6, 6, 6)]
    );
}

#[test]
fn each_committed_step_leaves_a_trace_of_what_took_how_long() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait_succeeded(&job);
    let trace = |stage: Option<&str>, step| {
        daemon.ask(Request::Trace {
            job: job.clone(),
            stage: stage.map(str::to_owned),
            step,
        })
    };
    let names = |stage: &str, step| match trace(Some(stage), Some(step)) {
        Response::Trace(trace) => {
            assert_eq!((trace.stage.as_str(), trace.step), (stage, step));
            let names = trace.spans.into_iter().map(|span| (span.lane, span.name));
            names.collect::<BTreeSet<_>>()
        }
        other => panic!("{other:?}"),
    };
    let Response::Error(error) = trace(Some("reasonning"), None) else {
        panic!("a trace of a stage that the job does not have")
    };
    assert!(
        error
            .message
            .contains("has no stage \"reasonning\"; it has ")
            && error.message.contains(", reasoning"),
        "{}",
        error.message
    );
    for step in 1..=6 {
        let found = names("reasoning", step);
        for (lane, name) in [
            (Lane::Writer, "reading rows"),
            (Lane::Device, "sampling"),
            (Lane::Rewards, "group 0"),
            (Lane::Writer, "sealing the step"),
            (Lane::Device, "training"),
            (Lane::Writer, "committing the step"),
        ] {
            assert!(
                found.contains(&(lane, name.to_owned())),
                "{name}: {found:?}"
            );
        }
        // A checkpoint every two steps; the one of the last is waited for.
        let copied = (Lane::Device, "copying the checkpoint".to_owned());
        assert_eq!(found.contains(&copied), step % 2 == 0, "{step}: {found:?}");
    }
    assert!(names("reading", 3).contains(&(Lane::Checkpoint, "writing the checkpoint".into())));
    match trace(None, None) {
        Response::Trace(last) => assert_eq!((last.stage.as_str(), last.step), ("reasoning", 6)),
        other => panic!("{other:?}"),
    }
    let Response::Error(error) = trace(None, Some(99)) else {
        panic!("a trace of a step that never was")
    };
    assert!(error.message.contains("step 99"), "{}", error.message);
}

#[test]
fn jobs_queue_by_priority_then_first_come() {
    let mut daemon = TestDaemon::new();
    daemon.plant("open-1", "hang");
    daemon.start();
    let submit = |priority: i32| match daemon.ask(Request::Submit {
        job: daemon.job(&[]),
        priority: Some(priority),
        pins: Default::default(),
        no_reuse: false,
        hold: false,
    }) {
        Response::Submitted { job, .. } => job.0,
        other => panic!("{other:?}"),
    };
    let first = submit(0);
    let (low, high, second) = (submit(-1), submit(5), submit(0));
    let position = |job: &str| daemon.try_status(job).unwrap().queue_position;
    assert_eq!(
        [&first, &high, &second, &low].map(|job| position(job)),
        [None, Some(1), Some(2), Some(3)]
    );
    let why = daemon.why(&low);
    assert!(
        why.waits[0].waits_for.contains(&high) && why.waits[0].waits_for.contains(&first),
        "{why:?}"
    );
    // A queued job and the running one are cancelled; the rest run in their order.
    for job in [&second, &first] {
        assert!(matches!(
            daemon.ask(Request::Cancel { job: job.clone() }),
            Response::Cancelled { .. }
        ));
        assert_eq!(daemon.try_status(job).unwrap().state, State::Cancelled);
    }
    let (high, low) = (daemon.wait_succeeded(&high), daemon.wait_succeeded(&low));
    assert!(
        high.ended_at <= low.started_at,
        "one job at a time: {:?} {:?}",
        high.ended_at,
        low.started_at
    );
    match daemon.ask(Request::Cancel { job: first }) {
        Response::Error(error) => assert!(error.message.contains("has ended"), "{}", error.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_worker_that_hangs_is_killed_at_its_deadline() {
    let mut daemon = TestDaemon::new().with_silence_s(2);
    daemon.plant("train-2", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let why = daemon.wait("the hang", |daemon| {
        let why = daemon.why(&job);
        why.waits
            .iter()
            .any(|wait| wait.waits_for.contains("worker cpu: training") && wait.since_s > 1.0)
            .then_some(why)
    });
    let inner = why.waits.last().unwrap();
    assert!(
        inner.owner.contains("stage `reasoning` step 2 of 6"),
        "{why:?}"
    );
    assert!(inner.deadline_s.is_some_and(|left| left <= 2.0), "{why:?}");
    let status = daemon.wait_succeeded(&job);
    assert_eq!(status.restarts, 1);
    assert!(
        daemon
            .log_lines(&job)
            .iter()
            .any(|line| line.message.contains("past its deadline"))
    );
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

#[test]
fn a_worker_that_always_crashes_fails_the_job_with_its_cause() {
    let mut daemon = TestDaemon::new();
    daemon.plant("start-always", "exit");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let status = daemon.wait_ended(&job);
    assert_eq!(status.state, State::Failed);
    let error = status.error.unwrap();
    assert!(
        error.contains("exit code 3")
            && error.contains("attempts in a row")
            && error.contains("fault at start"),
        "{error}"
    );
    // The next job finds a device.
    daemon.heal("start-always");
    let next = daemon.submit(daemon.job(&[]));
    daemon.wait_succeeded(&next);
}

#[test]
fn failures_that_another_try_cannot_mend_end_the_job_at_once() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    for (moment, kind, expected) in [
        ("train-1", "invalid", "planted at train 1"),
        ("train-1", "out-of-memory", "max_tokens_per_device"),
    ] {
        for count in fs::read_dir(daemon.path("faults")).unwrap() {
            fs::remove_file(count.unwrap().path()).unwrap();
        }
        daemon.plant(moment, &format!("fail {kind}"));
        let job = daemon.submit(daemon.job(&[]));
        let status = daemon.wait_ended(&job);
        assert_eq!((status.state, status.restarts), (State::Failed, 0));
        let error = status.error.unwrap();
        assert!(
            error.contains(expected) && error.contains("planted"),
            "{error}"
        );
    }
}

#[test]
fn a_full_disk_is_waited_for() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    daemon.plant("save-1", "fail storage");
    let job = daemon.submit(daemon.job(&[]));
    let reason = |daemon: &mut TestDaemon| {
        daemon
            .why(&job)
            .waits
            .into_iter()
            .map(|wait| wait.waits_for)
            .find(|what| what.contains("make room"))
    };
    let waits = daemon.wait("the wait for room", reason);
    assert!(waits.contains("planted"), "{waits}");
    assert_eq!(daemon.wait_succeeded(&job).restarts, 1);
}

#[test]
fn a_file_in_the_sockets_place_is_left_alone() {
    let daemon = TestDaemon::new();
    let (precious, dir) = (daemon.path("precious.txt"), daemon.path("precious"));
    fs::write(&precious, "text").unwrap();
    fs::create_dir(&dir).unwrap();
    for place in [&precious, &dir] {
        let refused = daemon.command().arg("--socket").arg(place).output();
        let refused = refused.unwrap();
        // EX_CONFIG: a restart would find it there again.
        assert_eq!(refused.status.code(), Some(78));
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(
            error.contains("not a socket")
                && error.contains("--socket")
                && !error.contains("panicked"),
            "{error}"
        );
    }
    assert!(dir.is_dir());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "text");
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused_by_name() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let second = daemon.command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(
        error.contains(&format!("process id {}", daemon.pid())) && error.contains("--state-dir"),
        "{error}"
    );
    assert!(
        matches!(daemon.ask(Request::Nodes), Response::Nodes(_)),
        "the first one still serves"
    );
    // A socket that a killed daemon left is no obstacle.
    daemon.kill();
    assert!(daemon.state().join("r1d.sock").exists());
    daemon.start();
}

#[test]
fn bad_jobs_are_refused_before_they_are_queued() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    fs::write(daemon.path("broken.wasm"), "no component").unwrap();
    let mut big = fs::read_to_string(daemon.path("tokenizer/tokenizer.json")).unwrap();
    big = big.replace("\"9\":14", "\"9\":900000");
    fs::create_dir_all(daemon.path("big")).unwrap();
    fs::write(daemon.path("big/tokenizer.json"), big).unwrap();
    fs::copy(
        daemon.path("tokenizer/generation_config.json"),
        daemon.path("big/generation_config.json"),
    )
    .unwrap();
    fs::write(
        daemon.path("torn.jsonl"),
        "{\"prompt\": \"1\"}\n{\"prompt\"\n",
    )
    .unwrap();
    let broken = daemon.path("broken.wasm").display().to_string();
    for (old, new, expected) in [
        (
            "prompts_per_step = 2",
            "prompt_per_step = 2",
            "prompts_per_step",
        ),
        (
            "num_generations = 4",
            "num_generations = 1",
            "num_generations",
        ),
        ("steps = 6", "steps = \"six\"", "steps"),
        (
            "path = \"DIR/rows.jsonl\"\nreference",
            "path = \"DIR/gone.jsonl\"\nreference",
            "gone.jsonl",
        ),
        (
            "path = \"DIR/rows.jsonl\"\nreference",
            "path = \"DIR/torn.jsonl\"\nreference",
            "torn.jsonl:",
        ),
        (
            "reference = \"reference\"",
            "reference = \"answer\"",
            "answer",
        ),
        (
            "tokenizer = \"DIR/tokenizer\"",
            "tokenizer = \"DIR/big\"",
            "900000",
        ),
        (
            "tokenizer = \"DIR/tokenizer\"",
            "tokenizer = \"DIR/none\"",
            "none",
        ),
        ("plugin = \"format\"", "plugin = \"formatted\"", "formatted"),
        (
            "plugin = \"format\"",
            &format!("plugin = \"{broken}\""),
            "broken.wasm",
        ),
    ] {
        let home = daemon.path("").display().to_string();
        let (old, new) = (
            old.replace("DIR", home.trim_end_matches('/')),
            new.replace("DIR", home.trim_end_matches('/')),
        );
        let error = daemon.refused(daemon.job(&[(&old, &new)]));
        assert!(error.contains(expected), "{new}: {error}");
    }
    match daemon.ask(Request::List) {
        Response::Jobs(jobs) => assert!(jobs.is_empty(), "{jobs:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        fs::read_dir(daemon.state().join("jobs")).unwrap().count(),
        0,
        "a refused job leaves nothing"
    );
}

#[test]
fn a_plan_shows_what_would_run_and_runs_nothing() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let plan = match daemon.ask(Request::Plan {
        job: daemon.job(&[]),
        pins: Default::default(),
    }) {
        Response::Plan(plan) => plan,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        plan.stages
            .iter()
            .map(|s| (s.name.as_str(), s.steps))
            .collect::<Vec<_>>(),
        [("reading", 3), ("cold-start", 3), ("reasoning", 6)]
    );
    assert_eq!(plan.stages[2].rewards, ["accuracy", "format"]);
    assert!(plan.parameters.is_some_and(|n| n > 0) && plan.resolved.contains("scale_rewards"));
    assert!(matches!(daemon.ask(Request::List), Response::Jobs(jobs) if jobs.is_empty()));
}

#[test]
fn unknown_and_ambiguous_ids_are_told_apart() {
    let mut daemon = TestDaemon::new();
    daemon.plant("open-1", "hang");
    daemon.start();
    let kind = |job: &str| match daemon.ask(Request::Status { job: job.into() }) {
        Response::Error(error) => error.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind("zz"), ErrorKind::NotFound);
    // Ids of this many jobs share a first letter.
    for _ in 0..33 {
        daemon.submit(daemon.job(&[]));
    }
    let ambiguous = (b'0'..=b'z')
        .map(|letter| (letter as char).to_string())
        .find(|prefix| {
            matches!(daemon.ask(Request::Status { job: prefix.clone() }),
            Response::Error(error) if error.kind == ErrorKind::Ambiguous)
        });
    assert!(ambiguous.is_some());
}

#[test]
fn shutdown_stops_after_the_step_in_flight() {
    let mut daemon = TestDaemon::new().with_delay_ms(20);
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait("sampling", |daemon| {
        let status = daemon.try_status(&job)?;
        let step = status
            .stages
            .get(2)
            .filter(|stage| stage.state == State::Running)?
            .step;
        (status.activity?.doing == "sampling" && step == 1).then_some(())
    });
    assert!(matches!(
        daemon.ask(Request::Shutdown),
        Response::ShuttingDown
    ));
    assert!(daemon.ended().success());
    daemon.start();
    // The step that was being sampled is committed: it was not sampled again.
    assert!(daemon.try_status(&job).unwrap().stages[2].step >= 2);
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

/// Completions are kept and trained on, by a stage that starts from where the first one ended.
const REJECTION: &str = r#"
[[stage]]
name = "keep"
kind = "rejection-sampling"
data = "train"
prompts_per_step = 6
num_generations = 4
max_completion_length = 8

  [[stage.reward]]
  plugin = "accuracy"

  [[stage.reward]]
  plugin = "format"
  weight = 0.5
  min_score = 0.5

[[stage]]
name = "again"
kind = "sft"
from = "cold-start"
data = "keep"
more_data = ["train"]
epochs = 1
batch_size = 8
max_length = 32

[checkpoint]
"#;

fn with_rejection(daemon: &TestDaemon, changes: &[(&str, &str)]) -> String {
    let text = daemon.job(&[("\n[checkpoint]\n", REJECTION)]);
    changes.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "{old:?} is not in the job");
        text.replace(old, new)
    })
}

/// What the job ends with, and the data set that it made.
fn ended_with(daemon: &mut TestDaemon, job: &str) -> (Outcome, Vec<u8>) {
    let status = daemon.wait_succeeded(job);
    (
        daemon.outcome(&status),
        fs::read(status.directory.join("datasets/keep.jsonl")).unwrap(),
    )
}

/// How often something happened in a finished job, by the fake worker's count.
fn count(daemon: &TestDaemon, moment: &str) -> u64 {
    fs::read_to_string(daemon.path("faults").join(format!("{moment}.count")))
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn what_a_stage_keeps_becomes_the_data_of_another() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let text = with_rejection(&daemon, &[]);
    let plan = match daemon.ask(Request::Plan {
        job: text.clone(),
        pins: Default::default(),
    }) {
        Response::Plan(plan) => plan,
        other => panic!("{other:?}"),
    };
    let lines: Vec<_> = plan
        .stages
        .iter()
        .map(|s| (s.kind.as_str(), s.data.as_str(), s.rows, s.steps))
        .collect();
    assert_eq!(
        lines[3..],
        [
            ("rejection-sampling", "train", 40, 7),
            ("sft", "keep + train", 0, 0)
        ],
        "the rows are known later"
    );
    assert!(
        !plan.stages[3].memory.contains_key("optimiser")
            && plan.stages[4].memory.contains_key("optimiser")
    );
    let job = daemon.submit(text);
    let status = daemon.wait_succeeded(&job);
    assert_eq!(
        status.restarts, 0,
        "reading the data set anew is no restart"
    );

    let text = fs::read_to_string(status.directory.join("datasets/keep.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut expected = Vec::new();
    let mut sampled = 0u64;
    for step in 1..=7 {
        let of = Request::Samples {
            job: job.clone(),
            stage: Some("keep".into()),
            step: Some(step),
            sort: SampleSort::Order,
            limit: 100,
        };
        let Response::Samples(samples) = daemon.ask(of) else {
            panic!("samples")
        };
        assert_eq!(
            samples.len(),
            if step == 7 { 16 } else { 24 },
            "each of the 40 rows is sampled once"
        );
        for sample in samples {
            let of = |name: &str| {
                sample
                    .verdicts
                    .iter()
                    .find(|verdict| verdict.plugin == name)
                    .unwrap()
                    .value
                    .unwrap()
            };
            let good = of("accuracy") >= 1.0 && of("format") >= 0.5 && sample.finish == "stop";
            assert_eq!(sample.advantage, good.then_some(1.0), "{sample:?}");
            sampled += 1;
            if good {
                expected.push((
                    sample.prompt,
                    sample.completion,
                    sample.reference,
                    sample.reward.map(f64::from),
                ));
            }
        }
    }
    assert!(!expected.is_empty() && (expected.len() as u64) < sampled);
    let text_of = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap().to_string();
    let found: Vec<_> = (rows.iter())
        .map(|row| {
            (
                text_of(row, "prompt"),
                text_of(row, "completion"),
                row["reference"].as_str().map(String::from),
                row["reward"].as_f64(),
            )
        })
        .collect();
    assert_eq!(
        found, expected,
        "the kept completions in order, with the template \"plain\""
    );
    assert!(
        rows[0].get("domain").is_none() && rows[0]["text"].is_string(),
        "columns of the source travel along: {}",
        rows[0]
    );

    let made: serde_json::Value =
        serde_json::from_slice(&fs::read(status.directory.join("datasets/keep.json")).unwrap())
            .unwrap();
    assert_eq!(
        (made["rows"].as_u64(), made["sampled"].as_u64()),
        (Some(rows.len() as u64), Some(sampled))
    );
    assert_eq!(
        (
            made["prompts"].as_u64(),
            made["other_ids"].as_u64(),
            made["illegible"].as_u64()
        ),
        (Some(40), Some(0), Some(0))
    );
    let log = daemon.log_lines(&job);
    let word = format!("stage keep kept {} of {sampled} completions", rows.len());
    assert!(
        log.iter().any(|line| line.message.contains(&word)
            && line.message.contains(made["sha256"].as_str().unwrap())),
        "{log:?}"
    );

    let stages: Vec<_> = status
        .stages
        .iter()
        .map(|s| (s.name.as_str(), s.step, s.steps, s.durable_step))
        .collect();
    let steps = (rows.len() as u64 + 40).div_ceil(8);
    assert_eq!(
        stages[3..],
        [("keep", 7, 7, 7), ("again", steps, steps, steps)]
    );
    assert!(status.stages[3].metrics["acceptance_rate"] > 0.0);
    assert!(
        !status.directory.join("checkpoints/keep").exists(),
        "nothing was trained"
    );
    assert!(
        !status
            .directory
            .join("journal/stage-3")
            .read_dir()
            .is_ok_and(|mut entries| entries.next().is_some())
    );
}

#[test]
fn kills_around_a_kept_data_set_change_nothing() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(with_rejection(&daemon, &[]));
    let expected = ended_with(&mut daemon, &job);
    let (generate, supervise, open) = (
        count(&daemon, "generate"),
        count(&daemon, "supervise"),
        count(&daemon, "open"),
    );
    // The last request to sample is the last evaluation's, the seven before it are the stage's; the
    // last model opened is for the export, the one before it for the stage that reads the data set.
    for (moment, fault) in [
        (format!("generate-{}", generate - 6), "kill-both"),
        (format!("generate-{}", generate - 3), "kill-self"),
        (
            format!("generate-{}", generate - 1),
            "kill-daemon-soon 3000",
        ),
        (
            format!("generate-{}", generate - 1),
            "kill-daemon-soon 30000",
        ),
        (format!("open-{}", open - 1), "kill-daemon"),
        (format!("open-{open}"), "kill-self"),
        (format!("supervise-{}", supervise - 1), "kill-both"),
    ] {
        let mut daemon = TestDaemon::new();
        daemon.plant(&moment, fault);
        daemon.start();
        let job = daemon.submit(with_rejection(&daemon, &[]));
        assert_eq!(ended_with(&mut daemon, &job), expected, "{moment}: {fault}");
    }
}

#[test]
fn a_step_without_any_reward_says_why() {
    let mut daemon = TestDaemon::new();
    let rows = std::fs::read_to_string(daemon.path("rows.jsonl")).unwrap();
    let without = |line: &str| {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["reference"] = serde_json::Value::Null;
        format!("{row}\n")
    };
    std::fs::write(
        daemon.path("rows.jsonl"),
        rows.lines().map(without).collect::<String>(),
    )
    .unwrap();
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let status = daemon.wait_succeeded(&job);
    let told: Vec<String> = daemon
        .log_lines(&job)
        .into_iter()
        .map(|line| line.message)
        .collect();
    let why = told.iter().filter(|line| {
        line.contains("completions have no reward (of ") && line.contains("reward `accuracy`: ")
    });
    let steps = status
        .stages
        .iter()
        .find(|stage| stage.name == "reasoning")
        .unwrap()
        .step;
    // At steps 1, 2, 4, 8 …
    assert_eq!(why.count() as u32, steps.ilog2() + 1, "{told:?}");
    assert!(
        status
            .stages
            .iter()
            .all(|stage| !stage.metrics.contains_key("reward")),
        "no mean of nothing"
    );
}

#[test]
fn a_step_whose_rewards_are_all_equal_says_that_it_teaches_nothing() {
    let mut daemon = TestDaemon::new();
    let rows = std::fs::read_to_string(daemon.path("rows.jsonl")).unwrap();
    let never_right = |line: &str| {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["reference"] = "12345".into();
        format!("{row}\n")
    };
    std::fs::write(
        daemon.path("rows.jsonl"),
        rows.lines().map(never_right).collect::<String>(),
    )
    .unwrap();
    daemon.start();
    for sampling in ["dynamic_sampling = true", "dynamic_sampling = false"] {
        let alone = (
            "\n  [[stage.reward]]\n  plugin = \"format\"\n  weight = 0.5\n",
            "",
        );
        let job = daemon.submit(daemon.job(&[alone, ("dynamic_sampling = true", sampling)]));
        let status = daemon.wait_succeeded(&job);
        let told: Vec<String> = daemon
            .log_lines(&job)
            .into_iter()
            .map(|line| line.message)
            .collect();
        let why = told.iter().filter(|line| {
            line.contains("nothing is learned from them") && line.contains("the same reward")
        });
        let steps = status
            .stages
            .iter()
            .find(|stage| stage.name == "reasoning")
            .unwrap()
            .step;
        // At steps 1, 2, 4, 8 …
        assert_eq!(
            why.count() as u32,
            steps.ilog2() + 1,
            "{sampling}: {told:?}"
        );
    }
}

#[test]
fn a_stage_that_keeps_nothing_ends_the_job_with_the_rate() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(with_rejection(
        &daemon,
        &[("min_score = 0.5", "min_score = 1000.0")],
    ));
    let status = daemon.wait_ended(&job);
    assert_eq!((status.state, status.restarts), (State::Failed, 0));
    let error = status.error.unwrap();
    assert!(
        error.contains("stage `keep` kept none of its 160 completions (acceptance rate 0.0000)"),
        "{error}"
    );
    assert!(
        error.contains("min_score") && error.contains("num_generations"),
        "{error}"
    );
}

#[test]
fn what_can_be_known_of_data_to_come_is_checked_before_the_job_is_queued() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    for (old, new, expected) in [
        (
            "batch_size = 8\nmax_length = 32",
            "batch_size = 8\nmax_length = 2",
            "max_length = 2 of stage `again` leaves nothing to train",
        ),
        (
            "from = \"cold-start\"\ndata = \"keep\"",
            "from = \"cold-start\"\ndata = \"kept\"",
            "the nearest is \"keep\"",
        ),
        (
            "min_score = 0.5",
            "min_score = 0.5\nsha256 = \
             \"0000000000000000000000000000000000000000000000000000000000000000\"",
            "sha256",
        ),
    ] {
        let error = daemon.refused(with_rejection(&daemon, &[(old, new)]));
        assert!(
            error.to_lowercase().contains(&expected.to_lowercase()),
            "{new}: {error}"
        );
    }
}

/// Prompts and rewards look for their columns in `meta`: one that is not there must be known before
/// they do.
#[test]
fn a_column_that_is_not_read_is_named_when_the_job_is_planned() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let table = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../data/tests/data/golden/tables/interval.parquet");
    fs::copy(table, daemon.path("table.parquet")).unwrap();
    let path = |name: &str| format!("[data.text]\npath = \"{}\"", daemon.path(name).display());
    let job = daemon.job(&[(&path("rows.jsonl"), &path("table.parquet"))]);
    let Response::Plan(plan) = daemon.ask(Request::Plan {
        job,
        pins: Default::default(),
    }) else {
        panic!("no plan")
    };
    for column in ["nested", "span"] {
        let warning = format!(
            "data.text: column `{column}` is of type Interval(DayTime), which is not read: write \
             it as text or numbers; it is left out"
        );
        assert_eq!(
            plan.warnings
                .iter()
                .filter(|found| **found == warning)
                .count(),
            1,
            "{:?}",
            plan.warnings
        );
    }
}

/// A chat template asks for the day. It is the one of the submission, recorded with the job: taken
/// up again on another day, its prompts are the same.
#[test]
fn the_day_that_a_template_is_told_is_recorded_with_the_job() {
    let mut daemon = TestDaemon::new();
    let text = "{% for m in messages %}{{ m.content }}{% endfor %} {{ strftime_now('%Y-%m-%d') }}";
    fs::write(daemon.path("dated.jinja"), text).unwrap();
    daemon.start();
    let template = format!("template = \"{}\"", daemon.path("dated.jinja").display());
    // The day by the clock of the file system.
    let today = || {
        fs::write(daemon.path("now"), "").unwrap();
        let now = fs::metadata(daemon.path("now"))
            .unwrap()
            .modified()
            .unwrap();
        let seconds = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        format!(
            "date = \"{}\"",
            r1d_data::template::date_of(seconds).unwrap()
        )
    };
    let before = today();
    let submitted = |job: String| {
        let job = daemon.submit(job);
        let recorded = daemon.try_status(&job).unwrap().directory.join("job.toml");
        fs::read_to_string(recorded).unwrap()
    };
    let own = submitted(daemon.job(&[("template = \"plain\"", &template)]));
    assert!(own.contains(&before) || own.contains(&today()), "{own}");
    let named = daemon.job(&[
        ("template = \"plain\"", &template),
        ("seed = 11", "seed = 11\ndate = \"2024-07-04\""),
    ]);
    assert!(
        submitted(named).contains("date = \"2024-07-04\""),
        "a job's own day stays"
    );
}
