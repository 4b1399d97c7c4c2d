//! What is outside of a job and beneath it: a state directory that is moved or copied, checkpoints
//! that are away, of others or gone, a disk that takes nothing, a ledger older than its jobs.

use crate::test_daemon::{Outcome, TestDaemon};
use r1d_proto::control::job::State;
use r1d_proto::control::{Request, Response};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const REASONING: &str = "checkpoints/reasoning";

fn waits(daemon: &TestDaemon, job: &str) -> String {
    daemon
        .why(job)
        .waits
        .into_iter()
        .map(|wait| wait.waits_for)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Waits until `why` names all of `words`. A job that ends meanwhile fails the test with its error.
fn wait_for_words(daemon: &mut TestDaemon, job: &str, words: &[&str]) -> String {
    daemon.wait(&format!("{words:?}"), |daemon| {
        let status = daemon.try_status(job)?;
        assert!(
            !status.state.is_final(),
            "{:?} {:?}",
            status.state,
            status.error
        );
        Some(waits(daemon, job)).filter(|waits| words.iter().all(|word| waits.contains(word)))
    })
}

/// The daemon works until the n-th update of a rollout stage, and is killed in it.
fn work_until(daemon: &mut TestDaemon, update: u32) {
    work_until_moment(daemon, "train", update);
}

/// The daemon works until the n-th moment of its worker, and is killed in it.
fn work_until_moment(daemon: &mut TestDaemon, moment: &str, n: u32) {
    let count = daemon.path(&format!("faults/{moment}.count"));
    daemon.wait(moment, |_| {
        (fs::read_to_string(&count).ok()? == n.to_string()).then_some(())
    });
    daemon.kill();
}

/// A job whose daemon was killed in its n-th update.
fn begun(daemon: &mut TestDaemon, changes: &[(&str, &str)], update: u32) -> String {
    daemon.plant(&format!("train-{update}"), "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(changes));
    work_until(daemon, update);
    job
}

fn ended(daemon: &mut TestDaemon, job: &str) -> Outcome {
    let status = daemon.wait_succeeded(job);
    daemon.outcome(&status)
}

/// All lines of the job's log.
fn told(daemon: &TestDaemon, job: &str) -> String {
    daemon
        .log_lines(job)
        .into_iter()
        .map(|line| line.message)
        .collect::<Vec<_>>()
        .join("\n")
}

fn job_dir(daemon: &TestDaemon, job: &str) -> PathBuf {
    daemon.state().join("jobs").join(job)
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
    let mut daemon = TestDaemon::new();
    let job = begun(&mut daemon, &[], 4);
    for (from, to) in [("state", "moved"), ("moved", "moved again")] {
        fs::rename(daemon.path(from), daemon.path(to)).unwrap();
        daemon.set_state(to);
        daemon.start();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(&[]),
            "{to}"
        );
        daemon.kill();
    }
}

/// Each goes on by itself, and neither touches the other's files.
#[test]
fn a_copy_of_a_state_directory_leaves_the_original_alone() {
    let mut daemon = TestDaemon::new();
    let job = begun(&mut daemon, &[], 5);
    copy(&daemon.path("state"), &daemon.path("copied"));
    let before = files(&daemon.path("state"));
    daemon.set_state("copied");
    daemon.start();
    assert_eq!(ended(&mut daemon, &job), TestDaemon::undisturbed(&[]));
    daemon.kill();
    assert!(
        files(&daemon.path("state")) == before,
        "the original was touched"
    );
    daemon.set_state("state");
    daemon.start();
    assert_eq!(ended(&mut daemon, &job), TestDaemon::undisturbed(&[]));
}

fn elsewhere(daemon: &TestDaemon) -> String {
    format!(
        "[checkpoint]\nto = \"file://{}\"\n",
        daemon.path("shared").display()
    )
}

/// A directory outside that the job writes its checkpoints to is one job's: the copy waits.
#[test]
fn a_copy_does_not_touch_the_originals_checkpoints_elsewhere() {
    let mut daemon = TestDaemon::new();
    let elsewhere = elsewhere(&daemon);
    let job = begun(&mut daemon, &[("[checkpoint]\n", &elsewhere)], 5);
    copy(&daemon.path("state"), &daemon.path("copied"));
    let before = files(&daemon.path("shared"));
    daemon.set_state("copied");
    daemon.start();
    let state = daemon.path("state").display().to_string();
    wait_for_words(&mut daemon, &job, &["shared", &state, "cancel"]);
    daemon.kill();
    assert!(
        files(&daemon.path("shared")) == before,
        "the original's checkpoints were touched"
    );
    // The original is no more: what it left is the copy's.
    fs::rename(daemon.path("state"), daemon.path("gone")).unwrap();
    daemon.start();
    assert_eq!(ended(&mut daemon, &job), TestDaemon::undisturbed(&[]));
}

/// Nothing is mounted where the checkpoints are, a file lies there, or a directory of nothing.
#[test]
fn checkpoints_that_are_away_at_a_restart_are_waited_for() {
    for (update, plant) in [(1, "nothing"), (4, "directory"), (4, "file")] {
        let mut daemon = TestDaemon::new();
        let elsewhere = elsewhere(&daemon);
        let job = begun(&mut daemon, &[("[checkpoint]\n", &elsewhere)], update);
        let (shared, aside) = (daemon.path("shared"), daemon.path("aside"));
        fs::rename(&shared, &aside).unwrap();
        match plant {
            "directory" => fs::create_dir(&shared).unwrap(),
            "file" => fs::write(&shared, "no directory").unwrap(),
            _ => {}
        }
        daemon.start();
        wait_for_words(&mut daemon, &job, &["shared", "cancel"]);
        match plant {
            "directory" => fs::remove_dir(&shared).unwrap(),
            "file" => fs::remove_file(&shared).unwrap(),
            _ => {}
        }
        fs::rename(&aside, &shared).unwrap();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(&[]),
            "{plant}"
        );
    }
}

/// A whole checkpoint that is not the one on record, or none, is a damaged one.
#[test]
fn a_checkpoint_that_is_not_the_jobs_own_costs_the_way_from_the_one_before() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let other = daemon.submit(daemon.job(&[("seed = 11", "seed = 12")]));
    daemon.wait_succeeded(&other);
    daemon.kill();
    let theirs = job_dir(&daemon, &other).join(REASONING).join("step-4");
    let count: u32 = fs::read_to_string(daemon.path("faults/train.count"))
        .unwrap()
        .parse()
        .unwrap();
    let job = begun(&mut daemon, &[], count + 6);
    let own = job_dir(&daemon, &job).join(REASONING);
    for (place, instead) in [
        ("step-4", Some(theirs)),
        ("step-4", Some(own.join("step-2"))),
        ("step-2", None),
    ] {
        let (aside, place) = (daemon.path("aside"), own.join(place));
        let _ = fs::remove_dir_all(&aside);
        copy(&daemon.state(), &aside);
        fs::remove_dir_all(&place).unwrap();
        if let Some(instead) = &instead {
            copy(instead, &place);
        } else {
            fs::remove_dir_all(own.join("step-4")).unwrap();
        }
        daemon.start();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(&[]),
            "{instead:?}"
        );
        let lines = told(&daemon, &job);
        assert!(
            lines.contains("given up") && lines.contains(&place.display().to_string()),
            "{lines}"
        );
        daemon.kill();
        fs::remove_dir_all(daemon.state()).unwrap();
        fs::rename(&aside, daemon.state()).unwrap();
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
        let mut daemon = TestDaemon::new();
        let job = begun(&mut daemon, &[("keep = 2", "keep = 1")], update);
        let (place, aside) = (job_dir(&daemon, &job).join(place), daemon.path("aside"));
        fs::rename(&place, &aside).unwrap();
        daemon.start();
        wait_for_words(
            &mut daemon,
            &job,
            &[&place.display().to_string(), "put", "back", "cancel"],
        );
        fs::rename(&aside, &place).unwrap();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(&[("keep = 2", "keep = 1")])
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
        let mut daemon = TestDaemon::new();
        let job = begun(&mut daemon, changes, 2);
        let (ledger, old) = (daemon.state().join("ledger.redb"), daemon.path("old.redb"));
        fs::copy(&ledger, &old).unwrap();
        // One step is rebuilt, four are done.
        daemon.plant("train-7", "hang");
        daemon.start();
        work_until(&mut daemon, 7);
        fs::copy(&old, &ledger).unwrap();
        daemon.start();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(changes),
            "{changes:?}"
        );
        let lines = told(&daemon, &job);
        assert!(lines.contains("older than the job's files"), "{lines}");
    }
}

/// The stage that the ledger is at, and those after it, were finished since.
#[test]
fn an_old_copy_of_the_ledger_does_finished_stages_again() {
    let mut daemon = TestDaemon::new();
    let job = begun(&mut daemon, &[], 1);
    let (ledger, old) = (daemon.state().join("ledger.redb"), daemon.path("old.redb"));
    fs::copy(&ledger, &old).unwrap();
    daemon.start();
    daemon.wait_succeeded(&job);
    daemon.kill();
    fs::copy(&old, &ledger).unwrap();
    daemon.start();
    assert_eq!(ended(&mut daemon, &job), TestDaemon::undisturbed(&[]));
}

/// The steps since are of a later stage than the one that the ledger is at, which samples nothing.
#[test]
fn an_old_copy_of_the_ledger_finds_the_steps_of_a_later_stage() {
    for changes in [
        &[][..],
        &[("batch_invariant = true", "batch_invariant = false")],
    ] {
        let mut daemon = TestDaemon::new();
        daemon.plant("supervise-5", "hang");
        daemon.start();
        let job = daemon.submit(daemon.job(changes));
        work_until_moment(&mut daemon, "supervise", 5);
        let (ledger, old) = (daemon.state().join("ledger.redb"), daemon.path("old.redb"));
        fs::copy(&ledger, &old).unwrap();
        daemon.plant("train-2", "hang");
        daemon.start();
        work_until(&mut daemon, 2);
        fs::copy(&old, &ledger).unwrap();
        daemon.start();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(changes),
            "{changes:?}"
        );
    }
}

/// The checkpoint of an old copy of the ledger, and the steps until the next one, were pruned:
/// while the stage went on, or before the job's end.
#[test]
fn an_old_copy_of_the_ledger_that_no_checkpoint_is_left_for_does_the_stage_again() {
    let changes = [("keep = 2", "keep = 1")];
    for is_over in [false, true] {
        let mut daemon = TestDaemon::new();
        let job = begun(&mut daemon, &changes, 4);
        let (ledger, old) = (daemon.state().join("ledger.redb"), daemon.path("old.redb"));
        fs::copy(&ledger, &old).unwrap();
        if is_over {
            daemon.start();
            daemon.wait_succeeded(&job);
            daemon.kill();
        } else {
            daemon.plant("train-8", "hang");
            daemon.start();
            work_until(&mut daemon, 8);
        }
        fs::copy(&old, &ledger).unwrap();
        daemon.start();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(&changes),
            "{is_over}"
        );
        assert!(
            told(&daemon, &job).contains("its steps are done again from its beginning"),
            "{}",
            told(&daemon, &job)
        );
    }
}

/// A step since the last checkpoint cannot be done again from its samples: it is sampled again.
#[test]
fn a_committed_step_whose_journal_is_damaged_is_sampled_again() {
    for (update, again) in [(4, "from its step 2"), (2, "from its beginning")] {
        for harm in ["half", "empty", "zeros", "gone"] {
            let mut daemon = TestDaemon::new();
            let job = begun(&mut daemon, &[], update);
            let file = job_dir(&daemon, &job)
                .join(format!("journal/stage-2/step-{:08}.e1.journal", update - 2));
            let bytes = fs::read(&file).unwrap();
            match harm {
                "half" => fs::write(&file, &bytes[..bytes.len() / 2]).unwrap(),
                "empty" => fs::write(&file, "").unwrap(),
                "zeros" => fs::write(&file, vec![0; bytes.len()]).unwrap(),
                _ => fs::remove_file(&file).unwrap(),
            }
            daemon.start();
            assert_eq!(
                ended(&mut daemon, &job),
                TestDaemon::undisturbed(&[]),
                "{harm} {update}"
            );
            assert!(
                told(&daemon, &job).contains(again),
                "{}",
                told(&daemon, &job)
            );
        }
    }
}

/// What a finished stage left is read by those after it. Its size and names are as they were.
#[test]
fn a_finished_stages_checkpoint_with_another_byte_is_waited_for() {
    let mut daemon = TestDaemon::new();
    let job = begun(&mut daemon, &[], 1);
    let state = job_dir(&daemon, &job).join("checkpoints/cold-start/step-3/state");
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, [b"x", &bytes[1..]].concat()).unwrap();
    daemon.start();
    wait_for_words(
        &mut daemon,
        &job,
        &["cold-start/step-3", "put it back", "cancel"],
    );
    fs::write(&state, bytes).unwrap();
    assert_eq!(ended(&mut daemon, &job), TestDaemon::undisturbed(&[]));
}

const KEPT: &str = r#"
[[stage]]
name = "keep"
kind = "rejection-sampling"
data = "train"
steps = 2
prompts_per_step = 4
num_generations = 2
max_completion_length = 8

  [[stage.reward]]
  plugin = "format"

[[stage]]
name = "again"
kind = "sft"
data = "keep"
epochs = 1
batch_size = 2
max_length = 32

[checkpoint]
"#;

/// The directory of the data sets that stages made, a file in its place, its record, its rows.
#[test]
fn a_data_set_that_is_away_or_changed_is_waited_for() {
    let changes = [("[checkpoint]\n", KEPT)];
    for (name, instead) in [
        ("datasets", None),
        ("datasets", Some("a file")),
        ("datasets/keep.json", Some("{}")),
        ("datasets/keep.jsonl", Some("more")),
    ] {
        let mut daemon = TestDaemon::new();
        daemon.plant("supervise-7", "hang");
        daemon.start();
        let job = daemon.submit(daemon.job(&changes));
        work_until_moment(&mut daemon, "supervise", 7);
        let (place, aside) = (job_dir(&daemon, &job).join(name), daemon.path("aside"));
        fs::rename(&place, &aside).unwrap();
        instead
            .into_iter()
            .for_each(|instead| fs::write(&place, instead).unwrap());
        daemon.start();
        wait_for_words(
            &mut daemon,
            &job,
            &["datasets", "put the file back", "cancel"],
        );
        let _ = fs::remove_file(&place);
        fs::rename(&aside, &place).unwrap();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(&changes),
            "{name}"
        );
    }
}

/// What is written beneath a mount point is out of sight once the file system is back.
#[test]
fn checkpoints_that_go_away_while_the_job_runs_are_waited_for() {
    let mut daemon = TestDaemon::new().with_delay_ms(20);
    let elsewhere = elsewhere(&daemon);
    daemon.start();
    let job = daemon.submit(daemon.job(&[("[checkpoint]\n", &elsewhere)]));
    let (shared, aside) = (daemon.path("shared"), daemon.path("aside"));
    let first = shared.join(&job).join("cold-start");
    daemon.wait("a checkpoint", |_| first.exists().then_some(()));
    fs::rename(&shared, &aside).unwrap();
    wait_for_words(
        &mut daemon,
        &job,
        &["shared", "is away", "mount it", "cancel"],
    );
    assert!(!shared.exists(), "nothing is made beneath the mount point");
    fs::rename(&aside, &shared).unwrap();
    assert_eq!(ended(&mut daemon, &job), TestDaemon::undisturbed(&[]));
}

/// An attempt alone finds it, as nothing is amiss to whoever looks.
#[test]
fn an_obstacle_that_attempts_alone_find_is_told_once() {
    let mut daemon = TestDaemon::new();
    let job = begun(&mut daemon, &[], 2);
    let place = job_dir(&daemon, &job).join("rollouts/reasoning-step-000002.parquet");
    fs::create_dir_all(place.join("no file")).unwrap();
    daemon.start();
    let workers = daemon.path("faults/start.count");
    daemon.wait("four attempts", |_| {
        (fs::read_to_string(&workers).ok()?.parse::<u32>().ok()? >= 5).then_some(())
    });
    let told = told(&daemon, &job);
    assert_eq!(told.matches("the job waits").count(), 1, "{told}");
    assert!(!told.contains("what it waited for is there"), "{told}");
    fs::remove_dir_all(&place).unwrap();
    assert_eq!(ended(&mut daemon, &job), TestDaemon::undisturbed(&[]));
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
        let mut daemon = TestDaemon::new();
        daemon.plant("train-2", "hang");
        let job = begun(&mut daemon, &[], update);
        let (place, aside) = (job_dir(&daemon, &job).join(name), daemon.path("aside"));
        fs::rename(&place, &aside).unwrap();
        if aside.is_dir() {
            fs::write(&place, "no directory").unwrap()
        } else {
            fs::create_dir_all(place.join("no file")).unwrap()
        }
        daemon.start();
        wait_for_words(&mut daemon, &job, &[name, "cancel"]);
        let _ = fs::remove_file(&place).or_else(|_| fs::remove_dir_all(&place));
        fs::rename(&aside, &place).unwrap();
        assert_eq!(
            ended(&mut daemon, &job),
            TestDaemon::undisturbed(&[]),
            "{name}"
        );
    }
}

/// A disk that is not the daemon's to write to: while the job runs, and when the daemon starts.
#[test]
fn a_directory_that_turns_unwritable_is_waited_for() {
    let mut daemon = TestDaemon::new().with_delay_ms(20);
    if rustix::process::geteuid().is_root() {
        daemon.set_user(65534);
        assert!(
            Command::new("chown")
                .args(["-R", "65534:65534"])
                .arg(daemon.path("."))
                .status()
                .unwrap()
                .success()
        );
    }
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let dirs =
        ["", "rollouts", "checkpoints", "journal"].map(|name| job_dir(&daemon, &job).join(name));
    let set_mode = |mode: u32| {
        for dir in dirs.iter().filter(|dir| dir.exists()) {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    daemon.wait("the first rollouts", |_| {
        fs::read_dir(&dirs[1]).ok()?.flatten().next().map(drop)
    });
    set_mode(0o555);
    wait_for_words(&mut daemon, &job, &["Permission denied", "cancel"]);
    daemon.kill();
    daemon.start();
    wait_for_words(&mut daemon, &job, &["Permission denied", "cancel"]);
    set_mode(0o755);
    let status = daemon.wait_succeeded(&job);
    assert_eq!(
        (daemon.outcome(&status), status.state),
        (TestDaemon::undisturbed(&[]), State::Succeeded)
    );
}

/// A limit on the size of the daemon's files is met like a full disk: it refuses a change, and goes
/// on.
#[test]
fn a_limit_on_the_size_of_files_does_not_end_the_daemon() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let submit = Request::Submit {
        job: daemon.job(&[]),
        priority: None,
        pins: Default::default(),
        no_reuse: false,
        hold: true,
    };
    let Response::Submitted { job, .. } = daemon.ask(submit) else {
        panic!("{}", daemon.log());
    };
    let pid = Pid::from_raw(daemon.pid() as i32);
    let limit = Rlimit {
        current: Some(16),
        maximum: rustix::process::getrlimit(Resource::Fsize).maximum,
    };
    let before = prlimit(pid, Resource::Fsize, limit).unwrap();
    let resume = || daemon.ask(Request::Resume { job: job.0.clone() });
    let cancel = Request::Cancel { job: job.0.clone() };
    for refused in [resume(), daemon.ask(cancel)] {
        match refused {
            Response::Error(error) => assert!(
                error.message.contains("File too large") && error.message.contains("LimitFSIZE="),
                "{error:?}"
            ),
            other => panic!("{other:?}"),
        }
    }
    prlimit(pid, Resource::Fsize, before).unwrap();
    assert!(matches!(resume(), Response::Resumed { .. }));
    daemon.wait_succeeded(&job.0);
}

/// Whoever reads the job's log learns why its steps were done again.
#[test]
fn a_jobs_log_tells_of_the_end_of_the_daemon() {
    let mut daemon = TestDaemon::new();
    daemon.plant("train-2", "hang");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    let count = daemon.path("faults/train.count");
    daemon.wait("its second update", |_| {
        (std::fs::read_to_string(&count).ok()? == "2").then_some(())
    });
    let status = daemon.try_status(&job).unwrap();
    let stage = status
        .stages
        .iter()
        .find(|stage| stage.state == State::Running);
    let stage = stage.unwrap();
    let expected = format!(
        "the daemon ended during step {} of stage {}; goes on from step {} (restart 1)",
        stage.step + 1,
        stage.name,
        stage.durable_step
    );
    daemon.kill();
    daemon.start();
    daemon.wait_succeeded(&job);
    let lines = daemon.log_lines(&job);
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line.message == expected)
        .collect();
    assert_eq!(told.len(), 1, "{expected}: {lines:?}");
    assert_eq!(told[0].level, "warn");
}
