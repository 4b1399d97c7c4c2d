//! The ledger on disk: what it acknowledged is there after any crash, and what it refuses to open
//! it names.

mod sim_backend;

use proptest::prelude::*;
use r1d_ledger::{
    CheckpointRecord, Command, Effect, JobRecord, Ledger, LedgerError, NewJob, Record, StageRecord,
    State, User,
};
use r1d_proto::control::job::{EvalResult, State as RunState};
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_proto::worker::Metrics;
use r1d_sim::SimDisk;
use redb::{
    Database, ReadableDatabase, ReadableTableMetadata, StorageBackend, TableDefinition, TableHandle,
};
use sim_backend::SimBackend;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn id(text: &str) -> JobId {
    JobId(text.to_string())
}

fn commit(job: &str, step: u64) -> Command {
    let metrics = Metrics::from([
        ("loss".to_string(), 0.1 * step as f64),
        ("grad_norm".to_string(), f64::NAN),
    ]);
    Command::CommitStep {
        job: id(job),
        epoch: 1,
        stage: 0,
        step,
        metrics,
    }
}

/// A job's life up to `steps` committed steps.
fn life(job: &str, steps: u64) -> Vec<Command> {
    let toml = format!("name = \"{job}\"\n").repeat(20);
    let eval = |step| EvalResult {
        stage: None,
        step,
        data: "test".into(),
        metrics: Metrics::from([("pass@1".into(), 0.5)]),
        example: None,
    };
    let mut commands = vec![
        Command::Submit(NewJob {
            priority: 1,
            request: Some(format!("request of {job}")),
            reward_versions: [
                ("accuracy".into(), "aa".repeat(32)),
                ("format".into(), "ff".repeat(32)),
            ]
            .into(),
            keys: vec!["ab".repeat(32)],
            reuses: true,
            owner: Some(user("ada")),
            at: 10,
            ..NewJob::of(id(job), toml)
        }),
        Command::TakeUp { job: id(job) },
        Command::Strike { job: id(job) },
        Command::TakeUp { job: id(job) },
        Command::Start {
            job: id(job),
            at: 11,
        },
        Command::BeginStage {
            job: id(job),
            epoch: 1,
            stage: 0,
            name: "rl".into(),
            kind: "grpo".into(),
            steps: 1000,
            at: 12,
        },
        Command::Eval {
            job: id(job),
            epoch: 1,
            result: eval(0),
        },
    ];
    for step in 0..steps {
        commands.push(commit(job, step));
        if step % 3 == 2 {
            let (dir, manifest_sha256) = (PathBuf::from(format!("/c/{step}")), "00".repeat(32));
            commands.push(Command::Checkpoint {
                job: id(job),
                epoch: 1,
                stage: 0,
                step,
                dir,
                manifest_sha256,
            });
            commands.push(Command::Eval {
                job: id(job),
                epoch: 1,
                result: eval(step),
            });
            let (plugin, sha256) = (
                ["accuracy", "format"][step as usize % 2].to_owned(),
                format!("{step:064}"),
            );
            commands.push(Command::SetRewardVersion {
                job: id(job),
                plugin,
                sha256,
                stage: 0,
                step: step + 2,
                at: 13,
            });
        }
    }
    commands
}

fn user(name: &str) -> User {
    User {
        uid: 1000,
        name: name.into(),
    }
}

/// What users decide about the job of [`life`], up to its removal.
fn decisions(job: &str) -> Vec<Command> {
    let start = || Command::Start {
        job: id(job),
        at: 20,
    };
    vec![
        Command::Pause {
            job: id(job),
            by: Some(user("bob")),
            at: 14,
        },
        Command::Resume {
            job: id(job),
            at: 30,
        },
        start(),
        Command::Requeue {
            job: id(job),
            at: 30,
        },
        start(),
        Command::Cancel {
            job: id(job),
            at: 21,
        },
        Command::Requeue {
            job: id(job),
            at: 30,
        },
        Command::Pause {
            job: id(job),
            by: None,
            at: 22,
        },
        Command::Cancel {
            job: id(job),
            at: 23,
        },
        Command::Remove {
            job: id(job),
            elsewhere: vec!["/data/a".into()],
        },
        Command::Forget { job: id(job) },
    ]
}

fn apply_all(ledger: &Ledger, commands: Vec<Command>) {
    for command in commands {
        ledger.apply(command).unwrap();
    }
}

/// NaN metrics compare by their text.
fn text(records: &[impl AsRef<JobRecord>]) -> String {
    records
        .iter()
        .map(|record| format!("{:?}\n", record.as_ref()))
        .collect()
}

fn text_of(state: &State) -> String {
    format!("{}{:?}", text(&state.jobs()), state.removals())
}

/// A disk with an empty ledger, durably made.
fn new_disk() -> SimDisk {
    let disk = SimDisk::default();
    drop(open_on(&disk).unwrap());
    disk.sync_dir(Path::new("/s")).unwrap();
    disk
}

fn open_on(disk: &SimDisk) -> Result<Ledger, LedgerError> {
    let (disk, path) = (disk.clone(), PathBuf::from("/s/ledger.redb"));
    let storage = disk.shared();
    let file = path.clone();
    let open = move || {
        Database::builder()
            .set_cache_size(1 << 20)
            .create_with_backend(SimBackend(disk.open(&file)))
    };
    Ledger::open_with(&path, Box::new(open), storage)
}

#[test]
fn reopening_gives_back_every_record_and_metric() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 10));
    apply_all(&ledger, life("b", 4));
    let (jobs, metrics) = (
        text(&ledger.state().jobs()),
        format!("{:?}", ledger.metrics(&id("a"), 0).unwrap()),
    );
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(text(&ledger.state().jobs()), jobs);
    assert_eq!(
        format!("{:?}", ledger.metrics(&id("a"), 0).unwrap()),
        metrics
    );
    let steps: Vec<u64> = ledger
        .metrics_in(&id("a"), 0, 3..6)
        .unwrap()
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    assert_eq!(steps, [3, 4, 5]);
    assert_eq!(ledger.metrics(&id("b"), 0).unwrap().len(), 4);
    assert!(ledger.metrics(&id("b"), 1).unwrap().is_empty());
    let (start, end) = (6, 3);
    assert!(
        ledger
            .metrics_in(&id("a"), 0, start..end)
            .unwrap()
            .is_empty()
    );
}

/// The ledger's file is as its state after each of a user's decisions.
#[test]
fn what_users_decide_survives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let mut ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 4));
    apply_all(&ledger, life("b", 4));
    for command in decisions("a") {
        ledger.apply(command.clone()).unwrap();
        let before = ledger.state();
        drop(ledger);
        ledger = Ledger::open(&path).unwrap();
        let now = ledger.state();
        assert_eq!(text_of(&now), text_of(&before), "{command:?}");
        assert_eq!(now.removals(), before.removals(), "{command:?}");
    }
    // Nothing of the job is left, and nothing of the other one is gone.
    assert!(ledger.metrics(&id("a"), 0).unwrap().is_empty());
    assert_eq!(ledger.metrics(&id("b"), 0).unwrap().len(), 4);
    drop(ledger);
    let other = dir.path().join("other.redb");
    apply_all(&Ledger::open(&other).unwrap(), life("b", 4));
    assert_eq!(rows(&path), rows(&other));
}

/// Number of rows of each table that has any.
fn rows(path: &Path) -> BTreeMap<String, u64> {
    let database = Database::open(path).unwrap();
    let read = database.begin_read().unwrap();
    let tables = read.list_tables().unwrap().map(|table| {
        let name = table.name().to_owned();
        (name, read.open_untyped_table(table).unwrap().len().unwrap())
    });
    tables.filter(|(_, rows)| *rows > 0).collect()
}

#[test]
fn what_a_stage_did_before_it_went_back_is_forgotten_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    let eval = |step| EvalResult {
        stage: Some("rl".into()),
        step,
        data: "test".into(),
        metrics: Metrics::new(),
        example: None,
    };
    apply_all(&ledger, life("a", 8));
    apply_all(
        &ledger,
        [6, 4]
            .map(|step| Command::Eval {
                job: id("a"),
                epoch: 1,
                result: eval(step),
            })
            .into(),
    );
    let metrics = Metrics::from([("loss".into(), 0.4)]);
    apply_all(
        &ledger,
        vec![Command::GoBack {
            job: id("a"),
            epoch: 1,
            stage: 0,
            step: 5,
            metrics,
        }],
    );
    let steps = |ledger: &Ledger| {
        ledger
            .metrics(&id("a"), 0)
            .unwrap()
            .into_iter()
            .map(|(step, _)| step)
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(&ledger), [0, 1, 2, 3, 4]);
    let before = text(&ledger.state().jobs());
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(text(&ledger.state().jobs()), before);
    let evals = ledger
        .state()
        .job(&id("a"))
        .unwrap()
        .evals
        .iter()
        .filter(|eval| eval.stage.is_some())
        .map(|eval| eval.step)
        .collect::<Vec<_>>();
    assert_eq!(evals, [4]);
    apply_all(&ledger, (5..8).map(|step| commit("a", step)).collect());
    assert_eq!(steps(&ledger), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_refused_command_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 2));
    let before = text(&ledger.state().jobs());
    assert!(matches!(
        ledger.apply(commit("a", 7)),
        Err(LedgerError::Rejected(_))
    ));
    assert_eq!(text(&ledger.state().jobs()), before);
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(text(&ledger.state().jobs()), before);
    assert_eq!(ledger.metrics(&id("a"), 0).unwrap().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None,
        ..ProptestConfig::default() })]

    /// Power is lost in the middle of a command: it is carried out wholly or not at all, and all
    /// before it are.
    #[test]
    fn a_command_cut_off_by_a_crash_is_whole_or_absent(bytes in 0u64..300_000,
        seed in any::<u64>()) {
        let disk = new_disk();
        let ledger = open_on(&disk).unwrap();
        let mut state = State::default();
        disk.lose_power_after(bytes);
        for command in life("a", 12).into_iter().chain(decisions("a")) {
            let mut next = state.clone();
            next.apply(&command).unwrap();
            if ledger.apply(command).is_ok() {
                state = next;
                continue;
            }
            std::mem::forget(ledger);
            disk.crash(seed);
            let found = text_of(&open_on(&disk).unwrap().state());
            prop_assert!(found == text_of(&state) || found == text_of(&next), "{}", found);
            break;
        }
    }

    /// Power is lost between commands, and any unsynced part of the file may be missing: exactly
    /// what was acknowledged is there.
    #[test]
    fn an_acknowledged_command_survives_any_crash(seed in any::<u64>(), steps in 0u64..12,
        crashes in 1usize..4) {
        let disk = new_disk();
        let mut commands = life("a", steps).into_iter();
        let mut state = State::default();
        for crash in 0..crashes {
            let ledger = open_on(&disk).unwrap();
            prop_assert_eq!(text_of(&ledger.state()), text_of(&state));
            for command in commands.by_ref().take(1 + (seed % 7) as usize) {
                let before = disk.fork();
                ledger.apply(command.clone()).unwrap();
                let (mut with, without) = (state.clone(), text_of(&state));
                with.apply(&command).unwrap();
                before.crash(seed);
                prop_assert_eq!(text_of(&open_on(&before).unwrap().state()), without);
                let after = disk.fork();
                after.crash(seed ^ crash as u64);
                prop_assert_eq!(text_of(&open_on(&after).unwrap().state()), text_of(&with));
                state = with;
            }
            // The process goes without closing the file, as by SIGKILL.
            std::mem::forget(ledger);
            disk.crash(seed.wrapping_add(crash as u64));
        }
    }

    /// The disk fills up in the middle of a commit, and later there is room again.
    #[test]
    fn a_full_disk_loses_nothing_that_was_acknowledged(room in 0u64..200_000,
        seed in any::<u64>()) {
        let disk = new_disk();
        let ledger = open_on(&disk).unwrap();
        disk.limit_room(Some(room));
        let mut state = State::default();
        let mut failed = 0;
        for command in life("a", 12) {
            let mut next = state.clone();
            next.apply(&command).unwrap();
            match ledger.apply(command.clone()) {
                Ok(_) => {}
                Err(error) => {
                    failed += 1;
                    prop_assert!(error.to_string().contains("/s/ledger.redb"), "{}", error);
                    prop_assert_eq!(text_of(&ledger.state()), text_of(&state));
                    disk.limit_room(None);
                    // The file, opened again, shows whether the failed command reached it.
                    ledger.refresh().unwrap();
                    let found = text_of(&ledger.state());
                    if found != text_of(&next) {
                        prop_assert_eq!(found, text_of(&state));
                        ledger.apply(command).unwrap();
                    }
                }
            }
            prop_assert_eq!(text_of(&ledger.state()), text_of(&next));
            state = next;
        }
        prop_assert!(failed <= 1);
        disk.crash(seed);
        prop_assert_eq!(text_of(&open_on(&disk).unwrap().state()), text_of(&state));
    }
}

#[test]
fn a_failed_sync_is_an_error_and_the_next_command_goes_on_from_the_file() {
    let disk = SimDisk::default();
    let ledger = open_on(&disk).unwrap();
    apply_all(&ledger, life("a", 1));
    disk.fail_syncs(1);
    assert!(matches!(
        ledger.apply(commit("a", 1)),
        Err(LedgerError::Io { .. })
    ));
    assert_eq!(
        ledger.state().job(&id("a")).unwrap().progress.stages[0].step,
        1
    );
    let answer = ledger.apply(commit("a", 1));
    let reached_the_disk = matches!(answer, Err(LedgerError::Rejected(_)));
    assert!(
        reached_the_disk || matches!(answer, Ok(Effect::StepCommitted { step: 2 })),
        "{answer:?}"
    );
    assert_eq!(
        ledger.state().job(&id("a")).unwrap().progress.stages[0].step,
        2
    );
}

#[test]
fn a_second_opener_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let _first = Ledger::open(&path).unwrap();
    let error = Ledger::open(&path).err().unwrap();
    assert!(matches!(error, LedgerError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("stop the other r1d"), "{error}");
}

#[test]
fn a_ledger_of_a_later_release_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    drop(Ledger::open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(TableDefinition::<&str, u64>::new("format"))
        .unwrap()
        .insert("version", 99)
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let error = Ledger::open(&path).err().unwrap();
    assert!(
        matches!(error, LedgerError::Newer { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_ledger_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    std::fs::write(
        &path,
        "not a database, but long enough to be looked at ".repeat(200),
    )
    .unwrap();
    let error = Ledger::open(&path).err().unwrap();
    assert!(
        matches!(&error, LedgerError::Damaged { path: named, .. } if *named == path),
        "{error}"
    );
    let error = Ledger::open(&dir.path().join("no/such/ledger.redb"))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no/such/ledger.redb"), "{error}");
}

#[test]
fn a_creation_that_a_crash_cut_short_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    std::fs::write(dir.path().join("ledger.redb.new"), [0u8; 5000]).unwrap();
    let ledger = Ledger::open(&path).unwrap();
    ledger.apply(life("a", 0).remove(0)).unwrap();
    assert_eq!(
        ledger.state().job(&id("a")).unwrap().state(),
        RunState::Queued
    );
    assert!(!dir.path().join("ledger.redb.new").exists());
}

#[test]
fn a_stage_that_is_taken_over_is_there_with_all_that_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let metrics = |step: u64| Metrics::from([("loss".to_string(), step as f64)]);
    let eval = |stage: Option<&str>| EvalResult {
        stage: stage.map(String::from),
        step: 0,
        data: "test".into(),
        metrics: metrics(7),
        example: None,
    };
    let record = StageRecord {
        name: "rl".into(),
        kind: "grpo".into(),
        state: RunState::Succeeded,
        steps: 2,
        step: 2,
        checkpoints: vec![CheckpointRecord {
            step: 2,
            dir: "/c/2".into(),
            manifest_sha256: "00".into(),
        }],
        begun_at: 3,
        ended_at: Some(4),
        metrics: metrics(1),
    };
    let take = Command::ReuseStage {
        job: id("b"),
        epoch: 0,
        of: id("a"),
        stage: 0,
        record: Box::new(record.clone()),
        metrics: vec![(0, metrics(0)), (1, metrics(1))],
        evals: vec![eval(None), eval(Some("rl"))],
    };
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, vec![life("b", 0).remove(0), take]);
    let before = ledger.state().job(&id("b")).cloned().unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    let after = ledger.state().job(&id("b")).cloned().unwrap();
    assert_eq!(after, before);
    assert_eq!(
        (
            &after.progress.stages[..],
            after.evals.len(),
            after.reuse.taken.get(&0)
        ),
        (&[Arc::new(record)][..], 2, Some(&id("a")))
    );
    assert_eq!(
        ledger.metrics(&id("b"), 0).unwrap(),
        [(0, metrics(0)), (1, metrics(1))]
    );
}

/// Power is lost somewhere in a submission: the job is there with its judges, keys and its client's
/// id, or not at all.
#[test]
fn a_submission_is_whole_or_absent_after_any_crash() {
    let (mut whole, mut absent) = (0, 0);
    for bytes in (0..80_000).step_by(2000) {
        let disk = new_disk();
        let ledger = open_on(&disk).unwrap();
        disk.lose_power_after(bytes);
        let acknowledged = ledger.apply(life("a", 0).remove(0)).is_ok();
        std::mem::forget(ledger);
        disk.crash(bytes);
        match open_on(&disk).unwrap().state().of_request("request of a") {
            None => {
                assert!(!acknowledged, "{bytes}");
                absent += 1;
            }
            Some(record) => {
                assert_eq!(
                    (
                        record.reward_versions.len(),
                        record.reuse.keys.len(),
                        record.reuse.enabled
                    ),
                    (2, 1, true),
                    "{bytes}"
                );
                whole += 1;
            }
        }
    }
    assert!(whole > 0 && absent > 0, "{whole} whole, {absent} absent");
}

/// Readers of the jobs do not wait for the disk.
#[test]
fn readers_do_not_wait_for_a_disk_that_stalls() {
    use std::sync::{Condvar, Mutex};
    /// A disk whose next sync waits until the test releases it.
    #[derive(Debug)]
    struct Stalling(redb::backends::InMemoryBackend, Arc<(Mutex<bool>, Condvar)>);
    impl StorageBackend for Stalling {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            let (stalled, change) = &*self.1;
            drop(
                change
                    .wait_while(stalled.lock().unwrap(), |stalled| *stalled)
                    .unwrap(),
            );
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }
    let stall = Arc::new((Mutex::new(false), Condvar::new()));
    let handle = stall.clone();
    let open = move || {
        Database::builder().create_with_backend(Stalling(
            redb::backends::InMemoryBackend::new(),
            handle.clone(),
        ))
    };
    let ledger = Arc::new(
        Ledger::open_with(
            Path::new("/s/ledger.redb"),
            Box::new(open),
            SimDisk::default().shared(),
        )
        .unwrap(),
    );
    apply_all(&ledger, life("a", 0));
    *stall.0.lock().unwrap() = true;
    let writer = std::thread::spawn({
        let ledger = ledger.clone();
        move || ledger.apply(commit("a", 0)).unwrap()
    });
    let (done, finished) = std::sync::mpsc::channel();
    let reader = std::thread::spawn({
        let ledger = ledger.clone();
        move || {
            let seen = (
                ledger.state().jobs().len(),
                ledger.state().queue().len(),
                ledger.state().find("a").unwrap(),
            );
            done.send((
                seen,
                ledger.state().job(&id("a")).unwrap().progress.stages[0].step,
            ))
            .unwrap();
        }
    });
    let seen = finished.recv_timeout(std::time::Duration::from_secs(20));
    *stall.0.lock().unwrap() = false;
    stall.1.notify_all();
    assert_eq!(
        seen.expect("a reader's answer while the disk stalls"),
        ((1, 0, id("a")), 0)
    );
    assert_eq!(writer.join().unwrap(), Effect::StepCommitted { step: 1 });
    reader.join().unwrap();
    assert_eq!(
        ledger.state().job(&id("a")).unwrap().progress.stages[0].step,
        1
    );
}

#[test]
fn the_queue_hears_of_what_changes_it_and_of_nothing_else() {
    let disk = new_disk();
    let ledger = open_on(&disk).unwrap();
    let mut changes = ledger.queue_changes();
    let mut heard = |command: Command| {
        ledger.apply(command).unwrap();
        let changed = changes.has_changed().unwrap();
        changes.mark_unchanged();
        changed
    };
    let commands = life("a", 2);
    let is_heard: Vec<bool> = commands.iter().cloned().map(&mut heard).collect();
    let expected = |command: &Command| {
        matches!(
            command,
            Command::Submit(_) | Command::Strike { .. } | Command::Start { .. }
        )
    };
    // The first evaluation clears the job of the strike that it has.
    let first_eval = commands
        .iter()
        .position(|command| matches!(command, Command::Eval { .. }))
        .unwrap();
    for (index, (command, is_heard)) in commands.iter().zip(is_heard).enumerate() {
        assert_eq!(
            is_heard,
            expected(command) || index == first_eval,
            "{command:?}"
        );
    }
    assert!(heard(Command::Cancel {
        job: id("a"),
        at: 1
    }));
}

/// A ledger's file as bytes, and what it holds. `closed` is one whose daemon ended in an orderly
/// way; the other is copied while it is open, as a killed daemon leaves it.
fn written(closed: bool) -> (Vec<u8>, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 12));
    apply_all(&ledger, life("b", 3));
    let held = contents(&ledger);
    if closed {
        drop(ledger);
        return (std::fs::read(&path).unwrap(), held);
    }
    (std::fs::read(&path).unwrap(), held)
}

fn contents(ledger: &Ledger) -> String {
    format!(
        "{}{:?}",
        text(&ledger.state().jobs()),
        ledger.metrics(&id("a"), 0).unwrap()
    )
}

const PAGE_BYTES: usize = 4096;

/// Opens `bytes` as a ledger: it holds what it held, or the file is named.
fn opens_rightly_or_is_named(bytes: &[u8], held: &str, what: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    std::fs::write(&path, bytes).unwrap();
    match Ledger::open(&path) {
        Ok(ledger) => {
            assert!(
                contents(&ledger) == held,
                "{what}: opened with other contents"
            );
            true
        }
        Err(error) => {
            let message = error.to_string();
            assert!(
                matches!(error, LedgerError::Damaged { .. }),
                "{what}: {message}"
            );
            assert!(
                message.contains("ledger.redb") && message.contains("put a copy back"),
                "{what}: {message}"
            );
            false
        }
    }
}

/// Zeros, a flipped bit or a cut on any page gives an error that names the file, or the right
/// contents.
#[test]
fn a_damaged_ledger_is_named_and_never_read_wrongly() {
    for closed in [true, false] {
        let (whole, held) = written(closed);
        assert!(opens_rightly_or_is_named(&whole, &held, "undamaged"));
        let mut named = 0;
        for page in 0..whole.len().div_ceil(PAGE_BYTES) {
            let (start, end) = (page * PAGE_BYTES, whole.len().min((page + 1) * PAGE_BYTES));
            let what = |damage: &str| format!("closed: {closed}, page {page}: {damage}");
            let mut zeros = whole.clone();
            zeros[start..end].fill(0);
            named += !opens_rightly_or_is_named(&zeros, &held, &what("zeros")) as u32;
            // Byte 9 of the file selects which of two last transactions counts; a crash in the
            // middle of the second leaves what a flip makes.
            for offset in [0, 4, 8, 64, 500, 3000] {
                let mut flipped = whole.clone();
                flipped[start + offset] ^= 1 << (page % 8);
                named += !opens_rightly_or_is_named(
                    &flipped,
                    &held,
                    &what(&format!("bit flipped at {offset}")),
                ) as u32;
            }
            let cut = start + 1000 * (page % 2);
            named += !opens_rightly_or_is_named(
                &whole[..cut],
                &held,
                &what(&format!("cut to {cut} bytes")),
            ) as u32;
        }
        assert!(named > 0);
    }
}

/// Files beside the ledger are found beside it after it has moved; other paths stay as they are.
#[test]
fn paths_below_the_ledgers_directory_move_with_it() {
    let root = tempfile::tempdir().unwrap();
    let (first, second, third) = (
        root.path().join("first"),
        root.path().join("second"),
        root.path().join("third"),
    );
    std::fs::create_dir(&first).unwrap();
    let dirs = |below: &Path, earlier: &Path| {
        let own = below.join("jobs/a/checkpoints/rl/step-1");
        // An earlier release wrote the whole path, and its directory was moved since.
        let of_earlier = earlier.join("jobs/a/checkpoints/rl/step-2");
        // Those of `checkpoint.to`, whatever it is called.
        vec![
            own,
            of_earlier,
            "/mnt/jobs/a/checkpoints/step-3".into(),
            "/mnt/jobs/a/rl/step-4".into(),
            "/c/jobs/b/final/5".into(),
        ]
    };
    let ledger = Ledger::open(&first.join("ledger.redb")).unwrap();
    apply_all(&ledger, life("a", 1));
    let earlier = root.path().join("earlier");
    for (dir, step) in dirs(&first, &earlier).into_iter().zip(1..) {
        ledger.apply(commit("a", step)).unwrap();
        let manifest_sha256 = "00".repeat(32);
        ledger
            .apply(Command::Checkpoint {
                job: id("a"),
                epoch: 1,
                stage: 0,
                step,
                dir,
                manifest_sha256,
            })
            .unwrap();
    }
    let found = |ledger: &Ledger| -> Vec<PathBuf> {
        let record = ledger.state().job(&id("a")).cloned().unwrap();
        record.progress.stages[0]
            .checkpoints
            .iter()
            .map(|checkpoint| checkpoint.dir.clone())
            .collect()
    };
    assert_eq!(found(&ledger), dirs(&first, &earlier));
    let end = |model: &Path, job: &str| Command::Finish {
        job: id(job),
        epoch: 1,
        state: RunState::Failed,
        error: None,
        model: Some(model.into()),
        at: 1,
    };
    ledger.apply(end(&first.join("jobs/a/final"), "a")).unwrap();
    apply_all(&ledger, life("b", 0));
    ledger
        .apply(end(&earlier.join("jobs/b/final"), "b"))
        .unwrap();
    drop(ledger);
    for (from, to) in [(&first, &second), (&second, &third)] {
        std::fs::rename(from, to).unwrap();
        let ledger = Ledger::open(&to.join("ledger.redb")).unwrap();
        assert_eq!(found(&ledger), dirs(to, to));
        for job in ["a", "b"] {
            assert_eq!(
                ledger.state().job(&id(job)).unwrap().progress.model,
                Some(to.join("jobs").join(job).join("final"))
            );
        }
    }
}

/// The metrics of a step that was done for the `round`th time.
fn commit_again(step: u64, round: u64) -> Command {
    let values = [
        ("loss".to_string(), step as f64),
        ("round".to_string(), round as f64),
    ];
    // Not every step has every metric.
    let kept = if step.is_multiple_of(5) { 1 } else { 2 };
    Command::CommitStep {
        job: id("a"),
        epoch: 1,
        stage: 0,
        step,
        metrics: values.into_iter().take(kept).collect(),
    }
}

fn is_of_round(row: &(u64, Metrics), step: u64, round: u64) -> bool {
    let Command::CommitStep { metrics, .. } = commit_again(step, round) else {
        return false;
    };
    row == &(step, metrics)
}

#[test]
fn metrics_of_many_steps_are_read_by_any_range_and_forgotten_when_a_stage_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 0));
    apply_all(
        &ledger,
        (0..150).map(|step| commit_again(step, 1)).collect(),
    );
    for range in [
        0..150,
        0..1,
        31..33,
        32..64,
        100..140,
        149..400,
        200..300,
        5..5,
    ] {
        let rows = ledger.metrics_in(&id("a"), 0, range.clone()).unwrap();
        let end = range.end.min(150);
        assert_eq!(
            rows.len() as u64,
            end.saturating_sub(range.start),
            "{range:?}"
        );
        let whole = rows
            .iter()
            .zip(range.start..)
            .all(|(row, step)| is_of_round(row, step, 1));
        assert!(whole, "{range:?}: {rows:?}");
    }
    for (round, back) in [(2, 70), (3, 64), (4, 0)] {
        let go_back = Command::GoBack {
            job: id("a"),
            epoch: 1,
            stage: 0,
            step: back,
            metrics: Metrics::new(),
        };
        apply_all(&ledger, vec![go_back]);
        assert_eq!(ledger.metrics(&id("a"), 0).unwrap().len() as u64, back);
        apply_all(
            &ledger,
            (back..150).map(|step| commit_again(step, round)).collect(),
        );
        let rows = ledger.metrics(&id("a"), 0).unwrap();
        assert_eq!(rows.len(), 150);
        let newest = rows
            .iter()
            .zip(0..)
            .filter(|(row, step)| is_of_round(row, *step, round));
        // Steps without the second metric look alike in all rounds.
        assert!(newest.count() as u64 >= 150 - back, "round {round}");
    }
    let before = ledger.metrics(&id("a"), 0).unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.metrics(&id("a"), 0).unwrap(), before);
}

/// An old copy of the ledger finds the metrics that it knows of: the job's file is only appended
/// to.
#[test]
fn an_old_copy_of_the_ledger_finds_its_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 0));
    apply_all(&ledger, (0..75).map(|step| commit_again(step, 1)).collect());
    drop(ledger);
    let copy = std::fs::read(&path).unwrap();
    let ledger = Ledger::open(&path).unwrap();
    apply_all(
        &ledger,
        (75..200).map(|step| commit_again(step, 1)).collect(),
    );
    drop(ledger);
    std::fs::write(&path, copy).unwrap();
    let ledger = Ledger::open(&path).unwrap();
    apply_all(
        &ledger,
        (75..120).map(|step| commit_again(step, 2)).collect(),
    );
    let rows = ledger.metrics(&id("a"), 0).unwrap();
    assert_eq!(rows.len(), 120);
    let round = |step| if step < 75 { 1 } else { 2 };
    assert!(
        rows.iter()
            .zip(0..)
            .all(|(row, step)| is_of_round(row, step, round(step)))
    );
}

#[test]
fn damaged_metrics_are_named_and_harm_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 0));
    apply_all(&ledger, (0..75).map(|step| commit_again(step, 1)).collect());
    let blocks = dir.path().join("jobs/a/metrics.blocks");
    let whole = std::fs::read(&blocks).unwrap();
    let mut flipped = whole.clone();
    flipped[40] ^= 4;
    std::fs::write(&blocks, &flipped).unwrap();
    let error = ledger.metrics(&id("a"), 0).unwrap_err();
    assert!(
        matches!(&error, LedgerError::Metrics { path, .. } if *path == blocks),
        "{error}"
    );
    assert_eq!(ledger.metrics_in(&id("a"), 0, 32..75).unwrap().len(), 43);
    std::fs::write(&blocks, &whole[..50]).unwrap();
    assert!(matches!(
        ledger.metrics(&id("a"), 0),
        Err(LedgerError::Metrics { .. })
    ));
    // Nothing is written behind the damage: a copy from before still fits.
    for step in 75..96 {
        ledger.apply(commit_again(step, 1)).unwrap();
    }
    let refused = ledger.apply(commit_again(96, 1)).unwrap_err();
    assert!(matches!(refused, LedgerError::Metrics { .. }), "{refused}");
    assert_eq!(std::fs::read(&blocks).unwrap(), &whole[..50]);
    std::fs::write(&blocks, &whole).unwrap();
    assert_eq!(ledger.metrics(&id("a"), 0).unwrap().len(), 96);
    std::fs::write(&blocks, &whole[..50]).unwrap();
    // Opening does not read them, and the job goes on.
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    ledger
        .apply(Command::Cancel {
            job: id("a"),
            at: 9,
        })
        .unwrap();
    assert_eq!(std::fs::read(&blocks).unwrap(), &whole[..50]);
    std::fs::write(&blocks, &whole).unwrap();
    assert_eq!(ledger.metrics(&id("a"), 0).unwrap().len(), 96);
}

/// Whatever becomes of the file, it is made again of the rows that somebody else has kept, if they
/// are the same to the last bit.
#[test]
fn metrics_are_made_whole_from_the_same_rows_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 0));
    apply_all(&ledger, (0..75).map(|step| commit_again(step, 1)).collect());
    let blocks = dir.path().join("jobs/a/metrics.blocks");
    let (whole, rows) = (
        std::fs::read(&blocks).unwrap(),
        ledger.metrics(&id("a"), 0).unwrap(),
    );
    let kept: BTreeMap<_, _> = rows
        .iter()
        .map(|(step, row)| ((0, *step), row.clone()))
        .collect();
    let mend =
        |kept: &BTreeMap<(u32, u64), Metrics>| ledger.mend_metrics(&id("a"), &|| kept.clone());
    assert!(!mend(&BTreeMap::new()).unwrap(), "nothing is damaged");
    for damage in 0..4 {
        match damage {
            0 => {
                let mut flipped = whole.clone();
                flipped[40] ^= 4;
                std::fs::write(&blocks, &flipped).unwrap();
            }
            1 => std::fs::write(&blocks, &whole[..50]).unwrap(),
            2 => std::fs::remove_file(&blocks).unwrap(),
            _ => {
                std::fs::remove_file(&blocks).unwrap();
                std::os::unix::fs::symlink("/nowhere", &blocks).unwrap();
            }
        }
        let mut other = kept.clone();
        let value = other.get_mut(&(0, 3)).unwrap().values_mut().next().unwrap();
        *value = f64::from_bits(value.to_bits() ^ 1);
        let refused = mend(&other).unwrap_err();
        assert!(matches!(refused, LedgerError::Metrics { .. }), "{refused}");
        assert!(mend(&BTreeMap::new()).is_err());
        assert!(mend(&kept).unwrap(), "damage {damage}");
        assert_eq!(std::fs::read(&blocks).unwrap(), whole, "damage {damage}");
        assert_eq!(ledger.metrics(&id("a"), 0).unwrap(), rows);
    }
    // A directory is somebody's, and stays.
    std::fs::remove_file(&blocks).unwrap();
    std::fs::create_dir(&blocks).unwrap();
    assert!(mend(&kept).is_err());
    assert!(blocks.is_dir());
}

#[test]
fn a_stage_that_has_ended_leaves_no_metrics_in_the_ledgers_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let ledger = Ledger::open(&path).unwrap();
    apply_all(&ledger, life("a", 5));
    apply_all(&ledger, life("b", 5));
    let rows = || {
        let copy = dir.path().join("copy.redb");
        std::fs::copy(&path, &copy).unwrap();
        let database = Database::open(&copy).unwrap();
        let read = database.begin_read().unwrap();
        let table = TableDefinition::<(&str, u32, u64), &[u8]>::new("metrics");
        read.open_table(table).unwrap().len().unwrap()
    };
    assert_eq!(rows(), 10);
    apply_all(
        &ledger,
        vec![Command::Cancel {
            job: id("a"),
            at: 9,
        }],
    );
    assert_eq!(rows(), 5);
    assert_eq!(ledger.metrics(&id("a"), 0).unwrap().len(), 5);
    // Where the job's directory takes nothing, the job ends all the same.
    std::fs::write(dir.path().join("jobs/b"), "in the way").unwrap();
    apply_all(
        &ledger,
        vec![Command::Cancel {
            job: id("b"),
            at: 9,
        }],
    );
    assert_eq!(rows(), 5);
    assert_eq!(ledger.metrics(&id("b"), 0).unwrap().len(), 5);
}

/// Power is lost at any operation on the disk: each committed step has its metrics, wherever they
/// are.
#[test]
fn a_committed_step_has_its_metrics_after_any_crash() {
    let (mut crashes, mut with_blocks) = (0, 0);
    for seed in 0..60u64 {
        let disk = new_disk();
        let ledger = open_on(&disk).unwrap();
        apply_all(&ledger, life("a", 0));
        let begun = disk.operations();
        disk.lose_power_at(begun + 1 + r1d_proto::world::counter_hash(&[seed]) % 1600);
        let steps = (0..90).map(|step| commit_again(step, 1));
        let known = steps
            .take_while(|command| ledger.apply(command.clone()).is_ok())
            .count();
        std::mem::forget(ledger);
        disk.crash(seed);
        let ledger = open_on(&disk).unwrap();
        let step = ledger.state().job(&id("a")).unwrap().progress.stages[0].step;
        assert!(
            step as usize == known || step as usize == known + 1,
            "seed {seed}: {step}"
        );
        let rows = ledger.metrics(&id("a"), 0).unwrap();
        assert_eq!(rows.len() as u64, step, "seed {seed}");
        assert!(
            rows.iter()
                .zip(0..)
                .all(|(row, step)| is_of_round(row, step, 1)),
            "seed {seed}"
        );
        crashes += u32::from(known < 90);
        with_blocks += u32::from(known > 33);
        apply_all(
            &ledger,
            (step..step + 40)
                .map(|step| commit_again(step, 1))
                .collect(),
        );
        assert_eq!(ledger.metrics(&id("a"), 0).unwrap().len() as u64, step + 40);
    }
    assert!(
        crashes > 20 && with_blocks > 20,
        "{crashes} crashes, {with_blocks} with blocks"
    );
}
