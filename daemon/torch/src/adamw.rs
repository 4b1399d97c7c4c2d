//! Fused AdamW (Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2).

use crate::shim::{self, TorchError, check, pointers};
use crate::{foreach, work};
use tch::Tensor;
use torch_sys::C_tensor;

/// Settings of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// lr, the learning rate of this step.
    pub learning_rate: f64,
    /// β₁, the decay of the first moment.
    pub beta1: f64,
    /// β₂, the decay of the second moment.
    pub beta2: f64,
    /// ε, which keeps the divisor above 0.
    pub epsilon: f64,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
}

/// The tensors that one step reads and writes: lists of the same length and order, tensors of one
/// dtype.
pub struct Slices<'a> {
    /// θ, updated in place.
    pub parameters: &'a [Tensor],
    /// g, in the parameters' dtype and shape; the step leaves them scaled.
    pub gradients: &'a [Tensor],
    /// First moments, in the parameters' dtype and shape.
    pub exp_avg: &'a [Tensor],
    /// Second moments, in the parameters' dtype and shape.
    pub exp_avg_sq: &'a [Tensor],
    /// t, a float32 scalar per parameter that already counts this update.
    pub steps: &'a [Tensor],
}

/// What one step depends on that only the device may know yet: float32 scalars on it.
#[derive(Clone, Copy, Default)]
pub struct Conditions<'a> {
    /// What gradients are divided by, as clipping wants it. The scaled ones are stored back.
    pub gradient_scale: Option<&'a Tensor>,
    /// 1 if the step must change nothing, because a gradient is not finite; 0 otherwise.
    pub found_inf: Option<&'a Tensor>,
}

impl AdamW {
    /// Updates every parameter in one pass over its memory.
    ///
    /// g ← g / `gradient_scale`; θ ← θ·(1 − lr·λ); m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; θ ← θ −
    /// lr · m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε).
    pub fn step(&self, slices: &Slices, conditions: Conditions) -> Result<(), TorchError> {
        let lengths = [
            slices.gradients.len(),
            slices.exp_avg.len(),
            slices.exp_avg_sq.len(),
            slices.steps.len(),
        ];
        if lengths.iter().any(|&n| n != slices.parameters.len()) {
            let message = format!(
                "{} parameters with lists of {lengths:?}",
                slices.parameters.len()
            );
            return Err(TorchError {
                call: "fused adamw",
                message,
            });
        }
        for group in foreach::groups(slices.parameters) {
            let part = |list: &'_ [Tensor]| pointers(&list[group.clone()]);
            self.step_group(
                [
                    slices.parameters,
                    slices.gradients,
                    slices.exp_avg,
                    slices.exp_avg_sq,
                    slices.steps,
                ]
                .map(part),
                conditions,
            )?;
            work::moved(0);
        }
        Ok(())
    }

    /// Updates a group of tensors: parameters, gradients, both moments and steps, in lists of one
    /// length.
    fn step_group(
        &self,
        lists: [Vec<*const C_tensor>; 5],
        conditions: Conditions,
    ) -> Result<(), TorchError> {
        let address = |of: Option<&Tensor>| of.map_or(std::ptr::null(), Tensor::as_ptr);
        let [parameters, gradients, exp_avg, exp_avg_sq, steps] = lists;
        // SAFETY: all lists hold live tensors and are as long as `parameters`.
        check("fused adamw", unsafe {
            shim::r1d_adamw(
                parameters.as_ptr(),
                gradients.as_ptr(),
                exp_avg.as_ptr(),
                exp_avg_sq.as_ptr(),
                steps.as_ptr(),
                parameters.len(),
                self.learning_rate,
                self.beta1,
                self.beta2,
                self.weight_decay,
                self.epsilon,
                address(conditions.gradient_scale),
                address(conditions.found_inf),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_follow_the_papers_equations() {
        let settings = AdamW {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let parameter = Tensor::from_slice(&[1f64, -2.]);
        let (m, v) = (parameter.zeros_like(), parameter.zeros_like());
        let step = Tensor::from(0f32);
        let mut expected = [(1f64, 0f64, 0f64), (-2., 0., 0.)];
        for t in 1..=3 {
            let gradient = Tensor::from_slice(&[0.5f64 * t as f64, -1.0]);
            let scale = Tensor::from(2f32);
            let _ = step.shallow_clone().g_add_scalar_(1);
            let slices = Slices {
                parameters: &[parameter.shallow_clone()],
                gradients: &[gradient],
                exp_avg: &[m.shallow_clone()],
                exp_avg_sq: &[v.shallow_clone()],
                steps: &[step.shallow_clone()],
            };
            let conditions = Conditions {
                gradient_scale: Some(&scale),
                found_inf: None,
            };
            settings.step(&slices, conditions).unwrap();
            for (x, g) in expected.iter_mut().zip([0.25 * t as f64, -0.5]) {
                let (theta, m, v) = (
                    x.0 * (1. - 0.1 * 0.1),
                    0.9 * x.1 + 0.1 * g,
                    0.99 * x.2 + 0.01 * g * g,
                );
                let (m_hat, v_hat) = (m / (1. - 0.9f64.powi(t)), v / (1. - 0.99f64.powi(t)));
                *x = (theta - 0.1 * m_hat / (v_hat.sqrt() + 1e-8), m, v);
            }
        }
        let got = Vec::<f64>::try_from(&parameter).unwrap();
        assert!(
            (got[0] - expected[0].0).abs() < 1e-12 && (got[1] - expected[1].0).abs() < 1e-12,
            "{got:?} {expected:?}"
        );
    }

    #[test]
    fn lists_of_different_lengths_are_refused() {
        let settings = AdamW {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.0,
        };
        let one = [Tensor::from_slice(&[1f32])];
        let slices = Slices {
            parameters: &one,
            gradients: &[],
            exp_avg: &one,
            exp_avg_sq: &one,
            steps: &one,
        };
        assert!(
            settings
                .step(&slices, Conditions::default())
                .unwrap_err()
                .to_string()
                .contains("1 parameters")
        );
    }
}
