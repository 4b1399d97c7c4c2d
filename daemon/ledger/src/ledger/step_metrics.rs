//! The metrics of steps: what commands do to them, and how they are read
//! ([`crate::metrics`] says where they are).

use super::Ledger;
use crate::command::Command;
use crate::error::{LedgerError, io_error};
use crate::metrics::{self, BLOCK_STEPS};
use crate::tables::{self, MetricsChange};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use redb::{Database, ReadableDatabase};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::PoisonError;

impl Ledger {
    /// What a command that the state accepts does to the metrics of a stage. What goes into the
    /// job's file is there, and synced, when it returns; it has no meaning until the command is
    /// written.
    pub(super) fn metrics_change(
        &self,
        database: &Database,
        command: &Command,
    ) -> Result<Option<(u32, MetricsChange)>, LedgerError> {
        let job = command.job();
        let mut change = MetricsChange::default();
        let stage = match command {
            Command::CommitStep {
                stage,
                step,
                metrics,
                ..
            } => {
                change.blocks = self.filled_block(database, job, *stage, BLOCK_STEPS)?;
                change.rows = vec![(*step, metrics.clone())];
                *stage
            }
            Command::FinishStage { stage, .. } => {
                change.blocks = self.filled_block(database, job, *stage, 1)?;
                *stage
            }
            Command::Finish { .. } | Command::Cancel { .. } => {
                let record = self.state().job(job).cloned();
                let Some(stage) = record.and_then(|record| Some(record.stage_at_work()?.0)) else {
                    return Ok(None);
                };
                // A job must always be able to end. The rows are safe where they are.
                change.blocks = self
                    .filled_block(database, job, stage, 1)
                    .unwrap_or_default();
                stage
            }
            Command::GoBack { stage, step, .. } => {
                change.forgotten_from = Some(*step);
                let read = database
                    .begin_read()
                    .map_err(|error| self.failed(error.into()))?;
                let cut = tables::blocks(&read, job, *stage, *step..step.saturating_add(1));
                let cut = cut.map_err(|error| self.failed(error))?.into_iter();
                for (first, block) in cut.filter(|(first, _)| first < step) {
                    let rows = self.block(job, &block)?;
                    let left = (first..*step).zip(rows);
                    change.rows.extend(left);
                }
                *stage
            }
            Command::ReuseStage { stage, metrics, .. } => {
                change.blocks = self.append_blocks(job, metrics)?;
                *stage
            }
            _ => return Ok(None),
        };
        Ok(Some((stage, change)))
    }

    /// Puts the rows of a stage that are in no block into one, if there are at least `steps_min`.
    fn filled_block(
        &self,
        database: &Database,
        job: &JobId,
        stage: u32,
        steps_min: u64,
    ) -> Result<Vec<(u64, metrics::Block)>, LedgerError> {
        let read = database
            .begin_read()
            .map_err(|error| self.failed(error.into()))?;
        let count = tables::row_count(&read, job, stage).map_err(|error| self.failed(error))?;
        if count < steps_min {
            return Ok(Vec::new());
        }
        let rows = tables::rows(&read, job, stage, 0..u64::MAX);
        let rows = rows.map_err(|error| self.failed(error))?;
        self.append_blocks(job, &rows)
    }

    fn append_blocks(
        &self,
        job: &JobId,
        rows: &[(u64, Metrics)],
    ) -> Result<Vec<(u64, metrics::Block)>, LedgerError> {
        let path = metrics::path(self.root(), job);
        metrics::append(&*self.storage, &path, rows).map_err(|error| io_error(&path, error))
    }

    fn block(&self, job: &JobId, block: &metrics::Block) -> Result<Vec<Metrics>, LedgerError> {
        let path = metrics::path(self.root(), job);
        metrics::read(&*self.storage, &path, block).map_err(|error| match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::NotFound => {
                let what = error.to_string();
                LedgerError::Metrics { path, what }
            }
            _ => io_error(&path, error),
        })
    }

    /// Reads metrics of the steps in `steps`, by step.
    pub(super) fn read_metrics(
        &self,
        job: &JobId,
        stage: u32,
        steps: Range<u64>,
    ) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        let mut open = self.lock();
        let database = self.database(&mut open)?;
        let reading = self.reading.read().unwrap_or_else(PoisonError::into_inner);
        drop(open);
        let known = || -> Result<_, redb::Error> {
            let read = database.begin_read()?;
            let blocks = tables::blocks(&read, job, stage, steps.clone())?;
            Ok((blocks, tables::rows(&read, job, stage, steps.clone())?))
        };
        let known = known();
        drop(database);
        drop(reading);
        let (blocks, rows) = known.map_err(|error| self.failed(error))?;
        let mut found = Vec::new();
        for (first, block) in blocks {
            let rows = (first..).zip(self.block(job, &block)?);
            found.extend(rows.filter(|(step, _)| steps.contains(step)));
        }
        found.extend(rows);
        Ok(found)
    }
}
