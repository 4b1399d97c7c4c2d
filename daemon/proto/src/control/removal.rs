//! What a removal takes, or took.

use crate::ids::JobId;
use serde::{Deserialize, Serialize};

/// What a removal takes, or took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Whether nothing was removed, only told.
    pub dry_run: bool,
    /// The jobs that go, those that ended first before the others.
    pub jobs: Vec<RemovedJob>,
    /// The jobs that were meant and stay.
    pub kept: Vec<KeptJob>,
}

/// A job that a removal takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemovedJob {
    /// The job's id.
    pub job: JobId,
    /// The job file's `name`.
    pub name: String,
    /// How much of it goes.
    pub extent: RemovalExtent,
    /// Bytes that become free on disk. Of a file that other jobs have as well: a part.
    pub bytes: u64,
    /// Why it goes.
    pub why: String,
}

/// How much of a job a removal takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalExtent {
    /// Its checkpoints, rollouts and journal. Its record, its final model, the data sets that it
    /// made, its metrics and its log stay.
    AllButResults,
    /// Its record and all its files.
    Whole,
}

/// A job that was meant by a removal and stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptJob {
    /// The job's id.
    pub job: JobId,
    /// The job file's `name`.
    pub name: String,
    /// Why it stays, and what to do.
    pub why: String,
}
