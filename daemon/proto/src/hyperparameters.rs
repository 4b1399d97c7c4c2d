//! Settings of a stage as they travel to a worker. Names and defaults are TRL's where TRL has one;
//! `daemon/job` documents them key by key and fills them in from a job file.

use serde::{Deserialize, Serialize};

/// How completions are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy decoding.
    pub temperature: f32,
    /// Nucleus: the smallest set of ids whose probabilities sum to at least this; 1 is off.
    pub top_p: f32,
    /// Only the k likeliest ids; 0 is off.
    pub top_k: u32,
    /// Record which ids top-p and top-k left of each token's vocabulary, and log-probabilities over
    /// these (Keep Sampling Mask, DeepSeek-V3.2 3.1).
    pub keep_sampling_mask: bool,
    /// Tokens.
    pub max_completion_length: u32,
    /// Sampling any of these ends the completion.
    pub stop_ids: Vec<u32>,
    /// Base of the counter-based randomness: one uniform per (seed, stage, step, prompt, sample,
    /// position).
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over sequences of the mean over tokens (DeepSeekMath eq. 3).
    Grpo,
    /// Sum over tokens / (sequences × `max_completion_length`) (Dr. GRPO).
    DrGrpo,
    /// Sum over tokens / tokens of the whole batch (DAPO).
    Dapo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingLevel {
    Token,
    /// GSPO: the geometric mean of the token ratios.
    Sequence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// Divide by the standard deviation of the group (ddof 1).
    Group,
    /// Divide by the standard deviation of the step's rewards (ddof 1).
    Batch,
    None,
}

/// What a reward is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// The group's mean (GRPO).
    Group,
    /// The mean of the group's others (RLOO).
    LeaveOneOut,
    /// The mean of the step's rewards (REINFORCE++).
    Batch,
}

/// The policy-gradient objective, as one update applies it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    pub loss_type: LossType,
    pub importance_sampling_level: ImportanceSamplingLevel,
    pub epsilon: f64,
    pub epsilon_high: f64,
    /// Weight of the k3 estimate of KL(policy ‖ reference); 0 needs no reference.
    pub beta: f64,
    /// The estimate is weighted by the importance ratio, which makes it unbiased off the policy
    /// (DeepSeek-V3.2 3.1).
    pub use_bias_correction_kl: bool,
    /// δ of the off-policy sequence mask: completions of negative advantage whose mean
    /// log(π_sampler / π_θ) is above it do not train the policy (DeepSeek-V3.2 3.1).
    pub off_policy_mask_threshold: Option<f64>,
    /// Passes over a rollout batch.
    pub num_iterations: u32,
    /// Updates per pass: the batch is split into this many minibatches (TRL's
    /// `steps_per_generation`).
    pub num_minibatches: u32,
    /// Completions that hit the length limit do not train.
    pub mask_truncated_completions: bool,
    /// Constant of the Dr. GRPO normaliser, tokens.
    pub max_completion_length: u32,
    /// Temperature that the completions were drawn with: log-probabilities are of logits /
    /// temperature.
    pub temperature: f32,
    /// Force the experts recorded while sampling, in the policy.
    pub routing_replay: bool,
    /// With [`Self::routing_replay`], in the reference too; else it routes by itself.
    pub routing_replay_reference: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLossType {
    /// Bradley–Terry (Rafailov et al. 2023); smoothed labels as in conservative DPO.
    Sigmoid,
    /// The unbiased loss where a share `label_smoothing` of the labels is flipped (Chowdhury et al.
    /// 2024).
    Robust,
    /// Squared distance of the mean log-ratios' difference to 1/2β (Azar et al. 2023).
    Ipo,
}

/// Direct preference optimisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DpoObjective {
    pub loss_type: DpoLossType,
    /// How strongly the policy is held to the reference, above 0; τ of IPO.
    pub beta: f64,
    /// Share of the labels that are taken to be flipped, 0 to below 0.5; not for IPO.
    pub label_smoothing: f64,
}

/// Proximal policy optimisation with a value model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PpoObjective {
    /// Passes over a rollout batch.
    pub num_ppo_epochs: u32,
    /// Updates per pass.
    pub num_mini_batches: u32,
    /// ε of the policy's ratio.
    pub cliprange: f64,
    /// How far a value may move from the one before the first update.
    pub cliprange_value: f64,
    /// Weight of the value loss.
    pub vf_coef: f64,
    /// Discount of each token.
    pub gamma: f64,
    /// λ of generalised advantage estimation: 0 trusts the values alone, 1 the rewards alone.
    pub lam: f64,
    /// Weight of the k1 estimate of KL(policy ‖ reference) in each token's reward; 0 needs no
    /// reference.
    pub kl_coef: f64,
    /// Temperature that the completions were drawn with.
    pub temperature: f32,
    /// Force the experts recorded while sampling, in the policy. The value model has its own
    /// routing.
    pub routing_replay: bool,
    /// With [`Self::routing_replay`], in the reference too; else it routes by itself.
    pub routing_replay_reference: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    Constant,
    Linear,
    Cosine,
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimiser {
    pub learning_rate: f64,
    pub lr_scheduler_type: LrSchedule,
    /// Updates over which the rate rises linearly from 0.
    pub warmup_steps: u64,
    /// Updates after which the schedule has run out.
    pub total_steps: u64,
    /// The rate that linear and cosine schedules end at, as a share of `learning_rate`.
    pub min_lr_ratio: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Decoupled; not applied to norms, biases and the router's correction bias.
    pub weight_decay: f64,
    /// Global norm to clip at; 0 is off.
    pub max_grad_norm: f64,
}

/// Low-rank adapters (Hu et al. 2022) that are trained while the weights stay as they are; peft's
/// names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// Rank.
    pub r: u32,
    /// The adapter's part is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Linear layers by the last parts of their names, or `all-linear`.
    pub target_modules: Vec<String>,
}

/// Balancing of mixture-of-experts layers while training (DeepSeek-V3 2.1.2, Auxiliary-loss-free).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterTraining {
    /// Step of the correction bias per update, `b += gamma · sign(mean load − load)`; 0 freezes it.
    pub bias_update_speed: f64,
    /// Weight of the sequence-wise balance loss (with a softmax router DeepSeek-V2's expert-level
    /// one); 0 is off.
    pub aux_loss_alpha: f64,
    /// Weight of DeepSeek-V2's device-level balance loss; 0 is off.
    pub device_loss_alpha: f64,
}
