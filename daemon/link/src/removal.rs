//! What a decision about removals has to know, which only a node can say: it has the files.

use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a decision has to know of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobFacts {
    /// The job.
    pub job: JobId,
    /// The owner's user id; `None` in a job of an earlier release.
    pub owner: Option<u32>,
    /// Its state.
    pub state: State,
    /// When it ended, in seconds since the Unix epoch; 0 if it has not.
    pub ended_at: u64,
    /// Whether an attempt is still being stopped, or its writer still writes.
    pub is_in_hand: bool,
    /// The directory of its checkpoints outside of the state directory, if that is away.
    pub away: Option<PathBuf>,
    /// Whether it has more than its results: checkpoints, rollouts or a journal.
    pub has_more: bool,
    /// Bytes on disk; 0 where no limit asks for them.
    pub bytes: u64,
    /// The part of these bytes that is not its results.
    pub more_bytes: u64,
    /// What it needs of other jobs as long as it is there.
    pub needs: Vec<Dependence>,
}

/// Something of another job that a job needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependence {
    /// The other job.
    pub on: JobId,
    /// Whether that is among the other job's results.
    pub results_suffice: bool,
    /// What it does with it.
    pub what: Use,
}

/// What a job does with something of another job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Use {
    /// It reads or keeps a file there.
    File(PathBuf),
    /// It can take this stage over, when it gets there.
    Stage(String),
}

/// The disk that a job takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSize {
    /// Bytes of all its files.
    pub all_bytes: u64,
    /// The part of these bytes that is not its results.
    pub more_bytes: u64,
}
