//! Updates by r1d's own kernels: each parameter's weights, moments and gradient are read once, and
//! written once with the weights that the model computes with.
//!
//! A bfloat16 parameter with float32 moments takes 28 bytes of traffic, and 2 for the norm of its
//! gradient, if that was held. By libtorch's operations it takes 48: 6 to add the gradient to its
//! sum, 4 for the norm, 32 for AdamW, which also stores gradients back, 6 to round the weights.

use super::{Optimiser, Verdict};
use crate::LearnError;
use r1d_kernels::{AdamWOperands, AdamWSettings, TrainKernels};
use tch::Tensor;

impl Optimiser {
    /// [`Optimiser::gradient_norm`].
    pub(super) fn norm_by_kernels(&self, kernels: &TrainKernels) -> Result<Tensor, LearnError> {
        let gradients = self.gradients()?.into_iter().flatten();
        let gradients = gradients.map(|gradient| gradient.f_contiguous());
        let gradients = gradients.collect::<Result<Vec<_>, _>>()?;
        let device = self.parameters[0].tensor.device();
        Ok(kernels.square_sum(&gradients, device)?.f_sqrt()?)
    }

    /// Makes an update on the device.
    pub(super) fn update_by_kernels(
        &self,
        kernels: &TrainKernels,
        learning_rate: f64,
        verdict: &Verdict,
    ) -> Result<(), LearnError> {
        let gradients = self.gradients()?;
        for (index, (own, gradient)) in (0..).zip(self.parameters.iter().zip(gradients)) {
            let Some(gradient) = gradient else { continue };
            let settings = self.step_settings(learning_rate, own.decays);
            let operands = AdamWOperands {
                weight: &own.weight,
                gradient: &gradient.f_contiguous()?,
                exp_avg: &own.exp_avg,
                exp_avg_sq: &own.exp_avg_sq,
                published: own.has_master.then_some(&own.tensor),
                step: &self.steps.f_select(0, index)?,
            };
            let settings = AdamWSettings {
                learning_rate,
                weight_decay: settings.weight_decay,
                beta1: settings.beta1,
                beta2: settings.beta2,
                epsilon: settings.epsilon,
                gradient_scale: verdict.gradient_scale.as_ref(),
                found_inf: &verdict.found_inf,
            };
            kernels.adamw(&operands, &settings)?;
        }
        Ok(())
    }
}
