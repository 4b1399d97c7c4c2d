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
    pub key: SampleKey,
    /// Row of the data set that the prompt comes from.
    pub row: u64,
    pub prompt_ids: Vec<u32>,
    pub completion_ids: Vec<u32>,
    /// Log-probability of each completion id under the distribution it was drawn from: after
    /// temperature, and over `kept_ids`. Natural logarithm, one per completion id.
    pub behaviour_logprobs: Vec<f32>,
    /// Experts that the router chose while sampling, `[tokens, moe_layers, experts_per_token]` row
    /// by row, where `tokens` = prompt + completion − 1 (the last id is never fed back). Empty for
    /// dense models.
    pub experts: Vec<u16>,
    /// What top-k and top-p left of the vocabulary, per completion id, where
    /// [`keep_sampling_mask`](crate::hyperparameters::Sampling::keep_sampling_mask) asks for it.
    /// Empty where they left all of it, or nobody asked: log-probabilities are then over the whole
    /// vocabulary.
    pub kept_ids: SamplingMask,
    /// Number of optimiser steps that the sampling weights had seen in this stage.
    pub policy_version: u64,
    pub finish: FinishReason,
}

/// A rollout and what was made of it. This is what the journal keeps and the Parquet files show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredRollout {
    pub rollout: Rollout,
    /// One verdict per reward of the stage, in the job file's order.
    pub verdicts: Vec<Verdict>,
    /// Weighted sum of the scores; `None` when an abstention takes the sample out of training.
    pub reward: Option<f32>,
    /// Group-relative advantage; `None` when the sample does not train.
    pub advantage: Option<f32>,
}
