//! The record of jobs as the rest of r1d sees it, wherever it is kept.

use crate::command::{Command, CommandId, Effect};
use crate::error::LedgerError;
use crate::state::State;
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::watch;

/// Makes the rows of a job's metrics as others have kept them, by stage and step (from 0).
pub type RowsOf<'r> = dyn Fn() -> BTreeMap<(u32, u64), Metrics> + 'r;

/// The record of jobs. Contract:
/// - a command that `apply` has acknowledged survives a crash of the machine, and is in every
///   snapshot that is taken afterwards;
/// - a command is carried out once under its id: an `apply` that is repeated, because its answer
///   was lost or an error left it open whether it was carried out, answers what the first did. This
///   holds for ids that the record still remembers ([`CommandId`]); older ones are refused;
/// - a snapshot holds only what is durable, costs nothing and never waits for a disk;
/// - `apply` and `metrics_in` wait for a disk: call them from a thread that may block.
pub trait Record: Send + Sync {
    /// Carries out a command. An error other than a refusal leaves it open whether it was: repeat
    /// it under its id.
    fn apply(&self, id: CommandId, command: Command) -> Result<Effect, LedgerError>;

    /// All jobs, as they were after the last durable command.
    fn snapshot(&self) -> Arc<State>;

    /// A counter that changes whenever another job may be the next to run: one was submitted, has
    /// ended, or has lost its strikes.
    fn queue_changes(&self) -> watch::Receiver<u64>;

    /// A counter that changes whenever the record of this job may have, from now on.
    fn watch(&self, job: &JobId) -> watch::Receiver<u64>;

    /// Checks that what is acknowledged now will be found again; otherwise the daemon has to end.
    fn is_in_place(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    /// Reads metrics of the committed steps in `steps` (from 0) of a stage, by step.
    fn metrics_in(
        &self,
        job: &JobId,
        stage: u32,
        steps: Range<u64>,
    ) -> Result<Vec<(u64, Metrics)>, LedgerError>;

    /// Reads all metrics of a stage, by step (from 0).
    fn metrics(&self, job: &JobId, stage: u32) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        self.metrics_in(job, stage, 0..u64::MAX)
    }

    /// Makes a job's metrics whole where their file is damaged, if `rows` give what it held;
    /// returns whether it was damaged. The job must have no writer.
    fn mend_metrics(&self, _job: &JobId, _rows: &RowsOf<'_>) -> Result<bool, LedgerError> {
        Ok(false)
    }
}
