//! Commands of several threads that become durable together: each gets its own answer, readers see
//! only what is durable, and a crash or a failed write leaves whole commands.

use r1d_ledger::{Command, Effect, Ledger, LedgerError, NewJob, Record, Rejected};
use r1d_proto::control::job::State as RunState;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_proto::worker::Metrics;
use r1d_proto::world::counter_hash;
use r1d_sim::{SimDisk, SimFile};
use redb::{Database, StorageBackend};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A ledger that has not synced for so long never will.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(60);
/// Threads that apply commands at the same time.
const THREADS: usize = 6;

fn id(index: usize) -> JobId {
    JobId(format!("j{index}"))
}

fn submit(index: usize) -> Command {
    Command::Submit(NewJob::of(id(index), "seed = 1\n".repeat(50)))
}

fn commit(index: usize, step: u64) -> Command {
    Command::CommitStep {
        job: id(index),
        epoch: 1,
        stage: 0,
        step,
        metrics: Metrics::from([("loss".into(), step as f64)]),
    }
}

/// The life of one thread's job: it is at command `n` when `n` commands of it are on record.
fn life(index: usize, steps: u64) -> Vec<Command> {
    let begin = Command::BeginStage {
        job: id(index),
        epoch: 1,
        stage: 0,
        name: "s".into(),
        kind: "sft".into(),
        steps: 1000,
        at: 2,
    };
    let start = Command::Start {
        job: id(index),
        at: 1,
    };
    let commits = (0..steps).map(|step| commit(index, step));
    [submit(index), start, begin]
        .into_iter()
        .chain(commits)
        .collect()
}

/// How many commands of the job's life are on record, and whether its metrics are there with them.
fn progress(ledger: &Ledger, index: usize) -> usize {
    let Some(record) = ledger.state().job(&id(index)).cloned() else {
        return 0;
    };
    match record.progress.stages.first() {
        None => 1 + usize::from(record.state() == RunState::Running),
        Some(stage) => 3 + stage.step as usize,
    }
}

/// The ledger's disk: a sync can be made to wait, syncs are counted.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<(Mutex<Syncs>, Condvar)>);

#[derive(Debug, Default)]
struct Syncs {
    count: u32,
    is_shut: bool,
    /// Whether a sync waits.
    is_met: bool,
}

impl Gate {
    fn set(&self, is_shut: bool) {
        self.0.0.lock().unwrap().is_shut = is_shut;
        self.0.1.notify_all();
    }

    fn count(&self) -> u32 {
        self.0.0.lock().unwrap().count
    }

    /// Waits until a sync waits at the gate.
    fn meet(&self) {
        let (syncs, change) = &*self.0;
        let syncs = syncs.lock().unwrap();
        let met = change.wait_timeout_while(syncs, SYNC_WAIT_MAX, |syncs| !syncs.is_met);
        let (syncs, waited) = met.unwrap();
        drop(syncs);
        assert!(!waited.timed_out(), "nobody syncs the ledger");
    }

    fn pass(&self) {
        let (syncs, change) = &*self.0;
        let mut syncs = syncs.lock().unwrap();
        syncs.is_met = syncs.is_shut;
        change.notify_all();
        let mut syncs = change.wait_while(syncs, |syncs| syncs.is_shut).unwrap();
        syncs.is_met = false;
        syncs.count += 1;
    }
}

#[derive(Debug)]
struct Backend(SimFile, Gate);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.length())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_length(len);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

fn open_on(disk: &SimDisk, gate: &Gate) -> Result<Ledger, LedgerError> {
    let (disk, gate, storage) = (disk.clone(), gate.clone(), disk.shared());
    let path = PathBuf::from("/s/ledger.redb");
    let file = path.clone();
    let open = move || {
        let backend = Backend(disk.open(&file), gate.clone());
        Database::builder()
            .set_cache_size(1 << 20)
            .create_with_backend(backend)
    };
    Ledger::open_with(&path, Box::new(open), storage)
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::default();
    drop(open_on(&disk, &Gate::default()).unwrap());
    disk.sync_dir(Path::new("/s")).unwrap();
    disk
}

/// Has each of `commands` applied by a thread of its own while the disk stalls on `first`, and lets
/// the disk go on once they all wait; `before_go` may change the disk.
fn together(
    ledger: &Ledger,
    gate: &Gate,
    first: Command,
    commands: Vec<Command>,
    before_go: impl FnOnce(),
) -> (
    Result<Effect, LedgerError>,
    Vec<Result<Effect, LedgerError>>,
) {
    std::thread::scope(|scope| {
        gate.set(true);
        let first = scope.spawn(|| ledger.apply(first));
        gate.meet();
        let mut others = Vec::new();
        for (index, command) in commands.into_iter().enumerate() {
            others.push(scope.spawn(|| ledger.apply(command)));
            while ledger.waiting() <= index {
                std::thread::yield_now();
            }
        }
        before_go();
        gate.set(false);
        let answers = others.into_iter().map(|other| other.join().unwrap());
        (first.join().unwrap(), answers.collect())
    })
}

#[test]
fn commands_that_come_while_the_disk_is_busy_share_a_sync() {
    let (disk, gate) = (new_disk(), Gate::default());
    let ledger = open_on(&disk, &gate).unwrap();
    ledger.apply(submit(0)).unwrap();
    let before = gate.count();
    ledger.apply(submit(1)).unwrap();
    let of_one = gate.count() - before;
    let before = gate.count();
    let commands = (10..30).map(submit).collect();
    let (first, others) = together(&ledger, &gate, submit(2), commands, || {
        // Nothing that is not durable is seen.
        assert_eq!(ledger.state().jobs().len(), 2);
    });
    assert_eq!(first.unwrap(), Effect::Submitted);
    assert!(
        others
            .iter()
            .all(|answer| matches!(answer, Ok(Effect::Submitted)))
    );
    // One group behind the first command, of twenty.
    let shared = gate.count() - before;
    assert!(
        shared <= 2 * of_one,
        "{shared} syncs, {of_one} for one command"
    );
    assert_eq!(ledger.state().jobs().len(), 23);
    disk.crash(1);
    assert_eq!(
        open_on(&disk, &Gate::default())
            .unwrap()
            .state()
            .jobs()
            .len(),
        23
    );
}

#[test]
fn each_command_of_a_group_gets_its_own_answer() {
    let (disk, gate) = (new_disk(), Gate::default());
    let ledger = open_on(&disk, &gate).unwrap();
    for command in life(0, 0).into_iter().chain(life(1, 0)) {
        ledger.apply(command).unwrap();
    }
    let commands = vec![
        commit(0, 0),
        commit(0, 0),
        commit(0, 1),
        commit(1, 5),
        submit(1),
    ];
    let (_, answers) = together(&ledger, &gate, submit(2), commands, || {});
    assert!(matches!(answers[0], Ok(Effect::StepCommitted { step: 1 })));
    let refused = |answer: &Result<Effect, LedgerError>| match answer {
        Err(LedgerError::Rejected(rejected)) => rejected.clone(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        refused(&answers[1]),
        Rejected::WrongStep { committed: 1, .. }
    ));
    assert!(matches!(answers[2], Ok(Effect::StepCommitted { step: 2 })));
    assert!(matches!(
        refused(&answers[3]),
        Rejected::WrongStep { committed: 0, .. }
    ));
    assert!(matches!(
        refused(&answers[4]),
        Rejected::DuplicateJob { .. }
    ));
    assert_eq!(ledger.metrics(&id(0), 0).unwrap().len(), 2);
}

#[test]
fn a_failed_write_fails_its_whole_group_and_none_of_it_is_seen() {
    let (disk, gate) = (new_disk(), Gate::default());
    let ledger = open_on(&disk, &gate).unwrap();
    ledger.apply(submit(0)).unwrap();
    let commands = (10..14).map(submit).chain([submit(0)]).collect();
    let (first, answers) = together(&ledger, &gate, submit(1), commands, || {
        // The first command's own syncs fail, so that the group behind it opens the file anew.
        disk.fail_syncs(1);
    });
    assert!(matches!(first, Err(LedgerError::Io { .. })), "{first:?}");
    // Which group the failure meets is known; what the group behind it does is told by the file.
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 4);
    let commands: Vec<Command> = (20..24).map(submit).chain([submit(0)]).collect();
    let known = ledger.state().jobs();
    let full = || disk.limit_room(Some(0));
    let (_, answers) = together(&ledger, &gate, submit(2), commands.clone(), full);
    for answer in answers {
        assert!(matches!(answer, Err(LedgerError::Io { .. })), "{answer:?}");
    }
    assert_eq!(ledger.state().jobs(), known);
    disk.limit_room(None);
    ledger.refresh().unwrap();
    for command in &commands[..4] {
        ledger.apply(command.clone()).unwrap();
    }
    disk.crash(7);
    let found = open_on(&disk, &Gate::default()).unwrap();
    assert_eq!(found.state().jobs().len(), ledger.state().jobs().len());
}

/// Threads that commit at the same time, and a machine that dies at a random moment: each job is
/// where its last acknowledged command left it, or at the one in flight, with its metrics; what a
/// reader has seen is never lost.
#[test]
fn power_that_is_lost_under_concurrent_commands_leaves_whole_commands() {
    let mut cut_off = 0;
    for seed in 0..30u64 {
        let (disk, gate) = (new_disk(), Gate::default());
        let ledger = open_on(&disk, &gate).unwrap();
        disk.lose_power_after(counter_hash(&[seed]) % 600_000);
        let (acknowledged, seen) = std::thread::scope(|scope| {
            let ledger = &ledger;
            let appliers: Vec<_> = (0..THREADS)
                .map(|index| {
                    let apply = move |command: Command| ledger.apply(command).is_ok();
                    scope.spawn(move || {
                        life(index, 12)
                            .into_iter()
                            .take_while(|c| apply(c.clone()))
                            .count()
                    })
                })
                .collect();
            let reader = scope.spawn(|| {
                let mut seen = [0; THREADS];
                for _ in 0..200 {
                    seen = std::array::from_fn(|index| progress(ledger, index));
                    std::thread::yield_now();
                }
                seen
            });
            let counts = appliers.into_iter().map(|applier| applier.join().unwrap());
            (counts.collect::<Vec<usize>>(), reader.join().unwrap())
        });
        std::mem::forget(ledger);
        disk.crash(seed);
        let found = open_on(&disk, &Gate::default()).unwrap();
        for (index, known) in acknowledged.iter().enumerate() {
            let now = progress(&found, index);
            assert!(
                now == *known || now == known + 1,
                "seed {seed}, job {index}: {known} commands were acknowledged, {now} are there"
            );
            assert!(
                now >= seen[index],
                "seed {seed}, job {index}: seen, and lost"
            );
            let steps = found.metrics(&id(index), 0).unwrap().len();
            assert_eq!(steps, now.saturating_sub(3), "seed {seed}, job {index}");
            cut_off += u32::from(*known < 15);
        }
    }
    assert!(cut_off > 30, "{cut_off} cut off");
}
