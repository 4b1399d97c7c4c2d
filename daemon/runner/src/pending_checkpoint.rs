//! The checkpoint that the worker writes while the job goes on.
//!
//! ```text
//! boundary ─▶ Save ─▶ snapshot taken ─▶ next steps … ─▶ boundary ─▶ on record ─▶ older ones go
//!              └─▶ written beside them ─▶ stored ─────────┘
//! ```
//!
//! It is put on record between two steps, because its answer is like those that a step waits for.
//! Until then the job has the checkpoint before it, and the journal the steps since.

use crate::message::{Event, Store};
use crate::wait::Wait;
use r1d_proto::control::job::Activity;
use r1d_proto::worker::{Body, CheckpointReport, CheckpointState, Failure};
use std::path::PathBuf;
use std::time::Duration;

/// A checkpoint that a worker was asked for and that is not on record yet; at most one at a time.
#[derive(Clone, Debug)]
pub(crate) struct PendingCheckpoint {
    pub stage: usize,
    /// Steps that it holds.
    pub step: u64,
    pub dir: PathBuf,
    state: CheckpointState,
    /// When its writer last reported.
    heard: Duration,
}

impl PendingCheckpoint {
    pub(crate) fn new(stage: usize, step: u64, dir: PathBuf, now: Duration) -> PendingCheckpoint {
        PendingCheckpoint {
            stage,
            step,
            dir,
            state: CheckpointState::Writing { done: 0, total: 0 },
            heard: now,
        }
    }

    /// Takes a report. An error if it is of another checkpoint, or follows the last one.
    pub(crate) fn hear(&mut self, report: CheckpointReport, now: Duration) -> Result<(), Event> {
        let is_own = (report.stage as usize, report.step) == (self.stage, self.step);
        if !is_own || self.is_over() {
            return Err(Event::Worker(Body::Checkpoint(report)));
        }
        (self.state, self.heard) = (report.state, now);
        Ok(())
    }

    /// Whether it is stored, or has failed.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.state, CheckpointState::Writing { .. })
    }

    /// What is to be made durable of it, or why it could not be written; `None` while it is.
    pub(crate) fn outcome(&self) -> Option<Result<Store, Failure>> {
        match &self.state {
            CheckpointState::Writing { .. } => None,
            CheckpointState::Stored { manifest_sha256 } => Some(Ok(Store::Checkpoint {
                stage: self.stage,
                step: self.step,
                dir: self.dir.clone(),
                manifest_sha256: manifest_sha256.clone(),
            })),
            CheckpointState::Failed(failure) => Some(Err(failure.clone())),
        }
    }

    /// The wait of `owner` for it.
    pub(crate) fn wait(&self, owner: &str, worker: &str, since: Duration, limit: Duration) -> Wait {
        let far = match &self.state {
            CheckpointState::Writing { done, total } if *total > 0 => {
                format!(" ({done} of {total} bytes)")
            }
            _ => String::new(),
        };
        let what = format!("{worker}: writing the checkpoint{far}");
        Wait::new(owner, what, since).worker_silent(self.heard, limit)
    }

    /// What the job does while it waits for it, for status.
    pub(crate) fn activity(&self) -> Activity {
        let (done, total) = match self.state {
            CheckpointState::Writing { done, total } => (done, total),
            _ => (1, 1),
        };
        Activity {
            doing: "checkpointing".into(),
            done,
            total,
            unit: "bytes".into(),
        }
    }
}
