//! Losses of learning from preferences: functions of scores (reward models) or of log-probabilities
//! (DPO) only.
//!
//! ```text
//! pairwise    −log σ(r_chosen − r_rejected − margin) + c · (r_chosen + r_rejected)²
//!             Bradley–Terry; c keeps the scores around 0
//! pointwise   −y · log σ(r) − (1 − y) · log σ(−r)       binary cross entropy
//!
//! DPO, with x = Σ_t logπ_θ(o_t) − logπ_ref(o_t) of each side, δ = x_chosen − x_rejected, and ε
//! the label smoothing:
//! sigmoid     −(1 − ε) · log σ(βδ) − ε · log σ(−βδ)
//! robust      (−(1 − ε) · log σ(βδ) + ε · log σ(−βδ)) / (1 − 2ε)
//! ipo         (x_chosen / |chosen| − x_rejected / |rejected| − 1/2β)²    |·| in tokens
//! ```
//!
//! A batch costs the mean over its pairs or items; each function gives the share of those that it
//! is given, so a batch may be cut anywhere between them.

use r1d_proto::hyperparameters::{DpoLossType, DpoObjective};
use tch::{Kind, Tensor};

/// The loss of P pairs out of `pairs`, a scalar, from the scores `[P]` of their sides and their
/// margins `[P]`; c is `center_rewards_coefficient`.
pub fn pairwise_loss(
    chosen: &Tensor,
    rejected: &Tensor,
    margin: &Tensor,
    center_rewards_coefficient: f64,
    pairs: f64,
) -> Tensor {
    let losses = -(chosen - rejected - margin).log_sigmoid();
    let losses = match center_rewards_coefficient {
        0.0 => losses,
        c => losses + (chosen + rejected).square() * c,
    };
    losses.sum(None::<Kind>) / pairs
}

/// The loss of P texts out of `items`, a scalar, from their scores `[P]` and their labels y `[P]`
/// from 0 to 1.
pub fn pointwise_loss(scores: &Tensor, labels: &Tensor, items: f64) -> Tensor {
    // The loss is −log σ(−r) − y·r, in one term that never overflows.
    let losses = -scores.neg().log_sigmoid() - labels * scores;
    losses.sum(None::<Kind>) / items
}

/// One side of P pairs; each tensor is `[P]`.
pub struct Side {
    /// Σ over the completion's tokens of logπ_θ.
    pub policy: Tensor,
    /// Σ over the completion's tokens of logπ_ref.
    pub reference: Tensor,
    /// The number of the completion's tokens.
    pub lengths: Tensor,
}

impl Side {
    fn log_ratio(&self) -> Tensor {
        &self.policy - &self.reference
    }
}

/// The loss of P pairs out of `pairs`, a scalar that is differentiable in the policy's
/// log-probabilities.
pub fn dpo_loss(objective: &DpoObjective, chosen: &Side, rejected: &Side, pairs: f64) -> Tensor {
    let (beta, smoothing) = (objective.beta, objective.label_smoothing);
    let agrees =
        |sign: f64| ((chosen.log_ratio() - rejected.log_ratio()) * (sign * beta)).log_sigmoid();
    let losses = match objective.loss_type {
        DpoLossType::Sigmoid if smoothing == 0.0 => -agrees(1.0),
        DpoLossType::Sigmoid => agrees(1.0) * (smoothing - 1.0) - agrees(-1.0) * smoothing,
        DpoLossType::Robust => {
            (agrees(1.0) * (smoothing - 1.0) + agrees(-1.0) * smoothing) / (1.0 - 2.0 * smoothing)
        }
        DpoLossType::Ipo => {
            let mean = |side: &Side| side.log_ratio() / &side.lengths;
            (mean(chosen) - mean(rejected) - 1.0 / (2.0 * beta)).square()
        }
    };
    losses.sum(None::<Kind>) / pairs
}
