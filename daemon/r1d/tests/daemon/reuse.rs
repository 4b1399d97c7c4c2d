//! A finished stage is not done again when its job comes back with something later changed.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::job::JobStatus;
use r1d_proto::control::{Request, Response};
use std::fs;

/// A stage that keeps completions, and one that learns from them.
const MORE: &str = r#"
[[stage]]
name = "keep"
kind = "rejection-sampling"
data = "train"
prompts_per_step = 10
num_generations = 4
max_completion_length = 8

  [[stage.reward]]
  plugin = "accuracy"

[[stage]]
name = "again"
kind = "sft"
from = "cold-start"
data = "keep"
epochs = 1
batch_size = 8
max_length = 32

[checkpoint]
"#;

fn job(daemon: &TestDaemon, changes: &[(&str, &str)]) -> String {
    let text = daemon.job(&[("\n[checkpoint]\n", MORE)]);
    changes.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "{old:?} is not in the job");
        text.replace(old, new)
    })
}

fn reused(status: &JobStatus) -> Vec<Option<String>> {
    status
        .stages
        .iter()
        .map(|stage| stage.reused_from.as_ref().map(|job| job.0.clone()))
        .collect()
}

fn planned(daemon: &TestDaemon, job: String) -> Vec<Option<String>> {
    match daemon.ask(Request::Plan {
        job,
        pins: Default::default(),
    }) {
        Response::Plan(plan) => plan
            .stages
            .into_iter()
            .map(|stage| stage.reused_from.map(|job| job.0))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn submit(daemon: &TestDaemon, job: String, no_reuse: bool) -> String {
    match daemon.ask(Request::Submit {
        job,
        priority: None,
        pins: Default::default(),
        no_reuse,
        hold: false,
    }) {
        Response::Submitted { job, .. } => job.0,
        other => panic!("{other:?}"),
    }
}

/// How often something happened, by the fake worker's count.
fn count(daemon: &TestDaemon, moment: &str) -> u64 {
    fs::read_to_string(daemon.path("faults").join(format!("{moment}.count")))
        .map_or(0, |text| text.parse().unwrap())
}

/// The last stage alone is another.
const LATER: (&str, &str) = (
    "name = \"again\"\nkind = \"sft\"",
    "name = \"again\"\nkind = \"sft\"\nlearning_rate = 0.001",
);

#[test]
fn stages_before_the_change_are_taken_over_whole() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let first = submit(&daemon, job(&daemon, &[]), false);
    let original = daemon.wait_succeeded(&first);
    assert_eq!(reused(&original), [None, None, None, None, None]);
    let (trained, sampled) = (count(&daemon, "train"), count(&daemon, "generate"));

    let changed = job(&daemon, &[LATER]);
    let from = |count: usize| {
        (0..5)
            .map(|i| (i < count).then(|| first.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(planned(&daemon, changed.clone()), from(4));
    let second = submit(&daemon, changed.clone(), false);
    let status = daemon.wait_succeeded(&second);
    assert_eq!(reused(&status), from(4));
    assert_eq!(status.restarts, 0);
    assert_eq!(
        count(&daemon, "train"),
        trained,
        "nothing is trained by reinforcement again"
    );
    // The evaluation after the last stage samples once more, and nothing else does.
    assert_eq!(count(&daemon, "generate"), sampled + 1);

    // What the taken stages left is all there, under the job's own name.
    let evals = |status: &JobStatus| {
        status
            .evals
            .iter()
            .map(|e| (e.stage.clone(), e.step, e.metrics["pass@1"]))
            .collect::<Vec<_>>()
    };
    let (old, new) = (evals(&original), evals(&status));
    assert_eq!(new[..new.len() - 1], old[..old.len() - 1]);
    let lines =
        |status: &JobStatus| fs::read_to_string(status.directory.join("metrics.jsonl")).unwrap();
    let of_taken = |text: String| {
        text.lines()
            .filter(|line| !line.contains("\"again\""))
            .map(String::from)
            .collect::<Vec<_>>()
    };
    assert_eq!(of_taken(lines(&status)), of_taken(lines(&original)));
    let samples = |job: &str| match daemon.ask(Request::Samples {
        job: job.into(),
        stage: Some("keep".into()),
        step: Some(2),
        sort: Default::default(),
        limit: 100,
    }) {
        Response::Samples(samples) => samples,
        other => panic!("{other:?}"),
    };
    assert_eq!(samples(&second), samples(&first));
    assert!(daemon.log_lines(&second).iter().any(|line| {
        line.message
            .contains(&format!("taken over from job {first}"))
    }));

    // Done from scratch it ends the same; and a later job finds what the second one took over, also
    // when the first is gone.
    let alone = submit(&daemon, changed, true);
    let scratch = daemon.wait_succeeded(&alone);
    assert_eq!(reused(&scratch), [None, None, None, None, None]);
    assert_eq!(
        daemon.outcome(&scratch).weights,
        daemon.outcome(&status).weights
    );
    for gone in [&original, &scratch] {
        fs::remove_dir_all(&gone.directory).unwrap();
    }
    let third = submit(
        &daemon,
        job(&daemon, &[LATER, ("epochs = 1", "epochs = 2")]),
        false,
    );
    let status = daemon.wait_succeeded(&third);
    let expected: Vec<_> = (0..5).map(|i| (i < 4).then(|| second.clone())).collect();
    assert_eq!(reused(&status), expected);
}

#[test]
fn what_a_stage_depends_on_decides() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let first = submit(&daemon, job(&daemon, &[]), false);
    let status = daemon.wait_succeeded(&first);
    let taken = |daemon: &TestDaemon, changes: &[(&str, &str)]| {
        planned(daemon, job(daemon, changes))
            .iter()
            .filter(|of| of.is_some())
            .count()
    };
    assert_eq!(taken(&daemon, &[]), 5, "the same job again");
    assert_eq!(
        taken(
            &daemon,
            &[
                ("name = \"tested\"", "name = \"renamed\""),
                ("keep = 2", "keep = 5")
            ]
        ),
        5
    );
    assert_eq!(taken(&daemon, &[("seed = 11", "seed = 12")]), 0);
    assert_eq!(
        taken(&daemon, &[("max_rows = 3", "max_rows = 4")]),
        0,
        "evaluations are part of an outcome"
    );
    let (grpo, rejection) = ("beta = 0.01", "prompts_per_step = 10");
    assert_eq!(taken(&daemon, &[(grpo, "beta = 0.02")]), 2);
    assert_eq!(
        taken(&daemon, &[(rejection, "prompts_per_step = 8")]),
        3,
        "what learns from what is kept is another too"
    );
    // Contents of the data count, and not its name.
    let rows = fs::read_to_string(daemon.path("rows.jsonl")).unwrap();
    fs::write(daemon.path("copy.jsonl"), &rows).unwrap();
    assert_eq!(taken(&daemon, &[("rows.jsonl", "copy.jsonl")]), 5);
    fs::write(
        daemon.path("copy.jsonl"),
        rows.replacen("\"reference\":\"1\"", "\"reference\":\"2\"", 1),
    )
    .unwrap();
    assert_eq!(taken(&daemon, &[("rows.jsonl", "copy.jsonl")]), 0);
    // A checkpoint that is no longer what it was is not taken.
    let last = status.directory.join("checkpoints/reasoning/step-6/state");
    fs::write(&last, "1").unwrap();
    let again = planned(&daemon, job(&daemon, &[]));
    assert_eq!(
        again.iter().map(|of| of.is_some()).collect::<Vec<_>>(),
        [true, true, false, true, true]
    );
}

#[test]
fn a_job_that_is_killed_while_it_takes_over_ends_the_same() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let first = submit(&daemon, job(&daemon, &[]), false);
    daemon.wait_succeeded(&first);
    let scratch = submit(&daemon, job(&daemon, &[LATER]), true);
    let status = daemon.wait_succeeded(&scratch);
    let expected = daemon.outcome(&status).weights;
    for i in 0..25u64 {
        // Another rate each time, which the fake worker's weights do not depend on: the last stage
        // is not one that a job before has finished.
        let rate = format!("learning_rate = 0.{}", i + 10);
        let last = (LATER.0, LATER.1.replace("learning_rate = 0.001", &rate));
        let job = submit(&daemon, job(&daemon, &[(last.0, &last.1)]), false);
        std::thread::sleep(std::time::Duration::from_micros(i * 1000));
        daemon.kill();
        daemon.start();
        let status = daemon.wait_succeeded(&job);
        assert_eq!(
            daemon.outcome(&status).weights,
            expected,
            "killed after {i} ms"
        );
        assert!(
            status
                .stages
                .iter()
                .take(4)
                .all(|stage| stage.reused_from.is_some()),
            "{i}: {:?}",
            reused(&status)
        );
        assert_eq!(reused(&status)[4], None);
    }
}

/// A taken-over stage has no other checkpoint to go back to, so what a disk did to this one must
/// not fail the job.
#[test]
fn a_stage_whose_checkpoint_is_damaged_is_done_again() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let first = daemon.submit(job(&daemon, &[]));
    let status = daemon.wait_succeeded(&first);
    let undisturbed = daemon.outcome(&status);
    for stage in ["reading", "cold-start"] {
        let dir = status
            .directory
            .join("checkpoints")
            .join(stage)
            .join("step-3");
        let state = dir.join("state");
        let mut bytes = fs::read(&state).unwrap();
        // As long as before.
        bytes[0] ^= 1;
        fs::write(&state, bytes).unwrap();
    }
    let second = daemon.submit(job(&daemon, &[]));
    let status = daemon.wait_succeeded(&second);
    assert_eq!(reused(&status)[..2], [None, None]);
    assert_eq!(daemon.outcome(&status), undisturbed);
    let log: String = daemon
        .log_lines(&second)
        .into_iter()
        .map(|line| line.message + "\n")
        .collect();
    assert!(
        log.contains("cannot be taken over and is done again")
            && log.contains("is not as it was recorded"),
        "{log}"
    );
}
