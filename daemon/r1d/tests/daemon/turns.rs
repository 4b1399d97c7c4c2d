//! What users decide about a job that is there: hold, pause, resume, requeue; and whose it is.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::error::ErrorKind;
use r1d_proto::control::job::{JobStatus, JobSummary, State};
use r1d_proto::control::{Request, Response, SampleSort};
use r1d_proto::frame::{Format, read_blocking, write_blocking};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Time that the fake worker takes for a piece of work, so that a job can be caught in a step.
const SLOW_MS: u32 = 30;

fn submit(daemon: &TestDaemon, hold: bool) -> String {
    match daemon.ask(Request::Submit {
        job: daemon.job(&[]),
        priority: None,
        pins: Default::default(),
        no_reuse: true,
        hold,
    }) {
        Response::Submitted { job, .. } => job.0,
        other => panic!("{other:?}"),
    }
}

/// Waits until the job has committed `step` steps of its last stage.
fn wait_for_step(daemon: &mut TestDaemon, job: &str, step: u64) {
    daemon.wait("a step", |daemon| {
        let status = daemon.try_status(job)?;
        (status.stages.last()?.step >= step).then_some(())
    });
}

/// Waits until no run has the job in hand.
fn wait_put_down(daemon: &mut TestDaemon, job: &str) -> JobStatus {
    daemon.wait("the end of the attempt", |daemon| {
        let status = daemon.try_status(job)?;
        status.activity.is_none().then_some(status)
    })
}

fn pause(daemon: &TestDaemon, job: &str) -> bool {
    match daemon.ask(Request::Pause { job: job.into() }) {
        Response::Paused { at_work, .. } => at_work,
        other => panic!("{other:?}"),
    }
}

fn resume(daemon: &TestDaemon, job: &str) {
    let answer = daemon.ask(Request::Resume { job: job.into() });
    assert!(matches!(answer, Response::Resumed { .. }), "{answer:?}");
}

fn requeue(daemon: &TestDaemon, job: &str) {
    let answer = daemon.ask(Request::Requeue { job: job.into() });
    assert!(matches!(answer, Response::Requeued { .. }), "{answer:?}");
}

/// A paused job has its device until the step in flight is committed, and says so.
#[test]
fn a_job_is_pausing_until_its_step_is_committed() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-2", "hang");
    daemon.start();
    let (job, other) = (submit(&daemon, false), submit(&daemon, false));
    let count = daemon.path("faults/train.count");
    daemon.wait("its second update", |_| {
        (std::fs::read_to_string(&count).ok()? == "2").then_some(())
    });
    assert!(!daemon.try_status(&job).unwrap().pausing);
    assert!(pause(&daemon, &job));
    daemon.wait("its stop", |daemon| {
        daemon.try_status(&job)?.pausing.then_some(())
    });
    let Response::Jobs(listed) = daemon.ask(Request::List) else {
        panic!("a list")
    };
    let pausing = |id: &str| {
        let mut listed = listed.iter();
        listed.find(|listed| listed.job.0 == id).unwrap().pausing
    };
    assert!(pausing(&job) && !pausing(&other), "{listed:?}");
    let Response::Nodes(nodes) = daemon.ask(Request::Nodes) else {
        panic!("nodes")
    };
    assert_eq!(nodes[0].devices[0].state, "pausing");
    let Response::Why(why) = daemon.ask(Request::Why { job: other }) else {
        panic!("a wait")
    };
    let expected = format!("busy with job {job}, which pauses after step ");
    assert!(why.waits[0].waits_for.contains(&expected), "{why:?}");
    assert!(daemon.why(&job).pausing && !why.pausing, "{why:?}");
    // Who has resumed it looks at a queued job, also while the step is in flight.
    resume(&daemon, &job);
    let resumed = daemon.try_status(&job).unwrap();
    assert!(
        !resumed.pausing && resumed.activity.is_some(),
        "{resumed:?}"
    );
    assert_eq!(resumed.state, State::Queued);
    daemon.ask(Request::Cancel { job: job.clone() });
    let status = wait_put_down(&mut daemon, &job);
    assert!(!status.pausing, "{status:?}");
}

/// The step in flight is committed, the device is another job's, a new daemon leaves the job
/// alone, and what comes out is what would have come out.
#[test]
fn a_paused_job_loses_nothing() {
    let mut daemon = TestDaemon::new().with_delay_ms(SLOW_MS);
    daemon.start();
    let job = submit(&daemon, false);
    wait_for_step(&mut daemon, &job, 2);
    assert!(pause(&daemon, &job), "an attempt was at work");
    let paused = wait_put_down(&mut daemon, &job);
    assert_eq!(paused.state, State::Paused);
    let stage = paused.stages.last().unwrap();
    assert_eq!(stage.state, State::Paused);
    assert!((2..6).contains(&stage.step), "{stage:?}");
    let by = paused.pause.clone().unwrap().by.unwrap();
    assert_eq!(Some(&by), paused.owner.as_ref());
    let why = daemon.why(&job).waits.remove(0).waits_for;
    let advice = format!("paused by {by}; `r1ctl resume {job}` lets it go on");
    assert!(why.contains(&advice), "{why}");

    let other = submit(&daemon, false);
    daemon.wait_succeeded(&other);
    daemon.kill();
    daemon.start();
    let restarted = daemon.try_status(&job).unwrap();
    assert_eq!(
        (restarted.state, restarted.stages.last().unwrap().step),
        (State::Paused, stage.step)
    );

    resume(&daemon, &job);
    let status = daemon.wait_succeeded(&job);
    assert_eq!(status.restarts, 0, "a pause is no crash");
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    let log = daemon.log_lines(&job);
    for line in [
        format!("paused by {by}, after the step"),
        format!("resumed by {by}"),
    ] {
        assert!(
            log.iter().any(|known| known.message.contains(&line)),
            "{line}"
        );
    }
}

#[test]
fn a_job_on_hold_waits_for_its_user() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let held = submit(&daemon, true);
    let other = submit(&daemon, false);
    daemon.wait_succeeded(&other);
    let status = daemon.try_status(&held).unwrap();
    assert_eq!((status.state, status.started_at), (State::Paused, None));
    resume(&daemon, &held);
    daemon.wait_succeeded(&held);
}

#[test]
fn a_cancelled_job_goes_on_from_where_it_was() {
    let mut daemon = TestDaemon::new().with_delay_ms(SLOW_MS);
    daemon.start();
    let job = submit(&daemon, false);
    wait_for_step(&mut daemon, &job, 2);
    daemon.ask(Request::Cancel { job: job.clone() });
    let cancelled = daemon.try_status(&job).unwrap();
    assert_eq!(cancelled.state, State::Cancelled);
    requeue(&daemon, &job);
    let status = daemon.wait_succeeded(&job);
    assert_eq!(
        (status.started_at, status.restarts),
        (cancelled.started_at, 0)
    );
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    match daemon.ask(Request::Requeue { job: job.clone() }) {
        Response::Error(error) => assert!(error.message.contains("it succeeded"), "{error:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_requeued_job_gives_its_device_to_the_next() {
    let mut daemon = TestDaemon::new();
    daemon.plant("open-1", "hang");
    daemon.start();
    let (first, second) = (submit(&daemon, false), submit(&daemon, false));
    daemon.wait("the first job's start", |daemon| {
        let status = daemon.try_status(&first)?;
        (status.state == State::Running).then_some(())
    });
    daemon.heal("open-1");
    requeue(&daemon, &first);
    let status = daemon.wait_succeeded(&second);
    let first = daemon.wait_succeeded(&first);
    assert!(status.ended_at <= first.ended_at);
}

#[test]
fn the_end_of_a_log_is_shown_alone() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = submit(&daemon, false);
    daemon.wait_succeeded(&job);
    let all = daemon.log_lines(&job);
    let logs = |tail, since_s| {
        let answers = daemon.stream(Request::Logs {
            job: job.clone(),
            follow: false,
            tail,
            since_s,
        });
        assert!(answers.len() <= 1, "many lines travel in one frame");
        let lines = answers.into_iter().flat_map(|answer| match answer {
            Response::Lines(lines) => lines,
            other => panic!("{other:?}"),
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(logs(Some(2), None), all[all.len() - 2..]);
    assert_eq!(logs(None, Some(3600)), all);
    assert_eq!(logs(Some(0), None), []);
}

/// The user that the stranger's requests come from: nobody has this id.
const STRANGER: u32 = 23_456;
/// Where the child of the test below finds the daemon, and the job of another user.
const SOCKET: &str = "R1D_TEST_STRANGERS_SOCKET";
const OTHERS: &str = "R1D_TEST_OTHERS_JOB";
const JOB: &str = "R1D_TEST_JOB";

/// Another user sees the queue, works with jobs of their own, and can neither change nor read
/// those of others. The test is its own client under another user id, which takes root.
#[test]
fn strangers_see_the_queue_and_touch_nobody_elses_jobs() {
    if let Ok(socket) = std::env::var(SOCKET) {
        return be_a_stranger(Path::new(&socket));
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = submit(&daemon, false);
    daemon.wait_succeeded(&job);
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for dir in [daemon.path("."), daemon.path("state")] {
        open(&dir, 0o755);
    }
    let socket = daemon.path("state/r1d.sock");
    open(&socket, 0o666);
    let metrics = daemon.path("state/jobs").join(&job).join("metrics.jsonl");
    std::os::unix::fs::symlink(metrics, daemon.path("link")).unwrap();
    let client = daemon.path("client");
    std::fs::copy(std::env::current_exe().unwrap(), &client).unwrap();
    let child = Command::new(&client)
        .args([
            "--exact",
            "turns::strangers_see_the_queue_and_touch_nobody_elses_jobs",
        ])
        .env(SOCKET, &socket)
        .env(OTHERS, &job)
        .env(JOB, daemon.job(&[]))
        .uid(STRANGER)
        .gid(STRANGER)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}"
    );
    let owners: Vec<_> = jobs(|request| daemon.ask(request))
        .into_iter()
        .map(|job| job.owner.unwrap())
        .collect();
    assert!(
        owners.contains(&"root".into()) && owners.contains(&STRANGER.to_string()),
        "{owners:?}"
    );
}

fn jobs(ask: impl Fn(Request) -> Response) -> Vec<JobSummary> {
    match ask(Request::List) {
        Response::Jobs(jobs) => jobs,
        other => panic!("{other:?}"),
    }
}

/// The stranger's job, with this file as its first data set.
fn reading(file: &Path) -> String {
    let job = std::env::var(JOB).unwrap();
    let (before, data) = job.split_once("[data.").unwrap();
    let (name, path) = data.split_once("path = \"").unwrap();
    let (_, after) = path.split_once('"').unwrap();
    let file = file.display();
    format!("{before}[data.{name}path = \"{file}\"{after}")
}

fn submission(job: &str) -> Request {
    Request::Submit {
        job: job.into(),
        priority: None,
        pins: Default::default(),
        no_reuse: true,
        hold: true,
    }
}

fn be_a_stranger(socket: &Path) {
    let ask = |request: Request| -> Response {
        let mut stream = UnixStream::connect(socket).unwrap();
        write_blocking(&mut stream, Format::Json, &request).unwrap();
        read_blocking(&mut stream, Format::Json).unwrap()
    };
    let others = || std::env::var(OTHERS).unwrap();
    let known = jobs(ask);
    assert_eq!((known.len(), known[0].owner.as_deref()), (1, Some("root")));
    match ask(Request::Status { job: others() }) {
        Response::Status(status) => assert!(
            !status.evals.is_empty() && status.evals.iter().all(|eval| eval.example.is_none()),
            "texts of the data are the owner's"
        ),
        other => panic!("{other:?}"),
    }
    let samples = Request::Samples {
        job: others(),
        stage: None,
        step: None,
        sort: SampleSort::Order,
        limit: 1,
    };
    let logs = Request::Logs {
        job: others(),
        follow: false,
        tail: None,
        since_s: None,
    };
    let others_metrics = socket.with_file_name("jobs").join(others());
    let others_metrics = others_metrics.join("metrics.jsonl");
    let link = socket.parent().unwrap().with_file_name("link");
    for request in [
        Request::Cancel { job: others() },
        Request::Pause { job: others() },
        Request::Resume { job: others() },
        // A prefix names the same job.
        Request::Requeue {
            job: others()[..4].into(),
        },
        samples,
        // Nor may a job of one's own read the other's files, whatever they are called.
        submission(&reading(&others_metrics)),
        submission(&reading(&link)),
        submission(&reading(
            &socket.with_file_name("jobs").join("*/metrics.jsonl"),
        )),
        Request::Plan {
            job: reading(&link),
            pins: Default::default(),
        },
        logs,
    ] {
        match ask(request.clone()) {
            Response::Error(error) => {
                assert_eq!(error.kind, ErrorKind::Forbidden, "{request:?}: {error:?}");
                assert!(error.message.contains("is root's"), "{error:?}");
            }
            other => panic!("{request:?}: {other:?}"),
        }
    }
    let own = match ask(submission(&std::env::var(JOB).unwrap())) {
        Response::Submitted { job, .. } => job.0,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        ask(Request::Resume { job: own.clone() }),
        Response::Resumed { .. }
    ));
    assert!(matches!(
        ask(Request::Cancel { job: own }),
        Response::Cancelled { .. }
    ));
}
