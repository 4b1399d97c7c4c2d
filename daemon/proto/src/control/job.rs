//! A job as clients see it: its line in a list, and its status.

use crate::ids::JobId;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

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
    /// Whether it still has its device, for the step in flight, although it is paused; absent
    /// unless so.
    #[serde(default, skip_serializing_if = "is_not")]
    pub pausing: bool,
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
    /// Whether it still has its device, for the step in flight, although it is paused; absent
    /// unless so.
    #[serde(default, skip_serializing_if = "is_not")]
    pub pausing: bool,
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
    /// Its ranks, while a job on several devices is at work; absent for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankStatus>,
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

/// A rank of a job on several devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankStatus {
    /// Its number, from 0.
    pub rank: u32,
    /// Its device's name.
    pub device: String,
    /// Which copy of the model it has, or which copy of its shard of the experts, from 0.
    pub data: u32,
    /// Which shard of the experts it has, from 0.
    pub expert: u32,
    /// What it does, in words: its request and how far that is, the collective in which it waits
    /// for other ranks, or the key that it waits for at the rendezvous.
    pub state: String,
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

/// Whether a fact that is only told where it is so is not so.
fn is_not(fact: &bool) -> bool {
    !fact
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
