//! Devices on which workers keep failing: they are taken out, probed and named, and their jobs go
//! on.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::job::State;
use r1d_proto::control::node::DeviceStatus;
use r1d_proto::control::{Request, Response};
use std::fs;

const WRONG: &str = "69 r1d-worker: device \"cuda:0\": it computes wrongly";

fn device(daemon: &TestDaemon, index: usize) -> DeviceStatus {
    match daemon.ask(Request::Nodes) {
        Response::Nodes(mut nodes) => nodes[0].devices.swap_remove(index),
        other => panic!("{other:?}"),
    }
}

/// The first device fails every job and its probe: the job goes on the second as if nothing had
/// been, and the first comes back once its probe goes well.
#[test]
fn a_device_that_keeps_failing_a_job_is_taken_out_and_comes_back() {
    let mut daemon = TestDaemon::new();
    daemon.devices(&["cuda:0", "cpu"]);
    daemon.plant("train-on-cuda:0", "kill-self");
    daemon.start();
    daemon.plant("probe-on-cuda:0", WRONG);
    let job = daemon.submit(daemon.job(&[]));
    let problem = daemon.wait("the device is out", |daemon| {
        let status = device(daemon, 0);
        status
            .problem
            .filter(|problem| problem.contains("computes wrongly"))
    });
    assert_eq!(device(&daemon, 0).state, "failed", "{problem}");
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    let log = daemon.log_lines(&job);
    for line in ["attempt 3 is abandoned", "this one is probed"] {
        assert!(
            log.iter().any(|known| known.message.contains(line)),
            "{line}"
        );
    }

    // A job that waits for a device is told of it.
    daemon.plant("open-on-cpu", "hang");
    let hanging = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    let waiting = daemon.submit(daemon.job(&[("seed = 11", "seed = 13")]));
    let why = daemon.wait("why", |daemon| {
        let why = daemon.why(&waiting).waits.pop()?.waits_for;
        why.contains("busy").then_some(why)
    });
    assert!(
        why.contains("cuda:0 (failed") && why.contains("computes wrongly"),
        "{why}"
    );
    daemon.heal("train-on-cuda:0");
    daemon.heal("probe-on-cuda:0");
    daemon.wait_succeeded(&waiting);
    assert_eq!(device(&daemon, 0).problem, None);
    daemon.ask(Request::Cancel { job: hanging });
}

/// The failures are the job's where the probe finds nothing: it fails, after as many attempts as
/// without a probe, and the device has the next job.
#[test]
fn a_job_that_fails_on_a_device_that_is_well_is_the_one_at_fault() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-always", "kill-self");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let status = daemon.wait_ended(&job);
    assert_eq!(status.state, State::Failed);
    let error = status.error.unwrap();
    assert!(error.contains("5 attempts in a row"), "{error}");
    let log = daemon.log_lines(&job);
    let numbers = log.iter().filter_map(|line| {
        let rest = line.message.strip_prefix("attempt ")?;
        rest.split(' ').next()
    });
    assert_eq!(numbers.collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    daemon.heal("train-always");
    let next = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    daemon.wait_succeeded(&next);
}

/// A daemon with two devices of its CPU, one of which a job keeps busy and the other of which fails
/// every job although its probes go well; returns both.
fn with_a_bad_device(daemon: &mut TestDaemon) -> (String, usize) {
    daemon.devices(&["cpu", "cpu"]);
    daemon.plant("open-1", "hang");
    daemon.start();
    let busy = daemon.submit(daemon.job(&[]));
    let bad = daemon.wait("a device that hangs", |daemon| {
        let opens = fs::read_to_string(daemon.path("faults/open.count")).ok()?;
        let has = |index| {
            let status = device(daemon, index);
            assert_eq!(status.device, format!("cpu:{index}"));
            status.job.is_some_and(|job| job.0 == busy)
        };
        (opens == "1").then(|| (0..2).find(|index| !has(*index)))?
    });
    daemon.plant(&format!("open-on-cpu:{bad}"), "exit 5");
    (busy, bad)
}

/// A fault that only real work shows costs a job nothing where the node has another device: the job
/// waits for that one although it is busy, and says so.
#[test]
fn a_job_does_not_return_to_a_device_that_only_work_shows_to_be_broken() {
    let mut daemon = TestDaemon::new();
    let (busy, bad) = with_a_bad_device(&mut daemon);
    let job = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    let given_up = format!("cpu:{bad} (idle; workers failed this job there");
    daemon.wait("the job to wait for the other device", |daemon| {
        let why = daemon.why(&job).waits.pop()?.waits_for;
        why.contains(&given_up).then_some(())
    });
    let since_s = |daemon: &mut TestDaemon| {
        let wait = daemon.why(&job).waits.pop()?;
        (wait.waits_for.contains(&given_up) && wait.since_s > 1.0).then_some(wait.since_s)
    };
    let (first, second) = ("the wait's time", "the wait's longer time");
    let first = daemon.wait(first, since_s);
    daemon.wait(second, |daemon| (since_s(daemon)? > first).then_some(()));
    daemon.ask(Request::Cancel { job: busy });
    let status = daemon.wait_succeeded(&job);
    let undisturbed = TestDaemon::undisturbed(&[("seed = 11", "seed = 12")]);
    assert_eq!(daemon.outcome(&status), undisturbed);
    let log = daemon.log_lines(&job);
    let abandoned = log.iter().filter(|line| line.message.contains("abandoned"));
    assert_eq!(abandoned.count(), 3, "on the bad device, and no more");
}

/// A restart ends no quarantine, although the device looks well, and its jobs go on elsewhere.
#[test]
fn a_quarantine_outlives_the_daemon() {
    let mut daemon = TestDaemon::new();
    let (busy, bad) = with_a_bad_device(&mut daemon);
    let seeds = ["seed = 12", "seed = 13"];
    let jobs = seeds.map(|seed| daemon.submit(daemon.job(&[("seed = 11", seed)])));
    let quarantined = |daemon: &mut TestDaemon| {
        let DeviceStatus { state, problem, .. } = device(daemon, bad);
        problem.filter(|_| state == "quarantined")
    };
    daemon.wait("the quarantine", quarantined);
    daemon.wait("its record", |daemon| {
        let kept = fs::read_to_string(daemon.state().join("devices.json")).ok()?;
        kept.contains(r#""rests": 1"#).then_some(())
    });
    daemon.signal("TERM");
    assert!(daemon.ended().success());
    daemon.start();
    let problem = daemon.wait("the same quarantine", quarantined);
    assert!(
        problem.contains("rests") && jobs.iter().all(|job| problem.contains(job)),
        "{problem}"
    );
    for job in jobs.iter().chain([&busy]) {
        daemon.wait_succeeded(job);
    }
}

/// A job on several devices is planned, and never trained on one of them in silence.
#[test]
fn a_layout_that_no_worker_can_have_is_planned_and_refused() {
    let mut daemon = TestDaemon::new();
    daemon.devices(&["cpu", "cpu"]);
    daemon.start();
    let spread = |layout: &str| {
        let table = format!("[parallel]\n{layout}\n[model]");
        daemon.job(&[("[model]", &table)])
    };
    let layout = "expert = 2\nshard = \"parameters\"";
    let refused = daemon.refused(spread(layout));
    let wanted = "shard = \"parameters\" is not in this release";
    assert!(refused.contains(wanted), "{refused}");
    let job = spread(layout);
    let pins = Default::default();
    let Response::Plan(plan) = daemon.ask(Request::Plan { job, pins }) else {
        panic!("no plan")
    };
    assert_eq!(plan.layout.map(|layout| layout.expert), Some(2));
    assert!(plan.warnings.iter().any(|warning| warning.contains(wanted)));
    let refused = daemon.refused(spread("data = 3"));
    assert!(
        refused.contains("needs 3 devices, and the node has 2 (cpu:0, cpu:1)"),
        "{refused}"
    );
}
