//! What a job may do to its daemon, and what becomes of it and of the others.

mod house;

use house::House;
use r1d_proto::control::State;
use std::fs;

/// Waits until the worker has been asked to open a model for the nth time.
fn wait_opening(house: &mut House, time: u32) {
    let count = house.path("faults/open.count");
    let opening = |_: &mut House| fs::read_to_string(&count).is_ok_and(|count| count == time.to_string()).then_some(());
    house.wait("the model to be opened", opening);
}

/// A job during which the daemon dies each time that it is taken up is given up after a few times, and the daemon lives on without it.
#[test]
fn a_job_that_ends_the_daemon_each_time_is_given_up() {
    let mut house = House::new();
    (1..=12).for_each(|time| house.plant(&format!("open-{time}"), "hang"));
    house.start();
    let job = house.submit(house.job(&[]));
    for time in 1..=12 {
        wait_opening(&mut house, time);
        house.kill();
        house.start();
    }
    let status = house.wait_ended(&job);
    assert_eq!(status.state, State::Failed);
    let error = status.error.unwrap();
    assert!(error.contains("the daemon ended 12 times in a row") && error.contains("memory"), "{error}");
    let next = house.submit(house.job(&[("seed = 11", "seed = 12")]));
    house.wait_succeeded(&next);
}

/// Stops by systemd are nobody's fault, however many they are: here more than strikes are borne.
#[test]
fn a_clean_stop_is_held_against_no_job() {
    let mut house = House::new();
    (1..=13).for_each(|time| house.plant(&format!("open-{time}"), "hang"));
    house.start();
    let job = house.submit(house.job(&[]));
    for time in 1..=13 {
        wait_opening(&mut house, time);
        house.signal("TERM");
        assert!(house.ended().success());
        house.start();
    }
    house.wait_succeeded(&job);
}

#[test]
fn attempts_are_counted_one_by_one() {
    let mut house = House::new();
    (1..=3).for_each(|time| house.plant(&format!("open-{time}"), "kill-self"));
    house.start();
    let job = house.submit(house.job(&[]));
    house.wait_succeeded(&job);
    let lines = house.log_lines(&job);
    let numbers: Vec<&str> = lines.iter().filter_map(|line| line.message.strip_prefix("attempt ")?.split(' ').next()).collect();
    assert_eq!(numbers, ["1", "2", "3"]);
}

/// A job that cannot even be read has failed once, and is not taken from the queue for ever.
#[test]
fn a_queued_job_whose_data_were_changed_fails_once() {
    let mut house = House::new();
    house.plant("train-1", "hang");
    house.start();
    let first = house.submit(house.job(&[]));
    let queued = house.submit(house.job(&[("seed = 11", "seed = 12")]));
    fs::write(house.path("rows.jsonl"), "{\"text\": \"1\", \"prompt\": \"1\", \"reference\": \"1\", \"completion\": \"1\"}\n")
        .unwrap();
    house.ask(r1d_proto::control::Request::Cancel { job: first });
    let status = house.wait_ended(&queued);
    assert_eq!(status.state, State::Failed);
    assert!(status.error.unwrap().contains("rows.jsonl is not as it was"));
    let failures = house.log_lines(&queued).iter().filter(|line| line.message.starts_with("the job failed")).count();
    assert_eq!(failures, 1);
}
