//! The one thread that reads and writes for a running job, in the order of its tasks: journal,
//! ledger, rollout files, metrics.
//!
//! The job's machine relies on three things: a step's records are synced before it trains, its
//! rollout file is whole before the ledger commits it, and an answer is sent only when what it
//! confirms is durable (`STEP-1`).

use crate::checkpoints;
use crate::datasets::{self, DataSetError};
use crate::job_log::JobLog;
use crate::loaded_job::LoadedJob;
use crate::outputs::{self, OutputError};
use crate::outside;
use crate::status::JobViews;
use crate::tasks;
use r1d_data::DataError;
use r1d_ingest::{SetError, StepError};
use r1d_ledger::{AttemptError, AttemptWriter, Command as LedgerCommand, LedgerError, Session};
use r1d_proto::control::Activity;
use r1d_proto::ids::JobId;
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::storage::Storage;
use r1d_proto::worker::Metrics;
use r1d_proto::world::SharedClock;
use r1d_runner::metrics::COMMITTED_AT;
use r1d_runner::{End, Event, Keep, Recalled, Source, Store};
use r1d_store::rollouts::RolloutRow;
use r1d_store::{Disk, Entry, Fence, JobLayout, JournalError};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Tasks that may wait (`LIM-1`). The sender waits when the writer is behind, so the disk's pace
/// bounds memory.
const QUEUE_MAX_TASKS: usize = 256;
/// Longest time from the end of an attempt to the end of its writer, which has one write in hand at
/// most.
pub(crate) const WRITER_END_MAX: Duration = Duration::from_secs(600);
/// Longest time for the ledger to put the other jobs down when a writer hangs.
const PUT_DOWN_MAX: Duration = Duration::from_secs(30);

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

/// The end of an attempt if something could not be kept. If the operating system refused it, the
/// job waits.
pub(crate) fn unkept(error: &(dyn std::error::Error + 'static)) -> End {
    match outside::said_by_the_system(error).and_then(outside::remedy) {
        Some(what) => End::Away {
            cause: format!("{error}: {what}"),
        },
        None => End::Failed {
            error: error.to_string(),
        },
    }
}

/// The end of an attempt if the rows of a step cannot be read. A damaged token set is made again
/// when the job's inputs are opened.
pub(crate) fn unread(error: StepError) -> End {
    match error {
        StepError::Set(SetError::Damaged(_)) => End::Reread,
        error => unkept(&error),
    }
}

/// The end of an attempt if the ledger did not take a command.
pub(crate) fn unrecorded(error: &LedgerError) -> End {
    match error {
        LedgerError::Rejected(rejected) => End::Abandoned {
            cause: rejected.to_string(),
        },
        LedgerError::Storage { .. } | LedgerError::Interrupted { .. } => away(error),
        error => unkept(error),
    }
}

fn away(error: &dyn std::error::Error) -> End {
    End::Away {
        cause: format!("{error}: see to that file system"),
    }
}

pub(crate) struct JobWriter {
    pub job: JobId,
    pub epoch: u64,
    pub ledger: Arc<Session>,
    pub views: JobViews,
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

/// The writers that may still write, by job. A job has at most one; the storage of one that is over
/// takes nothing any more.
#[derive(Clone, Default)]
pub(crate) struct JobWriters {
    known: Arc<Mutex<HashMap<JobId, Known>>>,
    holds: Holds,
}

/// How often jobs are held, each at least once.
type Holds = Arc<Mutex<HashMap<JobId, usize>>>;

/// Held by work on a job's files beside its writer: they are not removed meanwhile.
pub(crate) struct Hold {
    job: JobId,
    holds: Holds,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        match holds.get_mut(&self.job) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                holds.remove(&self.job);
            }
        }
    }
}

#[derive(Clone)]
struct Known {
    stop: Arc<AtomicBool>,
    fence: Fence,
    /// Closed when the thread has ended, even by a panic.
    gone: watch::Receiver<()>,
}

/// Held by a writer's thread as long as it runs.
pub(crate) struct Writing {
    stop: Arc<AtomicBool>,
    storage: Arc<dyn Storage>,
    _alive: watch::Sender<()>,
}

impl Writing {
    /// The attempt's own storage.
    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        self.storage.clone()
    }
}

impl JobWriters {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<JobId, usize>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the job's files until the answer is dropped. No attempt waits for that.
    pub(crate) fn hold(&self, job: &JobId) -> Hold {
        *self.holds().entry(job.clone()).or_default() += 1;
        Hold {
            job: job.clone(),
            holds: self.holds.clone(),
        }
    }

    /// Begins the writing of an attempt, and ends that of those before. The job must have no other
    /// writer.
    pub(crate) fn begin(&self, job: &JobId) -> Writing {
        let (alive, gone) = watch::channel(());
        let stop = Arc::new(AtomicBool::new(false));
        let mut known = self.lock();
        known.retain(|_, known| known.gone.has_changed().is_ok());
        let fence = known.get(job).map(|known| known.fence.clone());
        let fence = fence.unwrap_or_default();
        let storage = fence.next(Disk::shared());
        let before = known.insert(
            job.clone(),
            Known {
                stop: stop.clone(),
                fence,
                gone,
            },
        );
        r1d_proto::invariant!("STEP-1", before.is_none(), "job {job} has two writers");
        Writing {
            stop,
            storage,
            _alive: alive,
        }
    }

    /// Stops the job's writer after the task in hand, and returns when it has ended. Queued tasks
    /// are lost as in a crash.
    async fn end(&self, job: &JobId) {
        let known = self.lock().get(job).cloned();
        if let Some(Known { stop, mut gone, .. }) = known {
            stop.store(true, Ordering::Relaxed);
            // Nothing is ever sent: the error is the thread's end.
            while gone.changed().await.is_ok() {}
        }
    }

    /// Whether a writer of the job, or somebody who holds it, may still write.
    pub(crate) fn is_writing(&self, job: &JobId) -> bool {
        if self.holds().contains_key(job) {
            return true;
        }
        let known = self.lock();
        known
            .get(job)
            .is_some_and(|known| known.gone.has_changed().is_ok())
    }

    /// Waits until no writer of the job is left. A thread that hangs in the disk can only be ended
    /// with its process, and no attempt may begin beside it. In that case the daemon gives up, and
    /// systemd starts a fresh one; that is held against no other job.
    pub(crate) async fn none(&self, job: &JobId, ledger: &Arc<Session>) {
        if tokio::time::timeout(WRITER_END_MAX, self.end(job))
            .await
            .is_err()
        {
            let waited = WRITER_END_MAX.as_secs();
            tracing::error!(%job, "the writer of the job's last attempt has not ended within \
                                   {waited} s: the daemon gives up");
            let (ledger, job) = (ledger.clone(), job.clone());
            // If the ledger itself hangs, this cannot be recorded.
            let _ = tokio::time::timeout(
                PUT_DOWN_MAX,
                tasks::blocking(move || put_down_others(&ledger, &job)),
            )
            .await;
            std::process::exit(70);
        }
    }
}

/// Puts all other jobs down: the end of the daemon that follows is due to `job` or its disk.
fn put_down_others(ledger: &Session, job: &JobId) {
    let records = ledger.jobs();
    let others = records.iter().filter(|record| {
        record.strikes.taken_up && !record.state().is_final() && record.job() != job
    });
    for other in others.map(|record| record.job()) {
        if let Err(error) = ledger.apply(LedgerCommand::PutDown { job: other.clone() }) {
            tracing::warn!(job = %other, "the ledger does not hear that the job was put down: \
                                          {error}");
        }
    }
}

impl JobWriter {
    /// Starts the thread. It ends when the sender is dropped, or [`JobWriters::none`] is waited
    /// for.
    pub(crate) fn start(mut self, writing: Writing) -> std::io::Result<mpsc::Sender<Task>> {
        let (sender, mut tasks) = mpsc::channel(QUEUE_MAX_TASKS);
        tasks::thread("writer", move || {
            while let Some(task) = tasks
                .blocking_recv()
                .filter(|_| !writing.stop.load(Ordering::Relaxed))
            {
                // An event that finds no room follows one that means the same.
                let _ = self.begun.try_send(Event::Writing);
                self.carry_out(task, &writing.stop);
            }
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
            Task::Store(store, answer) => (answer, self.store(store).map(|()| Event::Stored)),
            Task::MakeDataSet {
                stage,
                progress,
                answer,
            } => {
                let told = |done, total| {
                    let doing = Activity {
                        doing: "writing the data set".into(),
                        done,
                        total,
                        unit: "steps".into(),
                    };
                    // A report that finds no room is followed by others.
                    let _ = progress.try_send(Event::Progress(doing));
                    !stop.load(Ordering::Relaxed)
                };
                (
                    answer,
                    self.make_data_set(stage, &told).map(|()| Event::Stored),
                )
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
            checkpoints::is_owned(&checkpoints, &self.views.state_dir)
                .map_err(WriterError::Away)?;
        }
        Ok(self.attempt.clear(dir)?)
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
        let (job, epoch, at) = (self.job.clone(), self.epoch, self.clock.unix().as_secs());
        match store {
            Store::BeginStage { stage } => {
                let settings = self.stage(stage)?;
                let rows = self
                    .loaded_job
                    .seen
                    .rows
                    .get(&settings.name)
                    .copied()
                    .unwrap_or(0);
                let (name, kind, steps) = (
                    settings.name.clone(),
                    settings.kind_name().into(),
                    settings.steps(rows),
                );
                // Hold the review lock, so that no import replaces the data set after this check.
                // If one arrived since the inputs were opened, the job has to open them again
                // first.
                let _held = self
                    .views
                    .reviews
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                for data in settings
                    .data_sets()
                    .filter(|data| self.loaded_job.job.maker(data).is_some())
                {
                    if self.made.get(data)
                        != Some(&datasets::made(&self.outputs.datasets(), data)?.sha256)
                    {
                        return Err(WriterError::Reviewed(data.into()));
                    }
                }
                self.loaded_job.prepare(stage + 1, 0);
                self.apply(LedgerCommand::BeginStage {
                    job,
                    epoch,
                    stage: stage as u32,
                    name,
                    kind,
                    steps,
                    at,
                })
            }
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
            Store::Eval(result) => {
                let shown: Vec<_> = result
                    .metrics
                    .iter()
                    .filter(|(name, _)| {
                        (name.contains('@') || matches!(name.as_str(), "accuracy" | "auc"))
                            && !name.contains("_ci_")
                    })
                    .map(|(n, v)| format!("{n} {v:.4}"))
                    .collect();
                self.log.info(format!(
                    "evaluation on {} {}: {}",
                    result.data,
                    result
                        .stage
                        .as_ref()
                        .map_or("before training".into(), |stage| format!(
                            "after {} steps of {stage}",
                            result.step
                        )),
                    shown.join(", ")
                ));
                self.apply(LedgerCommand::Eval {
                    job,
                    epoch,
                    result: *result,
                })?;
                self.views.leave_status(&self.job, &self.outputs);
                Ok(())
            }
            Store::FinishStage { stage } => {
                let stage = self.open_journal(stage)?;
                self.attempt.finish_stage(stage, at)?;
                self.views.leave_status(&self.job, &self.outputs);
                Ok(())
            }
        }
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
        let made = datasets::make(
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use r1d_ledger::Memory;
    use std::sync::mpsc as threads;

    fn job(name: &str) -> JobId {
        JobId(name.into())
    }

    fn ledger() -> Arc<Session> {
        let ledger = Arc::new(Session::open(Arc::new(Memory::default()), 1));
        for name in ["a", "b", "c"] {
            let (reward_versions, keys) = Default::default();
            let (name, job_toml, job) = ("n".into(), "seed = 1".into(), job(name));
            let submit = LedgerCommand::Submit {
                job,
                name,
                priority: 0,
                job_toml,
                request: None,
                reward_versions,
                keys,
                reuses: false,
                owner: None,
                held: false,
                at: 1,
            };
            ledger.apply(submit).unwrap();
        }
        ledger
    }

    /// The daemon's end because of one job's disk is held against that job alone.
    #[test]
    fn a_writer_that_hangs_costs_no_other_job_a_strike() {
        let ledger = ledger();
        for name in ["a", "b"] {
            ledger
                .apply(LedgerCommand::TakeUp { job: job(name) })
                .unwrap();
        }
        put_down_others(&ledger, &job("a"));
        let taken_up = |name| ledger.job(&job(name)).unwrap().strikes.taken_up;
        assert_eq!(["a", "b", "c"].map(taken_up), [true, false, false]);
    }

    /// When a job's next attempt begins, its last writer has ended: the task in hand is finished,
    /// queued tasks are not begun.
    #[actix::test]
    async fn the_next_attempt_waits_for_the_last_ones_writer() {
        let (writers, ledger) = (JobWriters::default(), ledger());
        assert!(
            writers.none(&job("a"), &ledger).now_or_never().is_some(),
            "nobody has written yet"
        );
        let writing = writers.begin(&job("a"));
        let (begun, has_begun) = threads::channel();
        let (finish, may_finish) = threads::channel::<()>();
        let (queue, tasks) = threads::channel::<u32>();
        let (wrote, written) = threads::channel();
        tasks::thread("writer", move || {
            while let Some(task) = tasks
                .recv()
                .ok()
                .filter(|_| !writing.stop.load(Ordering::Relaxed))
            {
                begun.send(()).unwrap();
                let _ = may_finish.recv();
                wrote.send(task).unwrap();
            }
            drop(writing);
        })
        .unwrap();
        queue.send(1).unwrap();
        queue.send(2).unwrap();
        has_begun.recv().unwrap();
        let a = job("a");
        let mut next = Box::pin(writers.none(&a, &ledger));
        assert!(
            (&mut next).now_or_never().is_none(),
            "the first write is in hand"
        );
        assert!(
            writers.none(&job("b"), &ledger).now_or_never().is_some(),
            "another job's writer is nobody's business"
        );
        finish.send(()).unwrap();
        next.await;
        assert_eq!(written.iter().collect::<Vec<_>>(), [1]);
        drop(writers.begin(&job("a")));
    }

    /// Nothing of a job that is held goes; its next attempt does not wait.
    #[actix::test]
    async fn a_job_is_held_until_its_last_hold_is_dropped() {
        let (writers, ledger) = (JobWriters::default(), ledger());
        let (one, other) = (writers.hold(&job("a")), writers.hold(&job("a")));
        drop(one);
        assert!(writers.is_writing(&job("a")) && !writers.is_writing(&job("b")));
        assert!(writers.none(&job("a"), &ledger).now_or_never().is_some());
        drop(other);
        assert!(!writers.is_writing(&job("a")));
    }

    #[actix::test]
    async fn a_writer_that_panicked_is_gone() {
        let (writers, ledger) = (JobWriters::default(), ledger());
        let writing = writers.begin(&job("a"));
        tasks::thread("writer", move || {
            let _writing = writing;
            panic!("planted");
        })
        .unwrap();
        writers.none(&job("a"), &ledger).await;
        drop(writers.begin(&job("a")));
    }
}
