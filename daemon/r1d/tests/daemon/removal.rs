//! Jobs that have ended are removed: named, beyond limits, or left behind by a crash; and no job
//! loses what it needs.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::removal::{RemovalExtent, Removed};
use r1d_proto::control::{Request, Response, SampleSort};
use std::fs;

/// The last stage alone is another.
const LATER: (&str, &str) = ("sync_ref_steps = 2", "sync_ref_steps = 3");

fn removed(answer: Response) -> Removed {
    match answer {
        Response::Removed(removed) => removed,
        other => panic!("{other:?}"),
    }
}

fn remove(daemon: &TestDaemon, jobs: &[&str]) -> Removed {
    let jobs = jobs.iter().map(|job| job.to_string()).collect();
    removed(daemon.ask(Request::Remove { jobs }))
}

fn prune(
    daemon: &TestDaemon,
    older_than_s: Option<u64>,
    keep_final: Option<bool>,
    dry_run: bool,
) -> Response {
    daemon.ask(Request::Prune {
        older_than_s,
        keep_final,
        dry_run,
    })
}

fn submit(daemon: &TestDaemon, job: String, hold: bool) -> String {
    let request = Request::Submit {
        job,
        priority: None,
        pins: Default::default(),
        no_reuse: false,
        hold,
    };
    match daemon.ask(request) {
        Response::Submitted { job, .. } => job.0,
        other => panic!("{other:?}"),
    }
}

fn is_known(daemon: &TestDaemon, job: &str) -> bool {
    let answer = daemon.ask(Request::Status { job: job.into() });
    !matches!(answer, Response::Error(error) if error.kind == ErrorKind::NotFound)
}

#[test]
fn a_job_stays_until_others_have_taken_its_stages_over() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let first = submit(&daemon, daemon.job(&[]), false);
    let original = daemon.wait_succeeded(&first);
    // The second job will take two stages over, when it is let go.
    let second = submit(&daemon, daemon.job(&[LATER]), true);
    let refused = remove(&daemon, &[&first]);
    assert!(refused.jobs.is_empty() && original.directory.exists());
    assert_eq!(
        refused.kept[0].why,
        format!(
            "job {second} (paused) can take over its stage `reading`: wait until that one has \
             ended, or cancel it"
        )
    );
    daemon.ask(Request::Resume {
        job: second.clone(),
    });
    // It goes as soon as nothing of it is needed any more, and not before.
    daemon.wait("the removal", |daemon| {
        (!remove(daemon, &[&first]).jobs.is_empty()).then_some(())
    });
    let status = daemon.wait_succeeded(&second);
    let reused = status
        .stages
        .iter()
        .map(|stage| stage.reused_from.is_some());
    assert_eq!(reused.collect::<Vec<_>>(), [true, true, false]);
    assert!(!is_known(&daemon, &first));
    daemon.wait("the end of its files", |_| {
        (!original.directory.exists()).then_some(())
    });
    let checkpoints = status.directory.join("checkpoints/reading");
    assert!(fs::read_dir(checkpoints).unwrap().flatten().count() > 0);
    // What the second job has left is what a job alone leaves.
    let outcome = daemon.outcome(&status);
    assert_eq!(outcome, TestDaemon::undisturbed(&[LATER]));
}

#[test]
fn a_job_whose_results_another_reads_goes_with_it() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let first = submit(&daemon, daemon.job(&[]), false);
    let status = daemon.wait_succeeded(&first);
    fs::copy(
        daemon.path("rows.jsonl"),
        status.directory.join("rows.jsonl"),
    )
    .unwrap();
    // By another name.
    std::os::unix::fs::symlink(&status.directory, daemon.path("latest")).unwrap();
    let [rows, linked] =
        ["rows.jsonl", "latest/rows.jsonl"].map(|name| daemon.path(name).display().to_string());
    let reads = daemon.job(&[(&rows, &linked)]);
    let second = submit(&daemon, reads, true);
    let refused = remove(&daemon, &[&first]);
    let why = &refused.kept[0].why;
    assert!(
        why.starts_with(&format!("job {second} (paused) needs ")) && why.contains("rows.jsonl"),
        "{why}"
    );
    // A job that has not ended stays, and says what to do.
    let refused = remove(&daemon, &[&first, &second]);
    assert!(refused.jobs.is_empty(), "{refused:?}");
    let says = format!("it is paused: cancel it first, `r1ctl cancel {second}`");
    assert!(
        refused.kept.iter().any(|kept| kept.why == says),
        "{refused:?}"
    );
    daemon.ask(Request::Cancel {
        job: second.clone(),
    });
    // It can still be requeued.
    let refused = remove(&daemon, &[&first]);
    assert!(
        refused.kept[0].why.contains("remove both at once"),
        "{refused:?}"
    );
    let removed = remove(&daemon, &[&first, &second]);
    let jobs: Vec<&str> = removed.jobs.iter().map(|job| job.job.0.as_str()).collect();
    assert_eq!(jobs, [&second, &first], "who needs it goes first");
    assert!(removed.jobs[1].bytes > 0);
}

#[test]
fn a_job_that_was_just_cancelled_goes_at_once() {
    let mut daemon = TestDaemon::new().with_delay_ms(50);
    daemon.start();
    let job = submit(&daemon, daemon.job(&[]), false);
    let at_work = |daemon: &mut TestDaemon| {
        let status = daemon.try_status(&job)?;
        status
            .stages
            .iter()
            .any(|stage| stage.step > 0)
            .then_some(status)
    };
    let status = daemon.wait("a step", at_work);
    let refused = remove(&daemon, &[&job]);
    assert!(
        refused.kept[0].why.starts_with("it runs: cancel it first"),
        "{refused:?}"
    );
    daemon.ask(Request::Cancel { job: job.clone() });
    assert_eq!(remove(&daemon, &[&job]).jobs.len(), 1);
    daemon.wait("the end of its files", |_| {
        (!status.directory.exists()).then_some(())
    });
    assert!(!is_known(&daemon, &job));
}

/// Killed in the middle of a removal, at whatever moment that is, the daemon goes on with it.
#[test]
fn the_next_daemon_finishes_a_removal() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let elsewhere = daemon.path("elsewhere");
    let to = format!("[checkpoint]\nto = \"file://{}\"\n", elsewhere.display());
    let job = submit(&daemon, daemon.job(&[("[checkpoint]\n", &to)]), false);
    let status = daemon.wait_succeeded(&job);
    assert!(elsewhere.join(&job).exists());
    let many = status.directory.join("rollouts/many");
    fs::create_dir(&many).unwrap();
    (0..20_000).for_each(|i| fs::write(many.join(i.to_string()), "").unwrap());
    assert_eq!(remove(&daemon, &[&job]).jobs.len(), 1);
    daemon.kill();
    // What a submission leaves that was cut short, and a job that the ledger does not know.
    let jobs = daemon.state().join("jobs");
    let (cut, unknown) = (jobs.join("0000cut0"), jobs.join("00strange"));
    for dir in [&cut, &unknown] {
        fs::create_dir_all(dir.join("rollouts")).unwrap();
        fs::write(dir.join("job.toml"), "").unwrap();
    }
    fs::write(unknown.join("log.jsonl"), "").unwrap();
    daemon.start();
    assert!(!is_known(&daemon, &job));
    daemon.wait("the end of what was left", |_| {
        let left = [&status.directory, &elsewhere.join(&job), &cut];
        left.iter().all(|dir| !dir.exists()).then_some(())
    });
    assert!(unknown.exists());
    let says = "is of a job that the ledger does not know, and stays";
    assert!(daemon.log().contains(says), "{}", daemon.log());
}

#[test]
fn pruning_tells_before_it_removes_and_leaves_the_results() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    match prune(&daemon, None, None, false) {
        Response::Error(error) => {
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.message.contains("--older-than"), "{}", error.message);
        }
        other => panic!("{other:?}"),
    }
    let job = submit(&daemon, daemon.job(&[]), false);
    let status = daemon.wait_succeeded(&job);
    let checkpoints = status.directory.join("checkpoints");
    assert!(
        removed(prune(&daemon, Some(3600), Some(true), false))
            .jobs
            .is_empty()
    );
    let told = daemon.wait("the end of its attempt", |daemon| {
        // Results stay, as in [retention], unless somebody says otherwise.
        let told = removed(prune(daemon, Some(0), None, true));
        (!told.jobs.is_empty()).then_some(told)
    });
    assert!(told.dry_run && checkpoints.exists());
    assert_eq!(told.jobs[0].extent, RemovalExtent::AllButResults);
    assert!(told.jobs[0].bytes > 0);
    let done = removed(prune(&daemon, Some(0), Some(true), false));
    assert_eq!((done.jobs, done.kept.len()), (told.jobs, 0));
    daemon.wait("the end of the checkpoints", |_| {
        let dirs = ["checkpoints", "rollouts", "journal", ".removed-checkpoints"];
        let is_gone = |name: &&str| !status.directory.join(name).exists();
        dirs.iter().all(is_gone).then_some(())
    });
    assert_eq!(daemon.try_status(&job).unwrap().model, status.model);
    let samples = daemon.ask(Request::Samples {
        job: job.clone(),
        stage: None,
        step: None,
        sort: SampleSort::Order,
        limit: 3,
    });
    let Response::Error(gone) = samples else {
        panic!("rollouts that were removed: {samples:?}")
    };
    assert_eq!(gone.kind, ErrorKind::NotFound);
    assert!(
        gone.message.contains("has no samples any more: on 2")
            && gone
                .message
                .contains("rollouts and journal are removed: ended "),
        "{}",
        gone.message
    );
    daemon.outcome(&status);
    assert!(
        removed(prune(&daemon, Some(0), Some(true), false))
            .jobs
            .is_empty()
    );
    // Without its checkpoints no stage of it is taken over.
    let second = submit(&daemon, daemon.job(&[LATER]), false);
    let again = daemon.wait_succeeded(&second);
    assert!(again.stages.iter().all(|stage| stage.reused_from.is_none()));
    let mut gone = 0;
    daemon.wait("both removals", |daemon| {
        gone += removed(prune(daemon, Some(0), Some(false), false))
            .jobs
            .len();
        (gone == 2).then_some(())
    });
    daemon.wait("the end of the jobs", |_| {
        (!status.directory.exists() && !again.directory.exists()).then_some(())
    });
}

#[test]
fn the_limits_of_the_configuration_are_kept() {
    let mut daemon = TestDaemon::new();
    daemon.devices(&["cpu"]);
    let path = daemon.path("r1d.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text + "[retention]\njobs_max = 1\nkeep_final = false\n",
    )
    .unwrap();
    daemon.start();
    let first = submit(&daemon, daemon.job(&[]), false);
    daemon.wait_succeeded(&first);
    let second = submit(&daemon, daemon.job(&[LATER]), false);
    daemon.wait_succeeded(&second);
    // The daemon need not be started again, nor has anybody to ask.
    daemon.wait("the removal", |daemon| {
        (!is_known(daemon, &first)).then_some(())
    });
    assert!(is_known(&daemon, &second));
    let says = "removed by r1d.toml's [retention]: more than 1 jobs have ended";
    assert!(daemon.log().contains(says), "{}", daemon.log());
}
