//! What a job may do to its daemon, and what becomes of it and of the others.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::job::State;
use std::fs;

/// Waits until the worker has been asked to open a model for the nth time.
fn wait_opening(daemon: &mut TestDaemon, time: u32) {
    let count = daemon.path("faults/open.count");
    let opening = |_: &mut TestDaemon| {
        fs::read_to_string(&count)
            .is_ok_and(|count| count == time.to_string())
            .then_some(())
    };
    daemon.wait("the model to be opened", opening);
}

/// A job during which the daemon dies each time that it is taken up is given up after a few times,
/// and the daemon lives on without it.
#[test]
fn a_job_that_ends_the_daemon_each_time_is_given_up() {
    let mut daemon = TestDaemon::new();
    (1..=12).for_each(|time| daemon.plant(&format!("open-{time}"), "hang"));
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    for time in 1..=12 {
        wait_opening(&mut daemon, time);
        daemon.kill();
        daemon.start();
    }
    let status = daemon.wait_ended(&job);
    assert_eq!(status.state, State::Failed);
    let error = status.error.unwrap();
    assert!(
        error.contains("the daemon ended 12 times in a row") && error.contains("memory"),
        "{error}"
    );
    let next = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    daemon.wait_succeeded(&next);
}

/// Stops by systemd are nobody's fault, however many they are: here more than strikes are borne.
#[test]
fn a_clean_stop_is_held_against_no_job() {
    let mut daemon = TestDaemon::new();
    (1..=13).for_each(|time| daemon.plant(&format!("open-{time}"), "hang"));
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    for time in 1..=13 {
        wait_opening(&mut daemon, time);
        daemon.signal("TERM");
        assert!(daemon.ended().success());
        daemon.start();
    }
    daemon.wait_succeeded(&job);
}

#[test]
fn attempts_are_counted_one_by_one() {
    let mut daemon = TestDaemon::new();
    (1..=3).for_each(|time| daemon.plant(&format!("open-{time}"), "kill-self"));
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait_succeeded(&job);
    let lines = daemon.log_lines(&job);
    let numbers: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.message.strip_prefix("attempt ")?.split(' ').next())
        .collect();
    assert_eq!(numbers, ["1", "2", "3"]);
}
