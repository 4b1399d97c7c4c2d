//! A job on several devices: its workers are one to it. The fake worker computes the same whatever
//! it is asked together with, so a gang ends as one worker does.

use crate::test_daemon::{TestDaemon, signal_process};
use r1d_proto::control::content::LogLine;
use r1d_proto::control::job::State;
use r1d_proto::control::node::DeviceStatus;
use r1d_proto::control::{Request, Response};

/// Turns the tests' job into one on two devices.
const GANG: (&str, &str) = ("[model]", "[parallel]\ndata = 2\n\n[model]");

fn on_devices(devices: &[&str]) -> TestDaemon {
    let mut daemon = TestDaemon::new();
    daemon.devices(devices);
    daemon
}

fn devices(daemon: &TestDaemon) -> Vec<DeviceStatus> {
    match daemon.ask(Request::Nodes) {
        Response::Nodes(mut nodes) => nodes.remove(0).devices,
        other => panic!("{other:?}"),
    }
}

/// Waits until both devices have a worker for the job, and returns the worker of the second.
fn second_worker(daemon: &mut TestDaemon, job: &str) -> u32 {
    daemon.wait("two workers", |daemon| {
        let devices = devices(daemon);
        let of_job = |device: &DeviceStatus| device.job.as_ref().is_some_and(|of| of.0 == job);
        devices.iter().all(of_job).then_some(())?;
        devices[1].worker_pid
    })
}

#[test]
fn a_gang_ends_as_one_worker_does_and_leaves_its_devices() {
    let mut daemon = on_devices(&["cpu", "cpu"]);
    daemon.start();
    let job = daemon.submit(daemon.job(&[GANG]));
    second_worker(&mut daemon, &job);
    // A job of one device waits for the gang, and is told so.
    let next = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    let status = daemon.wait_succeeded(&job);
    assert_eq!(status.restarts, 0);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    let log = daemon.log_lines(&job);
    for worker in [
        "worker cpu:0 runs as process",
        "worker cpu:1 runs as process",
    ] {
        let lines = log.iter().filter(|line| line.message.contains(worker));
        assert_eq!(lines.count(), 1, "{worker}");
    }
    daemon.wait_succeeded(&next);
    let idle = devices(&daemon);
    assert!(idle.iter().all(|device| device.state == "idle"), "{idle:?}");
}

/// The wait for its data is not wasted on a job that cannot run.
#[test]
fn what_no_gang_can_do_is_refused_before_anything_is_read() {
    let mut daemon = on_devices(&["cpu", "cpu"]);
    daemon.start();
    std::fs::write(daemon.path("rows.jsonl"), "no row\n").unwrap();
    let table = "[parallel]\ntransport = \"nccl\"\n\n[model]";
    let refused = daemon.refused(daemon.job(&[("[model]", table)]));
    assert!(refused.contains("transport = \"nccl\""), "{refused}");
}

/// Which device is which rank, and what each does.
#[test]
fn the_ranks_of_a_gang_are_shown() {
    let mut daemon = on_devices(&["cpu", "cpu"]);
    daemon.plant("train-on-cpu:1", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[GANG]));
    let ranks = daemon.wait("a rank that waits for the other", |daemon| {
        let ranks = daemon.try_status(&job)?.ranks;
        let waits = ranks.first()?.state.contains("waiting for other")
            && ranks.get(1)?.state.starts_with("training");
        waits.then_some(ranks)
    });
    let places = ranks
        .iter()
        .map(|rank| (rank.rank, &*rank.device, rank.data, rank.expert));
    let expected = [(0, "cpu:0", 0, 0), (1, "cpu:1", 1, 0)];
    assert_eq!(places.collect::<Vec<_>>(), expected);
    let shown = devices(&daemon).into_iter().map(|device| device.rank);
    assert_eq!(shown.collect::<Vec<_>>(), [Some(0), Some(1)]);
    daemon.ask(Request::Cancel { job: job.clone() });
    let status = daemon.wait_ended(&job);
    assert_eq!(status.ranks, []);
}

/// The device of a rank that says nothing is doubted, although rank 0 speaks for the gang.
#[test]
fn the_device_of_the_silent_rank_is_the_one_that_is_taken_out() {
    let mut daemon = on_devices(&["cpu", "cpu"]).with_silence_s(1);
    daemon.plant("train-on-cpu:1", "hang");
    daemon.start();
    daemon.plant("probe-on-cpu:1", "69 r1d-worker: it computes wrongly");
    let job = daemon.submit(daemon.job(&[GANG]));
    daemon.wait("the second device is out", |daemon| {
        let devices = devices(daemon);
        assert_eq!(devices[0].problem, None);
        let problem = devices[1].problem.clone();
        problem.filter(|problem| problem.contains("computes wrongly"))
    });
    let log = daemon.log_lines(&job);
    let named = |line: &LogLine| {
        line.message
            .contains("past its deadline (rank 1, on cpu:1)")
    };
    assert!(log.iter().any(named), "{log:?}");
    daemon.ask(Request::Cancel { job: job.clone() });
    daemon.wait_ended(&job);
}

/// Whichever rank dies at whatever moment, all begin again from what is durable.
#[test]
fn a_rank_that_is_killed_at_any_moment() {
    let undisturbed = TestDaemon::undisturbed(&[]);
    // Two workers have each moment, except those of rank 0 alone.
    for moment in [
        "start-2",
        "open-1",
        "open-4",
        "supervise-3",
        "supervise-6",
        "generate-2",
        "generate-5",
        "train-2",
        "train-5",
        "save-2",
        "export-1",
    ] {
        let mut daemon = on_devices(&["cpu", "cpu"]);
        daemon.plant(moment, "kill-self");
        daemon.start();
        let job = daemon.submit(daemon.job(&[GANG]));
        let status = daemon.wait_succeeded(&job);
        assert!(status.restarts >= 1, "{moment} has disturbed nothing");
        assert_eq!(daemon.outcome(&status), undisturbed, "{moment}");
    }
}

#[test]
fn a_daemon_that_is_killed_with_a_gang_at_work() {
    let undisturbed = TestDaemon::undisturbed(&[]);
    for moment in ["open-2", "supervise-4", "generate-3", "train-4", "save-2"] {
        let mut daemon = on_devices(&["cpu", "cpu"]);
        daemon.plant(moment, "kill-daemon");
        daemon.start();
        let job = daemon.submit(daemon.job(&[GANG]));
        let status = daemon.wait_succeeded(&job);
        assert_eq!(daemon.outcome(&status), undisturbed, "{moment}");
    }
}

/// One rank that says nothing more keeps the gang waiting no longer than the watchdog.
#[test]
fn a_rank_that_is_stopped_is_replaced_with_all_others() {
    let mut daemon = on_devices(&["cpu", "cpu"]).with_silence_s(2);
    daemon.start();
    let job = daemon.submit(daemon.job(&[GANG]));
    let worker = second_worker(&mut daemon, &job);
    signal_process(worker, "STOP");
    let status = daemon.wait_succeeded(&job);
    assert!(status.restarts >= 1);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

/// The device of the rank that fails is doubted, and no other; the gang needs both, says so, and
/// keeps nobody from the one that is left.
#[test]
fn the_device_of_the_failing_rank_is_the_one_that_is_taken_out() {
    let mut daemon = on_devices(&["cpu", "cpu"]);
    daemon.plant("train-on-cpu:1", "kill-self");
    daemon.start();
    daemon.plant("probe-on-cpu:1", "69 r1d-worker: it computes wrongly");
    let job = daemon.submit(daemon.job(&[GANG]));
    daemon.wait("the second device is out", |daemon| {
        let devices = devices(daemon);
        assert_eq!(devices[0].problem, None);
        let problem = devices[1].problem.clone();
        problem.filter(|problem| problem.contains("computes wrongly"))
    });
    let why = daemon.wait("what the gang lacks", |daemon| {
        let why = daemon.why(&job).waits.pop()?.waits_for;
        why.contains("free at once").then_some(why)
    });
    assert!(
        why.contains("2 devices that are free at once") && why.contains("computes wrongly"),
        "{why}"
    );
    let small = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    daemon.wait_succeeded(&small);
    daemon.heal("train-on-cpu:1");
    daemon.heal("probe-on-cpu:1");
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
}

/// What is cancelled is cancelled on all devices, also while one rank hangs.
#[test]
fn a_gang_is_cancelled_as_a_whole() {
    let mut daemon = on_devices(&["cpu", "cpu"]);
    daemon.plant("generate-3", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[GANG]));
    daemon.wait("the fault", |daemon| {
        std::fs::read_to_string(daemon.path("faults/generate.count"))
            .ok()
            .filter(|count| count.trim() >= "3")
    });
    daemon.ask(Request::Cancel { job: job.clone() });
    let status = daemon.wait_ended(&job);
    assert_eq!(status.state, State::Cancelled);
    daemon.wait("idle devices", |daemon| {
        let devices = devices(daemon);
        let is_idle = |device: &DeviceStatus| device.state == "idle" && device.worker_pid.is_none();
        devices.iter().all(is_idle).then_some(())
    });
}
