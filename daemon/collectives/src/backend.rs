//! What a transport has to do: move bytes between ranks. It knows neither dtypes nor shapes, and
//! adds nothing.

use std::time::Duration;
use tch::Tensor;

/// A transport that did not move what it should have. The text is the transport's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

impl From<tch::TchError> for BackendError {
    fn from(error: tch::TchError) -> BackendError {
        BackendError(error.to_string())
    }
}

/// Moves bytes between the ranks of one group. Contract: all tensors are flat and of uint8; all
/// ranks make the same calls in the same order with lengths that fit together; a call ends within
/// `limit` or little later, and one that failed may leave `output` half written. After an error
/// nothing more is asked of a backend.
pub trait Backend: Send {
    /// This rank's number in the group, from 0.
    fn rank(&self) -> usize;

    /// Ranks of the group.
    fn size(&self) -> usize;

    /// Sends consecutive parts of `input`, `sent[r]` bytes to rank r, and fills `output` with
    /// `received[r]` bytes of each rank r, in the order of ranks.
    fn all_to_all(
        &mut self,
        input: &Tensor,
        sent: &[i64],
        output: &mut Tensor,
        received: &[i64],
        limit: Duration,
    ) -> Result<(), BackendError>;

    /// Fills `output` with the `input` of all ranks, which is equally long on each and not empty.
    fn all_gather(
        &mut self,
        input: &Tensor,
        output: &mut Tensor,
        limit: Duration,
    ) -> Result<(), BackendError>;

    /// Fills `bytes`, which is not empty, with what it is on rank `root`.
    fn broadcast(
        &mut self,
        bytes: &mut Tensor,
        root: usize,
        limit: Duration,
    ) -> Result<(), BackendError>;
}
