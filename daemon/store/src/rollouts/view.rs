//! What a reader gets of a rollout file who does not need all of it.

use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Verdict;

/// The column of the completions' ids.
pub(super) const IDS: &str = "completion_ids";
/// The column of their number.
pub(super) const TOKENS: &str = "tokens";

/// What samples are sorted by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Index of the prompt in its step.
    pub prompt: u32,
    /// Index of the completion in its group.
    pub sample: u32,
    /// `None`: an abstention took the sample out of training.
    pub reward: Option<f32>,
    /// Number of completion ids.
    pub tokens: u32,
}

/// A scored rollout as people and plugins see it: without the numbers of each token.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The completion's key.
    pub key: SampleKey,
    /// The row of the data set, from 0.
    pub row: u64,
    /// Number of completion ids.
    pub tokens: u32,
    /// Why the completion ended.
    pub finish: FinishReason,
    /// `None`: an abstention took the sample out of training.
    pub reward: Option<f32>,
    /// `None`: the sample did not train, or was not kept.
    pub advantage: Option<f32>,
    /// One verdict per reward.
    pub verdicts: Vec<Verdict>,
    /// The prompt as the model read it.
    pub prompt: String,
    /// The completion's text.
    pub completion: String,
    /// The right answer, if the row has one.
    pub reference: Option<String>,
    /// The completion's ids; empty where they were not asked for.
    pub completion_ids: Vec<u32>,
}
