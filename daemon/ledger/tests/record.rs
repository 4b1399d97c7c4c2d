//! A command is carried out once under its id, however often it is sent, in whatever order, and
//! whatever its first answer was lost to: in memory and on disk, against a naive model.

mod sim_backend;

use proptest::prelude::*;
use r1d_ledger::{
    ANSWERS_MAX, Command, CommandId, Effect, Ledger, LedgerError, Memory, NewJob, Record, Rejected,
    SESSIONS_MAX, Session, State,
};
use r1d_proto::control::job::State as RunState;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_proto::worker::Metrics;
use r1d_proto::world::counter_hash;
use r1d_sim::SimDisk;
use redb::Database;
use sim_backend::SimBackend;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn id(index: u64) -> JobId {
    JobId(format!("j{index}"))
}

fn submit(index: u64) -> Command {
    Command::Submit(NewJob::of(id(index), "seed = 1"))
}

/// A command of the life of one of three jobs; many are refused where they come.
fn command(kind: u64, job: u64, at: u64) -> Command {
    let (job, epoch) = (id(job), 1 + at % 2);
    match kind % 9 {
        0 => submit(at % 3),
        1 | 2 => Command::Start { job, at },
        3 => Command::BeginStage {
            job,
            epoch,
            stage: 0,
            name: "s".into(),
            kind: "sft".into(),
            steps: 100,
            at,
        },
        4 | 5 => Command::CommitStep {
            job,
            epoch,
            stage: 0,
            step: at % 4,
            metrics: Metrics::from([("loss".into(), at as f64)]),
        },
        6 => Command::Requeue { job, at },
        7 => Command::Cancel { job, at },
        _ => Command::Pause { job, by: None, at },
    }
}

fn text(state: &State) -> String {
    format!("{:?}", state.jobs())
}

/// All commands that were ever carried out, with their ids and what they did.
#[derive(Default)]
struct Naive {
    state: State,
    done: Vec<(CommandId, Command, Effect)>,
}

impl Naive {
    /// What the record has to answer.
    fn apply(&mut self, id: CommandId, command: &Command) -> Result<Effect, Rejected> {
        match self.done.iter().find(|(known, _, _)| *known == id) {
            Some((_, known, effect)) if known == command => Ok(effect.clone()),
            Some(_) => Err(Rejected::IdTaken { id }),
            None => {
                let effect = self.state.apply(command)?;
                self.done.push((id, command.clone(), effect.clone()));
                Ok(effect)
            }
        }
    }
}

fn open_on(disk: &SimDisk) -> Box<dyn Record> {
    let (disk, storage) = (disk.clone(), disk.shared());
    let path = PathBuf::from("/s/ledger.redb");
    let file = path.clone();
    let open = move || {
        let backend = SimBackend(disk.open(&file));
        Database::builder()
            .set_cache_size(1 << 20)
            .create_with_backend(backend)
    };
    Box::new(Ledger::open_with(&path, Box::new(open), storage).unwrap())
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::default();
    drop(open_on(&disk));
    disk.sync_dir(Path::new("/s")).unwrap();
    disk
}

fn rejected(answer: Result<Effect, LedgerError>) -> Result<Effect, Rejected> {
    answer.map_err(|error| match error {
        LedgerError::Rejected(rejected) => rejected,
        other => panic!("{other}"),
    })
}

/// One thing that happens: a new command, or one that was sent before comes (again); its answer
/// arrives or not, and the daemon may be started again.
#[derive(Clone, Debug)]
struct Event {
    kind: u64,
    job: u64,
    /// Sends a command from before instead.
    again: Option<prop::sample::Index>,
    /// Uses the id of another command: a bug of the sender's.
    is_mistaken: bool,
    restarts: bool,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (
        any::<u64>(),
        0u64..3,
        prop::option::weighted(0.4, any::<prop::sample::Index>()),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    let event = event.prop_map(|(kind, job, again, is_mistaken, restarts)| Event {
        kind,
        job,
        again,
        is_mistaken,
        restarts,
    });
    prop::collection::vec(event, 1..60)
}

/// Sends commands of two sessions, in another order than their numbers', and again.
fn play(events: &[Event], mut disk: Option<SimDisk>) {
    let open = |disk: &Option<SimDisk>| -> Box<dyn Record> {
        match disk {
            Some(disk) => open_on(disk),
            None => Box::new(Memory::default()),
        }
    };
    let mut record = open(&disk);
    let (mut naive, mut sent) = (Naive::default(), Vec::<(CommandId, Command)>::new());
    for (event, at) in events.iter().zip(0u64..) {
        let (id, command) = match event.again {
            Some(again) if !sent.is_empty() => again.get(&sent).clone(),
            _ => {
                // Numbers come in another order than they were given.
                let id = CommandId {
                    session: 1 + at % 2,
                    number: 1 + (at ^ 5),
                };
                let new = (id, command(event.kind, event.job, at));
                sent.push(new.clone());
                new
            }
        };
        let command = if event.is_mistaken {
            Command::Resume {
                job: JobId("other".into()),
                at: 30,
            }
        } else {
            command
        };
        let before = text(&record.snapshot());
        let was_done = naive.done.iter().any(|(known, _, _)| *known == id);
        let expected = naive.apply(id, &command);
        assert_eq!(rejected(record.apply(id, command)), expected, "{id}");
        if was_done || expected.is_err() {
            assert_eq!(
                text(&record.snapshot()),
                before,
                "a repeated command changed something"
            );
        }
        assert_eq!(text(&record.snapshot()), text(&naive.state));
        if let Some(before) = disk.clone().filter(|_| event.restarts) {
            // The daemon is killed: it closes nothing.
            std::mem::forget(record);
            disk = Some(before.fork());
            record = open(&disk);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn a_command_in_memory_is_carried_out_once(events in events()) {
        play(&events, None);
    }

    #[test]
    fn a_command_on_disk_is_carried_out_once(events in events()) {
        play(&events, Some(new_disk()));
    }
}

/// Power is lost between the write of a command and its answer: sent again to the next daemon, it
/// is carried out if it was not, and never twice.
#[test]
fn power_that_is_lost_before_the_answer_is_no_second_command() {
    let (mut were_done, mut were_not) = (0, 0);
    for seed in 0..60u64 {
        let disk = new_disk();
        let record = open_on(&disk);
        let numbered = |number| CommandId { session: 7, number };
        record.apply(numbered(1), submit(0)).unwrap();
        // Each start is a new epoch: a second one would show.
        let start = || Command::Start { job: id(0), at: 2 };
        let begun = disk.operations();
        record.apply(numbered(2), start()).unwrap();
        let operations = disk.operations() - begun;
        let left = 1 + counter_hash(&[seed]) % (operations + 2);
        disk.lose_power_at(disk.operations() + left);
        let _lost = record.apply(numbered(3), start());
        std::mem::forget(record);
        disk.crash(seed);
        let record = open_on(&disk);
        let epoch = || record.snapshot().job(&id(0)).unwrap().progress.epoch;
        let known = epoch();
        let answer = record.apply(numbered(3), start()).unwrap();
        let started = Effect::Started {
            epoch: 2,
            restarts: 1,
        };
        assert_eq!(answer, started, "seed {seed}: epoch {known} was on record");
        assert_eq!(epoch(), 2, "seed {seed}");
        were_done += u32::from(known == 2);
        were_not += u32::from(known == 1);
    }
    assert!(
        were_done > 3 && were_not > 3,
        "{were_done} done, {were_not} not"
    );
}

/// What is remembered has a limit, and what is behind it is refused.
#[test]
fn an_old_id_is_refused_and_not_carried_out_again() {
    let disk = new_disk();
    let record = open_on(&disk);
    let at = |session, number| CommandId { session, number };
    let resume = || Command::TakeUp { job: id(0) };
    record.apply(at(5, 1), submit(0)).unwrap();
    for number in 2..ANSWERS_MAX + 1 {
        record.apply(at(5, number), resume()).unwrap();
    }
    // The oldest that is remembered, until one more comes.
    assert_eq!(
        record.apply(at(5, 1), submit(0)).unwrap(),
        Effect::Submitted
    );
    record.apply(at(5, ANSWERS_MAX + 1), resume()).unwrap();
    let forgotten = |answer| matches!(rejected(answer), Err(Rejected::IdForgotten { .. }));
    assert!(forgotten(record.apply(at(5, 1), submit(0))));
    assert!(forgotten(record.apply(at(5, 0), resume())));
    for session in 6..6 + SESSIONS_MAX as u64 {
        record.apply(at(session, 1), resume()).unwrap();
    }
    let newest = 5 + SESSIONS_MAX as u64;
    assert_eq!(record.snapshot().next_session(3), newest + 1);
    assert_eq!(record.snapshot().next_session(900), 900);
    drop(record);
    let record = open_on(&disk);
    let last = ANSWERS_MAX + 1;
    for session in [1, 5] {
        assert!(
            forgotten(record.apply(at(session, last), resume())),
            "session {session}"
        );
    }
    assert_eq!(record.apply(at(6, 1), resume()).unwrap(), Effect::TakenUp);
    assert!(
        forgotten(record.apply(at(2, 1), resume())),
        "older than all that are known"
    );
}

/// Threads that send at the same time get numbers of their own, and a second session begins behind
/// the first.
#[test]
fn a_session_numbers_its_commands() {
    let record: Arc<dyn Record> = Arc::new(Memory::default());
    let session = Session::open(record.clone(), 1000);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let session = &session;
            scope.spawn(move || {
                for index in 0..ANSWERS_MAX {
                    session.apply(submit(thread * ANSWERS_MAX + index)).unwrap();
                }
            });
        }
    });
    assert_eq!(session.jobs().len() as u64, 4 * ANSWERS_MAX);
    // The clock was set back.
    let next = Session::open(record, 10);
    next.apply(Command::Cancel { job: id(3), at: 1 }).unwrap();
    assert_eq!(next.job(&id(3)).unwrap().state(), RunState::Cancelled);
}
