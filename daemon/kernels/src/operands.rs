//! Checks of the operands of one operation: a kernel would read and write outside of them.

use crate::error::{KernelError, Result};
use tch::{Kind, Tensor};

pub(crate) struct Operands {
    operation: &'static str,
}

impl Operands {
    pub(crate) fn of(operation: &'static str) -> Operands {
        Operands { operation }
    }

    pub(crate) fn refuse<T>(&self, message: String) -> Result<T> {
        Err(KernelError::Operand {
            operation: self.operation,
            message,
        })
    }

    pub(crate) fn are(&self, tensor: &Tensor, kind: Kind, shape: &[i64]) -> Result<()> {
        let fits = tensor.kind() == kind
            && tensor.size() == shape
            && tensor.is_contiguous()
            && tensor.device().is_cuda();
        if fits {
            return Ok(());
        }
        self.refuse(format!(
            "{tensor:?} is not a contiguous {kind:?} of {shape:?} on a GPU"
        ))
    }
}

pub(crate) fn address(tensor: &Tensor) -> u64 {
    tensor.data_ptr().addr() as u64
}
