//! What can go wrong while learning.

use r1d_collectives::CollectiveError;
use r1d_model::{Fault, ModelError};
use r1d_proto::shown;
use r1d_torch::TorchError;
use r1d_torch::memory::ran_out;
use std::error::Error;

/// An error of an update or of a trainer's state.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The request has a sequence that cannot be trained on: another try ends the same.
    #[error("sequence {index}: {problem}")]
    Sequence {
        /// Index of the sequence, pair or text in the request, from 0.
        index: usize,
        /// The problem.
        problem: String,
    },
    /// The request as a whole is wrong, for example empty, or without the reference that its loss
    /// needs.
    #[error("{0}")]
    Request(String),
    /// A number of the update is NaN or infinite. The update was not applied; the weights are those
    /// before it.
    #[error("the {what} is {value}, so the update (learning_rate = {}) was not applied: {}",
        shown::number(*learning_rate), advice(*update, *suspect))]
    NonFinite {
        /// The step, as in the request.
        step: u64,
        /// The update's place in the stage's schedule, from 0.
        update: u64,
        /// The number: the loss or the gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The learning rate of the update.
        learning_rate: f64,
        /// What may be at fault beside the learning rate, as in "look at …".
        suspect: Option<&'static str>,
    },
    /// The model's forward pass or its files failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An operation of the shim failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// One of r1d's own kernels failed.
    #[error(transparent)]
    Kernel(#[from] r1d_kernels::KernelError),
    /// A call that all ranks of the gang make together failed: the gang's epoch is over.
    #[error(transparent)]
    Collective(Box<CollectiveError>),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
}

impl From<CollectiveError> for LearnError {
    fn from(error: CollectiveError) -> LearnError {
        LearnError::Collective(Box::new(error))
    }
}

impl LearnError {
    /// The error of a loss that weighs tokens by advantages, which may be at fault themselves.
    pub(crate) fn of_advantages(mut self) -> LearnError {
        if let LearnError::NonFinite { suspect, .. } = &mut self {
            *suspect = Some("the step's advantages");
        }
        self
    }

    /// Whether the request, and not this worker, is at fault.
    pub fn is_invalid_request(&self) -> bool {
        self.fault() == Fault::Given
    }

    /// Whether memory ran out, the device's or the host's.
    pub fn ran_out_of_memory(&self) -> bool {
        let mut root: &dyn Error = self;
        while let Some(cause) = root.source() {
            root = cause;
        }
        self.fault() == Fault::Machine && ran_out(&root.to_string())
    }

    /// The origin of the error. A number that is not finite comes from the input: the same weights
    /// and sequences give it again.
    pub fn fault(&self) -> Fault {
        match self {
            LearnError::Sequence { .. } | LearnError::Request(_) | LearnError::NonFinite { .. } => {
                Fault::Given
            }
            LearnError::Model(error) => error.fault(),
            LearnError::Torch(_)
            | LearnError::Tensor(_)
            | LearnError::Kernel(_)
            | LearnError::Collective(_) => Fault::Machine,
        }
    }
}

/// Advice about a loss that is not finite. Before a stage's first update nothing has been learned
/// that could have diverged.
fn advice(update: u64, suspect: Option<&'static str>) -> String {
    if update == 0 {
        return "it is the stage's first, so the weights that it starts from are damaged or have \
                diverged (`r1ctl model info --check` counts their values that are not finite), or \
                the data's targets are out of proportion"
            .into();
    }
    let look = suspect.map_or_else(String::new, |suspect| format!(", or look at {suspect}"));
    format!("lower learning_rate or max_grad_norm{look}")
}
