//! The protocol between `r1ctl` and `r1d` over the daemon's unix socket: JSON in [`crate::frame`]s.
//!
//! A client sends one [`Request`] per connection, in an [`Envelope`], and nothing more. The daemon
//! answers with one [`Response`], or, for `Watch` and `Logs { follow: true }`, with a stream of
//! them that ends with [`Response::End`]. While a long answer is being prepared, the daemon sends
//! [`Response::Progress`] to a client that asked for it, so a client's deadline limits silence, not
//! the work. The types are what `r1ctl -o json` prints.
//!
//! A request that changes something is carried out to its end, whether its client stays or not.

use crate::ids::JobId;
use crate::remedy::{remedy, said_by_the_system};
use crate::trace::StepTrace;
use crate::verdict::Verdict;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

/// Largest payload of a request's frame, in bytes; the daemon refuses a larger one. The longest job
/// file takes half of this.
pub const REQUEST_MAX_BYTES: u32 = 2 << 20;

/// What a client sends: a request, and how to answer it. A bare [`Request`] is an envelope, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The client's id for a submission that it may have to send again: all submissions with one id
    /// make one job, and one that arrives while the first is still being read gets the first one's
    /// answer. At most 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether the daemon sends [`Response::Progress`] until the answer is there; default false.
    #[serde(default)]
    pub progress: bool,
    /// The request, whose keys stand beside `id` and `progress`.
    #[serde(flatten)]
    pub request: Request,
}

/// A request of a client to the daemon. A `job` is a job's id or an unambiguous prefix of it,
/// except in `Submit` and `Plan`, where it is the text of a job file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Checks a job file and queues the job; answered by [`Response::Submitted`].
    Submit {
        /// The job file's text, with every path absolute.
        job: String,
        /// The job's priority, in place of the job file's.
        priority: Option<i32>,
        /// SHA-256 that a plugin must have, hex, by its name or absolute path in the job
        /// (`r1.lock`).
        #[serde(default)]
        pins: BTreeMap<String, String>,
        /// Whether to do every stage, also those that an earlier job has finished with the same
        /// settings and inputs; default false.
        #[serde(default)]
        no_reuse: bool,
        /// Whether the job is paused from the beginning; default false.
        #[serde(default)]
        hold: bool,
    },
    /// Makes another component judge in the place of `plugin`, from the next step on; answered by
    /// [`Response::Reloaded`].
    Reload {
        /// Id or prefix of the job.
        job: String,
        /// The plugin as the job file names it, or the name of a reward.
        plugin: String,
        /// Absolute path of the component.
        file: PathBuf,
    },
    /// Checks a job file without submitting it; answered by [`Response::Plan`].
    Plan {
        /// The job file's text, with every path absolute.
        job: String,
    },
    /// Lists all jobs: those that run, the queue in its order, then those that have ended, newest
    /// first; answered by [`Response::Jobs`].
    List,
    /// Shows one job in full; answered by [`Response::Status`].
    Status {
        /// Id or prefix of the job.
        job: String,
    },
    /// Ends a job that has not ended; answered by [`Response::Cancelled`].
    Cancel {
        /// Id or prefix of the job.
        job: String,
    },
    /// Keeps a job from being started; a running one stops after the step in flight. Answered by
    /// [`Response::Paused`] at once.
    Pause {
        /// Id or prefix of the job.
        job: String,
    },
    /// Puts a paused job back to its place in the queue; answered by [`Response::Resumed`].
    Resume {
        /// Id or prefix of the job.
        job: String,
    },
    /// Puts a job that failed, was cancelled or runs at the end of the queue, to go on from what it
    /// has; answered by [`Response::Requeued`].
    Requeue {
        /// Id or prefix of the job.
        job: String,
    },
    /// Takes jobs that have ended off the record, and then removes their files; answered by
    /// [`Response::Removed`]. A job that cannot go does not keep the others from it.
    Remove {
        /// Ids or prefixes of the jobs.
        jobs: Vec<String>,
    },
    /// Removes jobs that ended long ago, or the oldest of too many; answered by
    /// [`Response::Removed`]. Who is no administrator removes only own jobs.
    Prune {
        /// Seconds since a job's end from which on it goes; `None`: the limits of r1d.toml's
        /// `[retention]` count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        older_than_s: Option<u64>,
        /// Whether a job that succeeded keeps what it made, its metrics and its log; `None`: as
        /// r1d.toml says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep_final: Option<bool>,
        /// Whether nothing is removed, only told; default false.
        #[serde(default)]
        dry_run: bool,
    },
    /// Reads the job's log; answered by [`Response::Lines`], several times.
    Logs {
        /// Id or prefix of the job.
        job: String,
        /// Whether to go on with new lines until the job ends.
        follow: bool,
        /// Only the last so many lines; `None`: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tail: Option<u64>,
        /// Only lines of the last so many seconds; `None`: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_s: Option<u64>,
    },
    /// Reads completions of a committed step; answered by [`Response::Samples`].
    Samples {
        /// Id or prefix of the job.
        job: String,
        /// Name of the stage; `None`: the last one that has sampled.
        stage: Option<String>,
        /// The step, from 1; `None`: the newest that is committed.
        step: Option<u64>,
        /// The order of the completions.
        sort: SampleSort,
        /// Most completions to return.
        limit: u32,
    },
    /// Reads how long the parts of a committed step took; answered by [`Response::Trace`].
    Trace {
        /// Id or prefix of the job.
        job: String,
        /// Name of the stage; `None`: the last one that has begun.
        stage: Option<String>,
        /// The step, from 1; `None`: the newest that has a trace.
        step: Option<u64>,
    },
    /// Tells what the job waits for; answered by [`Response::Why`].
    Why {
        /// Id or prefix of the job.
        job: String,
    },
    /// Lists the data sets that the job's stages have made; answered by [`Response::DataSets`].
    DataSets {
        /// Id or prefix of the job.
        job: String,
    },
    /// Ends the review that a job waits for: accepts the data set that a stage made, as it is or as
    /// `file` has it; answered by [`Response::Reviewed`].
    Review {
        /// Id or prefix of the job.
        job: String,
        /// Name of the stage that made the data set.
        stage: String,
        /// Absolute path of the JSON lines that replace the data set; `None`: it is accepted as it
        /// was made.
        file: Option<PathBuf>,
    },
    /// Describes the node of the daemon; answered by [`Response::Nodes`].
    Nodes,
    /// Follows a job: a [`Response::Status`] now and whenever it changes (at most 10 per second),
    /// until the job ends.
    Watch {
        /// Id or prefix of the job.
        job: String,
    },
    /// Stops the daemon after the step in flight; answered by [`Response::ShuttingDown`]. Only `r1d
    /// dev` accepts it; systemd stops a service by signal.
    Shutdown,
}

/// The order of the samples in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleSort {
    /// Orders samples by prompt, and those of a prompt by sample.
    #[default]
    Order,
    /// Best reward first; samples without a reward come last.
    Reward,
    /// Longest completion first.
    Length,
}

/// An answer of the daemon, or a part of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", content = "body", rename_all = "snake_case")]
pub enum Response {
    /// The job is in the queue.
    Submitted {
        /// The new job's id.
        job: JobId,
        /// What looks like a mistake in the job file, but may be meant.
        warnings: Vec<String>,
        /// SHA-256 of the components that judge, hex, by their names or absolute paths in the job.
        plugins: BTreeMap<String, String>,
    },
    /// The component judges from a step on.
    Reloaded {
        /// The job's id.
        job: JobId,
        /// The plugin, as the request names it.
        plugin: String,
        /// SHA-256 of the new component, hex.
        sha256: String,
        /// Name of the stage that the step is in.
        stage: String,
        /// The first step that the component judges, from 1.
        step: u64,
    },
    /// What the job would do.
    Plan(Box<Plan>),
    /// The jobs, in the order that [`Request::List`] states.
    Jobs(Vec<JobSummary>),
    /// The job's status.
    Status(Box<JobStatus>),
    /// The job ends as cancelled.
    Cancelled {
        /// The job's id.
        job: JobId,
    },
    /// The job is paused.
    Paused {
        /// The job's id.
        job: JobId,
        /// Whether an attempt is at work, which stops after the step in flight.
        at_work: bool,
    },
    /// The job is queued again, at its old place.
    Resumed {
        /// The job's id.
        job: JobId,
    },
    /// The job is at the end of the queue of its priority.
    Requeued {
        /// The job's id.
        job: JobId,
    },
    /// The jobs are off the record; their files go after it.
    Removed(Removed),
    /// Lines of the job's log, at least one.
    Lines(Vec<LogLine>),
    /// The samples, in the requested order.
    Samples(Vec<Sample>),
    /// The step's trace.
    Trace(StepTrace),
    /// What the job waits for.
    Why(Why),
    /// The data sets, in the order of their stages.
    DataSets(Vec<MadeDataSet>),
    /// The data set, as later stages will read it.
    Reviewed(MadeDataSet),
    /// The nodes; today there is one.
    Nodes(Vec<NodeStatus>),
    /// The daemon stops after the step in flight.
    ShuttingDown,
    /// How far the daemon is with an answer that will follow.
    Progress(Activity),
    /// The end of a stream of responses.
    End,
    /// The request was refused, or failed.
    Error(ControlError),
}

/// Why a request was refused, or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// The kind of error, which tells a client whether to try again.
    pub kind: ErrorKind,
    /// One line in lower case that names the culprit and says what to do.
    pub message: String,
}

impl ControlError {
    /// Makes an error whose message may quote what users, models and plugins wrote: it becomes one
    /// line of bounded length.
    pub fn new(kind: ErrorKind, message: impl ToString) -> ControlError {
        ControlError {
            kind,
            message: crate::shown::line(&message.to_string()),
        }
    }

    /// Makes an error that is the daemon's own.
    pub fn internal(message: impl ToString) -> ControlError {
        ControlError::new(ErrorKind::Internal, message)
    }

    /// Makes an error that is the daemon's own. A failed write can often be mended by an operator:
    /// the message says how.
    pub fn with_remedy(error: &(dyn Error + 'static)) -> ControlError {
        match said_by_the_system(error).and_then(remedy) {
            Some(what) => ControlError::internal(format!("{error}: {what}")),
            None => ControlError::internal(error),
        }
    }
}

/// Kinds of errors of the control protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// There is no such job, stage, step or data set.
    NotFound,
    /// The prefix matches several jobs: use a longer one.
    Ambiguous,
    /// The request, or a file that it names, is wrong: correct it.
    Invalid,
    /// The job belongs to another user.
    Forbidden,
    /// Too many clients ask for the same at once: try again later.
    Busy,
    /// The daemon failed: see its log.
    Internal,
}

/// The state of a job or stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for its turn.
    Queued,
    /// Has begun and not ended.
    Running,
    /// Ended as planned.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Ended by a user; also a stage that never began because its job ended before.
    Cancelled,
    /// Kept out of the queue by a user, until a user lets it go on.
    Paused,
}

impl State {
    /// All states, in the order of a job's life.
    pub const ALL: [State; 6] = [
        State::Queued,
        State::Paused,
        State::Running,
        State::Succeeded,
        State::Failed,
        State::Cancelled,
    ];

    /// The state's name, as the protocol and `r1ctl` write it.
    pub fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Paused => "paused",
            State::Running => "running",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether it is an end: only a user can have a job go on from there.
    pub fn is_final(self) -> bool {
        matches!(self, State::Succeeded | State::Failed | State::Cancelled)
    }
}

/// A job's line in a list of jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSummary {
    /// The job's id.
    pub job: JobId,
    /// The job file's `name`.
    pub name: String,
    /// The job's state.
    pub state: State,
    /// Place in the queue: higher priorities go first.
    pub priority: i32,
    /// The stage at work, or the last one that was; `None` before the first begins.
    pub stage: Option<String>,
    /// Committed steps of that stage; 0 without one.
    pub step: u64,
    /// All steps of that stage; 0 without one.
    pub steps: u64,
    /// When the job was submitted, in seconds since the Unix epoch.
    pub submitted_at: u64,
    /// The name of the user who submitted it; `None` in a job of an earlier release.
    #[serde(default)]
    pub owner: Option<String>,
}

/// All that is known of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job's id.
    pub job: JobId,
    /// The job file's `name`.
    pub name: String,
    /// The job's state.
    pub state: State,
    /// Place in the queue: higher priorities go first.
    pub priority: i32,
    /// When the job was submitted, in seconds since the Unix epoch.
    pub submitted_at: u64,
    /// The name of the user who submitted it; `None` in a job of an earlier release.
    #[serde(default)]
    pub owner: Option<String>,
    /// Who has paused it, and when; absent unless it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// When its first attempt began, in seconds since the Unix epoch.
    pub started_at: Option<u64>,
    /// When it ended, in seconds since the Unix epoch.
    pub ended_at: Option<u64>,
    /// Place in the queue, from 1, while queued.
    pub queue_position: Option<u32>,
    /// The job's stages in their order, also those to come.
    pub stages: Vec<StageStatus>,
    /// What the job does now.
    pub activity: Option<Activity>,
    /// Outcomes of evaluations, in the order in which they were recorded. Only the job's owner and
    /// administrators get their examples.
    pub evals: Vec<EvalResult>,
    /// The directory of everything that the job writes.
    pub directory: PathBuf,
    /// The final Hugging Face directory, once written.
    pub model: Option<PathBuf>,
    /// Why the job failed.
    pub error: Option<String>,
    /// How often the job was taken up again after a crash.
    pub restarts: u32,
    /// Wall-clock seconds to the end of the job's last stage, by the pace so far.
    pub eta_s: Option<f64>,
}

/// What a removal takes, or took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Whether nothing was removed, only told.
    pub dry_run: bool,
    /// The jobs that go, those that ended first before the others.
    pub jobs: Vec<RemovedJob>,
    /// The jobs that were meant and stay.
    pub kept: Vec<KeptJob>,
}

/// A job that a removal takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemovedJob {
    /// The job's id.
    pub job: JobId,
    /// The job file's `name`.
    pub name: String,
    /// How much of it goes.
    pub extent: RemovalExtent,
    /// Bytes that become free on disk. Of a file that other jobs have as well: a part.
    pub bytes: u64,
    /// Why it goes.
    pub why: String,
}

/// How much of a job a removal takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalExtent {
    /// Its checkpoints, rollouts and journal. Its record, its final model, the data sets that it
    /// made, its metrics and its log stay.
    AllButResults,
    /// Its record and all its files.
    Whole,
}

/// A job that was meant by a removal and stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptJob {
    /// The job's id.
    pub job: JobId,
    /// The job file's `name`.
    pub name: String,
    /// Why it stays, and what to do.
    pub why: String,
}

/// Who has paused a job, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The user's name; `None` if the daemon could not tell.
    pub by: Option<String>,
    /// When, in seconds since the Unix epoch.
    pub at: u64,
}

/// How far a stage is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    /// The stage's name, unique in its job.
    pub name: String,
    /// The stage's kind: `sft`, `grpo`, …
    pub kind: String,
    /// The name in `[models]` of the model that the stage trains; absent for the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The stage's state.
    pub state: State,
    /// The earlier job that the stage was taken over from, instead of being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<JobId>,
    /// Steps committed.
    pub step: u64,
    /// All steps; 0 if the number depends on rows that are not there yet.
    pub steps: u64,
    /// Steps that survive the loss of the state directory's volatile parts: those of the last
    /// checkpoint.
    pub durable_step: u64,
    /// Metrics of the last committed step, by TRL's names.
    #[serde(deserialize_with = "metrics")]
    pub metrics: BTreeMap<String, f64>,
    /// Wall-clock seconds since the stage began, or that it took.
    pub seconds: f64,
}

/// Work in progress, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// The work: `sampling`, `scoring`, `training`, `evaluating`, `checkpointing`, `recording`,
    /// `replaying`, `loading`, `exporting`, `writing the data set`; without a worker `restarting`,
    /// `waiting`, `waiting for review`; or a worker's own word.
    pub doing: String,
    /// How many of `total` are done.
    pub done: u64,
    /// How many there are; 0 if that means nothing.
    pub total: u64,
    /// What `done` and `total` count, in the plural: `completions`.
    pub unit: String,
}

/// The outcome of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalResult {
    /// The stage after (or in) which the weights were evaluated; `None` for the weights that the
    /// job starts from.
    pub stage: Option<String>,
    /// Steps of that stage that the weights have had.
    pub step: u64,
    /// Name of the data set.
    pub data: String,
    /// The evaluation's metrics, by name.
    #[serde(deserialize_with = "metrics")]
    pub metrics: BTreeMap<String, f64>,
    /// The first row's prompt and completion, as an illustration; `None` for an evaluation that
    /// samples nothing.
    pub example: Option<EvalExample>,
}

/// One evaluated completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalExample {
    /// The prompt, as the model read it.
    pub prompt: String,
    /// The completion's text.
    pub completion: String,
    /// The row's reference, if it has one.
    pub reference: Option<String>,
}

/// A line of a job's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `info`, `warn` or `error`; `worker` for a line of the worker's standard error.
    pub level: String,
    /// The text, one line.
    pub message: String,
}

/// A completion of a committed step, with its verdicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Name of the stage.
    pub stage: String,
    /// The step, from 1.
    pub step: u64,
    /// Index of the prompt within the step, from 0.
    pub prompt_index: u32,
    /// Index of the completion within its group, from 0.
    pub sample_index: u32,
    /// Row of the data set that the prompt comes from, from 0.
    pub row: u64,
    /// The prompt, as the model read it.
    pub prompt: String,
    /// The completion's text.
    pub completion: String,
    /// The row's reference, if it has one.
    pub reference: Option<String>,
    /// Length of the completion in tokens.
    pub tokens: u32,
    /// Why it ended: `stop` or `length`.
    pub finish: String,
    /// [`ScoredRollout::reward`](crate::rollout::ScoredRollout::reward).
    pub reward: Option<f32>,
    /// [`ScoredRollout::advantage`](crate::rollout::ScoredRollout::advantage).
    pub advantage: Option<f32>,
    /// One verdict per reward of the stage, in the job file's order.
    pub verdicts: Vec<Verdict>,
}

/// The data set that a rejection-sampling stage made of the completions that it kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MadeDataSet {
    /// Name of the stage.
    pub stage: String,
    /// Rows that later stages read.
    pub rows: u64,
    /// Rows that the stage made; a review can change their number.
    pub rows_made: u64,
    /// Completions that the rows were chosen from.
    pub sampled: u64,
    /// Share of those completions that the stage kept, 0 to 1.
    pub acceptance_rate: f64,
    /// How far its review is.
    pub review: Review,
    /// SHA-256 of `file`, hex.
    pub sha256: String,
    /// The file that later stages read.
    pub file: PathBuf,
}

/// How far the review of a data set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Review {
    /// The job file asks for no review.
    NotAsked,
    /// The job waits for the review.
    Waiting,
    /// The data set was accepted as it was made.
    Accepted,
    /// A reviewed file has taken the place of what the stage made.
    Imported,
}

/// The chain of waits, outermost first: each line names who waits for what, since when, and until
/// when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The job's id.
    pub job: JobId,
    /// The job's state.
    pub state: State,
    /// The waits; empty if the job has ended.
    pub waits: Vec<Wait>,
}

/// One wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// Who waits: `job`, or the part of it that is at work, in words.
    pub owner: String,
    /// What it waits for, in words.
    pub waits_for: String,
    /// Seconds since the wait began.
    pub since_s: f64,
    /// Seconds from the begin of the wait to its deadline; `None`: it may take any time.
    pub deadline_s: Option<f64>,
}

/// A node, with its daemon and devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// The daemon's release.
    pub version: String,
    /// The directory in which the daemon keeps its state.
    pub state_dir: PathBuf,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// The node's devices.
    pub devices: Vec<DeviceStatus>,
    /// Names of the plugins in the daemon's plugin directories, sorted.
    pub plugins: Vec<String>,
}

/// A device and its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// The device's name: `cuda:0`, `cpu`.
    pub device: String,
    /// `starting`, `idle`, `busy`, `restarting` or `failed`.
    pub state: String,
    /// Process id of the worker, while there is one.
    pub worker_pid: Option<u32>,
    /// How often a job on this device was given a fresh worker after an attempt had ended early.
    pub worker_restarts: u32,
    /// The job that has the device.
    pub job: Option<JobId>,
    /// Why a device that is `starting` or `failed` gets no jobs, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a job will do, before it does it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The job file's `name`.
    pub name: String,
    /// The model's source, and its architecture.
    pub model: String,
    /// Number of the model's parameters; `None` if it is not known.
    pub parameters: Option<u64>,
    /// The job's stages in their order.
    pub stages: Vec<PlanStage>,
    /// What looks like a mistake in the job file, but may be meant.
    pub warnings: Vec<String>,
    /// The job file with every default filled in.
    pub resolved: String,
}

/// What a stage will do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanStage {
    /// The stage's name, unique in its job.
    pub name: String,
    /// The stage's kind: `sft`, `grpo`, …
    pub kind: String,
    /// The name in `[models]` of the model that the stage trains; absent for the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The weights that it starts from: `base`, or the name of a stage.
    pub from: String,
    /// Names of its data sets, joined by ` + `.
    pub data: String,
    /// Rows of its data; 0 until the stage that makes them is finished.
    pub rows: u64,
    /// Steps of the stage; 0 if the number depends on rows that are not there yet.
    pub steps: u64,
    /// Most tokens that one step samples or trains on; 0 for an `eval` stage.
    pub tokens_per_step: u64,
    /// Names of its rewards.
    pub rewards: Vec<String>,
    /// The earlier job whose finished stage would be taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<JobId>,
    /// Bytes that the stage takes on its device, by holder: `policy`, `reference`, `optimiser`,
    /// `update`, `value model`, `reward models`, `judges`, `sampler`. On a GPU the last makes room
    /// for an update.
    pub memory: BTreeMap<String, u64>,
    /// Most bytes that the stage takes of the host's memory beside the device's, by holder:
    /// `snapshot`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_memory: BTreeMap<String, u64>,
    /// Most bytes that the stage leaves on disk, by what they are: `checkpoints`, `rollouts`,
    /// `journal`, `final`. What grows with a number of steps that is not known yet is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disk: BTreeMap<String, u64>,
}

/// Reads metrics. JSON has neither NaN nor infinity: both travel as null, which reads back as NaN.
/// One broken metric must not hide the rest.
fn metrics<'de, D: Deserializer<'de>>(source: D) -> Result<BTreeMap<String, f64>, D::Error> {
    if !source.is_human_readable() {
        return BTreeMap::deserialize(source);
    }
    let read = BTreeMap::<String, Option<f64>>::deserialize(source)?;
    Ok(read
        .into_iter()
        .map(|(name, value)| (name, value.unwrap_or(f64::NAN)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Format, encode, read_blocking};

    /// Clients of an earlier release send the request alone.
    #[test]
    fn a_bare_request_is_an_envelope() {
        for request in [
            Request::List,
            Request::Logs {
                job: "k3v".into(),
                follow: true,
                tail: None,
                since_s: None,
            },
            Request::Plan { job: "x".into() },
        ] {
            let bare = encode(Format::Json, &request).unwrap();
            let read: Envelope = read_blocking(&mut &bare[..], Format::Json).unwrap();
            assert_eq!(
                read,
                Envelope {
                    id: None,
                    progress: false,
                    request: request.clone()
                }
            );
            // An earlier daemon takes the request out of an envelope.
            let envelope = Envelope {
                id: Some("r-1".into()),
                progress: true,
                request: request.clone(),
            };
            let sent = encode(Format::Json, &envelope).unwrap();
            assert_eq!(
                read_blocking::<Request>(&mut &sent[..], Format::Json).unwrap(),
                request
            );
            assert_eq!(
                read_blocking::<Envelope>(&mut &sent[..], Format::Json).unwrap(),
                envelope
            );
        }
    }

    #[test]
    fn a_metric_that_is_no_number_hides_no_status() {
        let metrics = BTreeMap::from([("loss".to_string(), f64::NAN), ("reward".to_string(), 0.5)]);
        let eval = EvalResult {
            stage: None,
            step: 3,
            data: "test".into(),
            metrics,
            example: None,
        };
        for format in [Format::Json, Format::Postcard] {
            let back: EvalResult =
                read_blocking(&mut &encode(format, &eval).unwrap()[..], format).unwrap();
            assert!(back.metrics["loss"].is_nan(), "{format:?}");
            assert_eq!((back.step, back.metrics["reward"]), (3, 0.5), "{format:?}");
        }
    }
}
