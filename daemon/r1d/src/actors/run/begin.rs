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
use crate::upkeep::Upkeep;
use crate::{inputs, outside, reuse, review, tasks};
use r1d_job::{Job, JobError};
use r1d_ledger::{Command as LedgerCommand, Effect, JobRecord, LedgerError, Session};
use r1d_proto::control::State;
use r1d_proto::ids::JobId;
use r1d_runner::attempt::Inputs;
use r1d_runner::schedule::given_up as given_up_for;
use r1d_runner::{End, Plan, Record, StageRecord};
use r1d_store::{Disk, JobLayout, layout};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
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

/// A job's files, as they were found.
pub(super) enum Opened {
    Ready {
        loaded_job: Box<LoadedJob>,
        /// SHA-256 of the data sets that stages have made, by stage.
        made: BTreeMap<String, String>,
        /// Later stages that will be taken over from another job, once it is their turn.
        to_take_over: BTreeSet<usize>,
    },
    /// They are not loaded.
    Not(Inputs),
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

/// Opens the job's inputs, and returns the newest epoch of the job beside them. Before that, takes
/// over the next stages if an earlier job has finished them. From now on, if the daemon ends
/// without a clean stop, that counts against the job, unless the run was put down while this waited
/// for its turn.
pub(super) fn open(
    job: &JobId,
    run_context: &RunContext,
    outputs: &JobLayout,
    log: &JobLog,
    reading: &Reading,
    upkeep: &Upkeep,
) -> (u64, Opened) {
    let given_up = |error| Opened::Not(Inputs::GivenUp { error });
    let Some(record) = run_context.views.ledger.job(job) else {
        return (0, given_up("the ledger does not know the job".into()));
    };
    let epoch = record.progress.epoch;
    if let Some(error) = given_up_for(record.strikes.count) {
        return (epoch, given_up(error));
    }
    let opened = load(record, run_context, outputs, log, reading, upkeep);
    let opened = opened.unwrap_or_else(|error| Opened::Not(Inputs::Ended(error.end())));
    (epoch, opened)
}

fn load(
    record: Arc<JobRecord>,
    run_context: &RunContext,
    outputs: &JobLayout,
    log: &JobLog,
    reading: &Reading,
    upkeep: &Upkeep,
) -> Result<Opened, OpenError> {
    if !upkeep.take_up(&run_context.views.ledger, record.job())? {
        return Err(OpenError::PutDown);
    }
    let job = Job::parse(&record.submission.job_toml, Path::new("/"))?;
    if let Some(cause) = outside::amiss(&run_context.views, record.job()) {
        return Err(OpenError::Away(cause));
    }
    let to_take_over = reuse::take_over(&run_context.views, &record, outputs, &job, log);
    let record = run_context.views.ledger.job(record.job()).unwrap_or(record);
    let dir = outputs.datasets();
    if let Some((stage, rows)) = review::awaited(&record, &job, &dir).map_err(LoadError::from)? {
        return Ok(Opened::Not(Inputs::Review { stage, rows }));
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
    let (stage, step) = match record.stage_at_work() {
        Some((index, stage)) => (index as usize, stage.step),
        None => (record.progress.stages.len(), 0),
    };
    loaded_job.prepare(stage, step);
    Ok(Opened::Ready {
        loaded_job: Box::new(loaded_job),
        made,
        to_take_over,
    })
}

/// Has the stage at work go back to its first `step` steps. What was sampled since goes first: what
/// a crash in between leaves goes back again.
fn go_back(
    ledger: &Session,
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
    // What was begun goes on when the run has ended.
    let hold = run_context.writers.hold(&job);
    run_context
        .writers
        .none(&job, &run_context.views.ledger)
        .await;
    let (views, id, at) = (
        run_context.views.clone(),
        job.clone(),
        run_context.views.clock.unix().as_secs(),
    );
    let (told, ledger) = (log.clone(), run_context.views.ledger.clone());
    let recorded = tasks::blocking(move || {
        let _hold = hold;
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
    // The ledger may have given the epoch before the panic.
    let newest = || Some(ledger.job(&job)?.progress.epoch);
    let panicked = |panic| Begun {
        epoch: newest(),
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
