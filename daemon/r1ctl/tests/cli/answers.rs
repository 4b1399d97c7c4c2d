//! Every command that asks once: what it sends, its table, its JSON, the JSON's schema.

use crate::fake_daemon::{Act, FakeDaemon};
use crate::fixtures as fix;
use crate::harness::{Home, golden};
use crate::shape::shape;
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::job::{JobSummary, State};
use r1d_proto::control::{Request, Response, SampleSort};
use r1d_proto::ids::JobId;
use serde_json::Value;

/// Runs `words` once as a table and once as JSON, for each of the answers; the first is the golden
/// one.
fn check(name: &str, words: &[&str], request: Request, answers: Vec<Response>) {
    let home = Home::new();
    let mut documents = Vec::new();
    for (i, answer) in answers.into_iter().enumerate() {
        let daemon = FakeDaemon::answering(&home.socket(), answer.clone());
        let table = home.run(words).expect(0);
        let json = home.run(&[words, &["-o", "json"][..]].concat()).expect(0);
        assert_eq!(daemon.requests(), vec![request.clone(); 2]);
        assert!(
            !table.stdout.contains('\x1b') && !table.stderr.contains('\x1b'),
            "escape sequences in a pipe:\n{}",
            table.stdout
        );
        let document: Value = serde_json::from_str(&json.stdout).unwrap();
        // `-o json` prints the control type as it is: the answer's body reads back to the same
        // answer.
        let mut whole = serde_json::to_value(&answer).unwrap();
        if let Some(body) = whole.get_mut("body") {
            *body = document.clone();
        } else {
            whole = document.clone();
        }
        assert_eq!(serde_json::from_value::<Response>(whole).unwrap(), answer);
        if i == 0 {
            golden(&format!("table/{name}.txt"), &table.stdout);
            golden(&format!("json/{name}.json"), &json.stdout);
        }
        documents.push(document);
    }
    golden(&format!("schema/{name}.txt"), &shape(&documents));
}

#[test]
fn list() {
    let mut jobs = fix::jobs();
    jobs.push(fix::bare_job());
    check("list", &["list"], Request::List, vec![Response::Jobs(jobs)]);
}

#[test]
fn datasets() {
    let words = ["dataset", "list", "k3v"];
    check(
        "dataset-list",
        &words,
        Request::DataSets { job: "k3v".into() },
        vec![Response::DataSets(fix::datasets())],
    );
}

#[test]
fn a_data_set_is_reviewed() {
    let review = |file: Option<&str>| {
        let (job, stage) = ("k3v".into(), "cold".into());
        Request::Review {
            job,
            stage,
            file: file.map(|name| std::path::absolute(name).unwrap()),
        }
    };
    let [imported, accepted] = [0, 1].map(|i| Response::Reviewed(fix::datasets().remove(i)));
    let file = "/edited/cold.jsonl";
    check(
        "dataset-import",
        &["dataset", "review", "k3v", "cold", "--import", file],
        review(Some(file)),
        vec![imported],
    );
    check(
        "dataset-accept",
        &["dataset", "review", "k3v", "cold", "--accept"],
        review(None),
        vec![accepted],
    );
}

#[test]
fn an_export_is_a_copy_that_overwrites_nothing() {
    let home = Home::new();
    let mut sets = fix::datasets();
    sets[0].file = home.write("state/cold.jsonl", "{\"prompt\":\"1\"}\n");
    let _daemon = FakeDaemon::answering(&home.socket(), Response::DataSets(sets));
    let export =
        |stage: &str| home.run(&["dataset", "review", "k3v", stage, "--export", "out.jsonl"]);
    let first = export("cold").expect(0);
    assert_eq!(first.stdout, "out.jsonl\n");
    assert!(
        first
            .stderr
            .contains("r1ctl dataset review k3v cold --import out.jsonl"),
        "{}",
        first.stderr
    );
    assert_eq!(
        std::fs::read_to_string(home.path().join("out.jsonl")).unwrap(),
        "{\"prompt\":\"1\"}\n"
    );
    home.write("out.jsonl", "edited");
    assert!(
        export("cold")
            .expect(1)
            .stderr
            .contains("out.jsonl is there already")
    );
    assert_eq!(
        std::fs::read_to_string(home.path().join("out.jsonl")).unwrap(),
        "edited"
    );
    assert!(
        export("warm")
            .expect(1)
            .stderr
            .contains("`warm` has made no data set; those that have: cold, again, readable, final")
    );
    home.run(&["dataset", "review", "k3v", "cold"]).expect(64);
    home.run(&[
        "dataset", "review", "k3v", "cold", "--accept", "--export", "x",
    ])
    .expect(64);
}

#[test]
fn status() {
    let status = [
        fix::running(12),
        fix::queued(),
        fix::succeeded(),
        fix::failed(),
        fix::cancelled(),
    ];
    let answers = status
        .into_iter()
        .map(|job| Response::Status(Box::new(job)))
        .collect();
    check(
        "status",
        &["status", "k3v"],
        Request::Status { job: "k3v".into() },
        answers,
    );
}

#[test]
fn status_of_each_end() {
    for (name, job) in [
        ("queued", fix::queued()),
        ("succeeded", fix::succeeded()),
        ("failed", fix::failed()),
    ] {
        let home = Home::new();
        let _daemon = FakeDaemon::answering(&home.socket(), Response::Status(Box::new(job)));
        // The question was answered, whatever became of the job.
        golden(
            &format!("table/status-{name}.txt"),
            &home.run(&["status", "k3v"]).expect(0).stdout,
        );
    }
}

#[test]
fn samples() {
    let request = Request::Samples {
        job: "k3v".into(),
        stage: Some("reasoning".into()),
        step: Some(12),
        sort: SampleSort::Reward,
        limit: 2,
    };
    let words = [
        "samples",
        "k3v",
        "--stage",
        "reasoning",
        "--step",
        "12",
        "--sort",
        "reward",
        "--limit",
        "2",
    ];
    let mut more = fix::samples();
    more.push(fix::bare_sample());
    check(
        "samples",
        &words,
        request,
        vec![Response::Samples(fix::samples()), Response::Samples(more)],
    );
}

/// The table is the file for trace viewers.
#[test]
fn trace() {
    let request = Request::Trace {
        job: "k3v".into(),
        stage: None,
        step: Some(12),
    };
    let answers = vec![Response::Trace(fix::trace())];
    check("trace", &["trace", "k3v", "--step", "12"], request, answers);
}

#[test]
fn samples_in_order_is_the_default() {
    let home = Home::new();
    let daemon = FakeDaemon::answering(&home.socket(), Response::Samples(vec![]));
    let run = home.run(&["samples", "k3v"]).expect(1);
    let request = Request::Samples {
        job: "k3v".into(),
        stage: None,
        step: None,
        sort: SampleSort::Order,
        limit: 20,
    };
    assert_eq!(daemon.requests(), [request]);
    assert_eq!(
        (run.stdout.as_str(), run.stderr.as_str()),
        (
            "",
            "error: no samples of this stage and step are committed\n"
        )
    );
    assert_eq!(
        home.run(&["samples", "k3v", "-o", "json"]).expect(1).stdout,
        "[]\n"
    );
}

#[test]
fn why() {
    check(
        "why",
        &["why", "k3v"],
        Request::Why { job: "k3v".into() },
        vec![Response::Why(fix::why()), Response::Why(fix::bare_why())],
    );
}

/// A job that still has its device is not called paused.
#[test]
fn why_of_a_job_that_is_pausing() {
    let home = Home::new();
    let _daemon = FakeDaemon::answering(&home.socket(), Response::Why(fix::pausing_why()));
    let shown = home.run(&["why", "k3v"]).expect(0).stdout;
    assert!(
        shown.starts_with(&format!("job {} is pausing\n", fix::id().0)),
        "{shown}"
    );
    let json = home.run(&["why", "k3v", "-o", "json"]).expect(0).stdout;
    assert!(json.contains("\"pausing\": true"), "{json}");
}

#[test]
fn nodes() {
    check(
        "nodes",
        &["nodes"],
        Request::Nodes,
        vec![Response::Nodes(fix::nodes())],
    );
}

#[test]
fn cancel() {
    check(
        "cancel",
        &["cancel", "k3v"],
        Request::Cancel { job: "k3v".into() },
        vec![Response::Cancelled { job: fix::id() }],
    );
}

#[test]
fn pause() {
    let paused = |at_work| Response::Paused {
        job: fix::id(),
        at_work,
    };
    check(
        "pause",
        &["pause", "k3v"],
        Request::Pause { job: "k3v".into() },
        vec![paused(true), paused(false)],
    );
}

#[test]
fn resume() {
    check(
        "resume",
        &["resume", "k3v"],
        Request::Resume { job: "k3v".into() },
        vec![Response::Resumed { job: fix::id() }],
    );
}

#[test]
fn requeue() {
    check(
        "requeue",
        &["requeue", "k3v"],
        Request::Requeue { job: "k3v".into() },
        vec![Response::Requeued { job: fix::id() }],
    );
}

/// Each job has its own result, and one that is refused is seen in the exit code.
#[test]
fn a_command_for_several_jobs_does_what_it_can() {
    let home = Home::new();
    let daemon = FakeDaemon::start(&home.socket(), |request, _| {
        let answer = match request {
            Request::Pause { job } if job == "b" => Response::Error(ControlError::new(
                ErrorKind::Forbidden,
                "job b81m0c2d is bob's",
            )),
            Request::Pause { job } => Response::Paused {
                job: JobId(job.clone()),
                at_work: false,
            },
            _ => Response::ShuttingDown,
        };
        vec![Act::Send(answer)]
    });
    let run = home.run(&["pause", "a", "b", "c"]).expect(1);
    assert_eq!(run.stdout, "paused a\npaused c\n");
    assert!(run.stderr.contains("is bob's"), "{}", run.stderr);
    let run = home.run(&["pause", "a", "b", "c", "-o", "json"]).expect(1);
    let paused: Vec<Value> = serde_json::from_str(&run.stdout).expect("one document");
    let ids: Vec<&str> = paused.iter().filter_map(|it| it["job"].as_str()).collect();
    assert_eq!(ids, ["a", "c"]);
    assert_eq!(daemon.requests().len(), 6);
}

#[test]
fn a_list_can_be_cut_to_states_and_an_owner() {
    let home = Home::new();
    let mut jobs = fix::jobs();
    jobs[1].owner = Some("bob".into());
    // A job of each state, by its name.
    for state in [State::Paused, State::Succeeded, State::Cancelled] {
        jobs.push(JobSummary {
            job: JobId(state.name().into()),
            state,
            ..jobs[0].clone()
        });
    }
    let _daemon = FakeDaemon::answering(&home.socket(), Response::Jobs(jobs));
    let listed = |words: &[&str]| {
        let run = home
            .run(&[&["list", "-o", "json"], words].concat())
            .expect(0);
        let found: Vec<JobSummary> = serde_json::from_str(&run.stdout).unwrap();
        let ids = found.into_iter().map(|job| job.job.0);
        ids.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(listed(&["--state", "failed"]), "zz9y8x7w");
    assert_eq!(listed(&["--state", "failed,queued"]), "b81m0c2d zz9y8x7w");
    assert_eq!(listed(&["--owner", "bob"]), "b81m0c2d");
    assert_eq!(
        listed(&["--state", "ended"]),
        "zz9y8x7w succeeded cancelled"
    );
    assert_eq!(listed(&["--owner", "bob", "--state", "failed"]), "");
    let run = home.run(&["list", "--state", "dead"]).expect(64);
    assert!(run.stderr.contains("paused"), "{}", run.stderr);
}

#[test]
fn rm() {
    let request = Request::Remove {
        jobs: vec!["k3v".into(), "7".into()],
    };
    let (mut gone, mut whole) = (fix::removed(), fix::removed());
    gone.kept.clear();
    whole.jobs.clear();
    check(
        "rm",
        &["rm", "k3v", "7"],
        request,
        vec![Response::Removed(gone)],
    );
    // What stays is an error, for each job; the others are removed.
    let home = Home::new();
    let _daemon = FakeDaemon::answering(&home.socket(), Response::Removed(fix::removed()));
    let run = home.run(&["rm", "k3v", "b81m0c2d"]).expect(1);
    assert!(run.stdout.contains("removed 7f3k9qzx"), "{}", run.stdout);
    assert!(
        run.stderr
            .contains("error: job b81m0c2d stays: job k3v0a1b2 (queued) needs"),
        "{}",
        run.stderr
    );
}

#[test]
fn prune() {
    let request = Request::Prune {
        older_than_s: Some(30 * 24 * 60 * 60),
        keep_final: Some(true),
        dry_run: true,
    };
    let mut none = fix::removed();
    none.jobs.clear();
    none.kept.clear();
    let words = ["prune", "--older-than", "30d", "--keep-final", "--dry-run"];
    check(
        "prune",
        &words,
        request,
        vec![
            Response::Removed(fix::removed()),
            Response::Removed(none.clone()),
        ],
    );
    let home = Home::new();
    let daemon = FakeDaemon::answering(&home.socket(), Response::Removed(none));
    let run = home.run(&["prune"]).expect(0);
    assert!(
        run.stderr.contains("no job ended so long ago"),
        "{}",
        run.stderr
    );
    home.run(&["prune", "--keep-final=false"]).expect(0);
    let by_configuration = |keep_final| Request::Prune {
        older_than_s: None,
        keep_final,
        dry_run: false,
    };
    assert_eq!(
        daemon.requests(),
        [by_configuration(None), by_configuration(Some(false))]
    );
}

#[test]
fn shutdown() {
    check(
        "shutdown",
        &["shutdown"],
        Request::Shutdown,
        vec![Response::ShuttingDown],
    );
}

#[test]
fn an_empty_list_says_what_to_do_on_stderr() {
    let home = Home::new();
    let _daemon = FakeDaemon::answering(&home.socket(), Response::Jobs(vec![]));
    let run = home.run(&["list"]).expect(0);
    assert_eq!(
        (run.stdout.as_str(), run.stderr.as_str()),
        ("", "no jobs yet; queue one: r1ctl submit JOB.TOML\n")
    );
}

#[test]
fn what_became_of_an_ended_job_is_told_with_its_error() {
    let home = Home::new();
    let _daemon = FakeDaemon::answering(&home.socket(), Response::Why(fix::bare_why()));
    assert_eq!(
        home.run(&["why", "k3v"]).expect(0).stdout,
        "job k3v9qx7a failed: stage `reasoning` step 13 of 120: the disk is full\n"
    );
}
