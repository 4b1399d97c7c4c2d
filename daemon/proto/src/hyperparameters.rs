//! Settings of a stage as they travel to a worker. Names and defaults are TRL's where TRL has one;
//! `daemon/job` documents them key by key and fills them in from a job file.

use serde::{Deserialize, Serialize};

/// How completions are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divisor of the logits; 0 is greedy decoding.
    pub temperature: f32,
    /// Nucleus: the smallest set of ids whose probabilities sum to at least this; 1 is off.
    pub top_p: f32,
    /// Number of likeliest ids that can be drawn; 0 is off.
    pub top_k: u32,
    /// Whether to record which ids top-p and top-k left of each token's vocabulary, and
    /// log-probabilities over these (Keep Sampling Mask, DeepSeek-V3.2 3.1).
    pub keep_sampling_mask: bool,
    /// Longest completion, in tokens.
    pub max_completion_length: u32,
    /// Ids that end a completion when they are sampled.
    pub stop_ids: Vec<u32>,
    /// Base of the counter-based randomness: one uniform per (seed, stage, step, prompt, sample,
    /// position).
    pub seed: u64,
}

/// How the losses of tokens are averaged.
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

/// What has an importance ratio π_θ / π_old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingLevel {
    /// Each token has its own ratio (PPO, GRPO).
    Token,
    /// A sequence has one ratio, the geometric mean of its tokens' (GSPO).
    Sequence,
}

/// What is done with ratios of trainer to sampler that leave the correction's bounds, and whether
/// tokens or sequences have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingMode {
    /// Each token's ratio is moved to the nearest bound.
    TokenTruncate,
    /// A token whose ratio is out of bounds does not train.
    TokenMask,
    /// A sequence's ratio, the product of its tokens', is moved to the nearest bound.
    SequenceTruncate,
    /// A sequence whose ratio is out of bounds does not train.
    SequenceMask,
}

impl ImportanceSamplingMode {
    /// Whether a sequence has one ratio for all of its tokens.
    pub fn is_of_sequences(self) -> bool {
        matches!(self, Self::SequenceTruncate | Self::SequenceMask)
    }
}

/// Truncated importance sampling: the policy's loss is weighted by π_old / π_sampler, where both
/// have the same weights and compute with other kernels (TRL's `vllm_importance_sampling_…`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportanceSamplingCorrection {
    /// What has a ratio, and what happens out of bounds.
    pub mode: ImportanceSamplingMode,
    /// The smallest weight; 0 is no bound.
    pub clip_min: f64,
    /// The largest weight.
    pub clip_max: f64,
}

/// What centred rewards are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The standard deviation of the group (ddof 1).
    Group,
    /// The standard deviation of the step's rewards (ddof 1).
    Batch,
    /// Nothing (Dr. GRPO).
    None,
}

/// What is subtracted from a reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// The group's mean (GRPO).
    Group,
    /// The mean of the group's other rewards (RLOO).
    LeaveOneOut,
    /// The mean of the step's rewards (REINFORCE++).
    Batch,
}

/// The policy-gradient objective, as one update applies it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// How the losses of tokens are averaged.
    pub loss_type: LossType,
    /// Whether tokens or sequences have an importance ratio.
    pub importance_sampling_level: ImportanceSamplingLevel,
    /// ε: the ratio is clipped to `1 − epsilon` below.
    pub epsilon: f64,
    /// ε of the upper side: the ratio is clipped to `1 + epsilon_high`.
    pub epsilon_high: f64,
    /// Weight of the k3 estimate of KL(policy ‖ reference); 0 needs no reference.
    pub beta: f64,
    /// Whether that estimate is weighted by the importance ratio, which makes it unbiased off the
    /// policy (DeepSeek-V3.2 3.1).
    pub use_bias_correction_kl: bool,
    /// δ of the off-policy sequence mask: completions of negative advantage whose mean
    /// log(π_sampler / π_θ) is above it do not train the policy (DeepSeek-V3.2 3.1). `None` is off.
    pub off_policy_mask_threshold: Option<f64>,
    /// How the sampler's deviation from the trainer is corrected; `None` is off.
    pub importance_sampling_correction: Option<ImportanceSamplingCorrection>,
    /// Passes over a rollout batch.
    pub num_iterations: u32,
    /// Updates per pass: the batch is split into this many minibatches (TRL's
    /// `steps_per_generation`).
    pub num_minibatches: u32,
    /// Whether completions that hit the length limit are left out of training.
    pub mask_truncated_completions: bool,
    /// Constant of the Dr. GRPO normaliser, in tokens.
    pub max_completion_length: u32,
    /// Temperature that the completions were drawn with: log-probabilities are of logits /
    /// temperature.
    pub temperature: f32,
    /// Whether to force the experts recorded while sampling in the policy.
    pub routing_replay: bool,
    /// Whether [`Self::routing_replay`] holds for the reference too; else it routes by itself.
    pub routing_replay_reference: bool,
}

/// The loss of preference pairs.
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
    /// The loss of the pairs.
    pub loss_type: DpoLossType,
    /// Weight of staying close to the reference, above 0; τ of IPO.
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
    /// Whether to force the experts recorded while sampling in the policy. The value model has its
    /// own routing.
    pub routing_replay: bool,
    /// Whether [`Self::routing_replay`] holds for the reference too; else it routes by itself.
    pub routing_replay_reference: bool,
}

/// How the learning rate falls after the warm-up, until `total_steps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// It stays at `learning_rate`.
    Constant,
    /// It falls on a straight line.
    Linear,
    /// It falls on half a cosine.
    Cosine,
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimiser {
    /// The rate after the warm-up.
    pub learning_rate: f64,
    /// How the rate falls after the warm-up.
    pub lr_scheduler_type: LrSchedule,
    /// Updates over which the rate rises linearly from 0.
    pub warmup_steps: u64,
    /// Updates after which the schedule has run out.
    pub total_steps: u64,
    /// The rate that linear and cosine schedules end at, as a share of `learning_rate`.
    pub min_lr_ratio: f64,
    /// β₁: decay of the mean of gradients.
    pub adam_beta1: f64,
    /// β₂: decay of the mean of squared gradients.
    pub adam_beta2: f64,
    /// ε that is added to the root of the second moment.
    pub adam_epsilon: f64,
    /// Decoupled weight decay; not applied to norms, biases and the router's correction bias.
    pub weight_decay: f64,
    /// Global norm that gradients are clipped to; 0 is off.
    pub max_grad_norm: f64,
    /// Data type in which the mean of gradients is kept between updates.
    pub exp_avg_dtype: Dtype,
    /// Data type in which the mean of squared gradients is kept between updates.
    pub exp_avg_sq_dtype: Dtype,
    /// The memory in which moments and float32 weights are kept and updated.
    pub optimizer_offload: OptimizerOffload,
}

/// The place of the optimiser (DeepSpeed's `offload_optimizer.device`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerOffload {
    /// On the parameters' device.
    #[default]
    None,
    /// In the host's memory, updated by its processor.
    Cpu,
}

/// How bytes travel between the ranks of a gang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// libtorch's Gloo: TCP, for tensors on the CPU.
    Gloo,
    /// NVIDIA's NCCL, for tensors on GPUs.
    Nccl,
    /// QUIC, for small tensors on the CPU.
    Quic,
}

/// What the copies of a model's weights share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shard {
    /// Nothing: each has all.
    None,
    /// The optimiser's states (ZeRO stage 1).
    Optimizer,
    /// Weights, gradients and optimiser states (ZeRO stage 3).
    Parameters,
}

/// Data type of weights, and of what is kept of their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 4 bytes a value.
    Float32,
    /// 2 bytes a value; the optimiser updates float32 copies of weights.
    Bfloat16,
}

impl Dtype {
    /// Bytes of a value.
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::Float32 => 4,
            Dtype::Bfloat16 => 2,
        }
    }
}

/// The largest β₂ with which a second moment that is rounded to bfloat16 still follows its
/// gradients. An update lowers it by a share of 1 − β₂ at most, and neighbouring numbers are up to
/// 2⁻⁷ apart: with 0.999 it would never fall again.
pub const NARROW_ADAM_BETA2_MAX: f64 = 0.99;

/// Low-rank adapters (Hu et al. 2022) that are trained while the weights stay as they are; peft's
/// names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// Rank of the adapters' matrices.
    pub r: u32,
    /// Scale of the adapters: their output is multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Linear layers that get adapters, by the last parts of their names, or `all-linear`.
    pub target_modules: Vec<String>,
}

/// Gradient checkpointing, also called activation recomputation (Chen et al. 2016): updates
/// differentiate one block at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GradientCheckpointing {
    /// Number of blocks, from the first on, whose activations are not kept for the backward pass
    /// but computed again. A number above the model's means all.
    pub recompute_num_layers: u32,
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
