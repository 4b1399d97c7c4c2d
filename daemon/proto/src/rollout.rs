//! The rollout record: one sampled completion with all that training and audit need.

use crate::ids::SampleKey;
use crate::sampling_mask::SamplingMask;
use crate::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// Largest record of a completion in the journal, in postcard: one of 64 Ki tokens with the experts
/// of 58 layers × 8 takes about 90 MB, its kept ids at most 42 MB
/// ([`crate::sampling_mask::KEPT_NUMBERS_MAX`]).
pub const RECORD_MAX_BYTES: usize = 128 << 20;

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop id was sampled; it is the last of the completion's ids.
    Stop,
    /// The length limit was reached.
    Length,
}

/// One completion as the sampler made it. Token in, token out: text is never tokenised again on the
/// way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The sample's place in its job.
    pub key: SampleKey,
    /// Row of the data set that the prompt comes from.
    pub row: u64,
    /// Token ids of the prompt, as the chat template renders it.
    pub prompt_ids: Vec<u32>,
    /// Token ids that were sampled, the stop id included.
    pub completion_ids: Vec<u32>,
    /// Log-probability of each completion id under the distribution it was drawn from: after
    /// temperature, and over `kept_ids`. Natural logarithm, one per completion id.
    pub behaviour_logprobs: Vec<f32>,
    /// Experts that the router chose while sampling, `[tokens, moe_layers, experts_per_token]` row
    /// by row, where `tokens` = prompt + completion − 1 (the last id is never fed back). Empty for
    /// dense models.
    pub experts: Vec<u16>,
    /// The ids that top-k and top-p left of the vocabulary, per completion id, if
    /// [`keep_sampling_mask`](crate::hyperparameters::Sampling::keep_sampling_mask) is on. Empty if
    /// they left all of it, or it is off: log-probabilities are then over the whole vocabulary.
    pub kept_ids: SamplingMask,
    /// Number of optimiser steps that the sampling weights had seen in this stage.
    pub policy_version: u64,
    /// Why the completion ended.
    pub finish: FinishReason,
}

/// A rollout with its verdicts: what the journal keeps and the Parquet files show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredRollout {
    /// The completion, as the sampler made it.
    pub rollout: Rollout,
    /// One verdict per reward of the stage, in the job file's order.
    pub verdicts: Vec<Verdict>,
    /// Weighted sum of the scores; `None` when an abstention takes the sample out of training.
    pub reward: Option<f32>,
    /// GRPO: the advantage relative to the group. PPO: the reward, from which the trainer estimates
    /// advantages. Rejection sampling: 1 for a completion that is kept. `None` for a sample that
    /// does not train or is not kept.
    pub advantage: Option<f32>,
}
