//! What one attempt at a job makes durable, in the order on which the safety against crashes rests.
//!
//! ```text
//! a step:        journal: sampled, scored … sealed ─▶ sync ─▶ trains ─▶ rollout file ─▶ commit
//! a checkpoint:  the worker's directory, whole, under the epoch's name ─▶ its place ─▶ on record
//! its removal:   off the record ─▶ the directory ─▶ the journal's steps that nothing needs
//! ```
//!
//! Whatever the ledger has on record was durable before. The storage that is handed in is the
//! attempt's own ([`r1d_store::fence`]): one that should be dead is refused by the ledger for its
//! epoch, and by the storage.

use crate::command::{Command, Effect};
use crate::error::LedgerError;
use crate::session::Session;
use r1d_proto::ids::{JobId, SampleKey};
use r1d_proto::storage::Storage;
use r1d_proto::worker::Metrics;
use r1d_store::rollouts::{self, RolloutRow};
use r1d_store::{
    Entry, JobLayout, Journal, JournalError, StoreError, layout, remove_dir, sync_parent,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why something could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The journal did not take it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The ledger did not take it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] StoreError),
    /// A directory could not be removed, or not be put in its place.
    #[error("cannot change {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
}

fn directory(path: &Path) -> impl FnOnce(io::Error) -> AttemptError {
    let path = path.to_path_buf();
    move |source| AttemptError::Directory { path, source }
}

/// The writer of one attempt. Its methods block.
pub struct AttemptWriter {
    ledger: Arc<Session>,
    storage: Arc<dyn Storage>,
    layout: JobLayout,
    job: JobId,
    epoch: u64,
    journals: BTreeMap<u32, Journal>,
}

impl AttemptWriter {
    /// Begins to write for the attempt of an epoch, which the ledger has given.
    pub fn new(
        ledger: Arc<Session>,
        storage: Arc<dyn Storage>,
        layout: JobLayout,
        job: JobId,
        epoch: u64,
    ) -> AttemptWriter {
        AttemptWriter {
            ledger,
            storage,
            layout,
            job,
            epoch,
            journals: BTreeMap::new(),
        }
    }

    /// The attempt's storage.
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Has the ledger carry out a command.
    pub fn apply(&self, command: Command) -> Result<Effect, AttemptError> {
        Ok(self.ledger.apply(command)?)
    }

    /// Whether a stage's journal has been opened.
    pub fn is_open(&self, stage: u32) -> bool {
        self.journals.contains_key(&stage)
    }

    /// Steps of a stage that the ledger has committed.
    pub fn committed(&self, stage: u32) -> u64 {
        let record = self.ledger.job(&self.job);
        let stages = record.as_ref().map(|record| &record.progress.stages);
        stages
            .and_then(|stages| stages.get(stage as usize))
            .map_or(0, |stage| stage.step)
    }

    /// The journal of a stage, which is opened first if it is not.
    pub fn journal(&mut self, stage: u32) -> Result<&mut Journal, AttemptError> {
        if !self.is_open(stage) {
            let (committed, dir) = (self.committed(stage), self.layout.journal());
            let (storage, of) = (self.storage.clone(), (stage, self.epoch));
            let journal = Journal::open(storage, &dir, &self.job, of, committed)?;
            self.journals.insert(stage, journal);
        }
        let missing = || StoreError::Read {
            path: self.layout.journal(),
            source: io::ErrorKind::NotFound.into(),
        };
        Ok(self.journals.get_mut(&stage).ok_or_else(missing)?)
    }

    /// Whether the journal holds anything of a later step of this stage, or of a later stage.
    pub fn is_beyond(&mut self, stage: u32, step: u64) -> Result<bool, AttemptError> {
        let last = self.journal(stage)?.steps().last().copied();
        let dir = self.layout.journal();
        let later = Journal::is_beyond(self.storage(), &dir, stage).map_err(directory(&dir))?;
        Ok(later || last.is_some_and(|last| last > step))
    }

    /// Closes a step's record in the journal; when it returns, the step may train.
    pub fn seal(
        &mut self,
        stage: u32,
        step: u64,
        advantages: Vec<(SampleKey, Option<f32>)>,
    ) -> Result<(), AttemptError> {
        let journal = self.journal(stage)?;
        journal.append(&[Entry::Sealed {
            stage,
            step,
            advantages,
        }])?;
        if let Err(error) = journal.sync() {
            // It is unknown what the disk has of the step, so the step is done again. If it cannot
            // be dropped, it refuses whatever comes, and the next attempt drops it.
            let _ = journal.drop_from(step);
            return Err(error.into());
        }
        Ok(())
    }

    /// Commits a step of the stage of this name; `rows` are what it sampled. Its file is whole
    /// before the ledger takes the step. Without `replays` the file is the only record of the step
    /// that is needed from then on: there are no weights to rebuild.
    pub fn commit(
        &mut self,
        (stage, name): (u32, &str),
        step: u64,
        rows: &[RolloutRow],
        metrics: Metrics,
        replays: bool,
    ) -> Result<(), AttemptError> {
        if !rows.is_empty() {
            rollouts::write(self.storage(), &self.layout.rollouts(name, step + 1), rows)?;
        }
        self.apply(Command::CommitStep {
            job: self.job.clone(),
            epoch: self.epoch,
            stage,
            step,
            metrics,
        })?;
        if let Some(journal) = self.journals.get_mut(&stage) {
            journal.committed(step + 1);
            if !replays {
                journal.prune_before(step + 1)?;
            }
        }
        Ok(())
    }

    /// Puts the directory that the worker has written for `dir` in its place and on record.
    pub fn record_checkpoint(
        &mut self,
        stage: u32,
        step: u64,
        dir: PathBuf,
        manifest_sha256: String,
    ) -> Result<(), AttemptError> {
        let written = layout::unplaced(&dir, self.epoch);
        let placed = self.storage.rename(&written, &dir);
        placed.map_err(directory(&dir))?;
        sync_parent(self.storage(), &dir).map_err(directory(&dir))?;
        self.apply(Command::Checkpoint {
            job: self.job.clone(),
            epoch: self.epoch,
            stage,
            step,
            dir,
            manifest_sha256,
        })?;
        Ok(())
    }

    /// Takes a checkpoint off the record: it does not restore, or is to be removed.
    pub fn drop_checkpoint(&self, stage: u32, step: u64) -> Result<(), AttemptError> {
        self.apply(Command::DropCheckpoint {
            job: self.job.clone(),
            epoch: self.epoch,
            stage,
            step,
        })?;
        Ok(())
    }

    /// Removes a checkpoint. The ledger forgets it first, so that a directory that is half removed
    /// is never restored from. The journal only needs the steps since the oldest checkpoint that is
    /// left.
    pub fn prune(&mut self, stage: u32, step: u64, dir: &Path) -> Result<(), AttemptError> {
        self.drop_checkpoint(stage, step)?;
        // Synced: where no attempt follows, what a crash brings back would stay.
        remove_dir(self.storage(), dir)
            .and_then(|()| sync_parent(self.storage(), dir))
            .map_err(directory(dir))?;
        let record = self.ledger.job(&self.job);
        let oldest = record.as_ref().and_then(|record| {
            let stage = record.progress.stages.get(stage as usize)?;
            Some(stage.checkpoints.first()?.step)
        });
        if let (Some(oldest), Some(journal)) = (oldest, self.journals.get_mut(&stage)) {
            journal.prune_before(oldest)?;
        }
        Ok(())
    }

    /// Removes what is in the place of a directory that the worker is to write, and of the one that
    /// it writes first: both are left of attempts that did not get to record it.
    pub fn clear(&self, dir: &Path) -> Result<(), AttemptError> {
        for dir in [dir, &layout::unplaced(dir, self.epoch)] {
            remove_dir(self.storage(), dir).map_err(directory(dir))?;
        }
        Ok(())
    }

    /// Records the end of a stage whose steps are all committed; its journal is not needed any
    /// more. `at` is in seconds since the Unix epoch.
    pub fn finish_stage(&mut self, stage: u32, at: u64) -> Result<(), AttemptError> {
        self.apply(Command::FinishStage {
            job: self.job.clone(),
            epoch: self.epoch,
            stage,
            at,
        })?;
        Ok(self.journal(stage)?.prune_before(u64::MAX)?)
    }

    /// Removes what was sampled from `step` of a stage on, to sample it again.
    pub fn forget(&mut self, stage: u32, step: u64) -> Result<(), AttemptError> {
        self.journal(stage)?.drop_from(step)?;
        self.journals.retain(|known, _| *known <= stage);
        let dir = self.layout.journal();
        Journal::remove_from(self.storage(), &dir, stage + 1).map_err(directory(&dir))
    }
}
