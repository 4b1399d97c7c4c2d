//! The one thread that reads and writes for a running job, in the order of its tasks: journal,
//! ledger, rollout files, metrics.
//!
//! The job's machine relies on three things: a step's records are synced before it trains, its
//! rollout file is whole before the ledger commits it, and an answer is sent only when what it
//! confirms is durable (`STEP-1`).

use crate::checkpoints;
use crate::context::NodeContext;
use crate::datasets::{self, DataSetError};
use crate::ends::{away, unkept, unread, unrecorded};
use crate::job_log::JobLog;
use crate::loaded_job::LoadedJob;
use crate::make_data_set;
use crate::outputs::{self, OutputError};
use crate::tasks;
use crate::traces;
use crate::writers::Writing;
use r1d_data::DataError;
use r1d_ingest::StepError;
use r1d_ledger::{AttemptError, AttemptWriter, Command as LedgerCommand, Session};
use r1d_proto::control::job::{Activity, EvalResult};
use r1d_proto::ids::JobId;
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::trace::StepTrace;
use r1d_proto::worker::Metrics;
use r1d_proto::world::SharedClock;
use r1d_runner::metrics::COMMITTED_AT;
use r1d_runner::{End, Event, Keep, Recalled, Source, Store};
use r1d_store::rollouts::RolloutRow;
use r1d_store::{Entry, JobLayout, JournalError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Tasks that may wait (`LIM-1`). The sender waits when the writer is behind, so the disk's pace
/// bounds memory.
const QUEUE_MAX_TASKS: usize = 256;

pub(crate) enum Task {
    Keep(Keep),
    Store(Store, oneshot::Sender<Event>),
    /// Turns what a stage kept into a data set. `progress` gets reports of how far that is; those
    /// that find no room are dropped.
    MakeDataSet {
        stage: usize,
        progress: mpsc::Sender<Event>,
        answer: oneshot::Sender<Event>,
    },
    Recall {
        stage: usize,
        step: u64,
        answer: oneshot::Sender<Event>,
    },
    Forget {
        stage: usize,
        step: u64,
        answer: oneshot::Sender<Event>,
    },
    Prompts {
        of: Source,
        step: u64,
        round: u32,
        count: u64,
        answer: oneshot::Sender<Event>,
    },
    Batch {
        stage: usize,
        step: u64,
        answer: oneshot::Sender<Event>,
    },
    HeldOut {
        stage: usize,
        answer: oneshot::Sender<Event>,
    },
    Prune {
        stage: usize,
        step: u64,
        dir: PathBuf,
    },
    /// Keeps the trace of a committed step.
    Trace(StepTrace),
    /// Removes whatever is at a directory that the worker is to write: it is left of an attempt
    /// that did not get to record it.
    Clear {
        dir: PathBuf,
        answer: oneshot::Sender<Event>,
    },
}

#[derive(Debug, thiserror::Error)]
enum WriterError {
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    #[error(transparent)]
    Rows(#[from] StepError),
    #[error("{0}")]
    Away(String),
    #[error("stage {0} is not in the job")]
    NoStage(usize),
    #[error("data set {0} is not as it was when the job's inputs were opened")]
    Reviewed(String),
}

impl WriterError {
    /// The end of the attempt that this error causes. A refusal of the ledger means that another
    /// daemon runs the job.
    fn end(self) -> End {
        match self {
            WriterError::Attempt(AttemptError::Ledger(error)) => unrecorded(&error),
            WriterError::Attempt(AttemptError::Journal(error @ JournalError::Unsynced { .. })) => {
                away(&error)
            }
            WriterError::Attempt(AttemptError::Journal(
                error @ (JournalError::Damaged { .. } | JournalError::Missing { .. }),
            )) => {
                // The next attempt goes back before it.
                End::Abandoned {
                    cause: error.to_string(),
                }
            }
            WriterError::Rows(error) => unread(error),
            WriterError::DataSet(DataSetError::Rows(error)) => unread(error.into()),
            WriterError::Away(cause) => End::Away { cause },
            WriterError::Reviewed(_) => End::Reread,
            error => unkept(&error),
        }
    }
}

pub(crate) struct JobWriter {
    pub job: JobId,
    pub epoch: u64,
    pub ledger: Arc<Session>,
    pub node: NodeContext,
    pub loaded_job: Arc<LoadedJob>,
    /// The SHA-256 of the data sets that stages have made, by stage, as the inputs hold them.
    pub made: Arc<BTreeMap<String, String>>,
    pub outputs: JobLayout,
    pub clock: SharedClock,
    pub log: JobLog,
    pub attempt: AttemptWriter,
    /// Gets an event for each task that is begun; an event that finds no room is dropped.
    pub begun: mpsc::Sender<Event>,
    /// Set once a record could not be kept: nothing that builds on it may be confirmed.
    pub failed: Option<End>,
}

impl JobWriter {
    /// Starts the thread. It ends when the sender is dropped, or the job is to have no writer
    /// ([`crate::writers`]).
    pub(crate) fn start(mut self, writing: Writing) -> std::io::Result<mpsc::Sender<Task>> {
        let (sender, mut tasks) = mpsc::channel(QUEUE_MAX_TASKS);
        tasks::thread("writer", move || {
            while let Some(task) = tasks.blocking_recv().filter(|_| !writing.is_stopped()) {
                // An event that finds no room follows one that means the same.
                let _ = self.begun.try_send(Event::Writing);
                self.carry_out(task, writing.stop());
            }
            self.remove_unrecorded();
            // Close the files before the end is announced.
            drop(self);
            drop(writing);
        })?;
        Ok(sender)
    }

    fn carry_out(&mut self, task: Task, stop: &AtomicBool) {
        let (answer, result) = match task {
            Task::Keep(keep) => {
                if let Err(error) = self.keep(keep) {
                    self.failed.get_or_insert(error.end());
                }
                return;
            }
            Task::Prune { stage, step, dir } => {
                if let Err(error) = self.attempt.prune(stage as u32, step, &dir) {
                    self.log
                        .warn(format!("checkpoint {} stays: {error}", dir.display()));
                }
                return;
            }
            Task::Trace(trace) => return self.trace(&trace),
            Task::Store(store, answer) => (answer, self.store(store).map(|()| Event::Stored)),
            Task::MakeDataSet {
                stage,
                progress,
                answer,
            } => {
                let made = self.make_data_set(stage, &told(&progress, stop));
                (answer, made.map(|()| Event::Stored))
            }
            Task::Recall {
                stage,
                step,
                answer,
            } => (answer, self.recall(stage, step)),
            Task::Forget {
                stage,
                step,
                answer,
            } => (answer, self.forget(stage, step)),
            Task::Prompts {
                of,
                step,
                round,
                count,
                answer,
            } => {
                let prompts = self.loaded_job.prompts(of, step, round, count);
                (answer, prompts.map(Event::Prompts).map_err(Into::into))
            }
            Task::Batch {
                stage,
                step,
                answer,
            } => {
                let batch = self.loaded_job.batch(stage, step);
                (answer, batch.map(Event::Batch).map_err(Into::into))
            }
            Task::HeldOut { stage, answer } => {
                let rows = self.loaded_job.held_out(stage);
                (answer, rows.map(Event::Batch).map_err(Into::into))
            }
            Task::Clear { dir, answer } => (answer, self.clear(&dir).map(|()| Event::Stored)),
        };
        if let Err(WriterError::Rows(error)) = &result {
            self.log
                .warn(format!("the rows of a step cannot be read: {error}"));
        }
        let event = match (self.failed.clone(), result) {
            (Some(end), _) => Event::Fault(end),
            (None, Ok(event)) => event,
            (None, Err(error)) => Event::Fault(error.end()),
        };
        // If the receiver is gone, its run was stopped; what was stored stays stored.
        let _ = answer.send(event);
    }

    /// Removes what is at `dir`. A directory below `checkpoint.to` is not made anew where that has
    /// gone away: it may be beneath a mount point.
    fn clear(&self, dir: &Path) -> Result<(), WriterError> {
        let job = &self.loaded_job.job;
        let checkpoints = self
            .outputs
            .checkpoints(job.checkpoint.to.as_deref(), &self.job);
        if job.checkpoint.to.is_some() && dir.starts_with(&checkpoints) {
            checkpoints::is_owned(&checkpoints, &self.node.state_dir).map_err(WriterError::Away)?;
        }
        Ok(self.attempt.clear(dir)?)
    }

    /// Removes the checkpoint that was placed while its job ended, which no attempt may come to
    /// remove. Stages that are not on record are left out: they may be being taken over.
    fn remove_unrecorded(&self) {
        let record = self.ledger.job(&self.job);
        let Some(record) = record.filter(|record| record.state().is_final()) else {
            return;
        };
        let stages = record.progress.stages.iter();
        let stages: Vec<String> = stages.map(|stage| stage.name.clone()).collect();
        let to = self.loaded_job.job.checkpoint.to.as_deref();
        let dir = self.outputs.checkpoints(to, &self.job);
        outputs::remove_unrecorded(self.attempt.storage(), &dir, &record, &stages, &self.log);
    }

    /// Opens the journal of a stage, if it is not open, and tells what was found.
    fn open_journal(&mut self, stage: usize) -> Result<u32, WriterError> {
        let index = stage as u32;
        if self.attempt.is_open(index) {
            return Ok(index);
        }
        let committed = self.attempt.committed(index);
        let journal = self.attempt.journal(index)?;
        for cut in journal.cuts() {
            self.log.warn(format!(
                "journal {}: {} torn bytes cut, {} records are left",
                cut.path.display(),
                cut.bytes_cut,
                cut.records
            ));
        }
        let last = journal.steps().last().copied();
        if let Some(last) = last.filter(|last| *last > committed) {
            self.log.warn(format!(
                "the ledger is older than the job's files: it has {committed} steps of stage {}, \
                 the journal {}; the steps between are taken as they were sampled and judged",
                self.stage(stage)?.name,
                last + 1
            ));
        }
        Ok(index)
    }

    fn keep(&mut self, keep: Keep) -> Result<(), WriterError> {
        let (stage, entry) = match keep {
            Keep::Sampled(rollout) => (rollout.key.stage, Entry::Sampled(rollout)),
            Keep::Scored {
                key,
                verdicts,
                reward,
            } => (
                key.stage,
                Entry::Scored {
                    key,
                    verdicts,
                    reward,
                },
            ),
        };
        let stage = self.open_journal(stage as usize)?;
        let journal = self.attempt.journal(stage)?;
        Ok(journal.append(&[entry]).map_err(AttemptError::from)?)
    }

    /// Keeps a step's trace. Nothing depends on it.
    fn trace(&self, trace: &StepTrace) {
        let storage = self.attempt.storage();
        if let Err(error) = traces::append(storage, &self.outputs, trace) {
            self.log.warn(format!("a step's trace is lost: {error}"));
        }
    }

    fn recall(&mut self, stage: usize, step: u64) -> Result<Event, WriterError> {
        let stage = self.open_journal(stage)?;
        let journal = self.attempt.journal(stage)?;
        let record = journal.read(step).map_err(AttemptError::from)?;
        let later = self.attempt.is_beyond(stage, step)?;
        Ok(Event::Recalled(Recalled {
            sampled: record.sampled,
            scored: record.scored,
            sealed: record.sealed,
            later,
        }))
    }

    fn forget(&mut self, stage: usize, step: u64) -> Result<Event, WriterError> {
        let stage = self.open_journal(stage)?;
        self.attempt.forget(stage, step)?;
        Ok(Event::Stored)
    }

    fn apply(&self, command: LedgerCommand) -> Result<(), WriterError> {
        self.attempt.apply(command)?;
        Ok(())
    }

    fn stage(&self, stage: usize) -> Result<&r1d_job::Stage, WriterError> {
        self.loaded_job
            .job
            .stages
            .get(stage)
            .ok_or(WriterError::NoStage(stage))
    }

    fn store(&mut self, store: Store) -> Result<(), WriterError> {
        let at = self.clock.unix().as_secs();
        match store {
            Store::BeginStage { stage } => self.begin_stage(stage, at),
            Store::Seal {
                stage,
                step,
                advantages,
            } => {
                let stage = self.open_journal(stage)?;
                Ok(self.attempt.seal(stage, step, advantages)?)
            }
            Store::Commit {
                stage,
                step,
                metrics,
                rollouts,
            } => self.commit(stage, step, metrics, rollouts),
            Store::Checkpoint {
                stage,
                step,
                dir,
                manifest_sha256,
            } => {
                self.log.info(format!("checkpoint {}", dir.display()));
                let stage = stage as u32;
                let attempt = &mut self.attempt;
                Ok(attempt.record_checkpoint(stage, step, dir, manifest_sha256)?)
            }
            Store::DropCheckpoint { stage, step } => {
                self.log.warn(format!(
                    "the checkpoint of step {step} does not restore and is given up"
                ));
                Ok(self.attempt.drop_checkpoint(stage as u32, step)?)
            }
            Store::Eval(result) => self.record_eval(*result),
            Store::FinishStage { stage } => {
                let stage = self.open_journal(stage)?;
                self.attempt.finish_stage(stage, at)?;
                self.node.leave_status(&self.job);
                Ok(())
            }
        }
    }

    /// Records that a stage begins, unless a data set that it reads has changed since the inputs
    /// were opened: then the job has to open them again first.
    fn begin_stage(&self, stage: usize, at: u64) -> Result<(), WriterError> {
        let settings = self.stage(stage)?;
        let rows = self.loaded_job.seen.rows.get(&settings.name).copied();
        let steps = settings.steps(rows.unwrap_or(0));
        // Hold the review lock, so that no import replaces the data set after this check.
        let reviews = &self.node.reviews;
        let _held = reviews.lock().unwrap_or_else(PoisonError::into_inner);
        for data in settings
            .data_sets()
            .filter(|data| self.loaded_job.job.maker(data).is_some())
        {
            if self.made.get(data) != Some(&datasets::made(&self.outputs.datasets(), data)?.sha256)
            {
                return Err(WriterError::Reviewed(data.into()));
            }
        }
        self.loaded_job.prepare(stage + 1, 0);
        self.apply(LedgerCommand::BeginStage {
            job: self.job.clone(),
            epoch: self.epoch,
            stage: stage as u32,
            name: settings.name.clone(),
            kind: settings.kind_name().into(),
            steps,
            at,
        })
    }

    fn record_eval(&self, result: EvalResult) -> Result<(), WriterError> {
        let is_shown = |name: &str| {
            (name.contains('@') || matches!(name, "accuracy" | "auc")) && !name.contains("_ci_")
        };
        let shown: Vec<_> = result
            .metrics
            .iter()
            .filter(|(name, _)| is_shown(name))
            .map(|(n, v)| format!("{n} {v:.4}"))
            .collect();
        let after = result.stage.as_ref().map_or_else(
            || "before training".into(),
            |stage| format!("after {} steps of {stage}", result.step),
        );
        self.log.info(format!(
            "evaluation on {} {after}: {}",
            result.data,
            shown.join(", ")
        ));
        self.apply(LedgerCommand::Eval {
            job: self.job.clone(),
            epoch: self.epoch,
            result,
        })?;
        self.node.leave_status(&self.job);
        Ok(())
    }

    fn commit(
        &mut self,
        stage: usize,
        step: u64,
        mut metrics: Metrics,
        rollouts: Vec<ScoredRollout>,
    ) -> Result<(), WriterError> {
        metrics.insert(COMMITTED_AT.into(), self.clock.unix().as_secs_f64());
        let settings = self.stage(stage)?;
        let (name, trains) = (settings.name.clone(), settings.trains());
        let rows = rollouts
            .into_iter()
            .map(|scored| self.readable(stage, scored))
            .collect::<Result<Vec<_>, _>>()?;
        let of = (stage as u32, name.as_str());
        self.attempt
            .commit(of, step, &rows, metrics.clone(), trains)?;
        let storage = self.attempt.storage();
        Ok(outputs::append_metrics(
            storage,
            &self.outputs,
            &name,
            step + 1,
            &metrics,
        )?)
    }

    /// Turns what a rejection-sampling stage kept into a data set, once all its steps are
    /// committed.
    fn make_data_set(
        &self,
        stage: usize,
        goes_on: &dyn Fn(u64, u64) -> bool,
    ) -> Result<(), WriterError> {
        let settings = self.stage(stage)?;
        if settings.rejection_sampling().is_none() {
            return Ok(());
        }
        let record = self.ledger.job(&self.job);
        let steps = record
            .as_ref()
            .and_then(|r| r.progress.stages.get(stage))
            .map_or(0, |s| s.step);
        let made = make_data_set::make(
            self.attempt.storage(),
            &self.loaded_job,
            &self.outputs,
            (stage, settings),
            steps,
            goes_on,
        )?;
        self.log.info(format!(
            "stage {} kept {} of {} completions (acceptance rate {:.4}), of {} of {} prompts: \
             datasets/{}.jsonl, sha256 {}",
            settings.name,
            made.rows,
            made.sampled,
            made.acceptance_rate,
            made.prompts_with_rows,
            made.prompts,
            settings.name,
            made.sha256
        ));
        if made.other_ids + made.illegible > 0 {
            self.log.warn(format!(
                "of what stage {} kept, {} rows have other token ids than were sampled (the \
                 tokenizer's own for the same text), and {} completions are left out because \
                 their token ids are no text",
                settings.name, made.other_ids, made.illegible
            ));
        }
        Ok(())
    }

    /// A rollout with its texts, for people to read.
    fn readable(&self, stage: usize, scored: ScoredRollout) -> Result<RolloutRow, WriterError> {
        let tokenizer = self
            .loaded_job
            .tokenizer(Source::Stage(stage))
            .ok_or(WriterError::NoStage(stage))?;
        let completion = tokenizer.decode_completion(&scored.rollout.completion_ids)?;
        let row = self
            .loaded_job
            .row(Source::Stage(stage), scored.rollout.row)
            .map_err(StepError::Set)?;
        let (prompt, reference) = match row {
            Some(row) => (row.prompt, row.row.reference),
            None => (String::new(), None),
        };
        Ok(RolloutRow {
            scored,
            prompt,
            completion,
            reference,
        })
    }
}

/// Tells how far the making of a data set is, and whether it goes on.
fn told(progress: &mpsc::Sender<Event>, stop: &AtomicBool) -> impl Fn(u64, u64) -> bool {
    move |done, total| {
        let doing = Activity {
            doing: "writing the data set".into(),
            done,
            total,
            unit: "steps".into(),
        };
        // A report that finds no room is followed by others.
        let _ = progress.try_send(Event::Progress(doing));
        !stop.load(Ordering::Relaxed)
    }
}
