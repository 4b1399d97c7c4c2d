//! Truncated importance sampling between sampler and trainer (Yao et al. 2025; TRL's
//! `vllm_importance_sampling_…`).
//!
//! Completions come from π_sampler, whose kernels round otherwise than the trainer's, at the same
//! weights. The policy's gradient is an expectation over π_old, the trainer's own, so each term is
//! weighted by their ratio:
//!
//! ```text
//! r_t = exp(logπ_old(o_t) − logπ_sampler(o_t))            of a token
//! r_i = exp(Σ_{t∈o_i} logπ_old(o_t) − logπ_sampler(o_t))  of a sequence, for all of its tokens
//!
//! c   = clamp(r, clip_min, clip_max)                      truncate
//!     = r where clip_min ≤ r ≤ clip_max, else 0           mask
//! ```
//!
//! The weight is a constant, the same in every update on a rollout batch. Where both compute the
//! same bits (batch-invariant mode) it is exactly 1 and changes none.

use crate::LearnError;
use crate::sequences::Sequences;
use r1d_proto::hyperparameters::{ImportanceSamplingCorrection, ImportanceSamplingMode};
use r1d_proto::worker::Metrics;
use tch::{Device, Kind, Tensor};

/// The weights of a part of a minibatch, detached.
pub(crate) struct Weights {
    /// Of each token, `[N]`.
    pub of_tokens: Tensor,
    /// One weight for each token `[N]` or sequence `[count]`, whichever the mode has.
    pub each: Tensor,
}

/// Computes the equation of the [module](self) from `difference` = logπ_old − logπ_sampler, `[N]`.
/// Modes of sequences need those of the tokens.
pub(crate) fn weights(
    correction: &ImportanceSamplingCorrection,
    difference: &Tensor,
    sequences: Option<&Sequences>,
) -> Weights {
    use ImportanceSamplingMode::{SequenceTruncate, TokenTruncate};
    let sequences = sequences.filter(|_| correction.mode.is_of_sequences());
    tch::no_grad(|| {
        let ratio = match sequences {
            Some(sequences) => sequences.sums(difference).exp(),
            None => difference.exp(),
        };
        let (min, max) = (correction.clip_min, correction.clip_max);
        let each = if matches!(correction.mode, TokenTruncate | SequenceTruncate) {
            ratio.clamp(min, max)
        } else {
            ratio.masked_fill(&ratio.lt(min).logical_or(&ratio.gt(max)), 0.0)
        };
        let of_tokens = match sequences {
            Some(sequences) => each.index_select(0, &sequences.index),
            None => each.shallow_clone(),
        };
        Weights { of_tokens, each }
    })
}

/// The weights of a rollout batch's updates, for the metrics.
pub(crate) struct Ratios {
    sum: Tensor,
    min: Tensor,
    max: Tensor,
    count: i64,
}

impl Ratios {
    pub(crate) fn new(device: Device) -> Result<Ratios, LearnError> {
        let scalar = |value: f64| Tensor::f_full([0i64; 0], value, (Kind::Double, device));
        Ok(Ratios {
            sum: scalar(0.0)?,
            min: scalar(f64::INFINITY)?,
            max: scalar(0.0)?,
            count: 0,
        })
    }

    /// The same numbers; what is added to one is not added to the other.
    pub(crate) fn copy(&self) -> Ratios {
        Ratios {
            sum: self.sum.shallow_clone(),
            min: self.min.shallow_clone(),
            max: self.max.shallow_clone(),
            count: self.count,
        }
    }

    /// Adds weights of [`Weights::each`].
    pub(crate) fn add(&mut self, each: &Tensor) -> Result<(), LearnError> {
        let each = each.f_to_kind(Kind::Double)?;
        self.sum = self.sum.f_add(&each.f_sum(Kind::Double)?)?;
        self.min = self.min.f_minimum(&each.f_min()?)?;
        self.max = self.max.f_maximum(&each.f_max()?)?;
        self.count += each.size1()?;
        Ok(())
    }

    /// Reports TRL's metrics; none without the correction.
    pub(crate) fn report(&self, metrics: &mut Metrics) -> Result<(), LearnError> {
        if self.count == 0 {
            return Ok(());
        }
        let mean = self.sum.f_double_value(&[])? / self.count as f64;
        let values = [
            ("min", self.min.f_double_value(&[])?),
            ("mean", mean),
            ("max", self.max.f_double_value(&[])?),
        ];
        let named = |(name, value)| (format!("sampling/importance_sampling_ratio/{name}"), value);
        metrics.extend(values.map(named));
        Ok(())
    }
}
