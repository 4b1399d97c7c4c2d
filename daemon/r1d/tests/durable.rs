//! What is outside of a job and beneath it: a state directory that is moved or copied.

#![allow(clippy::disallowed_methods, reason = "a test's own thread may sleep")]

mod house;

use house::{House, Outcome};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The daemon works until the n-th update of a rollout stage, and is killed in it.
fn work_until(house: &mut House, update: u32) {
    let trained = house.path("faults/train.count");
    house.wait("the update", |_| (fs::read_to_string(&trained).ok()? == update.to_string()).then_some(()));
    house.kill();
}

/// A job whose daemon was killed in its n-th update.
fn begun(house: &mut House, changes: &[(&str, &str)], update: u32) -> String {
    house.plant(&format!("train-{update}"), "hang");
    house.start();
    let job = house.submit(house.job(changes));
    work_until(house, update);
    job
}

fn ended(house: &mut House, job: &str) -> Outcome {
    let status = house.wait_succeeded(job);
    house.outcome(&status)
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Names and contents of all files below a directory.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut dirs, mut files) = (vec![dir.to_path_buf()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => files.push((entry.path(), fs::read(entry.path()).unwrap())),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

#[test]
fn a_state_directory_that_is_moved_goes_on_with_its_jobs() {
    let mut house = House::new();
    let job = begun(&mut house, &[], 4);
    for (from, to) in [("state", "moved"), ("moved", "moved again")] {
        fs::rename(house.path(from), house.path(to)).unwrap();
        house.set_state(to);
        house.start();
        assert_eq!(ended(&mut house, &job), House::undisturbed(&[]), "{to}");
        house.kill();
    }
}

/// Each goes on by itself, and neither touches the other's files.
#[test]
fn a_copy_of_a_state_directory_leaves_the_original_alone() {
    let mut house = House::new();
    let job = begun(&mut house, &[], 5);
    copy(&house.path("state"), &house.path("copied"));
    let before = files(&house.path("state"));
    house.set_state("copied");
    house.start();
    assert_eq!(ended(&mut house, &job), House::undisturbed(&[]));
    house.kill();
    assert!(files(&house.path("state")) == before, "the original was touched");
    house.set_state("state");
    house.start();
    assert_eq!(ended(&mut house, &job), House::undisturbed(&[]));
}
