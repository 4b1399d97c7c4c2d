//! The protocol between `r1ctl` and `r1d` over the daemon's unix socket: JSON in [`crate::frame`]s.
//!
//! A client sends one [`Request`] per connection, in an [`Envelope`], and nothing more. The daemon
//! answers with one [`Response`], or, for `Watch` and `Logs { follow: true }`, with a stream of
//! them that ends with [`Response::End`]. While a long answer is being prepared, the daemon sends
//! [`Response::Progress`] to a client that asked for it, so a client's deadline limits silence, not
//! the work. The types are what `r1ctl -o json` prints.
//!
//! A request that changes something is carried out to its end, whether its client stays or not.
//!
//! | module | what it holds |
//! |---|---|
//! | this one | requests and responses |
//! | [`error`] | why a request was refused, or failed |
//! | [`job`], [`why`] | a job's status, and what it waits for |
//! | [`content`] | its log, samples and data sets |
//! | [`plan`], [`removal`] | what a job will do, and what is removed |
//! | [`node`] | nodes and devices |

pub mod content;
pub mod error;
pub mod job;
pub mod node;
pub mod plan;
pub mod removal;
pub mod why;

use crate::ids::JobId;
use crate::trace::StepTrace;
use content::{LogLine, MadeDataSet, Sample};
use error::ControlError;
use job::{Activity, JobStatus, JobSummary};
use node::NodeStatus;
use plan::Plan;
use removal::Removed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use why::Why;

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
        /// SHA-256 that a plugin must have, as in [`Request::Submit`].
        #[serde(default)]
        pins: BTreeMap<String, String>,
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
            Request::Plan {
                job: "x".into(),
                pins: Default::default(),
            },
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
}
