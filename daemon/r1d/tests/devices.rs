//! Devices on which workers keep failing: they are taken out, probed and named, and their jobs go
//! on.

mod test_daemon;

use r1d_proto::control::job::State;
use r1d_proto::control::node::DeviceStatus;
use r1d_proto::control::{Request, Response};
use test_daemon::TestDaemon;

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
