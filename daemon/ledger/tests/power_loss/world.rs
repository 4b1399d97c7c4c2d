//! The machine: a disk, the ledger on it, and what has been acknowledged.

use crate::sim_backend::SimBackend;
use r1d_ledger::{Command, Ledger, LedgerError, NewJob, Session};
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_sim::SimDisk;
use r1d_store::{Fence, JobLayout, create_dir};
use redb::Database;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub(crate) const STATE: &str = "/s";
pub(crate) const STAGE: &str = "rl";
/// The steps of the stage.
pub(crate) const STEPS: u64 = 3;

pub(crate) fn job(name: &str) -> JobId {
    JobId(name.into())
}

pub(crate) fn layout(name: &str) -> JobLayout {
    JobLayout::of(Path::new(STATE), &job(name))
}

/// What a process was told is durable. Contents are named by the epoch of the attempt that sampled
/// or computed them.
#[derive(Clone, Default)]
pub(crate) struct Acknowledged {
    /// The contents of the steps that are sealed in the journal.
    pub(crate) sealed: BTreeMap<u64, u64>,
    pub(crate) committed: u64,
    /// The contents with which steps were committed, or nearly so.
    pub(crate) rows: BTreeMap<u64, u64>,
    pub(crate) checkpoint: u64,
    pub(crate) finished: bool,
    pub(crate) reused: bool,
}

pub(crate) struct World {
    pub(crate) disk: SimDisk,
    ledger: Option<Arc<Session>>,
    pub(crate) fence: Fence,
    pub(crate) known: Acknowledged,
}

impl World {
    /// A machine with two jobs: `a`, which is to run, and `b`, which is to reuse the stage of `a`.
    pub(crate) fn new() -> World {
        static NEW: OnceLock<SimDisk> = OnceLock::new();
        let disk = NEW.get_or_init(|| {
            let disk = SimDisk::default();
            create_dir(&disk, Path::new(STATE)).unwrap();
            let ledger = open(&disk).unwrap();
            disk.sync_dir(Path::new(STATE)).unwrap();
            for name in ["a", "b"] {
                ledger.apply(submit(name)).unwrap();
            }
            disk
        });
        let disk = disk.fork();
        World {
            ledger: Some(begin(&disk)),
            disk,
            fence: Fence::default(),
            known: Acknowledged::default(),
        }
    }

    pub(crate) fn ledger(&self) -> &Arc<Session> {
        self.ledger.as_ref().unwrap()
    }

    /// Ends the daemon with the machine, and starts both again.
    pub(crate) fn lose_power(&mut self, seed: u64) {
        self.ledger = None;
        self.disk.crash(seed);
        self.ledger = Some(begin(&self.disk));
        self.fence = Fence::default();
    }
}

fn submit(name: &str) -> Command {
    Command::Submit(NewJob {
        keys: vec!["ab".repeat(32)],
        reuses: true,
        ..NewJob::of(job(name), "seed = 1")
    })
}

/// A daemon's session with the ledger.
fn begin(disk: &SimDisk) -> Arc<Session> {
    let ledger = Arc::new(open(disk).unwrap());
    Arc::new(Session::open(ledger, 1))
}

fn open(disk: &SimDisk) -> Result<Ledger, LedgerError> {
    let path = PathBuf::from(STATE).join("ledger.redb");
    let (disk, file, storage) = (disk.clone(), path.clone(), disk.shared());
    let open = move || {
        Database::builder()
            .set_cache_size(1 << 20)
            .create_with_backend(SimBackend(disk.open(&file)))
    };
    Ledger::open_with(&path, Box::new(open), storage)
}
