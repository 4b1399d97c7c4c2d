//! What an attempt begins with: the job's inputs, and a new epoch in the ledger with a fresh
//! worker.

use super::RunContext;
use crate::actors::worker::{self, WorkerError, WorkerReply};
use crate::checkpoints::{self, Back, Journals, Lost, Survey};
use crate::datasets::DataSets;
use crate::job_log::JobLog;
use crate::job_writer::{unkept, unrecorded};
use crate::loaded_job::{LoadError, LoadedJob};
use crate::outputs;
use crate::reading::Reading;
use crate::reward_versions::Recorded;
use crate::{inputs, outside, reuse, review, tasks};
use r1d_job::{Job, JobError};
use r1d_ledger::{Command as LedgerCommand, Effect, JobRecord, Ledger, LedgerError};
use r1d_proto::control::State;
use r1d_proto::ids::JobId;
use r1d_runner::{End, Plan, Record, StageRecord};
use r1d_store::{Disk, JobLayout, layout};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    LoadedJob(#[from] LoadError),
    #[error("job.toml of an earlier release: {0}")]
    Job(#[from] JobError),
    #[error("{0}")]
    Away(String),
    #[error("the run was stopped before it began")]
    PutDown,
}

/// Whether the daemon works for the job, according to the ledger. A run is put down once: what it
/// had queued before cannot take the job up again.
#[derive(Clone, Default)]
pub(super) struct Upkeep(Arc<Mutex<bool>>);

impl Upkeep {
    fn is_down(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_up(&self, ledger: &Ledger, job: &JobId) -> Result<(), OpenError> {
        let is_down = self.is_down();
        if *is_down {
            return Err(OpenError::PutDown);
        }
        ledger.apply(LedgerCommand::TakeUp { job: job.clone() })?;
        Ok(())
    }

    /// Records that the daemon no longer works for the job: an end of the daemon from now on is not
    /// held against it. Waits for the disk.
    pub(super) fn put_down(&self, ledger: &Ledger, job: &JobId) {
        let mut is_down = self.is_down();
        *is_down = true;
        match ledger.apply(LedgerCommand::PutDown { job: job.clone() }) {
            Ok(_) | Err(LedgerError::Rejected(_)) => {}
            Err(error) => {
                tracing::warn!(%job, "the ledger does not hear that the job was put down: {error}")
            }
        }
    }
}

/// A job's files, as they were found.
pub(super) enum Opened {
    Ready {
        loaded_job: Box<LoadedJob>,
        /// SHA-256 of the data sets that stages have made, by stage.
        made: BTreeMap<String, String>,
        /// Later stages that will be taken over from another job, once it is their turn.
        to_take_over: BTreeSet<usize>,
    },
    /// A data set waits for its review: its stage and rows.
    Review(String, u64),
}

/// What the job's machine needs of the ledger's record.
pub(super) fn known(record: &JobRecord) -> Record {
    let stage = |stage: &Arc<r1d_ledger::StageRecord>| StageRecord {
        finished: stage.state == State::Succeeded,
        step: stage.step,
        checkpoints: stage
            .checkpoints
            .iter()
            .map(|checkpoint| (checkpoint.step, checkpoint.dir.clone()))
            .collect(),
        num_tokens: stage.metrics.get("num_tokens").copied().unwrap_or(0.0),
    };
    Record {
        stages: record.progress.stages.iter().map(stage).collect(),
        evals: record
            .evals
            .iter()
            .map(|eval| (eval.stage.clone(), eval.step, eval.data.clone()))
            .collect(),
    }
}

impl OpenError {
    /// The end of the attempt that this error causes. If the ledger had no room, the job waits for
    /// room.
    pub(super) fn end(self) -> End {
        match self {
            error @ OpenError::PutDown => End::Abandoned {
                cause: error.to_string(),
            },
            OpenError::Ledger(error) => unrecorded(&error),
            OpenError::Away(cause) => End::Away { cause },
            OpenError::LoadedJob(LoadError::Sets(error)) if error.is_the_disks() => unkept(&error),
            error => End::Failed {
                error: error.to_string(),
            },
        }
    }
}

/// Opens the job's inputs. Before that, takes over the next stages if an earlier job has finished
/// them. From now on, if the daemon ends without a clean stop, that counts against the job, unless
/// the run was put down while this waited for its turn.
pub(super) fn open(
    record: Arc<JobRecord>,
    run_context: &RunContext,
    outputs: &JobLayout,
    log: &JobLog,
    reading: &Reading,
    upkeep: &Upkeep,
) -> Result<Opened, OpenError> {
    upkeep.take_up(&run_context.views.ledger, record.job())?;
    let job = Job::parse(&record.submission.job_toml, Path::new("/"))?;
    if let Some(cause) = outside::amiss(&run_context.views, record.job()) {
        return Err(OpenError::Away(cause));
    }
    let to_take_over = reuse::take_over(&run_context.views, &record, outputs, &job, log);
    let record = run_context.views.ledger.job(record.job()).unwrap_or(record);
    let dir = outputs.datasets();
    if let Some((stage, rows)) = review::awaited(&record, &job, &dir).map_err(LoadError::from)? {
        return Ok(Opened::Review(stage, rows));
    }
    let made = review::hashes(&record, &job, &dir).map_err(LoadError::from)?;
    let finished = |stage: &&Arc<r1d_ledger::StageRecord>| stage.state == State::Succeeded;
    let finished = record
        .progress
        .stages
        .iter()
        .filter(finished)
        .map(|stage| stage.name.clone())
        .collect();
    inputs::learn(&outputs.inputs(), &run_context.views.ingest.hashes);
    let loaded_job = LoadedJob::open_with(
        job,
        &run_context.rewards,
        &Recorded::of(&record),
        &DataSets { dir, finished },
        &run_context.views.ingest,
        reading,
    )?;
    Ok(Opened::Ready {
        loaded_job: Box::new(loaded_job),
        made,
        to_take_over,
    })
}

/// Has the stage at work go back to its first `step` steps. What was sampled since goes first: what
/// a crash in between leaves goes back again.
fn go_back(
    ledger: &Ledger,
    (job, epoch): (&JobId, u64),
    (stage, step): (u32, u64),
    outputs: &JobLayout,
) -> Result<(), End> {
    let last = step
        .checked_sub(1)
        .map(|last| ledger.metrics_in(job, stage, last..step));
    let metrics = last
        .transpose()
        .map_err(|error| unrecorded(&error))?
        .into_iter()
        .flatten()
        .next_back();
    let metrics = metrics.map(|(_, metrics)| metrics).unwrap_or_default();
    outputs::forget_journals(outputs, stage).map_err(|error| unkept(&error))?;
    let back = LedgerCommand::GoBack {
        job: job.clone(),
        epoch,
        stage,
        step,
        metrics,
    };
    ledger
        .apply(back)
        .map(drop)
        .map_err(|error| unrecorded(&error))
}

/// A new attempt, as far as it came.
pub(super) struct Begun {
    /// The attempt's epoch, or the one that it was to continue in. The ledger may have given it
    /// although the attempt did not begin.
    pub epoch: Option<u64>,
    pub record: Result<Arc<JobRecord>, End>,
}

/// Begins an attempt: gives it an epoch, launches its worker, and returns what is durable. An
/// attempt that continues in the previous one's epoch does not count as a restart.
pub(super) async fn start(
    job: JobId,
    run_context: RunContext,
    outputs: JobLayout,
    plan: Arc<Plan>,
    said: mpsc::Sender<WorkerReply>,
    log: JobLog,
    resumed: Option<u64>,
) -> Begun {
    run_context
        .writers
        .none(&job, &run_context.views.ledger)
        .await;
    let (views, id, at) = (
        run_context.views.clone(),
        job.clone(),
        run_context.views.clock.unix().as_secs(),
    );
    let told = log.clone();
    let recorded = tasks::blocking(move || {
        let failed = |error: &str| End::Failed {
            error: error.to_owned(),
        };
        // The worker reads the model's files at each attempt.
        if let Some(cause) = outside::amiss(&views, &id) {
            return Begun {
                epoch: resumed,
                record: Err(End::Away { cause }),
            };
        }
        let apply = |command| {
            views
                .ledger
                .apply(command)
                .map_err(|error| unrecorded(&error))
        };
        let start = || match apply(LedgerCommand::Start {
            job: id.clone(),
            at,
        })? {
            Effect::Started { epoch, .. } => Ok(epoch),
            _ => Err(failed("the ledger did not start the job")),
        };
        let epoch = match resumed.map_or_else(start, Ok) {
            Ok(epoch) => epoch,
            Err(end) => {
                return Begun {
                    epoch: None,
                    record: Err(end),
                };
            }
        };
        let prepare = || {
            outputs::create(&outputs).map_err(|error| unkept(&error))?;
            let known = || {
                views
                    .ledger
                    .job(&id)
                    .ok_or_else(|| failed("the ledger does not know the job"))
            };
            let found = checkpoints::check(
                &*known()?,
                &plan.job,
                &outputs,
                &views.state_dir,
                Journals::Whole,
            );
            let Survey { lost, back } = found.map_err(|cause| End::Away { cause })?;
            for Lost { stage, step, what } in lost {
                told.warn(format!(
                    "{what}: it is given up, and the job goes on from what is before it"
                ));
                apply(LedgerCommand::DropCheckpoint {
                    job: id.clone(),
                    epoch,
                    stage,
                    step,
                })?;
            }
            if let Some(Back { stage, step, what }) = back {
                told.warn(what);
                go_back(&views.ledger, (&id, epoch), (stage, step), &outputs)?;
            }
            if plan.job.checkpoint.to.is_some() {
                let dir = outputs.checkpoints(plan.job.checkpoint.to.as_deref(), &id);
                checkpoints::own(&dir, &views.state_dir).map_err(|error| unkept(&error))?;
            }
            let to = plan.job.checkpoint.to.as_deref();
            layout::remove_unplaced(&Disk, &outputs.checkpoints(to, &id));
            let stages: Vec<String> = plan
                .job
                .stages
                .iter()
                .map(|stage| stage.name.clone())
                .collect();
            outputs::rewrite_metrics(&outputs, &views.ledger, &id, &stages)
                .map_err(|error| unkept(&error))?;
            known()
        };
        Begun {
            epoch: Some(epoch),
            record: prepare(),
        }
    });
    let panicked = |panic| Begun {
        epoch: None,
        record: Err(End::Failed {
            error: format!("starting the job: {panic}"),
        }),
    };
    let Begun { epoch, record } = recorded.await.unwrap_or_else(panicked);
    let Ok(record) = record else {
        return Begun { epoch, record };
    };
    let record = match run_context
        .worker
        .ask("worker", worker::Launch { job, said, log })
        .await
    {
        Ok(Ok(())) => Ok(record),
        Ok(Err(error @ WorkerError::Start { .. })) => Err(End::Unusable {
            cause: error.to_string(),
        }),
        Ok(Err(error)) => Err(End::Abandoned {
            cause: error.to_string(),
        }),
        Err(restarting) => Err(End::Abandoned {
            cause: restarting.to_string(),
        }),
    };
    Begun { epoch, record }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clean stop comes while the job's reading still waits for a thread: it is no strike.
    #[test]
    fn a_run_that_was_put_down_is_not_taken_up_by_what_it_had_queued() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&dir.path().join("ledger.redb")).unwrap();
        let (job, (reward_versions, keys)) = (JobId("a".into()), Default::default());
        let (name, job_toml) = ("n".into(), "seed = 1".into());
        let submit = LedgerCommand::Submit {
            job: job.clone(),
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
        let taken_up = || ledger.job(&job).unwrap().strikes.taken_up;
        let upkeep = Upkeep::default();
        upkeep.take_up(&ledger, &job).unwrap();
        assert!(taken_up());
        upkeep.put_down(&ledger, &job);
        assert!(matches!(
            upkeep.take_up(&ledger, &job),
            Err(OpenError::PutDown)
        ));
        assert!(!taken_up());
    }
}
