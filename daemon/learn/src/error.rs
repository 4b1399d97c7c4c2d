//! What can go wrong while learning.

use r1d_model::{Fault, ModelError};
use r1d_torch::TorchError;

#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The request itself is wrong: trying again cannot help.
    #[error("sequence {index}: {problem}")]
    Sequence { index: usize, problem: String },
    #[error("{0}")]
    Request(String),
    /// The update was not applied; the weights are those before it.
    #[error("step {step}, update {update}: the {what} is {value}, so the update was not applied: \
             {}", advice(*update))]
    NonFinite {
        step: u64,
        update: u64,
        what: &'static str,
        value: f64,
    },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Torch(#[from] TorchError),
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
}

impl LearnError {
    /// Whether the request, not this worker, is at fault.
    pub fn is_invalid_request(&self) -> bool {
        self.fault() == Fault::Given
    }

    /// A number that is not finite comes of what was given: the same weights and sequences give it
    /// again.
    pub fn fault(&self) -> Fault {
        match self {
            LearnError::Sequence { .. } | LearnError::Request(_) | LearnError::NonFinite { .. } => {
                Fault::Given
            }
            LearnError::Model(error) => error.fault(),
            LearnError::Torch(_) | LearnError::Tensor(_) => Fault::Machine,
        }
    }
}

/// What to do about a loss that is not finite. At a stage's first update nothing has been learned
/// yet that could have diverged.
fn advice(update: u64) -> &'static str {
    match update {
        0 => {
            "it is the stage's first, so the weights that it starts from are damaged or have \
             diverged (`r1ctl model info --check` counts their values that are not finite), or \
             the data's targets are out of proportion"
        }
        _ => "lower learning_rate or max_grad_norm, or look at the step's advantages",
    }
}
