//! What is asked of the ledger and what it answers. Commands and effects are plain data, so that a
//! consensus log can carry them to every node's copy of the same state machine.

use crate::record::StageRecord;
use r1d_proto::control::{EvalResult, State as RunState};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A change to the record of jobs. `at` is in seconds since the Unix epoch and is only recorded,
/// never compared.
///
/// Commands that carry an `epoch` come from whoever [`Command::Start`] gave that epoch to; all
/// others' are refused ([`Rejected::StaleEpoch`]), so two runners of one job can never both advance
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Put a job at the end of the queue of its priority, with all that was decided when it was
    /// accepted.
    Submit {
        job: JobId,
        name: String,
        priority: i32,
        /// The job file with every default filled in.
        job_toml: String,
        /// The id that the client made for its submission: a second job under it is refused
        /// ([`Rejected::SubmittedBefore`]).
        request: Option<String>,
        /// The SHA-256 of each component that judges from the first step on, by plugin.
        reward_versions: BTreeMap<String, String>,
        /// What each stage is the outcome of ([`crate::Reuse::keys`]).
        keys: Vec<String>,
        /// Finished stages of other jobs are taken over.
        reuses: bool,
        at: u64,
    },
    /// The daemon begins to work for the job: it reads its files, then starts it. From here until
    /// [`Command::PutDown`] an end of the daemon without a word counts against the job.
    TakeUp { job: JobId },
    /// The daemon has stopped working for the job, for a reason that is not the job's fault.
    PutDown { job: JobId },
    /// The daemon before this one ended without a word while it worked for the job
    /// ([`crate::record::Strikes`]).
    Strike { job: JobId },
    /// Take a queued job up, or a running one again after a crash: the answer carries the new
    /// epoch.
    Start { job: JobId, at: u64 },
    /// Begin stage `stage` (index in the job file), or take it up again when it is the one at work.
    BeginStage {
        job: JobId,
        epoch: u64,
        stage: u32,
        name: String,
        kind: String,
        steps: u64,
        at: u64,
    },
    /// Count step `step` (from 0) of the stage as done: a compare-and-swap `step → step + 1` on the
    /// steps committed so far (`STEP-1`). `metrics` are kept under `step`.
    CommitStep {
        job: JobId,
        epoch: u64,
        stage: u32,
        step: u64,
        metrics: Metrics,
    },
    /// A whole checkpoint is at `dir`: the weights after `step` committed steps. Replaces a record
    /// for the same step.
    Checkpoint {
        job: JobId,
        epoch: u64,
        stage: u32,
        step: u64,
        dir: PathBuf,
        manifest_sha256: String,
    },
    /// The checkpoint is about to be removed, or was found damaged. Nothing happens when it is not
    /// on record.
    DropCheckpoint {
        job: JobId,
        epoch: u64,
        stage: u32,
        step: u64,
    },
    /// Replaces a result for the same stage, step and data set, which a redone step gives again.
    Eval {
        job: JobId,
        epoch: u64,
        result: EvalResult,
    },
    /// All steps of the stage are committed and nothing of it is left to do.
    FinishStage {
        job: JobId,
        epoch: u64,
        stage: u32,
        at: u64,
    },
    /// The job is over. `model` is the final Hugging Face directory. A job that was never started
    /// fails in epoch 0.
    Finish {
        job: JobId,
        epoch: u64,
        state: RunState,
        error: Option<String>,
        model: Option<PathBuf>,
        at: u64,
    },
    /// From step `step` (from 0) of stage `stage` on, the component with this hash judges where the
    /// job names `plugin`. A step that is at work already keeps its judge: all of a step's
    /// completions are judged alike, however often it is redone.
    SetRewardVersion {
        job: JobId,
        plugin: String,
        sha256: String,
        stage: u32,
        step: u64,
        at: u64,
    },
    /// The next stage is not done but taken over from job `of`, whose files were copied to where
    /// this job's would be. All of it in one transaction: the finished stage, its metrics by step,
    /// its evaluations. `epoch` is the newest that the job had when it was looked at, 0 where it
    /// was never started.
    ReuseStage {
        job: JobId,
        epoch: u64,
        of: JobId,
        stage: u32,
        record: Box<StageRecord>,
        metrics: Vec<(u64, Metrics)>,
        evals: Vec<EvalResult>,
    },
    /// End a queued or running job now; its runner's later commands are refused with
    /// [`Rejected::Ended`].
    Cancel { job: JobId, at: u64 },
}

impl Command {
    pub fn job(&self) -> &JobId {
        match self {
            Command::Submit { job, .. }
            | Command::TakeUp { job }
            | Command::PutDown { job }
            | Command::Strike { job }
            | Command::Start { job, .. }
            | Command::BeginStage { job, .. }
            | Command::CommitStep { job, .. }
            | Command::Checkpoint { job, .. }
            | Command::DropCheckpoint { job, .. }
            | Command::Eval { job, .. }
            | Command::FinishStage { job, .. }
            | Command::Finish { job, .. }
            | Command::SetRewardVersion { job, .. }
            | Command::ReuseStage { job, .. }
            | Command::Cancel { job, .. } => job,
        }
    }
}

/// What an accepted command did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    Submitted,
    TakenUp,
    PutDown,
    /// Times in a row that the daemon ended while it worked for the job.
    Struck {
        count: u32,
    },
    /// `restarts` counts the times that the job was taken up again: 0 at its first start.
    Started {
        epoch: u64,
        restarts: u32,
    },
    /// `step` steps are committed already and the newest checkpoint holds `durable_step` of them
    /// (both 0 for a new stage).
    StageBegun {
        step: u64,
        durable_step: u64,
    },
    /// Steps committed now.
    StepCommitted {
        step: u64,
    },
    Checkpointed {
        durable_step: u64,
    },
    CheckpointDropped {
        durable_step: u64,
    },
    EvalRecorded,
    StageFinished,
    GraderSet,
    StageReused,
    Finished {
        state: RunState,
    },
    /// What the job did when it was cancelled: a running one has work to stop.
    Cancelled {
        was: RunState,
    },
}

/// Why a command was refused. The state is as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejected {
    #[error("job `{job}` is not in the ledger")]
    UnknownJob { job: JobId },
    #[error("job `{job}` is in the ledger already: choose another id")]
    DuplicateJob { job: JobId },
    #[error("this submission is job `{job}` already")]
    SubmittedBefore { job: JobId },
    #[error(
        "{found} {what} wait or run, the limit is {limit}: cancel some, or wait until some have \
         ended"
    )]
    QueueFull {
        what: &'static str,
        found: u64,
        limit: u64,
    },
    #[error("job id `{job}` is not 1 to {max} lower-case letters and digits", max =
        crate::state::JOB_ID_MAX_BYTES)]
    InvalidJobId { job: JobId },
    #[error("{what} of job `{job}` is {found}, the limit is {limit}")]
    OverLimit {
        job: JobId,
        what: String,
        found: u64,
        limit: u64,
    },
    #[error("job `{job}` has ended: it {}",
        match .state { RunState::Succeeded => "succeeded", RunState::Cancelled =>
        "was cancelled", _ =>
        "failed" })]
    Ended { job: JobId, state: RunState },
    #[error("job `{job}` is queued: start it first")]
    NotStarted { job: JobId },
    #[error(
        "epoch {found} of job `{job}` is over, {current} runs now: another runner took the job up"
    )]
    StaleEpoch {
        job: JobId,
        found: u64,
        current: u64,
    },
    #[error(
        "stage {stage} of job `{job}` is not the one at work (stages begun: {begun}, finished: \
         {finished})"
    )]
    WrongStage {
        job: JobId,
        stage: u32,
        begun: u32,
        finished: u32,
    },
    #[error("stage {stage} of job `{job}` began as {began}, and cannot go on as {now}")]
    StageChanged {
        job: JobId,
        stage: u32,
        began: String,
        now: String,
    },
    #[error(
        "step {step} of stage {stage} of job `{job}` cannot be committed: {committed} of {steps} \
         steps are"
    )]
    WrongStep {
        job: JobId,
        stage: u32,
        step: u64,
        committed: u64,
        steps: u64,
    },
    #[error("stage {stage} of job `{job}` has {committed} of its {steps} steps")]
    StageIncomplete {
        job: JobId,
        stage: u32,
        committed: u64,
        steps: u64,
    },
    #[error(
        "a checkpoint after step {step} of stage {stage} of job `{job}`, which has committed \
         {committed}"
    )]
    CheckpointAhead {
        job: JobId,
        stage: u32,
        step: u64,
        committed: u64,
    },
    #[error(
        "step {step} of stage {stage} of job `{job}` is at work or done: a judge can only change \
         from a later step on"
    )]
    RewardLate { job: JobId, stage: u32, step: u64 },
    #[error("stage {stage} of job `{job}` cannot be taken over: it is not whole")]
    NotWhole { job: JobId, stage: u32 },
    #[error("job `{job}` cannot finish as {state:?}: {why}")]
    CannotFinish {
        job: JobId,
        state: RunState,
        why: String,
    },
}
