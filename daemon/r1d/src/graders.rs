//! Which component judges at which step of a job: those that it was submitted with, and those that took their places since
//! (`r1ctl plugin reload`).
//!
//! The ledger says from which step on a component judges ([`GraderRecord`]), so a step that is done again after a crash is judged as it
//! was. The components themselves are kept under the state directory, by their hash: what becomes of the files that the job names is of
//! no consequence once it is accepted.
//!
//! ```text
//! reload ─▶ load (child compiles) ─▶ same range and world? ─▶ its golden cases pass? ─▶ keep ─▶ ledger: from the step after the one
//! at work ─▶ judges
//! ```

use crate::materials::{Materials, MaterialsError};
use crate::status::Desk;
use crate::tasks;
use r1d_job::Reward;
use r1d_job::reward::Plugin;
use r1d_ledger::{Command, GraderRecord, JobRecord, LedgerError, Rejected};
use r1d_proto::ids::JobId;
use r1d_rewards::{LoadedReward, RewardError, Rewards, golden};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::RwLock;

/// A place in a job: stage, step (from 0).
pub type Place = (u32, u64);

/// A step may end while its judge is changed: the change is then tried for the next one.
const TRIES_MAX: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Reward(#[from] RewardError),
    #[error(transparent)]
    Materials(#[from] MaterialsError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("no reward of job `{job}` is called `{plugin}` or has a plugin of that name; it has {known}")]
    NoReward { job: JobId, plugin: String, known: String },
    #[error("the job pins `sha256` of plugin `{0}`: what judges it cannot change")]
    Pinned(String),
    #[error("plugin {path}: {what} is {found}, of the one that judges now {expected}: only a plugin that declares the same can take its place")]
    Different { path: String, what: &'static str, found: String, expected: String },
    #[error("plugin {path}: brings no golden cases, and none is taken untried: build it with golden.jsonl beside its Cargo.toml")]
    NoGolden { path: String },
    #[error("plugin {path}: {differing} of its {cases} golden cases differ, first `{first}`: {difference}")]
    Golden { path: String, differing: usize, cases: usize, first: String, difference: String },
    #[error("{0}")]
    Daemon(String),
}

impl ReloadError {
    pub fn is_the_daemons(&self) -> bool {
        matches!(self, ReloadError::Daemon(_) | ReloadError::Ledger(LedgerError::Io { .. } | LedgerError::Storage { .. }))
    }
}

/// The components that judge for one reward, by the place from which on they do; never empty.
pub struct Versions {
    first: LoadedReward,
    later: Vec<(Place, LoadedReward)>,
}

impl Versions {
    pub fn new(first: LoadedReward) -> Versions {
        Versions { first, later: Vec::new() }
    }

    pub fn add(&mut self, from: Place, reward: LoadedReward) {
        self.later.push((from, reward));
    }

    pub fn at(&self, place: Place) -> &LoadedReward {
        self.later.iter().rev().find(|(from, _)| *from <= place).map_or(&self.first, |(_, reward)| reward)
    }

    pub fn newest(&self) -> &LoadedReward {
        self.later.last().map_or(&self.first, |(_, reward)| reward)
    }
}

/// Who judges a running job, and how far judging has come.
pub struct Graders {
    /// By reward, in the order of [`Materials::judges`].
    pub versions: Vec<Versions>,
    /// The last step of which a completion was judged.
    judged: Option<Place>,
}

impl Graders {
    pub fn new(versions: Vec<Versions>) -> RwLock<Graders> {
        RwLock::new(Graders { versions, judged: None })
    }
}

/// The open materials of the jobs that run.
#[derive(Clone, Default)]
pub struct OpenJobs(Arc<Mutex<HashMap<JobId, Weak<Materials>>>>);

impl OpenJobs {
    pub fn opened(&self, job: &JobId, materials: &Arc<Materials>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, materials| materials.strong_count() > 0);
        open.insert(job.clone(), Arc::downgrade(materials));
    }

    fn get(&self, job: &JobId) -> Option<Arc<Materials>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(job)?.upgrade()
    }
}
