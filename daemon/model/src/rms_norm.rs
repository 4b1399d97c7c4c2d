use crate::error::Result;
use crate::weights::{Builder, Initial};
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

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_rms_norm([self.size], Some(&self.weight), self.epsilon)?)
    }
}
