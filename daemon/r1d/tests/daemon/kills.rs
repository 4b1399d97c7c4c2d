//! `STEP-1` and `STEP-2` with real processes: the worker, the daemon, or both are killed at planted
//! moments; the job goes on by itself and ends with the same trained sequence, metrics and
//! evaluations as one that was left alone.

use crate::test_daemon::{Outcome, TestDaemon, signal_process};
use r1d_proto::control::{Request, Response};
use std::sync::OnceLock;
use std::time::Duration;

const FAST: &[(&str, &str)] = &[("batch_invariant = true", "batch_invariant = false")];

fn undisturbed(batch_invariant: bool) -> &'static Outcome {
    static OUTCOMES: [OnceLock<Outcome>; 2] = [OnceLock::new(), OnceLock::new()];
    OUTCOMES[batch_invariant as usize]
        .get_or_init(|| TestDaemon::undisturbed(if batch_invariant { &[] } else { FAST }))
}

/// Runs the job with faults planted; every one of them must have struck.
fn disturbed(batch_invariant: bool, faults: &[(&str, &str)]) {
    let mut daemon = TestDaemon::new();
    for (moment, fault) in faults {
        daemon.plant(moment, fault);
    }
    daemon.start();
    let job = daemon.submit(daemon.job(if batch_invariant { &[] } else { FAST }));
    let status = daemon.wait_succeeded(&job);
    assert!(status.restarts >= 1, "nothing was disturbed by {faults:?}");
    assert_eq!(
        &daemon.outcome(&status),
        undisturbed(batch_invariant),
        "{faults:?}"
    );
}

/// Every moment of the protocol, early and late in the job.
const MOMENTS: &[&str] = &[
    "start-1",
    "open-1",
    "open-3",
    "supervise-2",
    "supervise-5",
    "generate-1",
    "generate-4",
    "generate-6",
    "train-1",
    "train-4",
    "train-6",
    "sync-1",
    "save-1",
    "save-3",
    "save-5",
    "export-1",
];

#[test]
fn a_worker_that_is_killed_at_any_moment() {
    for moment in MOMENTS {
        disturbed(true, &[(moment, "kill-self")]);
    }
    for moment in ["generate-3", "generate-5", "train-3"] {
        disturbed(false, &[(moment, "kill-self")]);
    }
}

#[test]
fn a_daemon_that_is_killed_at_any_moment() {
    for moment in MOMENTS {
        disturbed(true, &[(moment, "kill-daemon")]);
    }
    for moment in ["generate-3", "generate-5", "train-3"] {
        disturbed(false, &[(moment, "kill-daemon")]);
    }
}

#[test]
fn both_killed_at_once() {
    for moment in ["generate-2", "train-2", "save-4", "supervise-3"] {
        disturbed(true, &[(moment, "kill-both")]);
        disturbed(false, &[(moment, "kill-both")]);
    }
}

/// The daemon dies a little after a step was trained: before, in, and after the commit, wherever
/// the microseconds fall.
#[test]
fn a_daemon_that_is_killed_around_a_commit() {
    for (step, micros) in [
        (1, 0),
        (2, 300),
        (3, 1000),
        (4, 3000),
        (5, 6000),
        (4, 12000),
        (3, 20000),
    ] {
        disturbed(
            true,
            &[(
                &format!("train-{step}"),
                &format!("kill-daemon-soon {micros}"),
            )],
        );
    }
    for (save, micros) in [(3, 0), (4, 1000), (5, 4000)] {
        disturbed(
            true,
            &[(
                &format!("save-{save}"),
                &format!("kill-daemon-soon {micros}"),
            )],
        );
    }
}

#[test]
fn many_faults_one_after_the_other() {
    let faults = [
        ("open-1", "exit"),
        ("supervise-1", "kill-daemon"),
        ("supervise-4", "kill-both"),
        ("save-2", "kill-self"),
        ("generate-2", "kill-daemon"),
        ("generate-3", "kill-self"),
        ("train-2", "kill-daemon-soon 500"),
        ("restore-1", "kill-both"),
        ("train-5", "fail internal"),
        ("save-4", "kill-daemon"),
        ("generate-9", "exit"),
        ("export-1", "kill-both"),
    ];
    disturbed(true, &faults);
}

/// Kills from outside, at moments that nothing in the job chooses.
#[test]
fn kills_at_arbitrary_moments() {
    for (seed, who) in [(1u64, "daemon"), (2, "worker"), (3, "both")] {
        let mut daemon = TestDaemon::new().with_delay_ms(3);
        daemon.start();
        let job = daemon.submit(daemon.job(&[]));
        for round in 0..4u64 {
            std::thread::sleep(Duration::from_millis(
                60 + (seed * 7919 + round * 104_729) % 240,
            ));
            if daemon
                .try_status(&job)
                .is_none_or(|status| status.state.is_final())
            {
                break;
            }
            let worker = match daemon.try_ask(Request::Nodes) {
                Some(Response::Nodes(nodes)) => nodes[0].devices[0].worker_pid,
                _ => None,
            };
            if who != "worker" {
                daemon.kill();
            }
            if let (Some(pid), "worker" | "both") = (worker, who) {
                signal_process(pid, "KILL");
            }
            daemon.revive();
        }
        let status = daemon.wait_succeeded(&job);
        assert_eq!(&daemon.outcome(&status), undisturbed(true), "{who}");
    }
}

/// A stop by signal is no failure, and the next daemon goes on.
#[test]
fn a_daemon_that_is_stopped_goes_on_when_it_is_back() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-3", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait("the third update", |daemon| {
        daemon
            .path("faults/train.count")
            .exists()
            .then_some(())
            .filter(|()| {
                std::fs::read_to_string(daemon.path("faults/train.count"))
                    .is_ok_and(|count| count == "3")
            })
    });
    daemon.signal("TERM");
    assert!(daemon.ended().success());
    assert!(
        !daemon.state().join("r1d.sock").exists(),
        "the socket is gone with the daemon"
    );
    daemon.start();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(&daemon.outcome(&status), undisturbed(true));
}
