//! An all-to-all with gradients: what a token needs that goes to its expert's rank and comes back.
//! The gradients of the rows travel the other way, in the same numbers.
//!
//! The backward pass makes a call for each of the forward's, in the opposite order, so all ranks
//! have to go through the same operations: on each, the tensor needs gradients or on none does, and
//! the loss depends on what was received, be it no rows.

use crate::call::Call;
use crate::process_group::{CollectiveError, ProcessGroup, Received};
use r1d_torch::TorchError;
use r1d_torch::function::differentiable;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;
use tch::{Kind, Tensor};

/// A process group that the forward and the backward pass have together.
#[derive(Clone)]
pub struct SharedGroup(Arc<Mutex<ProcessGroup>>);

/// An exchange that failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The collective failed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The group is in another call: a group is called by one thread at a time, and its guard is
    /// not held over a backward pass.
    #[error("`{0}` is called while its group is in another call")]
    InUse(String),
    /// libtorch did not record the operation.
    #[error(transparent)]
    Record(#[from] TorchError),
}

impl SharedGroup {
    /// Shares a group.
    pub fn new(group: ProcessGroup) -> SharedGroup {
        SharedGroup(Arc::new(Mutex::new(group)))
    }

    /// The group, for collectives without gradients.
    pub fn lock(&self) -> MutexGuard<'_, ProcessGroup> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both are the same group.
    pub fn is(&self, other: &SharedGroup) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// [`ProcessGroup::all_to_all`] with gradients, which the backward pass brings back under the
    /// name `NAME, backward`, with the same deadline.
    pub fn all_to_all(
        &self,
        call: Call,
        tensor: &Tensor,
        sent: &[i64],
    ) -> Result<Received, ExchangeError> {
        let Received { rows, counts } = self.at_once(call, tensor, sent)?;
        let (group, within) = (self.clone(), call.within);
        let name = format!("{}, backward", call.name);
        let (shape, back) = (rows.size(), counts.clone());
        let of = (rows.kind(), rows.device());
        let gradient = move |given: &[Option<Tensor>]| {
            let given = match given {
                [Some(gradient)] => gradient.shallow_clone(),
                // Nothing on this rank used the rows; the others wait for their gradients.
                _ => Tensor::f_zeros(&shape, of).map_err(|e| e.to_string())?,
            };
            let rows = group.backward(&name, within, of.0, &given, &back)?;
            Ok(vec![Some(rows)])
        };
        let outputs = differentiable(&[tensor], vec![rows], Box::new(gradient))?;
        let rows = outputs[0].shallow_clone();
        Ok(Received { rows, counts })
    }

    /// Brings gradients back to the ranks whose rows they are of.
    fn backward(
        &self,
        name: &str,
        within: Duration,
        kind: Kind,
        gradients: &Tensor,
        counts: &[i64],
    ) -> Result<Tensor, String> {
        let gradients = gradients.f_to_kind(kind).map_err(|e| e.to_string())?;
        self.at_once(Call::new(name, within), &gradients, counts)
            .map(|received| received.rows)
            .map_err(|e| e.to_string())
    }

    /// An all-to-all, or an error where waiting for the group could have no end.
    fn at_once(
        &self,
        call: Call,
        tensor: &Tensor,
        sent: &[i64],
    ) -> Result<Received, ExchangeError> {
        let mut group = match self.0.try_lock() {
            Ok(group) => group,
            Err(TryLockError::Poisoned(group)) => group.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(ExchangeError::InUse(call.name.to_owned()));
            }
        };
        Ok(group.all_to_all(call, tensor, sent)?)
    }
}
