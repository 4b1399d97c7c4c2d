//! A job that waits until somebody has looked at what it kept.

use crate::test_daemon::{Outcome, TestDaemon};
use r1d_proto::control::content::{MadeDataSet, Review};
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::job::{JobStatus, State};
use r1d_proto::control::{Request, Response};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// Completions are kept, looked at, and trained on.
const REVIEWED: &str = r#"
[[stage]]
name = "keep"
kind = "rejection-sampling"
data = "train"
review = true
prompts_per_step = 6
num_generations = 4
max_completion_length = 8

  [[stage.reward]]
  plugin = "accuracy"

[[stage]]
name = "again"
kind = "sft"
from = "cold-start"
data = "keep"
steps = 3
batch_size = 4
max_length = 32

[checkpoint]
"#;

fn job(daemon: &TestDaemon, review: bool) -> String {
    daemon.job(&[(
        "\n[checkpoint]\n",
        &REVIEWED.replace("review = true", &format!("review = {review}")),
    )])
}

fn wait_for_review(daemon: &mut TestDaemon, job: &str) -> JobStatus {
    daemon.wait("the wait for a review", |daemon| {
        daemon.try_status(job).filter(|status| {
            status
                .activity
                .as_ref()
                .is_some_and(|now| now.doing == "waiting for review")
        })
    })
}

fn data_sets(daemon: &TestDaemon, job: &str) -> Vec<MadeDataSet> {
    match daemon.ask(Request::DataSets { job: job.into() }) {
        Response::DataSets(sets) => sets,
        other => panic!("{other:?}"),
    }
}

fn review(
    daemon: &TestDaemon,
    job: &str,
    stage: &str,
    file: Option<PathBuf>,
) -> Result<MadeDataSet, String> {
    match daemon.ask(Request::Review {
        job: job.into(),
        stage: stage.into(),
        file,
    }) {
        Response::Reviewed(set) => Ok(set),
        Response::Error(error) => {
            assert_ne!(error.kind, ErrorKind::Internal, "{}", error.message);
            Err(error.message)
        }
        other => panic!("{other:?}"),
    }
}

/// The made rows without the first, with another answer in the second, and with one more.
fn edited(set: &MadeDataSet) -> Vec<Value> {
    let text = fs::read_to_string(&set.file).unwrap();
    let mut rows: Vec<Value> = text
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    rows[0]["completion"] = "<think> 7 </think> <answer> 7 </answer>".into();
    let mut added = rows[1].clone();
    added.as_object_mut().unwrap().remove("reward");
    added["prompt"] = "9 9".into();
    rows.push(added);
    rows
}

fn written(daemon: &TestDaemon, name: &str, rows: &[Value]) -> PathBuf {
    let path = daemon.path(name);
    fs::write(
        &path,
        rows.iter()
            .map(|row| format!("{row}\n"))
            .collect::<String>(),
    )
    .unwrap();
    path
}

fn record(status: &JobStatus) -> Value {
    serde_json::from_slice(&fs::read(status.directory.join("datasets/keep.json")).unwrap()).unwrap()
}

/// The job with its rows edited in the review; with or without a daemon that is killed while it
/// waits.
fn run(killed: bool) -> (Outcome, Value, Vec<u8>) {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(job(&daemon, true));
    wait_for_review(&mut daemon, &job);
    if killed {
        daemon.kill();
        daemon.start();
        wait_for_review(&mut daemon, &job);
    }
    let set = data_sets(&daemon, &job).remove(0);
    let rows = edited(&set);
    let reviewed = review(
        &daemon,
        &job,
        "keep",
        Some(written(&daemon, "edited.jsonl", &rows)),
    )
    .unwrap();
    assert_eq!(
        (reviewed.review, reviewed.rows, reviewed.rows_made),
        (Review::Imported, set.rows, set.rows),
        "one row less, one more"
    );
    assert_ne!(reviewed.sha256, set.sha256);
    let status = daemon.wait_succeeded(&job);
    let record = record(&status);
    let read = fs::read(
        status
            .directory
            .join("datasets")
            .join(record["file"].as_str().unwrap()),
    )
    .unwrap();
    assert_eq!(read, fs::read(daemon.path("edited.jsonl")).unwrap());
    assert_eq!(data_sets(&daemon, &job), [reviewed]);
    (daemon.outcome(&status), record, read)
}

#[test]
fn a_job_waits_for_its_review_through_a_killed_daemon_and_trains_on_the_edited_rows() {
    let (outcome, record, read) = run(true);
    assert_eq!(record["reviewed"], json!(true));
    assert!(
        record["before_review"][0].as_u64() > Some(0)
            && record["before_review"][1] != record["sha256"],
        "{record}"
    );
    let undisturbed = run(false);
    assert!((&outcome, &record, &read) == (&undisturbed.0, &undisturbed.1, &undisturbed.2));
    // Rows that nobody edited train other weights; accepted ones train what a job without a review
    // trains.
    let accepted = {
        let mut daemon = TestDaemon::new();
        daemon.start();
        let job = daemon.submit(job(&daemon, true));
        wait_for_review(&mut daemon, &job);
        assert_eq!(
            review(&daemon, &job, "keep", None).unwrap().review,
            Review::Accepted
        );
        let status = daemon.wait_succeeded(&job);
        assert_eq!(status.restarts, 0, "waiting is no restart");
        daemon.outcome(&status)
    };
    let mut daemon = TestDaemon::new();
    daemon.start();
    let unreviewed = daemon.submit(job(&daemon, false));
    let status = daemon.wait_succeeded(&unreviewed);
    assert_eq!(accepted, daemon.outcome(&status));
    assert_ne!(accepted.weights, outcome.weights);
    assert_eq!(data_sets(&daemon, &unreviewed)[0].review, Review::NotAsked);
}

#[test]
fn while_it_waits_no_worker_runs_and_why_says_what_to_do() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(job(&daemon, true));
    let early = review(&daemon, &job, "keep", None).unwrap_err();
    assert!(early.contains("has not made its data set yet"), "{early}");
    let status = wait_for_review(&mut daemon, &job);
    assert_eq!(
        status
            .stages
            .iter()
            .map(|stage| stage.step > 0)
            .collect::<Vec<_>>(),
        [true, true, true, true, false]
    );
    let why = daemon.why(&job).waits;
    let what = format!("r1ctl dataset review {job} keep");
    assert!(
        why.len() == 1 && why[0].waits_for.contains(&what) && why[0].deadline_s.is_none(),
        "{why:?}"
    );
    let Response::Nodes(nodes) = daemon.ask(Request::Nodes) else {
        panic!("nodes")
    };
    assert_eq!(nodes[0].devices[0].worker_pid, None);
    let set = data_sets(&daemon, &job).remove(0);
    assert_eq!((set.review, set.rows), (Review::Waiting, set.rows_made));

    let rows = edited(&set);
    let with = |line: usize, text: &str| {
        let mut lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        lines[line - 1] = text.into();
        fs::write(daemon.path("wrong.jsonl"), lines.join("\n")).unwrap();
        review(&daemon, &job, "keep", Some(daemon.path("wrong.jsonl"))).unwrap_err()
    };
    for (line, text, problem) in [
        (2, "{\"prompt\": \"1\"", "is not valid JSON"),
        (3, "{\"prompt\": \"1\"}", "has no `completion`"),
        (
            1,
            "{\"prompt\": \"1\", \"completion\": \"1\", \"answer\": 1}",
            "a column `answer`",
        ),
        (
            2,
            "{\"prompt\": \"1\", \"completion\": \"1\"}",
            "lacks the column `reference`",
        ),
        (
            2,
            "{\"prompt\": [{\"who\": \"me\"}], \"completion\": \"1\", \"reference\": \"1\", \
             \"text\": \"1\"}",
            "role",
        ),
    ] {
        let refused = with(line, text);
        let places = [
            format!("wrong.jsonl line {line}:"),
            format!("wrong.jsonl:{line}:"),
        ];
        assert!(
            refused.contains(problem) && places.iter().any(|place| refused.contains(place)),
            "{text}: {refused}"
        );
    }
    fs::write(daemon.path("empty.jsonl"), "\n\n").unwrap();
    for (stage, file, problem) in [
        ("keep", "empty.jsonl", "has no row"),
        ("keep", "nowhere.jsonl", "nowhere.jsonl: No such file"),
        ("again", "empty.jsonl", "makes no data set"),
        ("kept", "empty.jsonl", "those that make data sets: keep"),
    ] {
        let refused = review(&daemon, &job, stage, Some(daemon.path(file))).unwrap_err();
        assert!(refused.contains(problem), "{refused}");
    }
    // Nothing of it left a trace, and the job still waits.
    assert_eq!(data_sets(&daemon, &job), [set]);
    let files = fs::read_dir(status.directory.join("datasets"))
        .unwrap()
        .count();
    assert_eq!(files, 2);
    wait_for_review(&mut daemon, &job);
    daemon.ask(Request::Cancel { job: job.clone() });
    assert!(daemon.try_status(&job).unwrap().state.is_final());
    assert!(
        review(&daemon, &job, "keep", None)
            .unwrap_err()
            .contains("has ended")
    );
}

#[test]
fn a_review_may_change_until_a_stage_reads_it_and_not_after() {
    let mut daemon = TestDaemon::new().with_silence_s(2);
    // The stage that reads it is opened, and has not begun; later it has, and hangs in its first
    // update.
    daemon.plant("open-5", "hang");
    daemon.plant("supervise-7", "hang");
    daemon.start();
    let job = daemon.submit(job(&daemon, true));
    wait_for_review(&mut daemon, &job);
    let set = data_sets(&daemon, &job).remove(0);
    let rows = edited(&set);
    review(
        &daemon,
        &job,
        "keep",
        Some(written(&daemon, "first.jsonl", &rows)),
    )
    .unwrap();
    daemon.wait("the first attempt to read it", |daemon| {
        fs::read_to_string(daemon.path("faults/open.count"))
            .is_ok_and(|count| count.trim() == "5")
            .then_some(())
    });
    let second = review(
        &daemon,
        &job,
        "keep",
        Some(written(&daemon, "second.jsonl", &rows[..rows.len() - 1])),
    )
    .unwrap();
    assert_eq!((second.rows, second.rows_made), (set.rows - 1, set.rows));
    let late = daemon.wait("the refusal of a third", |daemon| {
        let begun = daemon.try_status(&job)?.stages.get(4)?.state != State::Queued;
        begun.then(|| review(daemon, &job, "keep", None).unwrap_err())
    });
    assert!(
        late.contains("stage `again` has begun to read the data set of stage `keep`"),
        "{late}"
    );
    let status = daemon.wait_succeeded(&job);
    assert_eq!(record(&status)["sha256"], json!(second.sha256));

    // The same, told once.
    let mut once = TestDaemon::new();
    once.start();
    let told = once.submit(self::job(&once, true));
    wait_for_review(&mut once, &told);
    review(&once, &told, "keep", Some(daemon.path("second.jsonl"))).unwrap();
    let expected = once.wait_succeeded(&told);
    assert_eq!(
        daemon.outcome(&status),
        once.outcome(&expected),
        "it trained on what the record says"
    );
}

#[test]
fn a_job_that_waits_for_people_leaves_the_device_to_others() {
    let mut daemon = TestDaemon::new().with_delay_ms(20);
    daemon.start();
    let [first, second] = [1, 2].map(|seed| {
        let job =
            daemon.submit(job(&daemon, true).replacen("seed = ", &format!("seed = {seed}"), 1));
        wait_for_review(&mut daemon, &job);
        job
    });
    let other = daemon.submit(daemon.job(&[]));
    daemon.wait("a step of the other job", |daemon| {
        let begun = daemon
            .try_status(&other)?
            .stages
            .into_iter()
            .find(|stage| stage.state == State::Running)?;
        (begun.step > 0).then_some(())
    });
    let why = daemon.why(&first).waits.remove(0);
    assert!(
        why.waits_for
            .starts_with("somebody to review data set `keep`"),
        "{why:?}"
    );
    // What waits has no worker that could be taken from another.
    daemon.ask(Request::Cancel {
        job: second.clone(),
    });
    review(&daemon, &first, "keep", None).unwrap();
    daemon.wait("the reviewed job to wait for the device", |daemon| {
        let waits = daemon.why(&first).waits;
        waits
            .iter()
            .any(|wait| wait.waits_for.contains(&format!("(busy with job {other})")))
            .then_some(())
    });
    let undisturbed = [daemon.wait_succeeded(&other), daemon.wait_succeeded(&first)]
        .map(|status| status.restarts);
    assert_eq!(undisturbed, [0, 0]);
    assert_eq!(daemon.try_status(&second).unwrap().state, State::Cancelled);
}
