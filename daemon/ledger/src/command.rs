//! Commands to the ledger and its answers. Commands and effects are plain data, so that a consensus
//! log can carry them to every node's copy of the same state machine.

use crate::record::{StageRecord, User};
use r1d_proto::control::job::{EvalResult, State as RunState};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The id of a command, the same however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommandId {
    /// The sender's session.
    pub session: u64,
    /// The command's number in the session, from 1.
    pub number: u64,
}

impl std::fmt::Display for CommandId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.session, self.number)
    }
}

/// A job that enters the record, with all that was decided when it was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewJob {
    /// The new job's id: 1 to [`JOB_ID_MAX_BYTES`](r1d_proto::ids::JOB_ID_MAX_BYTES) lower-case
    /// letters and digits.
    pub job: JobId,
    /// The job file's `name`.
    pub name: String,
    /// Higher priorities go first.
    pub priority: i32,
    /// The job file with every default filled in.
    pub job_toml: String,
    /// Devices that the job runs on at once: at least one.
    pub devices: u32,
    /// The id that the client gave its submission: a second job with it is refused
    /// ([`Rejected::SubmittedBefore`]).
    pub request: Option<String>,
    /// SHA-256, hex, of the component that judges from the first step on, for each plugin as
    /// the job file names it.
    pub reward_versions: BTreeMap<String, String>,
    /// The key of each stage, in their order: what its outcome depends on
    /// ([`crate::Reuse::keys`]).
    pub keys: Vec<String>,
    /// Whether finished stages of other jobs are taken over.
    pub reuses: bool,
    /// Who submits it.
    pub owner: Option<User>,
    /// Whether the job is paused from the beginning.
    pub held: bool,
    /// When it was submitted.
    pub at: u64,
}

impl NewJob {
    /// A job of which nothing but the job file is decided: it is called as its id, runs on one
    /// device, belongs to nobody, takes nothing over, and was submitted at 1.
    pub fn of(job: JobId, job_toml: impl Into<String>) -> NewJob {
        NewJob {
            name: job.0.clone(),
            job,
            priority: 0,
            job_toml: job_toml.into(),
            devices: 1,
            request: None,
            reward_versions: BTreeMap::new(),
            keys: Vec::new(),
            reuses: false,
            owner: None,
            held: false,
            at: 1,
        }
    }
}

/// A change to the record of jobs. `at` is in seconds since the Unix epoch and is only recorded,
/// never compared.
///
/// A command that carries an `epoch` comes from the attempt that [`Command::Start`] gave that epoch
/// to; those of earlier attempts are refused ([`Rejected::StaleEpoch`]), so two runners of one job
/// can never both advance it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Puts a job at the end of the queue of its priority, with all that was decided when it was
    /// accepted.
    Submit(NewJob),
    /// The daemon begins to work for the job: it reads its files, then starts it. From here until
    /// [`Command::PutDown`] a sudden end of the daemon counts against the job.
    TakeUp {
        /// The job's id.
        job: JobId,
    },
    /// The daemon has stopped working for the job, for a reason that is not the job's fault.
    PutDown {
        /// The job's id.
        job: JobId,
    },
    /// The daemon before this one ended suddenly while it worked for the job
    /// ([`crate::record::Strikes`]).
    Strike {
        /// The job's id.
        job: JobId,
    },
    /// Takes a queued job up, or a running one again after a crash: the answer carries the new
    /// epoch.
    Start {
        /// The job's id.
        job: JobId,
        /// When the attempt began.
        at: u64,
    },
    /// Begins the next stage, or takes the stage at work up again.
    BeginStage {
        /// The job's id.
        job: JobId,
        /// The attempt's epoch.
        epoch: u64,
        /// Index of the stage in the job file, from 0.
        stage: u32,
        /// The stage's name.
        name: String,
        /// The stage's kind, as in the job file.
        kind: String,
        /// Steps that the stage has in all.
        steps: u64,
        /// When the stage began; a stage that is taken up again keeps its first time.
        at: u64,
    },
    /// Counts step `step` of the stage as done: a compare-and-swap `step → step + 1` on the steps
    /// committed so far (`STEP-1`).
    CommitStep {
        /// The job's id.
        job: JobId,
        /// The attempt's epoch.
        epoch: u64,
        /// Index of the stage at work, from 0.
        stage: u32,
        /// The step, from 0.
        step: u64,
        /// The step's metrics, which are kept under `step`.
        metrics: Metrics,
    },
    /// Records a whole checkpoint: the weights after `step` committed steps. Replaces a record for
    /// the same step.
    Checkpoint {
        /// The job's id.
        job: JobId,
        /// The attempt's epoch.
        epoch: u64,
        /// Index of the stage at work, from 0.
        stage: u32,
        /// Steps that the checkpoint holds.
        step: u64,
        /// The checkpoint's directory.
        dir: PathBuf,
        /// SHA-256 of its manifest, hex.
        manifest_sha256: String,
    },
    /// Forgets a checkpoint that is about to be removed, or was found damaged. Does nothing if it
    /// is not on record.
    DropCheckpoint {
        /// The job's id.
        job: JobId,
        /// The attempt's epoch.
        epoch: u64,
        /// Index of a stage that has begun, from 0; it may have finished.
        stage: u32,
        /// Steps that the checkpoint holds.
        step: u64,
    },
    /// Has the stage at work go back to its first `step` steps: those since cannot be brought back,
    /// and are done and committed again. Their metrics, checkpoints and evaluations are forgotten.
    GoBack {
        /// The job's id.
        job: JobId,
        /// The attempt's epoch.
        epoch: u64,
        /// Index of the stage at work, from 0.
        stage: u32,
        /// Committed steps that are left.
        step: u64,
        /// Metrics of the last of them.
        metrics: Metrics,
    },
    /// Records the outcome of an evaluation. Replaces one for the same stage, step and data set,
    /// which a redone step makes again.
    Eval {
        /// The job's id.
        job: JobId,
        /// The attempt's epoch.
        epoch: u64,
        /// The outcome.
        result: EvalResult,
    },
    /// Ends the stage at work: all its steps are committed and nothing of it is left to do.
    FinishStage {
        /// The job's id.
        job: JobId,
        /// The attempt's epoch.
        epoch: u64,
        /// Index of the stage at work, from 0.
        stage: u32,
        /// When it ended.
        at: u64,
    },
    /// Ends the job.
    Finish {
        /// The job's id.
        job: JobId,
        /// The attempt's epoch; 0 for a job that was never started, which can only fail or be
        /// cancelled.
        epoch: u64,
        /// How it ended; must be a final state.
        state: RunState,
        /// Why it failed; cut to [`ERROR_MAX_BYTES`](crate::limits::ERROR_MAX_BYTES).
        error: Option<String>,
        /// The final Hugging Face directory, if one was written.
        model: Option<PathBuf>,
        /// When it ended.
        at: u64,
    },
    /// Makes the component with this hash judge where the job names `plugin`, from a step on. A
    /// step that is at work already keeps its judge: all of a step's completions are judged alike,
    /// however often it is redone.
    SetRewardVersion {
        /// The job's id.
        job: JobId,
        /// The plugin, as the job file names it.
        plugin: String,
        /// SHA-256 of the component, hex.
        sha256: String,
        /// Index of the stage in the job file, from 0.
        stage: u32,
        /// The first step that it judges, from 0.
        step: u64,
        /// When it was decided.
        at: u64,
    },
    /// Takes the next stage over from another job, whose files were copied to where this job's
    /// would be. All of it is one transaction: the finished stage, its metrics by step, its
    /// evaluations.
    ReuseStage {
        /// The job that takes it over.
        job: JobId,
        /// The newest epoch that the job had when it was looked at; 0 if it was never started.
        epoch: u64,
        /// The job that did the stage.
        of: JobId,
        /// Index of the stage in the job file of `job`, from 0.
        stage: u32,
        /// The finished stage's record, as `job` will have it.
        record: Box<StageRecord>,
        /// Metrics of every step, with its number from 0.
        metrics: Vec<(u64, Metrics)>,
        /// Outcomes of the stage's evaluations.
        evals: Vec<EvalResult>,
    },
    /// Ends a job that has not ended now; its runner's later commands are refused with
    /// [`Rejected::Ended`].
    Cancel {
        /// The job's id.
        job: JobId,
        /// When it was cancelled.
        at: u64,
    },
    /// Keeps a queued or running job from being started. A running job's attempt may still record
    /// what it does: it is asked to stop after the step in flight.
    Pause {
        /// The job's id.
        job: JobId,
        /// Who asks for it.
        by: Option<User>,
        /// When it was paused.
        at: u64,
    },
    /// Puts a paused job back to its old place in the queue.
    Resume {
        /// The job's id.
        job: JobId,
        /// When it came back into the queue.
        at: u64,
    },
    /// Puts a job that failed, was cancelled or runs at the end of the queue of its priority. It
    /// goes on from what it has committed, and its strikes are forgotten.
    Requeue {
        /// The job's id.
        job: JobId,
        /// When it came back into the queue.
        at: u64,
    },
    /// Takes a job that has ended off the record, with all its rows. Its files are removed after
    /// it: until [`Command::Forget`] the ledger knows that they are to be.
    Remove {
        /// The job's id.
        job: JobId,
        /// Directories of the job outside of the state directory.
        elsewhere: Vec<PathBuf>,
    },
    /// Ends a removal: nothing is left of the job's files.
    Forget {
        /// The job's id.
        job: JobId,
    },
}

impl Command {
    /// The job that the command changes.
    pub fn job(&self) -> &JobId {
        match self {
            Command::Submit(NewJob { job, .. })
            | Command::TakeUp { job }
            | Command::PutDown { job }
            | Command::Strike { job }
            | Command::Start { job, .. }
            | Command::BeginStage { job, .. }
            | Command::CommitStep { job, .. }
            | Command::Checkpoint { job, .. }
            | Command::DropCheckpoint { job, .. }
            | Command::GoBack { job, .. }
            | Command::Eval { job, .. }
            | Command::FinishStage { job, .. }
            | Command::Finish { job, .. }
            | Command::SetRewardVersion { job, .. }
            | Command::ReuseStage { job, .. }
            | Command::Cancel { job, .. }
            | Command::Pause { job, .. }
            | Command::Resume { job, .. }
            | Command::Requeue { job, .. }
            | Command::Remove { job, .. }
            | Command::Forget { job } => job,
        }
    }
}

/// What became of a command.
pub(crate) type Applied = Result<Effect, Rejected>;

/// What an accepted command did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// The job is in the queue.
    Submitted,
    /// The job is taken up.
    TakenUp,
    /// The job is put down.
    PutDown,
    /// A sudden end of the daemon was counted.
    Struck {
        /// How often in a row the daemon ended suddenly while it worked for the job.
        count: u32,
    },
    /// A new attempt began.
    Started {
        /// The attempt's epoch, higher than all before.
        epoch: u64,
        /// How often the job was taken up again: 0 at its first start.
        restarts: u32,
    },
    /// The stage is at work.
    StageBegun {
        /// Steps that are committed already; 0 for a new stage.
        step: u64,
        /// Steps that the newest checkpoint holds; 0 for a new stage.
        durable_step: u64,
    },
    /// The step is committed.
    StepCommitted {
        /// Steps that are committed now.
        step: u64,
    },
    /// The checkpoint is on record.
    Checkpointed {
        /// Steps that the newest checkpoint holds now.
        durable_step: u64,
    },
    /// The checkpoint is no longer on record.
    CheckpointDropped {
        /// Steps that the newest checkpoint on record holds now; 0 if there is none.
        durable_step: u64,
    },
    /// The stage went back.
    WentBack {
        /// Committed steps that are left.
        step: u64,
    },
    /// The outcome of the evaluation is on record.
    EvalRecorded,
    /// The stage has ended.
    StageFinished,
    /// The component will judge.
    RewardVersionSet,
    /// The stage is on record as finished.
    StageReused,
    /// The job has ended.
    Finished {
        /// How it ended.
        state: RunState,
    },
    /// The job has ended as cancelled.
    Cancelled {
        /// The state that it was in: a running job has work to stop.
        was: RunState,
    },
    /// The job is paused.
    Paused {
        /// The state that it was in: a running job has a step to finish.
        was: RunState,
    },
    /// The job is in the queue again, at its old place.
    Resumed,
    /// The job is at the end of the queue.
    Requeued {
        /// The state that it was in: a running job has work to stop.
        was: RunState,
    },
    /// The job is off the record; its files are to be removed.
    Removed,
    /// The removal is over.
    Forgotten,
}

/// Why a command was refused. The state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejected {
    /// No job has this id: it was never submitted, or the ledger is an older copy.
    #[error("job `{job}` is not in the ledger")]
    UnknownJob {
        /// The id.
        job: JobId,
    },
    /// A job has this id already: choose another one.
    #[error("job `{job}` is in the ledger already: choose another id")]
    DuplicateJob {
        /// The id.
        job: JobId,
    },
    /// The client has sent this submission before: it is done already.
    #[error("this submission is job `{job}` already")]
    SubmittedBefore {
        /// The job that it became.
        job: JobId,
    },
    /// Too many jobs wait or run: cancel some, or wait until some have ended.
    #[error(
        "{found} {what} wait or run, the limit is {limit}: cancel some, or wait until some have \
         ended"
    )]
    QueueFull {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// The limit: [`JOBS_LIVE_MAX`](crate::limits::JOBS_LIVE_MAX) or
        /// [`JOBS_LIVE_MAX_BYTES`](crate::limits::JOBS_LIVE_MAX_BYTES).
        limit: u64,
    },
    /// Another command was carried out under this id, which is a bug of its sender's.
    #[error("command {id} was another one: the id of a command is not used again")]
    IdTaken {
        /// The command's id.
        id: CommandId,
    },
    /// The id is too old for what its command did to be remembered: look at the job, and send what
    /// is still wanted under a new id.
    #[error("command {id} is too old: what it did is not remembered")]
    IdForgotten {
        /// The command's id.
        id: CommandId,
    },
    /// The id cannot be a job's.
    #[error("job id `{job}` is not 1 to {max} lower-case letters and digits", max =
        r1d_proto::ids::JOB_ID_MAX_BYTES)]
    InvalidJobId {
        /// The id.
        job: JobId,
    },
    /// Something of the job is beyond a limit of the ledger: make it smaller.
    #[error("{what} of job `{job}` is {found}, the limit is {limit}")]
    OverLimit {
        /// The job's id.
        job: JobId,
        /// What is too large or too many.
        what: String,
        /// Its size or number.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The job has ended, so its record does not change unless it is requeued: its runner must
    /// stop.
    #[error("job `{job}` has ended: it {}", in_words(*.state))]
    Ended {
        /// The job's id.
        job: JobId,
        /// How it ended.
        state: RunState,
    },
    /// The job is paused: resume it first.
    #[error("job `{job}` is paused: `r1ctl resume {job}` lets it go on")]
    Paused {
        /// The job's id.
        job: JobId,
    },
    /// The job cannot be resumed: it is not paused.
    #[error("job `{job}` is not paused, it {}{}", in_words(*.state), match .state {
        RunState::Failed | RunState::Cancelled => format!(": `r1ctl requeue {job}` lets it go on"),
        _ => String::new() })]
    NotPaused {
        /// The job's id.
        job: JobId,
        /// The state that it is in.
        state: RunState,
    },
    /// The job cannot be requeued.
    #[error("job `{job}` cannot be requeued: it {}", match .state {
        RunState::Succeeded => "succeeded; submit it again to do it again".to_string(),
        RunState::Paused => format!("is paused; `r1ctl resume {job}` lets it go on"),
        state => in_words(*state).to_string() })]
    CannotRequeue {
        /// The job's id.
        job: JobId,
        /// The state that it is in.
        state: RunState,
    },
    /// The job cannot be removed: it has not ended.
    #[error("job `{job}` {}: `r1ctl cancel {job}` it before it is removed", in_words(*.state))]
    NotEnded {
        /// The job's id.
        job: JobId,
        /// The state that it is in.
        state: RunState,
    },
    /// The job was removed, and its files are not gone yet.
    #[error("job `{job}` is being removed")]
    BeingRemoved {
        /// The job's id.
        job: JobId,
    },
    /// The job has no attempt: send [`Command::Start`] first.
    #[error("job `{job}` is queued: start it first")]
    NotStarted {
        /// The job's id.
        job: JobId,
    },
    /// A later attempt has taken the job over: this runner must stop.
    #[error(
        "epoch {found} of job `{job}` is over, {current} runs now: another runner took the job up"
    )]
    StaleEpoch {
        /// The job's id.
        job: JobId,
        /// The epoch of the command.
        found: u64,
        /// The epoch of the newest attempt.
        current: u64,
    },
    /// The stage is not the one that the command can change.
    #[error(
        "stage {stage} of job `{job}` is not the one at work (stages begun: {begun}, finished: \
         {finished})"
    )]
    WrongStage {
        /// The job's id.
        job: JobId,
        /// The stage of the command.
        stage: u32,
        /// Number of stages that have begun.
        begun: u32,
        /// Number of stages that have finished.
        finished: u32,
    },
    /// The stage began with another name, kind or number of steps: its job file or data has
    /// changed.
    #[error("stage {stage} of job `{job}` began as {began}, and cannot go on as {now}")]
    StageChanged {
        /// The job's id.
        job: JobId,
        /// Index of the stage, from 0.
        stage: u32,
        /// How it began, in words.
        began: String,
        /// How it would go on, in words.
        now: String,
    },
    /// The step is not the next one (`STEP-1`).
    #[error(
        "step {step} of stage {stage} of job `{job}` cannot be committed: {committed} of {steps} \
         steps are"
    )]
    WrongStep {
        /// The job's id.
        job: JobId,
        /// Index of the stage, from 0.
        stage: u32,
        /// The step of the command, from 0.
        step: u64,
        /// Steps that are committed, which is the next step's number.
        committed: u64,
        /// Steps that the stage has in all.
        steps: u64,
    },
    /// The stage cannot finish: some of its steps are not committed.
    #[error("stage {stage} of job `{job}` has {committed} of its {steps} steps")]
    StageIncomplete {
        /// The job's id.
        job: JobId,
        /// Index of the stage, from 0.
        stage: u32,
        /// Steps that are committed.
        committed: u64,
        /// Steps that the stage has in all.
        steps: u64,
    },
    /// The checkpoint holds steps that are not committed.
    #[error(
        "a checkpoint after step {step} of stage {stage} of job `{job}`, which has committed \
         {committed}"
    )]
    CheckpointAhead {
        /// The job's id.
        job: JobId,
        /// Index of the stage, from 0.
        stage: u32,
        /// Steps that the checkpoint holds.
        step: u64,
        /// Steps that are committed.
        committed: u64,
    },
    /// The step has begun, or an earlier change of the judge is for a later step: choose a later
    /// one.
    #[error(
        "step {step} of stage {stage} of job `{job}` is at work or done: a judge can only change \
         from a later step on"
    )]
    RewardLate {
        /// The job's id.
        job: JobId,
        /// Index of the stage, from 0.
        stage: u32,
        /// The step of the command, from 0.
        step: u64,
    },
    /// The stage to take over has not finished, or lacks metrics of some steps.
    #[error("stage {stage} of job `{job}` cannot be taken over: it is not whole")]
    NotWhole {
        /// The id of the job that would take it over.
        job: JobId,
        /// Index of the stage, from 0.
        stage: u32,
    },
    /// The job cannot end in this state.
    #[error("job `{job}` cannot finish as {state:?}: {why}")]
    CannotFinish {
        /// The job's id.
        job: JobId,
        /// The state of the command.
        state: RunState,
        /// What is against it, in words.
        why: String,
    },
}

/// What a job in this state does, or how it ended.
fn in_words(state: RunState) -> &'static str {
    match state {
        RunState::Queued => "is queued",
        RunState::Running => "runs",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Cancelled => "was cancelled",
        RunState::Paused => "is paused",
    }
}
