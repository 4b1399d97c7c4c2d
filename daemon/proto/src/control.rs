//! The protocol between `r1ctl` and `r1d` over the daemon's unix socket: JSON in [`crate::frame`]s.
//!
//! A client sends one [`Request`] per connection, in an [`Envelope`], and says nothing more. The
//! daemon answers with one [`Response`], or, for `Watch` and `Logs { follow: true }`, with a stream
//! of them that ends with [`Response::End`]. An answer that takes its time is announced by
//! [`Response::Progress`] where the client asked for that, so a client's deadline is for silence
//! and not for the work. The types are what `r1ctl -o json` prints.
//!
//! A request that changes something is carried out to its end, whether its client stays or not.

use crate::ids::JobId;
use crate::verdict::Verdict;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Payload of a request's frame. A daemon that is sent more refuses it: the longest job file has
/// half of this.
pub const REQUEST_MAX_BYTES: u32 = 2 << 20;

/// What a client sends: a request, and how it is to be answered. A bare [`Request`] is an envelope,
/// too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Made by the client, for a request that it may have to send again: of all submissions with
    /// one id comes one job, and a submission whose first sending is still being read is answered
    /// with that one's answer. At most 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether [`Response::Progress`] is wanted until the answer is there.
    #[serde(default)]
    pub progress: bool,
    #[serde(flatten)]
    pub request: Request,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// `job` is the job file's text with every path absolute.
    Submit {
        job: String,
        /// Instead of the job file's.
        priority: Option<i32>,
        /// SHA-256 that a plugin must have, by its name or absolute path in the job (`r1.lock`).
        #[serde(default)]
        pins: BTreeMap<String, String>,
        /// Every stage is done, also those that an earlier job has finished with the same settings
        /// and inputs.
        #[serde(default)]
        no_reuse: bool,
    },
    /// Let another component judge where the job names `plugin` (or a reward has that name), from
    /// the next step on.
    Reload {
        job: String,
        plugin: String,
        /// Absolute.
        file: PathBuf,
    },
    Plan {
        job: String,
    },
    List,
    Status {
        job: String,
    },
    Cancel {
        job: String,
    },
    Logs {
        job: String,
        follow: bool,
    },
    Samples {
        job: String,
        stage: Option<String>,
        step: Option<u64>,
        sort: SampleSort,
        limit: u32,
    },
    Why {
        job: String,
    },
    /// The data sets that the job's stages have made.
    DataSets {
        job: String,
    },
    /// A made data set that the job waits to have reviewed is good: as it is, or as `file` has it.
    Review {
        job: String,
        stage: String,
        /// JSON lines, absolute.
        file: Option<PathBuf>,
    },
    Nodes,
    /// A [`Response::Status`] now and whenever it changes (at most 10 per second), until the job
    /// ends.
    Watch {
        job: String,
    },
    /// Stop the daemon after the step in flight (`r1d dev` only; systemd stops a service by
    /// signal).
    Shutdown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleSort {
    /// By prompt, then sample.
    #[default]
    Order,
    /// Best reward first.
    Reward,
    /// Longest completion first.
    Length,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", content = "body", rename_all = "snake_case")]
pub enum Response {
    Submitted {
        job: JobId,
        warnings: Vec<String>,
        /// SHA-256 of the components that judge, by their names or absolute paths in the job.
        plugins: BTreeMap<String, String>,
    },
    /// The component judges from step `step` (from 1) of `stage` on.
    Reloaded {
        job: JobId,
        plugin: String,
        sha256: String,
        stage: String,
        step: u64,
    },
    Plan(Box<Plan>),
    Jobs(Vec<JobSummary>),
    Status(Box<JobStatus>),
    Cancelled {
        job: JobId,
    },
    Log(LogLine),
    Samples(Vec<Sample>),
    Why(Why),
    DataSets(Vec<MadeDataSet>),
    Reviewed(MadeDataSet),
    Nodes(Vec<Node>),
    ShuttingDown,
    /// The daemon is at it; the answer follows.
    Progress(Activity),
    End,
    Error(ControlError),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    pub kind: ErrorKind,
    /// Lower case, names the culprit and what to do.
    pub message: String,
}

impl ControlError {
    /// The message may quote what users, models and plugins wrote: it is made one line of bounded
    /// length.
    pub fn new(kind: ErrorKind, message: impl ToString) -> ControlError {
        ControlError {
            kind,
            message: crate::shown::line(&message.to_string()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    NotFound,
    /// A prefix that several ids share.
    Ambiguous,
    Invalid,
    /// Too many ask for the same at once: it may be asked again.
    Busy,
    Internal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl State {
    pub fn is_final(self) -> bool {
        matches!(self, State::Succeeded | State::Failed | State::Cancelled)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSummary {
    pub job: JobId,
    pub name: String,
    pub state: State,
    pub priority: i32,
    /// Stage at work, or the last one that was.
    pub stage: Option<String>,
    pub step: u64,
    pub steps: u64,
    /// Seconds since the Unix epoch.
    pub submitted_at: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    pub job: JobId,
    pub name: String,
    pub state: State,
    pub priority: i32,
    pub submitted_at: u64,
    pub started_at: Option<u64>,
    pub ended_at: Option<u64>,
    /// Place in the queue, from 1, while queued.
    pub queue_position: Option<u32>,
    pub stages: Vec<StageStatus>,
    /// What the job does now.
    pub activity: Option<Activity>,
    pub evals: Vec<EvalResult>,
    /// Where everything that the job leaves is.
    pub directory: PathBuf,
    /// The final Hugging Face directory, once written.
    pub model: Option<PathBuf>,
    pub error: Option<String>,
    /// Times that the job was taken up again after a crash.
    pub restarts: u32,
    /// Wall-clock seconds to the end of the job's last stage, by the pace so far.
    pub eta_s: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    pub name: String,
    pub kind: String,
    /// Of the job's further models; absent for its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub state: State,
    /// The earlier job that it was taken over from, instead of being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<JobId>,
    /// Steps committed.
    pub step: u64,
    pub steps: u64,
    /// Steps that survive the loss of the state directory's volatile parts: the last checkpoint's.
    pub durable_step: u64,
    /// The last committed step's metrics.
    #[serde(deserialize_with = "metrics")]
    pub metrics: BTreeMap<String, f64>,
    pub seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// `sampling`, `scoring`, `training`, `evaluating`, `checkpointing`, `replaying`, `loading`,
    /// `exporting`, `writing the data set`.
    pub doing: String,
    pub done: u64,
    pub total: u64,
    pub unit: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalResult {
    /// Stage after (or in) which the weights were evaluated; `None` for the weights that the job
    /// starts from.
    pub stage: Option<String>,
    pub step: u64,
    /// Name of the data set.
    pub data: String,
    #[serde(deserialize_with = "metrics")]
    pub metrics: BTreeMap<String, f64>,
    /// The first row's prompt and completion, to look at.
    pub example: Option<EvalExample>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalExample {
    pub prompt: String,
    pub completion: String,
    pub reference: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub level: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub stage: String,
    pub step: u64,
    pub prompt_index: u32,
    pub sample_index: u32,
    pub row: u64,
    pub prompt: String,
    pub completion: String,
    pub reference: Option<String>,
    pub tokens: u32,
    pub finish: String,
    pub reward: Option<f32>,
    pub advantage: Option<f32>,
    pub verdicts: Vec<Verdict>,
}

/// What a stage's kept completions became.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MadeDataSet {
    pub stage: String,
    /// As later stages read them.
    pub rows: u64,
    /// As the stage made them.
    pub rows_made: u64,
    /// Completions that they were chosen from.
    pub sampled: u64,
    pub acceptance_rate: f64,
    pub review: Review,
    /// Of the file that later stages read.
    pub sha256: String,
    pub file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Review {
    /// The job file asks for none.
    NotAsked,
    /// The job waits for it.
    Waiting,
    /// As it was made.
    Accepted,
    /// The file that was given back took its place.
    Imported,
}

/// The chain of waits, outermost first: each line says who waits for what, since when, and its
/// deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    pub job: JobId,
    pub state: State,
    pub waits: Vec<Wait>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    pub owner: String,
    pub waits_for: String,
    pub since_s: f64,
    /// Seconds from the moment that `since_s` counts from.
    pub deadline_s: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub version: String,
    pub state_dir: PathBuf,
    pub uptime_s: u64,
    pub devices: Vec<DeviceStatus>,
    pub plugins: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub device: String,
    /// `idle`, `busy`, `restarting`, `failed`.
    pub state: String,
    pub worker_pid: Option<u32>,
    pub worker_restarts: u32,
    pub job: Option<JobId>,
    /// What keeps a `failed` device from running jobs, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a job will do, before it does it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub name: String,
    pub model: String,
    pub parameters: Option<u64>,
    pub stages: Vec<PlanStage>,
    pub warnings: Vec<String>,
    /// The job file with every default filled in.
    pub resolved: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanStage {
    pub name: String,
    pub kind: String,
    /// Of the job's further models; absent for its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub from: String,
    pub data: String,
    /// 0: they are known once the stage that makes them is finished.
    pub rows: u64,
    /// 0: as many as the rows will say.
    pub steps: u64,
    /// Upper bound.
    pub tokens_per_step: u64,
    pub rewards: Vec<String>,
    /// The earlier job whose finished stage would be taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<JobId>,
    /// Bytes by actor: policy, reference, optimiser, sampler cache.
    pub memory: BTreeMap<String, u64>,
}

/// JSON has neither NaN nor infinity: both travel as null, which reads back as NaN. One broken
/// metric must not hide the rest.
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
