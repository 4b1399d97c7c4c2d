//! The output head by r1d's own kernels: a chunk's logits stay bfloat16, are read once for what is
//! known of them, and are overwritten by their gradient.
//!
//! For N tokens of a vocabulary of V ids the head's element-wise work moves 2 NV bytes forward
//! (libtorch: about 40 NV, with entropy and the likeliest id), and 4 NV backward (about 30).

use crate::LearnError;
use r1d_kernels::{Logprobs, TrainKernels};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// The head's weight `[V, D]`, the kernels, and the temperature of the distributions.
pub(crate) struct FusedHead<'a> {
    pub kernels: &'a Arc<TrainKernels>,
    pub weight: &'a Tensor,
    pub temperature: f64,
}

/// A chunk of n tokens.
pub(crate) struct Rows<'a> {
    /// Hidden states, `[n, D]`, without gradients.
    pub hidden: &'a Tensor,
    /// The ids whose log-probabilities are wanted, int64 `[n]`.
    pub targets: &'a Tensor,
    /// The ids that the distributions are over, `[n, V]` bool; `None`: all.
    pub kept: Option<&'a Tensor>,
}

impl FusedHead<'_> {
    /// Computes a chunk's logits, bfloat16 `[n, V]`, and what is known of them.
    pub(crate) fn forward(&self, rows: &Rows) -> Result<(Tensor, Logprobs), LearnError> {
        tch::no_grad(|| {
            let logits = rows.hidden.f_linear(self.weight, None::<&Tensor>)?;
            let found =
                self.kernels
                    .logprobs(&logits, rows.targets, rows.kept, self.temperature)?;
            Ok((logits, found))
        })
    }

    /// Computes the gradient of Σ slope · logp in the hidden states, `[n, D]`, and adds that of the
    /// weight to `sum`, float32 `[V, D]`. `slope` is float32 `[n]`.
    pub(crate) fn backward(
        &self,
        rows: &Rows,
        logits: Tensor,
        found: &Logprobs,
        slope: &Tensor,
        sum: Option<&Tensor>,
    ) -> Result<Tensor, LearnError> {
        tch::no_grad(|| {
            let Rows {
                hidden,
                targets,
                kept,
            } = *rows;
            let slope = slope.f_contiguous()?;
            self.kernels.logits_gradient(
                &logits,
                targets,
                kept,
                found,
                &slope,
                self.temperature,
            )?;
            if let Some(sum) = sum {
                let transposed = logits.f_transpose(0, 1)?;
                let _ = sum.f_addmm_dtype_out(sum, &transposed, hidden, Kind::Float)?;
            }
            Ok(logits.f_mm(self.weight)?)
        })
    }
}
