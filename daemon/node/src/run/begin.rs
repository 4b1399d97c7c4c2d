//! What an attempt begins with: the job's inputs, and a new epoch in the ledger with a fresh
//! worker.

use super::RunContext;
use crate::checkpoints::{self, Back, Journals, Lost, Survey};
use crate::context::NodeContext;
use crate::datasets::DataSets;
use crate::ends::{failed_by_machine, unkept, unrecorded};
use crate::job_log::JobLog;
use crate::load_error::LoadError;
use crate::loaded_job::LoadedJob;
use crate::meeting::Meeting;
use crate::outputs;
use crate::reading::Reading;
use crate::reward_versions::Recorded;
use crate::upkeep::Upkeep;
use crate::worker::{FromRank, WorkerError};
use crate::{inputs, outside, reuse, review, tasks};
use r1d_job::{Job, JobError};
use r1d_ledger::{Command as LedgerCommand, Effect, JobRecord, LedgerError, Session};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_runner::life::Inputs;
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
            OpenError::LoadedJob(error) if error.is_the_machines() => failed_by_machine(&error),
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
    let Some(record) = run_context.node.ledger.job(job) else {
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
    if !upkeep.take_up(&run_context.node.ledger, record.job())? {
        return Err(OpenError::PutDown);
    }
    let job = Job::parse(&record.submission.job_toml, Path::new("/"))?;
    if let Some(cause) = outside::amiss(&run_context.node, record.job()) {
        return Err(OpenError::Away(cause));
    }
    let to_take_over = reuse::take_over(&run_context.node, &record, outputs, &job, log);
    let record = run_context.node.ledger.job(record.job()).unwrap_or(record);
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
    inputs::learn(&outputs.inputs(), &run_context.node.ingest.hashes);
    let loaded_job = LoadedJob::open_with(
        job,
        &run_context.node.rewards,
        &Recorded::of(&record),
        &DataSets { dir, finished },
        &run_context.node.ingest,
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

/// An attempt that is being begun, on a thread that may block.
struct Beginning {
    node: NodeContext,
    job: JobId,
    outputs: JobLayout,
    plan: Arc<Plan>,
    log: JobLog,
}

impl Beginning {
    /// Gives the attempt an epoch, and puts the job's files in order for it.
    fn record(&self, resumed: Option<u64>) -> Begun {
        // The worker reads the model's files at each attempt.
        if let Some(cause) = outside::amiss(&self.node, &self.job) {
            return Begun {
                epoch: resumed,
                record: Err(End::Away { cause }),
            };
        }
        match resumed.map_or_else(|| self.start(), Ok) {
            Ok(epoch) => Begun {
                epoch: Some(epoch),
                record: self.prepare(epoch),
            },
            Err(end) => Begun {
                epoch: None,
                record: Err(end),
            },
        }
    }

    fn apply(&self, command: LedgerCommand) -> Result<Effect, End> {
        let applied = self.node.ledger.apply(command);
        applied.map_err(|error| unrecorded(&error))
    }

    fn start(&self) -> Result<u64, End> {
        let job = self.job.clone();
        let at = self.node.clock.unix().as_secs();
        match self.apply(LedgerCommand::Start { job, at })? {
            Effect::Started { epoch, .. } => Ok(epoch),
            _ => Err(failed("the ledger did not start the job")),
        }
    }

    fn known(&self) -> Result<Arc<JobRecord>, End> {
        let record = self.node.ledger.job(&self.job);
        record.ok_or_else(|| failed("the ledger does not know the job"))
    }

    /// Has the job go on from what is whole, and nothing in its directories beside that.
    fn prepare(&self, epoch: u64) -> Result<Arc<JobRecord>, End> {
        let (node, outputs, job) = (&self.node, &self.outputs, &self.plan.job);
        outputs::create(outputs).map_err(|error| unkept(&error))?;
        let stages: Vec<String> = job.stages.iter().map(|stage| stage.name.clone()).collect();
        outputs::mend_metrics(outputs, &node.ledger, &self.job, &stages, &self.log)
            .map_err(|error| error.end())?;
        self.go_on_from_what_is_whole(epoch)?;
        let to = job.checkpoint.to.as_deref();
        let dir = outputs.checkpoints(to, &self.job);
        if to.is_some() {
            checkpoints::own(&dir, &node.state_dir).map_err(|error| unkept(&error))?;
        }
        outputs::remove_unfinished(outputs, &dir);
        layout::remove_unplaced(&Disk, &dir);
        outputs::remove_unrecorded(&Disk, &dir, &*self.known()?, &stages, &self.log);
        outputs::rewrite_metrics(outputs, &node.ledger, &self.job, &stages)
            .map_err(|error| error.end())?;
        self.known()
    }

    fn go_on_from_what_is_whole(&self, epoch: u64) -> Result<(), End> {
        let found = checkpoints::check(
            &*self.known()?,
            &self.plan.job,
            &self.outputs,
            &self.node.state_dir,
            Journals::Whole,
        );
        let Survey { lost, back } = found.map_err(|cause| End::Away { cause })?;
        for Lost { stage, step, what } in lost {
            self.log.warn(format!(
                "{what}: it is given up, and the job goes on from what is before it"
            ));
            self.apply(LedgerCommand::DropCheckpoint {
                job: self.job.clone(),
                epoch,
                stage,
                step,
            })?;
        }
        if let Some(Back { stage, step, what }) = back {
            self.log.warn(what);
            let of = (&self.job, epoch);
            go_back(&self.node.ledger, of, (stage, step), &self.outputs)?;
        }
        Ok(())
    }
}

fn failed(error: &str) -> End {
    End::Failed {
        error: error.to_owned(),
    }
}

/// Begins an attempt: gives it an epoch, launches its workers, and returns what is durable. An
/// attempt that continues in the previous one's epoch does not count as a restart.
pub(super) async fn start(
    job: JobId,
    run_context: RunContext,
    outputs: JobLayout,
    plan: Arc<Plan>,
    (said, meeting): (mpsc::Sender<FromRank>, Meeting),
    log: JobLog,
    resumed: Option<u64>,
) -> Begun {
    let node = run_context.node.clone();
    // What was begun goes on when the run has ended.
    let hold = node.writers.hold(&job);
    node.writers.none(&job, &node.ledger).await;
    let ledger = node.ledger.clone();
    let beginning = Beginning {
        node,
        job: job.clone(),
        outputs,
        plan,
        log: log.clone(),
    };
    let recorded = tasks::blocking(move || {
        let _hold = hold;
        beginning.record(resumed)
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
    let launched = run_context.gang.launch(&job, said, &log, &meeting);
    let record = match launched.await {
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
