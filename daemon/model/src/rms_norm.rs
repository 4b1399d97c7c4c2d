use crate::error::Result;
use crate::fused;
use crate::weights::{Builder, Initial};
use r1d_kernels::TrainKernels;
use std::sync::Arc;
use tch::Tensor;

/// Computes y = w · x / √(mean(x²) + ε) over the last dimension, with statistics in float32 (Zhang
/// & Sennrich 2019).
pub(crate) struct RmsNorm {
    weight: Tensor,
    size: i64,
    epsilon: f64,
}

impl RmsNorm {
    pub(crate) fn build(
        weights: &mut Builder,
        name: &str,
        size: i64,
        epsilon: f64,
    ) -> Result<RmsNorm> {
        Ok(RmsNorm {
            weight: weights.tensor(&format!("{name}.weight"), &[size], Initial::Ones)?,
            size,
            epsilon,
        })
    }

    /// The weight, and ε.
    pub(crate) fn parts(&self) -> (&Tensor, f32) {
        (&self.weight, self.epsilon as f32)
    }

    /// Computes h = x + added and the norm of h, both `[T, size]`.
    pub(crate) fn behind_sum(
        &self,
        x: Tensor,
        added: Option<&Tensor>,
        kernels: Option<&Arc<TrainKernels>>,
    ) -> Result<(Tensor, Tensor)> {
        if let Some(kernels) = kernels.filter(|_| TrainKernels::takes_width(self.size)) {
            return fused::add_rms_norm(kernels, &x, added, &self.weight, self.epsilon as f32);
        }
        let sum = match added {
            Some(added) => x.f_add(added)?,
            None => x,
        };
        let normed = self.forward(&sum)?;
        Ok((sum, normed))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_rms_norm([self.size], Some(&self.weight), self.epsilon)?)
    }
}
