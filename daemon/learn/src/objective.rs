//! The policy-gradient objective, a function of per-token log-probabilities only.
//!
//! With ρ the importance ratio, A the advantage of a token's sequence and w its share of the loss
//! ([`token_weight`]), one minibatch costs
//!
//! ```text
//! L = Σ_t w_t · ( −min( ρ_t A_t , clip(ρ_t, 1−ε, 1+ε_high) A_t ) + β · k3_t )
//!
//! ρ_t  = exp(logπ_θ(o_t) − logπ_old(o_t))                 token level, DeepSeekMath eq. 3
//!      = exp( 1/|o_i| · Σ_{u∈o_i} (logπ_θ(o_u) − logπ_old(o_u)) )  sequence level, GSPO eq. 7;
//!                                                            the same for all of o_i
//! k3_t = exp(logπ_ref − logπ_θ) − (logπ_ref − logπ_θ) − 1  ≥ 0    (DeepSeekMath eq. 4)
//!
//! w_t  = 1 / (S · |o_i|)          grpo      mean over sequences of the mean over tokens
//!      = 1 / (S · max_length)     dr_grpo   a constant: long answers are not diluted (Dr. GRPO)
//!      = 1 / N                    dapo      mean over tokens
//! ```
//!
//! With `use_bias_correction_kl`, k3_t is multiplied by ρ_t: its expectation is over the sampling
//! policy, and its gradient stays bounded where π_θ ≪ π_ref. With `off_policy_mask_threshold` = δ
//! the policy's term of a whole completion is left out where
//!
//! ```text
//! A < 0  and  1/|o_i| · Σ_{t∈o_i} (logπ_sampler(o_t) − logπ_θ(o_t)) > δ  (both DeepSeek-V3.2 3.1)
//! ```
//!
//! so that what the policy has long left behind is not pushed further away. The KL term stays.
//!
//! With `importance_sampling_correction` the policy's term of each token is multiplied by a
//! constant c_t ≈ π_old / π_sampler (`correction`), for all loss types and in every
//! update.
//!
//! S and N count the minibatch's sequences and tokens ([`Share`]). Because the sum runs over tokens
//! with ready weights, a minibatch may be cut into micro-batches and chunks anywhere (for the
//! sequence level: between sequences) without changing the loss.
//!
//! R1 prints the ratio of whole sequences and no 1/|o|; DeepSeek's other papers and every
//! implementation use the token form above, and so does `grpo` here.
//!
//! **π_old.** With one update per rollout batch π_old is π_θ itself: `old` is left out, ρ = 1 and
//! the gradient is that of the plain policy gradient, exactly. With several updates it is the
//! trainer's own forward pass before the first of them, not the sampler's record: the two differ
//! only by rounding (`ROLL-2`), and that rounding must not enter the clipped ratio; c_t corrects
//! it. The difference is reported as `sampling/sampling_logp_difference`.
//!
//! **S_t.** Where top-k or top-p cut ids off while sampling, π_θ, π_old, π_ref and π_sampler are
//! all renormalised over the set S_t that was left of token t's vocabulary
//! ([`crate::sampling_mask`]): truncated and whole distributions have different action spaces, and
//! their ratio is no importance weight (Keep Sampling Mask, DeepSeek-V3.2 3.1).

use crate::correction;
pub use crate::sequences::Sequences;
use r1d_proto::hyperparameters::{ImportanceSamplingLevel, LossType, Objective};
use tch::{Kind, Tensor};

/// The numbers that a minibatch's weights are normalised by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Sequences of the minibatch. Masked ones count: they dilute, as in TRL.
    pub sequences: f64,
    /// Trained tokens. If a rollout batch is split into minibatches, this is the batch's tokens ×
    /// the minibatch's share of its sequences, as in TRL: minibatches of short completions do not
    /// weigh more per token.
    pub tokens: f64,
}

/// Weight of each token of a completion of `length` tokens.
pub fn token_weight(objective: &Objective, length: usize, share: Share) -> f64 {
    let denominator = match objective.loss_type {
        LossType::Grpo => share.sequences * length as f64,
        LossType::DrGrpo => share.sequences * objective.max_completion_length as f64,
        LossType::Dapo => share.tokens,
    };
    1.0 / denominator.max(1.0)
}

/// The objective's input about N completion tokens, besides their log-probabilities. Every tensor
/// is `[N]`, of one dtype.
pub struct Tokens {
    /// A of the token's sequence, or its own (PPO).
    pub advantage: Tensor,
    /// w, the token's share of the loss.
    pub weight: Tensor,
    /// logπ_old; `None` if the policy has not changed since.
    pub old: Option<Tensor>,
    /// logπ_ref; `None` if β = 0.
    pub reference: Option<Tensor>,
    /// logπ_sampler as recorded; needed if [`needs_sampled`].
    pub sampled: Option<Tensor>,
    /// The sequences of the tokens; needed if [`is_whole`].
    pub sequences: Option<Sequences>,
}

impl Tokens {
    /// The tokens `start..start + length`, for objectives that do not need whole sequences.
    pub fn narrow(&self, start: i64, length: i64) -> Tokens {
        let cut = |tensor: &Tensor| tensor.narrow(0, start, length);
        Tokens {
            advantage: cut(&self.advantage),
            weight: cut(&self.weight),
            old: self.old.as_ref().map(cut),
            reference: self.reference.as_ref().map(cut),
            sampled: self.sampled.as_ref().map(cut),
            sequences: None,
        }
    }
}

/// A part of a minibatch's loss, and sums for the metrics.
pub struct Loss {
    /// The loss, a scalar that is differentiable in the log-probabilities.
    pub loss: Tensor,
    /// Sums for the metrics, `[4]` float64, detached: loss, Σ k3, and the number of tokens (at
    /// sequence level: sequences) that the clip held back at the lower and at the upper bound.
    pub sums: Tensor,
    /// Whether the clip held a token back at the lower and at the upper bound: `[2, N]` float,
    /// detached, 1 or 0.
    pub held: Tensor,
    /// The weights that correct the sampler's deviation, of tokens `[N]` or sequences `[count]`;
    /// `None` without the correction.
    pub corrections: Option<Tensor>,
}

/// Computes the equation of the [module](self). `logp` is `[N]`.
pub fn policy_loss(objective: &Objective, logp: &Tensor, tokens: &Tokens) -> Loss {
    let old = tokens
        .old
        .as_ref()
        .map_or_else(|| logp.detach(), Tensor::shallow_clone);
    let of_sequences = tokens
        .sequences
        .as_ref()
        .filter(|_| objective.importance_sampling_level == ImportanceSamplingLevel::Sequence);
    let log_ratio = match of_sequences {
        Some(sequences) => sequences.mean(&(logp - &old)),
        None => logp - &old,
    };
    let ratio = log_ratio.exp();
    let (low, high) = (1.0 - objective.epsilon, 1.0 + objective.epsilon_high);
    let advantage = &tokens.advantage;
    let gain = (&ratio * advantage).minimum(&(ratio.clamp(low, high) * advantage));
    let gain = match (&tokens.sequences, objective.off_policy_mask_threshold) {
        (Some(sequences), Some(threshold)) => {
            let sampled = tokens.sampled.as_ref().unwrap_or(&old);
            let drift = sequences.mean(&(sampled - logp.detach()));
            gain * advantage.ge(0.0).logical_or(&drift.le(threshold))
        }
        _ => gain,
    };
    let correction = objective.importance_sampling_correction.as_ref();
    let corrections = correction
        .zip(tokens.sampled.as_ref())
        .map(|(correction, sampled)| {
            correction::weights(correction, &(&old - sampled), tokens.sequences.as_ref())
        });
    let gain = match &corrections {
        Some(weights) => gain * &weights.of_tokens,
        None => gain,
    };
    let kl = tokens.reference.as_ref().map(|reference| {
        if objective.use_bias_correction_kl {
            k3(logp, reference) * &ratio
        } else {
            k3(logp, reference)
        }
    });
    let cost = match &kl {
        Some(kl) => kl * objective.beta - gain,
        None => -gain,
    };
    let loss = (cost * &tokens.weight).sum(None::<Kind>);
    let (sums, held) = tch::no_grad(|| {
        let held = held_back(&ratio, advantage, (low, high));
        (sums(&loss, kl.as_ref(), &held, of_sequences), held)
    });
    Loss {
        loss,
        sums,
        held,
        corrections: corrections.map(|weights| weights.each),
    }
}

/// Whether the clip holds a token back at the lower and at the upper bound: `[2, N]`, 1 or 0.
fn held_back(ratio: &Tensor, advantage: &Tensor, (low, high): (f64, f64)) -> Tensor {
    let at_low = ratio.lt(low).logical_and(&advantage.lt(0.0));
    let at_high = ratio.gt(high).logical_and(&advantage.gt(0.0));
    Tensor::stack(&[at_low, at_high], 0).to_kind(ratio.kind())
}

/// The sums of [`Loss::sums`]; at sequence level `of_sequences` counts sequences.
fn sums(
    loss: &Tensor,
    kl: Option<&Tensor>,
    held: &Tensor,
    of_sequences: Option<&Sequences>,
) -> Tensor {
    let counted = match of_sequences {
        Some(sequences) => held * &sequences.inverse_length,
        None => held.shallow_clone(),
    };
    let kl_sum = kl.map_or_else(
        || Tensor::zeros([], (Kind::Double, loss.device())),
        |kl| kl.sum(Kind::Double),
    );
    let of_all = Tensor::stack(&[loss.detach().to_kind(Kind::Double), kl_sum], 0);
    let of_held = counted.sum_dim_intlist(&[-1i64][..], false, Kind::Double);
    Tensor::cat(&[of_all, of_held], 0)
}

/// Schulman's k3 estimate of KL(π_θ ‖ π_ref) from samples of π_θ: unbiased, never negative.
pub fn k3(logp: &Tensor, reference: &Tensor) -> Tensor {
    let difference = reference - logp;
    difference.exp() - difference - 1.0
}

/// Whether the loss needs whole sequences at a time.
pub fn is_whole(objective: &Objective) -> bool {
    is_sequence_level(objective)
        || objective.off_policy_mask_threshold.is_some()
        || objective
            .importance_sampling_correction
            .is_some_and(|correction| correction.mode.is_of_sequences())
}

/// Whether the loss reads the sampler's log-probabilities.
pub fn needs_sampled(objective: &Objective) -> bool {
    objective.off_policy_mask_threshold.is_some()
        || objective.importance_sampling_correction.is_some()
}

/// Whether the ratio is a sequence's, so that the clip holds whole sequences back.
pub fn is_sequence_level(objective: &Objective) -> bool {
    objective.importance_sampling_level == ImportanceSamplingLevel::Sequence
}

#[cfg(test)]
#[path = "objective_tests.rs"]
mod tests;
