//! The record of jobs in memory, for tests: nothing of it outlives it.

use crate::api::Record;
use crate::changes::Changes;
use crate::command::{Command, CommandId, Effect};
use crate::error::LedgerError;
use crate::state::State;
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A record of jobs that is in memory alone.
pub struct Memory {
    kept: Mutex<Kept>,
    queue_changes: watch::Sender<u64>,
    /// The changes of each job that somebody watches.
    changes: Changes,
}

#[derive(Default)]
struct Kept {
    state: Arc<State>,
    /// Metrics by job, stage and step.
    metrics: BTreeMap<(JobId, u32, u64), Metrics>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            kept: Mutex::default(),
            queue_changes: watch::Sender::new(0),
            changes: Changes::default(),
        }
    }
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn note_metrics(&mut self, command: &Command) {
        match command {
            Command::CommitStep {
                job,
                stage,
                step,
                metrics,
                ..
            } => {
                self.metrics
                    .insert((job.clone(), *stage, *step), metrics.clone());
            }
            Command::ReuseStage {
                job,
                stage,
                metrics,
                ..
            } => {
                let rows = metrics.iter();
                let rows = rows.map(|(step, row)| ((job.clone(), *stage, *step), row.clone()));
                self.metrics.extend(rows);
            }
            Command::GoBack {
                job, stage, step, ..
            } => {
                let from = (job.clone(), *stage, *step);
                self.metrics
                    .retain(|key, _| (&key.0, key.1) != (&from.0, from.1) || key.2 < from.2);
            }
            Command::Remove { job, .. } => self.metrics.retain(|key, _| key.0 != *job),
            _ => {}
        }
    }
}

impl Record for Memory {
    fn apply(&self, id: CommandId, command: Command) -> Result<Effect, LedgerError> {
        let mut kept = self.kept();
        let mut next = State::clone(&kept.state);
        let (effect, change) = next.apply_once(id, &command)?;
        if change.is_some() {
            kept.state = Arc::new(next);
            kept.note_metrics(&command);
            self.changes.note(command.job());
            self.queue_changes.send_modify(|count| *count += 1);
        }
        Ok(effect)
    }

    fn snapshot(&self) -> Arc<State> {
        self.kept().state.clone()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.queue_changes.subscribe()
    }

    fn watch(&self, job: &JobId) -> watch::Receiver<u64> {
        self.changes.watch(job)
    }

    fn metrics_in(
        &self,
        job: &JobId,
        stage: u32,
        steps: Range<u64>,
    ) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        let (first, last) = (
            (job.clone(), stage, steps.start),
            (job.clone(), stage, steps.end),
        );
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self
            .kept()
            .metrics
            .range(first..last)
            .map(|((_, _, step), row)| (*step, row.clone()))
            .collect();
        Ok(rows)
    }
}
