//! What a crash leaves beside the record goes, what is damaged is made whole or waited for, and a
//! daemon that cannot start names the file and the remedy.

use crate::test_daemon::TestDaemon;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The process id of no daemon.
const GONE: u32 = 999_999_999;

/// A job whose daemon was killed in its fourth update: the checkpoint of step 2 is on record.
fn begun(daemon: &mut TestDaemon, changes: &[(&str, &str)]) -> String {
    daemon.plant("train-4", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(changes));
    let count = daemon.path("faults/train.count");
    daemon.wait("the fourth update", |_| {
        (fs::read_to_string(&count).ok()? == "4").then_some(())
    });
    daemon.kill();
    job
}

fn job_dir(daemon: &TestDaemon, job: &str) -> PathBuf {
    daemon.state().join("jobs").join(job)
}

fn told(daemon: &TestDaemon, job: &str) -> String {
    let lines = daemon.log_lines(job).into_iter();
    lines
        .map(|line| line.message)
        .collect::<Vec<_>>()
        .join("\n")
}

fn wait_for_words(daemon: &mut TestDaemon, job: &str, words: &[&str]) -> String {
    daemon.wait(&format!("{words:?}"), |daemon| {
        let status = daemon.try_status(job)?;
        assert!(!status.state.is_final(), "{:?}", status.error);
        let waits = daemon.why(job).waits.into_iter();
        let waits: String = waits.map(|wait| wait.waits_for).collect();
        words
            .iter()
            .all(|word| waits.contains(word))
            .then_some(waits)
    })
}

/// A checkpoint as a crash leaves one that was placed and did not come on record.
fn plant(stage: &Path, name: &str) -> PathBuf {
    let dir = stage.join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("manifest.json"), "{}").unwrap();
    dir
}

/// Files that a daemon was killed while writing.
fn plant_parts(dir: &Path) -> Vec<PathBuf> {
    let parts = [
        format!(".r1d-probe.{GONE}-0.part"),
        format!("checkpoints/.r1d-probe.{GONE}-1.part"),
        format!("tensorboard/cold-start/.events.x.{GONE}-2.part"),
    ];
    let parts = parts.map(|part| dir.join(part));
    parts.iter().for_each(|part| fs::write(part, "").unwrap());
    parts.into()
}

#[test]
fn a_checkpoint_that_did_not_come_on_record_goes_with_the_next_attempt() {
    let mut daemon = TestDaemon::new();
    let job = begun(&mut daemon, &[]);
    let checkpoints = job_dir(&daemon, &job).join("checkpoints");
    let stage = checkpoints.join("reasoning");
    // The attempts to come never clear the place of step 3; keep = 2 has to count all the same.
    let left = [
        plant(&stage, "step-3"),
        plant(&checkpoints.join("cold-start"), "step-1"),
    ];
    let others = [
        plant(&stage, "step-03"),
        plant(&checkpoints.join("mine"), "step-3"),
    ];
    let parts = plant_parts(&job_dir(&daemon, &job));
    daemon.heal("train-4");
    daemon.start();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    assert!(left.iter().all(|dir| !dir.exists()));
    assert!(
        others.iter().all(|dir| dir.exists()),
        "these are not the job's"
    );
    assert!(parts.iter().all(|part| !part.exists()));
    assert!(stage.join("step-6").exists() && stage.join("step-4").exists());
    let told = told(&daemon, &job);
    assert_eq!(told.matches("did not come on record").count(), 2, "{told}");
}

/// In `checkpoint.to` only the job's own directory is looked at.
#[test]
fn a_checkpoint_elsewhere_that_did_not_come_on_record_goes_and_others_stay() {
    let mut daemon = TestDaemon::new();
    let shared = daemon.path("shared");
    let to = format!("[checkpoint]\nto = \"file://{}\"\n", shared.display());
    let job = begun(&mut daemon, &[("[checkpoint]\n", &to)]);
    let left = plant(&shared.join(&job).join("reasoning"), "step-3");
    let other = plant(&shared.join("another/reasoning"), "step-3");
    daemon.heal("train-4");
    daemon.start();
    daemon.wait_succeeded(&job);
    assert!(!left.exists() && other.exists());
}

/// No attempt comes any more. What a newer ledger may know of stays.
#[test]
fn what_a_job_that_has_ended_has_left_goes_at_the_start() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait_succeeded(&job);
    daemon.kill();
    let stage = job_dir(&daemon, &job).join("checkpoints/reasoning");
    let (left, newer) = (plant(&stage, "step-3"), plant(&stage, "step-99"));
    let parts = plant_parts(&job_dir(&daemon, &job));
    daemon.start();
    daemon.wait("the removal", |_| {
        let names = fs::read_dir(&stage).unwrap().count();
        (names == 3 && parts.iter().all(|part| !part.exists())).then_some(())
    });
    assert!(!left.exists() && newer.exists());
    assert!(stage.join("step-4").exists() && stage.join("step-6").exists());
}

#[test]
fn damaged_metrics_are_made_again_from_the_same_rows() {
    let mut daemon = TestDaemon::new();
    let job = begun(&mut daemon, &[]);
    let blocks = job_dir(&daemon, &job).join("metrics.blocks");
    let mut bytes = fs::read(&blocks).unwrap();
    bytes[5] ^= 1;
    fs::write(&blocks, bytes).unwrap();
    daemon.heal("train-4");
    daemon.start();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    assert!(told(&daemon, &job).contains("made again from metrics.jsonl"));
}

/// A copy that is put back fits: nothing was written meanwhile.
#[test]
fn damaged_metrics_that_nobody_else_has_are_waited_for() {
    for damage in ["flipped", "directory", "pipe"] {
        let mut daemon = TestDaemon::new();
        let job = begun(&mut daemon, &[]);
        let dir = job_dir(&daemon, &job);
        let (blocks, whole) = (dir.join("metrics.blocks"), daemon.path("whole"));
        fs::rename(&blocks, &whole).unwrap();
        fs::remove_file(dir.join("metrics.jsonl")).unwrap();
        match damage {
            "flipped" => {
                let mut bytes = fs::read(&whole).unwrap();
                bytes[5] ^= 1;
                fs::write(&blocks, bytes).unwrap();
            }
            "directory" => fs::create_dir(&blocks).unwrap(),
            _ => {
                let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
                rustix::fs::mknodat(rustix::fs::CWD, &blocks, kind, mode, 0).unwrap();
            }
        }
        daemon.heal("train-4");
        daemon.start();
        wait_for_words(&mut daemon, &job, &["metrics.blocks", "put a copy back"]);
        let _ = fs::remove_file(&blocks).or_else(|_| fs::remove_dir(&blocks));
        fs::rename(&whole, &blocks).unwrap();
        let status = daemon.wait_succeeded(&job);
        assert_eq!(
            daemon.outcome(&status),
            TestDaemon::undisturbed(&[]),
            "{damage}"
        );
    }
}

/// Whoever runs the tests as root lets the daemon run as somebody else: root may do everything.
fn as_somebody(daemon: &mut TestDaemon) {
    if rustix::process::geteuid().is_root() {
        daemon.set_user(65534);
        let owned = Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(daemon.path("."))
            .status();
        assert!(owned.unwrap().success());
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A job is not thrown away for a mode.
#[test]
fn a_record_that_may_not_be_read_is_waited_for() {
    let mut daemon = TestDaemon::new();
    as_somebody(&mut daemon);
    let job = begun(&mut daemon, &[]);
    let inputs = job_dir(&daemon, &job).join("inputs.json");
    set_mode(&inputs, 0o000);
    daemon.heal("train-4");
    daemon.start();
    let words = [
        "inputs.json cannot be read",
        "let the daemon's user read it",
    ];
    let waits = wait_for_words(&mut daemon, &job, &words);
    assert!(!waits.contains("submit it again"), "{waits}");
    set_mode(&inputs, 0o644);
    daemon.wait_succeeded(&job);
}

/// What a restart does not mend ends with EX_CONFIG, and names the file and the remedy.
#[test]
fn a_file_of_the_daemons_that_it_may_not_use_is_named_at_the_start() {
    let mut daemon = TestDaemon::new();
    as_somebody(&mut daemon);
    daemon.start();
    daemon.kill();
    for name in ["jobs", "ledger.redb", "lock", "workers.lock", "cache"] {
        let path = daemon.state().join(name);
        let before = fs::metadata(&path).unwrap().permissions().mode();
        set_mode(&path, 0o000);
        let ended = daemon.command().output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.code() == Some(78)
                && said.contains(&path.display().to_string())
                && said.contains("let the daemon's user read and write there"),
            "{name}: {:?} {said}",
            ended.status
        );
        set_mode(&path, before & 0o777);
    }
    // A key is made anew.
    let key = daemon.state().join("cache/key");
    set_mode(&key, 0o000);
    daemon.start();
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
}
