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
use crate::tally::{Fold, Tally, count_of};
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

/// The weights of a rollout batch's updates, for the metrics: their sum, least and greatest one,
/// and their number.
pub(crate) struct Ratios(pub Tally);

impl Ratios {
    pub(crate) fn new(device: Device) -> Ratios {
        const COLUMNS: &[Fold] = &[
            Fold::Sum,
            Fold::Min(f64::INFINITY),
            Fold::Max(0.0),
            Fold::Sum,
        ];
        Ratios(Tally::new(COLUMNS, device))
    }

    /// Adds weights of [`Weights::each`].
    pub(crate) fn add(&mut self, each: &Tensor) -> Result<(), LearnError> {
        let each = each.f_to_kind(Kind::Double)?;
        let (sum, min, max) = (each.f_sum(Kind::Double)?, each.f_min()?, each.f_max()?);
        self.0.push(&[sum, min, max, count_of(&each)?])
    }

    /// Reports TRL's metrics; none without the correction.
    pub(crate) fn report(&self, metrics: &mut Metrics) -> Result<(), LearnError> {
        let total = Vec::<f64>::try_from(self.0.total()?)?;
        let (sum, count) = (total[0], total[3]);
        if count == 0.0 {
            return Ok(());
        }
        let values = [("min", total[1]), ("mean", sum / count), ("max", total[2])];
        let named = |(name, value)| (format!("sampling/importance_sampling_ratio/{name}"), value);
        metrics.extend(values.map(named));
        Ok(())
    }
}
