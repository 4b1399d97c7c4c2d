//! The metrics of steps: what commands do to them, and how they are read
//! ([`crate::metrics`] says where they are).

use super::Ledger;
use crate::api::RowsOf;
use crate::command::Command;
use crate::error::{LedgerError, io_error};
use crate::metrics::{self, BLOCK_STEPS, Block};
use crate::tables::{self, MetricsChange};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use redb::{Database, ReadTransaction, ReadableDatabase};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::PoisonError;

/// A job's blocks, each with its stage and first step.
type JobBlocks = Vec<(u32, u64, Block)>;

fn metrics_error(path: PathBuf, error: std::io::Error) -> LedgerError {
    if metrics::is_damage(&error) {
        let what = error.to_string();
        LedgerError::Metrics { path, what }
    } else {
        io_error(&path, error)
    }
}

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
                let read = self.read(database)?;
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
                self.is_whole(&self.read(database)?, job)?;
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
    ) -> Result<Vec<(u64, Block)>, LedgerError> {
        let read = self.read(database)?;
        let count = tables::row_count(&read, job, stage).map_err(|error| self.failed(error))?;
        if count < steps_min {
            return Ok(Vec::new());
        }
        let rows = tables::rows(&read, job, stage, 0..u64::MAX);
        let rows = rows.map_err(|error| self.failed(error))?;
        // The whole file is looked at once a stage, as it may have been damaged since.
        let last = rows.first().and_then(|(first, _)| first.checked_sub(1));
        match last.filter(|_| steps_min > 1) {
            Some(last) => {
                let before = tables::blocks(&read, job, stage, last..last + 1);
                let before = before.map_err(|error| self.failed(error))?;
                let mut before = before.iter();
                before.try_for_each(|(_, block)| self.block(job, block).map(drop))?;
            }
            None => self.is_whole(&read, job)?,
        }
        self.append_blocks(job, &rows)
    }

    fn is_whole(&self, read: &ReadTransaction, job: &JobId) -> Result<(), LedgerError> {
        let known = self.known_blocks(read, job)?;
        let mut blocks = known.iter();
        blocks.try_for_each(|(_, _, block)| self.block(job, block).map(drop))
    }

    /// Appends blocks to the job's file, which must not be damaged: a copy would not fit any more.
    fn append_blocks(
        &self,
        job: &JobId,
        rows: &[(u64, Metrics)],
    ) -> Result<Vec<(u64, Block)>, LedgerError> {
        let path = metrics::path(self.root(), job);
        metrics::append(&*self.storage, &path, rows).map_err(|error| metrics_error(path, error))
    }

    fn block(&self, job: &JobId, block: &Block) -> Result<Vec<Metrics>, LedgerError> {
        let path = metrics::path(self.root(), job);
        metrics::read(&*self.storage, &path, block).map_err(|error| metrics_error(path, error))
    }

    fn read(&self, database: &Database) -> Result<ReadTransaction, LedgerError> {
        let read = database.begin_read();
        read.map_err(|error| self.failed(error.into()))
    }

    fn known_blocks(&self, read: &ReadTransaction, job: &JobId) -> Result<JobBlocks, LedgerError> {
        let stages = self
            .state()
            .job(job)
            .map_or(0, |job| job.progress.stages.len());
        let mut known = Vec::new();
        for stage in 0..stages as u32 {
            let blocks = tables::blocks(read, job, stage, 0..u64::MAX);
            let blocks = blocks.map_err(|error| self.failed(error))?;
            known.extend(
                blocks
                    .into_iter()
                    .map(|(first, block)| (stage, first, block)),
            );
        }
        Ok(known)
    }

    /// Makes the job's file whole where it is damaged, if `rows` give the bytes that it had, and
    /// returns whether it was damaged. The job must have no writer.
    pub(super) fn mend_metrics_file(
        &self,
        job: &JobId,
        rows: &RowsOf<'_>,
    ) -> Result<bool, LedgerError> {
        let known = self.consistently(|read| self.known_blocks(read, job))?;
        let damage = |(_, _, block): &(u32, u64, Block)| self.block(job, block).err();
        match known.iter().find_map(damage) {
            None => Ok(false),
            Some(LedgerError::Metrics { path, .. }) => {
                let mended = metrics::mend(&*self.storage, &path, &known, &rows());
                mended.map_err(|error| metrics_error(path, error))?;
                Ok(true)
            }
            Some(other) => Err(other),
        }
    }

    /// Reads metrics of the steps in `steps`, by step.
    pub(super) fn read_metrics(
        &self,
        job: &JobId,
        stage: u32,
        steps: Range<u64>,
    ) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        let (blocks, rows) = self.consistently(|read| {
            let blocks = tables::blocks(read, job, stage, steps.clone());
            let rows = tables::rows(read, job, stage, steps.clone());
            let failed = |error| self.failed(error);
            Ok((blocks.map_err(failed)?, rows.map_err(failed)?))
        })?;
        let mut found = Vec::new();
        for (first, block) in blocks {
            let rows = (first..).zip(self.block(job, &block)?);
            found.extend(rows.filter(|(step, _)| steps.contains(step)));
        }
        found.extend(rows);
        Ok(found)
    }

    /// Reads of the ledger's file in one transaction, which keeps it from being opened again.
    fn consistently<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut open = self.lock();
        let database = self.database(&mut open)?;
        let reading = self.reading.read().unwrap_or_else(PoisonError::into_inner);
        drop(open);
        let found = self
            .read(&database)
            .and_then(|transaction| read(&transaction));
        drop(database);
        drop(reading);
        found
    }
}
