//! What people read of a job's files: its log, its samples, its data sets.

use crate::verdict::Verdict;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
