//! What is outside of a job and beneath it: a state directory that is moved or copied, checkpoints
//! that are away, of others or gone, a disk that takes nothing, a ledger older than its jobs.

#![allow(clippy::disallowed_methods, reason = "a test's own thread may sleep")]

mod house;

use house::{House, Outcome};
use r1d_proto::control::State;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const REASONING: &str = "checkpoints/reasoning";

fn waits(house: &House, job: &str) -> String {
    house
        .why(job)
        .waits
        .into_iter()
        .map(|wait| wait.waits_for)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Waits until `why` names all of `words`. A job that ends meanwhile fails the test with its error.
fn wait_for_words(house: &mut House, job: &str, words: &[&str]) -> String {
    house.wait(&format!("{words:?}"), |house| {
        let status = house.try_status(job)?;
        assert!(
            !status.state.is_final(),
            "{:?} {:?}",
            status.state,
            status.error
        );
        Some(waits(house, job)).filter(|waits| words.iter().all(|word| waits.contains(word)))
    })
}

/// The daemon works until the n-th update of a rollout stage, and is killed in it.
fn work_until(house: &mut House, update: u32) {
    let trained = house.path("faults/train.count");
    house.wait("the update", |_| {
        (fs::read_to_string(&trained).ok()? == update.to_string()).then_some(())
    });
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

fn job_dir(house: &House, job: &str) -> PathBuf {
    house.state().join("jobs").join(job)
}

fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status()
            .unwrap()
            .success()
    );
}

/// Names and contents of all files below a directory.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut dirs, mut files) = (vec![dir.to_path_buf()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => {
                    files.push((entry.path(), fs::read(entry.path()).unwrap()))
                }
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
    assert!(
        files(&house.path("state")) == before,
        "the original was touched"
    );
    house.set_state("state");
    house.start();
    assert_eq!(ended(&mut house, &job), House::undisturbed(&[]));
}

fn elsewhere(house: &House) -> String {
    format!(
        "[checkpoint]\nto = \"file://{}\"\n",
        house.path("shared").display()
    )
}

/// A directory outside that the job writes its checkpoints to is one job's: the copy waits.
#[test]
fn a_copy_does_not_touch_the_originals_checkpoints_elsewhere() {
    let mut house = House::new();
    let elsewhere = elsewhere(&house);
    let job = begun(&mut house, &[("[checkpoint]\n", &elsewhere)], 5);
    copy(&house.path("state"), &house.path("copied"));
    let before = files(&house.path("shared"));
    house.set_state("copied");
    house.start();
    let state = house.path("state").display().to_string();
    wait_for_words(&mut house, &job, &["shared", &state, "cancel"]);
    house.kill();
    assert!(
        files(&house.path("shared")) == before,
        "the original's checkpoints were touched"
    );
    // The original is no more: what it left is the copy's.
    fs::rename(house.path("state"), house.path("gone")).unwrap();
    house.start();
    assert_eq!(ended(&mut house, &job), House::undisturbed(&[]));
}

/// Nothing is mounted where the checkpoints are, a file lies there, or a directory of nothing.
#[test]
fn checkpoints_that_are_away_at_a_restart_are_waited_for() {
    for (update, plant) in [(1, "nothing"), (4, "directory"), (4, "file")] {
        let mut house = House::new();
        let elsewhere = elsewhere(&house);
        let job = begun(&mut house, &[("[checkpoint]\n", &elsewhere)], update);
        let (shared, aside) = (house.path("shared"), house.path("aside"));
        fs::rename(&shared, &aside).unwrap();
        match plant {
            "directory" => fs::create_dir(&shared).unwrap(),
            "file" => fs::write(&shared, "no directory").unwrap(),
            _ => {}
        }
        house.start();
        wait_for_words(&mut house, &job, &["shared", "cancel"]);
        match plant {
            "directory" => fs::remove_dir(&shared).unwrap(),
            "file" => fs::remove_file(&shared).unwrap(),
            _ => {}
        }
        fs::rename(&aside, &shared).unwrap();
        assert_eq!(ended(&mut house, &job), House::undisturbed(&[]), "{plant}");
    }
}

/// A whole checkpoint that is not the one on record, or none, is a damaged one.
#[test]
fn a_checkpoint_that_is_not_the_jobs_own_costs_the_way_from_the_one_before() {
    let mut house = House::new();
    house.start();
    let other = house.submit(house.job(&[("seed = 11", "seed = 12")]));
    house.wait_succeeded(&other);
    house.kill();
    let theirs = job_dir(&house, &other).join(REASONING).join("step-4");
    let count: u32 = fs::read_to_string(house.path("faults/train.count"))
        .unwrap()
        .parse()
        .unwrap();
    let job = begun(&mut house, &[], count + 6);
    let own = job_dir(&house, &job).join(REASONING);
    for (place, instead) in [
        ("step-4", Some(theirs)),
        ("step-4", Some(own.join("step-2"))),
        ("step-2", None),
    ] {
        let (aside, place) = (house.path("aside"), own.join(place));
        let _ = fs::remove_dir_all(&aside);
        copy(&house.state(), &aside);
        fs::remove_dir_all(&place).unwrap();
        if let Some(instead) = &instead {
            copy(instead, &place);
        } else {
            fs::remove_dir_all(own.join("step-4")).unwrap();
        }
        house.start();
        assert_eq!(
            ended(&mut house, &job),
            House::undisturbed(&[]),
            "{instead:?}"
        );
        let lines = house
            .log_lines(&job)
            .into_iter()
            .map(|line| line.message)
            .collect::<Vec<_>>()
            .join("\n");
        assert!(
            lines.contains("given up") && lines.contains(&place.display().to_string()),
            "{lines}"
        );
        house.kill();
        fs::remove_dir_all(house.state()).unwrap();
        fs::rename(&aside, house.state()).unwrap();
    }
}

/// Where nothing else can take its place, a checkpoint is waited for: one that a later stage starts
/// from, and the only one of a stage whose earlier rollouts are gone.
#[test]
fn a_checkpoint_without_which_the_job_cannot_go_on_is_waited_for() {
    for (place, update) in [
        ("checkpoints/cold-start/step-3", 4),
        ("checkpoints/reasoning/step-4", 6),
    ] {
        let mut house = House::new();
        let job = begun(&mut house, &[("keep = 2", "keep = 1")], update);
        let (place, aside) = (job_dir(&house, &job).join(place), house.path("aside"));
        fs::rename(&place, &aside).unwrap();
        house.start();
        wait_for_words(
            &mut house,
            &job,
            &[&place.display().to_string(), "put", "back", "cancel"],
        );
        fs::rename(&aside, &place).unwrap();
        assert_eq!(
            ended(&mut house, &job),
            House::undisturbed(&[("keep = 2", "keep = 1")])
        );
    }
}

/// What the journal has beyond an old copy of the ledger is what was trained on.
#[test]
fn an_old_copy_of_the_ledger_goes_on_with_the_steps_since() {
    for changes in [
        &[][..],
        &[("batch_invariant = true", "batch_invariant = false")],
    ] {
        let mut house = House::new();
        let job = begun(&mut house, changes, 2);
        let (ledger, old) = (house.state().join("ledger.redb"), house.path("old.redb"));
        fs::copy(&ledger, &old).unwrap();
        // One step is rebuilt, four are done.
        house.plant("train-7", "hang");
        house.start();
        work_until(&mut house, 7);
        fs::copy(&old, &ledger).unwrap();
        house.start();
        assert_eq!(
            ended(&mut house, &job),
            House::undisturbed(changes),
            "{changes:?}"
        );
        let lines = house
            .log_lines(&job)
            .into_iter()
            .map(|line| line.message)
            .collect::<Vec<_>>()
            .join("\n");
        assert!(lines.contains("older than the job's files"), "{lines}");
    }
}

/// The stage that the ledger is at, and those after it, were finished since.
#[test]
fn an_old_copy_of_the_ledger_does_finished_stages_again() {
    let mut house = House::new();
    let job = begun(&mut house, &[], 1);
    let (ledger, old) = (house.state().join("ledger.redb"), house.path("old.redb"));
    fs::copy(&ledger, &old).unwrap();
    house.start();
    house.wait_succeeded(&job);
    house.kill();
    fs::copy(&old, &ledger).unwrap();
    house.start();
    assert_eq!(ended(&mut house, &job), House::undisturbed(&[]));
}

/// The checkpoint of an old copy of the ledger, and the steps until the next one, were pruned.
#[test]
fn an_old_copy_of_the_ledger_that_nothing_is_left_for_is_named() {
    let mut house = House::new();
    let job = begun(&mut house, &[("keep = 2", "keep = 1")], 4);
    let (ledger, old, new) = (
        house.state().join("ledger.redb"),
        house.path("old.redb"),
        house.path("new.redb"),
    );
    fs::copy(&ledger, &old).unwrap();
    house.plant("train-8", "hang");
    house.start();
    work_until(&mut house, 8);
    fs::copy(&ledger, &new).unwrap();
    fs::copy(&old, &ledger).unwrap();
    house.start();
    wait_for_words(
        &mut house,
        &job,
        &["reasoning/step-2", "copy of the ledger", "cancel"],
    );
    house.kill();
    fs::copy(&new, &ledger).unwrap();
    house.start();
    assert_eq!(
        ended(&mut house, &job),
        House::undisturbed(&[("keep = 2", "keep = 1")])
    );
}

/// A file in a directory's place, and a directory in a file's.
#[test]
fn what_stands_in_the_way_of_a_write_is_waited_for() {
    for (name, update) in [
        ("rollouts", 2),
        ("journal/stage-2", 2),
        ("metrics.jsonl", 2),
        ("tensorboard", 2),
    ] {
        let mut house = House::new();
        house.plant("train-2", "hang");
        let job = begun(&mut house, &[], update);
        let (place, aside) = (job_dir(&house, &job).join(name), house.path("aside"));
        fs::rename(&place, &aside).unwrap();
        match aside.is_dir() {
            true => fs::write(&place, "no directory").unwrap(),
            false => fs::create_dir_all(place.join("no file")).unwrap(),
        }
        house.start();
        wait_for_words(&mut house, &job, &[name, "cancel"]);
        let _ = fs::remove_file(&place).or_else(|_| fs::remove_dir_all(&place));
        fs::rename(&aside, &place).unwrap();
        assert_eq!(ended(&mut house, &job), House::undisturbed(&[]), "{name}");
    }
}

/// A disk that is not the daemon's to write to: while the job runs, and when the daemon starts.
#[test]
fn a_directory_that_turns_unwritable_is_waited_for() {
    let mut house = House::new().with_delay_ms(20);
    if rustix::process::geteuid().is_root() {
        house.set_user(65534);
        assert!(
            Command::new("chown")
                .args(["-R", "65534:65534"])
                .arg(house.path("."))
                .status()
                .unwrap()
                .success()
        );
    }
    house.start();
    let job = house.submit(house.job(&[]));
    let dirs =
        ["", "rollouts", "checkpoints", "journal"].map(|name| job_dir(&house, &job).join(name));
    let set_mode = |mode: u32| {
        for dir in dirs.iter().filter(|dir| dir.exists()) {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    house.wait("the first rollouts", |_| {
        fs::read_dir(&dirs[1]).ok()?.flatten().next().map(drop)
    });
    set_mode(0o555);
    wait_for_words(&mut house, &job, &["Permission denied", "cancel"]);
    house.kill();
    house.start();
    wait_for_words(&mut house, &job, &["Permission denied", "cancel"]);
    set_mode(0o755);
    let status = house.wait_succeeded(&job);
    assert_eq!(
        (house.outcome(&status), status.state),
        (House::undisturbed(&[]), State::Succeeded)
    );
}
