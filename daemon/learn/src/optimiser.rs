//! The policy's parameters under AdamW: moments, master weights, clipping, and their exact state.

use crate::LearnError;
use r1d_proto::hyperparameters::{self, Dtype, NARROW_ADAM_BETA2_MAX};
use r1d_torch::adamw::{AdamW, Slices};
use r1d_torch::foreach;
use r1d_torch::work;
use tch::{Kind, Tensor};

/// One parameter and the optimiser's tensors for it.
struct Slot {
    name: String,
    parameter: Tensor,
    /// The tensor that AdamW updates: the parameter itself in float32; for lower precisions a
    /// float32 copy, which does not lose small updates.
    weight: Tensor,
    /// The moments, float32 or narrower.
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    /// The number of updates, a float32 scalar that is a view of `Optimiser::steps`.
    step: Tensor,
    /// The float32 sum over micro-batches, for parameters of lower precision.
    gradient: Option<Tensor>,
    decays: bool,
}

impl Slot {
    fn has_master(&self) -> bool {
        self.parameter.kind() != Kind::Float
    }

    /// Makes one step on this parameter alone, whose moments may be narrower than its weight. It
    /// takes `part` elements at a time, so that few moments are wide at once, and rounds those to
    /// the nearest number behind the step.
    fn step_in_parts(
        &self,
        settings: &AdamW,
        gradient: &Tensor,
        scale: Option<&Tensor>,
        part: i64,
    ) -> Result<(), LearnError> {
        let flat = [&self.weight, gradient, &self.exp_avg, &self.exp_avg_sq]
            .map(|tensor| tensor.f_detach()?.f_reshape([-1]));
        let [weight, gradient, exp_avg, exp_avg_sq] = flat;
        let (weight, gradient) = (weight?, gradient?);
        let (exp_avg, exp_avg_sq) = (exp_avg?, exp_avg_sq?);
        let elements = weight.size1()?;
        let mut start = 0;
        while start < elements {
            let count = part.min(elements - start);
            let of = |tensor: &Tensor| tensor.f_narrow(0, start, count);
            let narrow = [of(&exp_avg)?, of(&exp_avg_sq)?];
            let [first, second] = [0, 1].map(|i: usize| narrow[i].f_to_kind(Kind::Float));
            let wide = [first?, second?];
            let slices = Slices {
                parameters: &[of(&weight)?],
                gradients: &[of(&gradient)?],
                exp_avg: &wide[..1],
                exp_avg_sq: &wide[1..],
                steps: &[self.step.shallow_clone()],
            };
            settings.step(&slices, scale)?;
            // A moment that is float32 already was updated in place.
            for (kept, stepped) in narrow.iter().zip(&wide) {
                if kept.kind() != Kind::Float {
                    foreach::copy(&[kept.shallow_clone()], &[stepped.shallow_clone()])?;
                }
            }
            start += count;
        }
        Ok(())
    }
}

/// Elements of a parameter whose narrow moments are widened at a time.
const PART_ELEMENTS: i64 = 1 << 26;

fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::Bfloat16 => Kind::BFloat16,
    }
}

/// AdamW over a model's parameters.
pub struct Optimiser {
    settings: hyperparameters::Optimiser,
    slots: Vec<Slot>,
    /// The number of updates of each parameter, `[parameters]` float32.
    steps: Tensor,
}

/// Whether a parameter decays: decoupled weight decay pulls matrices towards 0, but not norms,
/// biases and other vectors.
fn decays(name: &str, parameter: &Tensor) -> bool {
    parameter.dim() >= 2 && !name.ends_with("bias") && !name.contains("norm")
}

impl Optimiser {
    /// Makes an optimiser with fresh moments. `parameters` are the model's leaves; they are updated
    /// in place.
    pub fn new(
        parameters: Vec<(String, Tensor)>,
        settings: &hyperparameters::Optimiser,
    ) -> Result<Optimiser, LearnError> {
        let Some((_, first)) = parameters.first() else {
            return Err(LearnError::Request(
                "the model has no parameters to train".into(),
            ));
        };
        if settings.exp_avg_sq_dtype != Dtype::Float32
            && settings.adam_beta2 > NARROW_ADAM_BETA2_MAX
        {
            return Err(LearnError::Request(format!(
                "exp_avg_sq_dtype = \"bfloat16\" with adam_beta2 = {}: second moments would be \
                 rounded back to where they were; set adam_beta2 to {NARROW_ADAM_BETA2_MAX} at \
                 most",
                settings.adam_beta2
            )));
        }
        let steps = Tensor::f_zeros([parameters.len() as i64], (Kind::Float, first.device()))?;
        let slots = parameters
            .into_iter()
            .enumerate()
            .map(|(i, (name, parameter))| {
                let weight = if parameter.kind() == Kind::Float {
                    parameter.f_detach()?
                } else {
                    tch::no_grad(|| parameter.f_to_kind(Kind::Float))?
                };
                // It takes time to zero memory, so this reports progress.
                let moment = |dtype: Dtype| {
                    work::moved(0);
                    weight.f_zeros_like()?.f_to_kind(kind_of(dtype))
                };
                let exp_avg = moment(settings.exp_avg_dtype)?;
                let exp_avg_sq = moment(settings.exp_avg_sq_dtype)?;
                work::moved(0);
                Ok(Slot {
                    decays: decays(&name, &parameter),
                    exp_avg,
                    exp_avg_sq,
                    step: steps.f_select(0, i as i64)?,
                    gradient: None,
                    name,
                    parameter,
                    weight,
                })
            });
        let slots = slots.collect::<Result<_, LearnError>>()?;
        Ok(Optimiser {
            settings: settings.clone(),
            slots,
            steps,
        })
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &hyperparameters::Optimiser {
        &self.settings
    }

    /// Drops all gradients.
    pub fn clear_gradients(&mut self) -> Result<(), LearnError> {
        self.slots.iter_mut().for_each(|slot| slot.gradient = None);
        let parameters: Vec<Tensor> = self
            .slots
            .iter()
            .map(|slot| slot.parameter.shallow_clone())
            .collect();
        Ok(foreach::clear_gradients(&parameters)?)
    }

    /// Adds the gradients of a backward pass, and must be called after each one: gradients of
    /// low-precision parameters are summed in float32, not in their own dtype.
    pub fn accumulate(&mut self) -> Result<(), LearnError> {
        let mut taken = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| slot.has_master()) {
            let gradient = slot.parameter.f_grad()?;
            if !gradient.defined() {
                continue;
            }
            match &mut slot.gradient {
                Some(sum) => drop(tch::no_grad(|| sum.f_add_(&gradient))?),
                none => *none = Some(gradient.f_to_kind(Kind::Float)?),
            }
            taken.push(slot.parameter.shallow_clone());
            work::moved(0);
        }
        Ok(foreach::clear_gradients(&taken)?)
    }

    /// The float32 sum of a parameter's gradients, for those who add to it themselves; `None` if it
    /// has none, because it is float32 itself or not trained.
    pub fn sum_of(&mut self, parameter: &Tensor) -> Result<Option<Tensor>, LearnError> {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.has_master() && slot.parameter.data_ptr() == parameter.data_ptr());
        let Some(slot) = slot else { return Ok(None) };
        let sum = match slot.gradient.take() {
            Some(sum) => sum,
            None => slot.weight.f_zeros_like()?,
        };
        Ok(Some(slot.gradient.insert(sum).shallow_clone()))
    }

    fn gradients(&self) -> Result<Vec<Option<Tensor>>, LearnError> {
        let of = |slot: &Slot| -> Result<Option<Tensor>, LearnError> {
            if slot.has_master() {
                return Ok(slot.gradient.as_ref().map(Tensor::shallow_clone));
            }
            let gradient = slot.parameter.f_grad()?;
            Ok(gradient.defined().then_some(gradient))
        };
        self.slots.iter().map(of).collect()
    }

    /// The global norm of the gradients, before clipping. Waits for the device.
    pub fn gradient_norm(&self) -> Result<f64, LearnError> {
        Ok(foreach::global_norm(
            &self.gradients()?.into_iter().flatten().collect::<Vec<_>>(),
        )?)
    }

    /// Makes one update at `learning_rate`, with gradients whose global norm is `norm` clipped to
    /// `max_grad_norm`. Parameters without a gradient do not change, nor do their moments. The
    /// gradients are consumed.
    pub fn update(&mut self, learning_rate: f64, norm: f64) -> Result<(), LearnError> {
        let gradients = self.gradients()?;
        let limit = self.settings.max_grad_norm;
        let scale =
            (limit > 0.0 && norm + CLIP_EPSILON > limit).then(|| (norm + CLIP_EPSILON) / limit);
        let scale = scale
            .map(|s| Tensor::from(s as f32).f_to_device(self.steps.device()))
            .transpose()?;
        self.count_updates(&gradients)?;
        for decays in [true, false] {
            let settings = self.step_settings(learning_rate, decays);
            let mut lists: [Vec<Tensor>; 5] = Default::default();
            for (slot, gradient) in self.slots.iter().zip(&gradients) {
                if let (true, Some(gradient)) = (slot.decays == decays, gradient) {
                    if self.has_narrow_moments() {
                        slot.step_in_parts(&settings, gradient, scale.as_ref(), PART_ELEMENTS)?;
                        continue;
                    }
                    let parts = [
                        &slot.weight,
                        gradient,
                        &slot.exp_avg,
                        &slot.exp_avg_sq,
                        &slot.step,
                    ];
                    lists
                        .iter_mut()
                        .zip(parts)
                        .for_each(|(list, tensor)| list.push(tensor.shallow_clone()));
                }
            }
            let [parameters, gradients, exp_avg, exp_avg_sq, steps] = &lists;
            let slices = Slices {
                parameters,
                gradients,
                exp_avg,
                exp_avg_sq,
                steps,
            };
            settings.step(&slices, scale.as_ref())?;
        }
        self.publish()?;
        self.clear_gradients()
    }

    fn has_narrow_moments(&self) -> bool {
        let settings = &self.settings;
        [settings.exp_avg_dtype, settings.exp_avg_sq_dtype] != [Dtype::Float32; 2]
    }

    fn step_settings(&self, learning_rate: f64, decays: bool) -> AdamW {
        AdamW {
            learning_rate,
            beta1: self.settings.adam_beta1,
            beta2: self.settings.adam_beta2,
            epsilon: self.settings.adam_epsilon,
            weight_decay: if decays {
                self.settings.weight_decay
            } else {
                0.0
            },
        }
    }

    fn count_updates(&mut self, gradients: &[Option<Tensor>]) -> Result<(), LearnError> {
        tch::no_grad(|| {
            if gradients.iter().all(Option::is_some) {
                return self.steps.f_add_scalar_(1).map(drop);
            }
            let reached: Vec<f32> = gradients
                .iter()
                .map(|gradient| gradient.is_some() as u8 as f32)
                .collect();
            let reached = Tensor::from_slice(&reached).f_to_device(self.steps.device())?;
            self.steps.f_add_(&reached).map(drop)
        })?;
        Ok(())
    }

    /// Rounds the master weights into the model's.
    fn publish(&self) -> Result<(), LearnError> {
        let masters = self.slots.iter().filter(|slot| slot.has_master());
        let (parameters, weights): (Vec<Tensor>, Vec<Tensor>) = masters
            .map(|slot| (slot.parameter.shallow_clone(), slot.weight.shallow_clone()))
            .unzip();
        Ok(foreach::copy(&parameters, &weights)?)
    }

    /// Everything that is needed to continue with the same bits, as views of live memory: `steps`
    /// `[parameters]`, and for each parameter in its shape `exp_avg.NAME` and `exp_avg_sq.NAME` in
    /// their dtypes and, below float32, `master.NAME`, float32. After writing to them call
    /// [`restored`](Self::restored).
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("steps".to_owned(), self.steps.shallow_clone())];
        for slot in &self.slots {
            state.push((
                format!("exp_avg.{}", slot.name),
                slot.exp_avg.shallow_clone(),
            ));
            state.push((
                format!("exp_avg_sq.{}", slot.name),
                slot.exp_avg_sq.shallow_clone(),
            ));
            if slot.has_master() {
                state.push((format!("master.{}", slot.name), slot.weight.shallow_clone()));
            }
        }
        state
    }

    /// Rounds the masters into the model's weights. Call it after the tensors of
    /// [`state`](Self::state) have been written to.
    pub fn restored(&self) -> Result<(), LearnError> {
        self.publish()
    }
}

/// The number that torch's `clip_grad_norm_` adds to the norm that it divides by.
const CLIP_EPSILON: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::hyperparameters::LrSchedule;
    use tch::Device;

    fn settings() -> hyperparameters::Optimiser {
        hyperparameters::Optimiser {
            learning_rate: 0.1,
            lr_scheduler_type: LrSchedule::Constant,
            warmup_steps: 0,
            total_steps: 10,
            min_lr_ratio: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_epsilon: 1e-8,
            weight_decay: 0.5,
            max_grad_norm: 1.0,
            exp_avg_dtype: Dtype::Float32,
            exp_avg_sq_dtype: Dtype::Float32,
        }
    }

    /// The settings with moments in bfloat16.
    fn narrow() -> hyperparameters::Optimiser {
        hyperparameters::Optimiser {
            exp_avg_dtype: Dtype::Bfloat16,
            exp_avg_sq_dtype: Dtype::Bfloat16,
            ..settings()
        }
    }

    fn parameters(kind: Kind) -> Vec<(String, Tensor)> {
        let tensor =
            |shape: &[i64]| Tensor::ones(shape, (kind, Device::Cpu)).set_requires_grad(true);
        vec![
            ("model.embed_tokens.weight".to_owned(), tensor(&[2, 2])),
            ("model.norm.weight".to_owned(), tensor(&[2])),
            ("model.layers.0.mlp.scale".to_owned(), tensor(&[2])),
        ]
    }

    /// Makes one update with loss Σ c·θ, so the gradient is c everywhere.
    fn step(optimiser: &mut Optimiser, parameters: &[(String, Tensor)], c: f64) -> f64 {
        let loss: Tensor = parameters
            .iter()
            .map(|(_, p)| p.to_kind(Kind::Float).sum(Kind::Float))
            .sum::<Tensor>()
            * c;
        loss.backward();
        optimiser.accumulate().unwrap();
        let norm = optimiser.gradient_norm().unwrap();
        optimiser.update(0.1, norm).unwrap();
        norm
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.to_kind(Kind::Float).view([-1])).unwrap()
    }

    #[test]
    fn decay_spares_vectors() {
        let parameters = parameters(Kind::Float);
        let mut optimiser = Optimiser::new(
            parameters
                .iter()
                .map(|(n, p)| (n.clone(), p.shallow_clone()))
                .collect(),
            &settings(),
        )
        .unwrap();
        step(&mut optimiser, &parameters, 0.0);
        assert_eq!(values(&parameters[0].1), [0.95; 4]);
        assert_eq!(values(&parameters[1].1), [1.0; 2]);
        assert_eq!(values(&parameters[2].1), [1.0; 2]);
    }

    #[test]
    fn gradients_are_clipped_to_the_global_norm() {
        let parameters = parameters(Kind::Float);
        let mut optimiser = Optimiser::new(
            parameters
                .iter()
                .map(|(n, p)| (n.clone(), p.shallow_clone()))
                .collect(),
            &settings(),
        )
        .unwrap();
        assert!((step(&mut optimiser, &parameters, 100.0) - 100.0 * 8f64.sqrt()).abs() < 1e-3);
        // The first moment is (1 − β₁) of the clipped gradient, 1/√8 in each of eight elements.
        let state = optimiser.state();
        let (_, moment) = state
            .iter()
            .find(|(name, _)| name == "exp_avg.model.norm.weight")
            .unwrap();
        assert!((values(moment)[0] - 0.1 / 8f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn bfloat16_weights_do_not_lose_small_updates() {
        let parameters = parameters(Kind::BFloat16);
        let mut gentle = settings();
        gentle.weight_decay = 0.0;
        let mut optimiser = Optimiser::new(
            parameters
                .iter()
                .map(|(n, p)| (n.clone(), p.shallow_clone()))
                .collect(),
            &gentle,
        )
        .unwrap();
        for _ in 0..40 {
            let loss: Tensor = parameters
                .iter()
                .map(|(_, p)| p.to_kind(Kind::Float).sum(Kind::Float))
                .sum();
            loss.backward();
            optimiser.accumulate().unwrap();
            let norm = optimiser.gradient_norm().unwrap();
            // Each update is 2⁻¹¹, which alone rounds away in bfloat16, whose neighbours below 1
            // are 2⁻⁸ apart.
            optimiser.update(f64::powi(2.0, -11), norm).unwrap();
        }
        let moved = 1.0 - values(&parameters[0].1)[0];
        assert!(
            (moved - 40.0 * f32::powi(2.0, -11)).abs() < f32::powi(2.0, -8),
            "moved {moved}"
        );
        assert!(
            optimiser
                .state()
                .iter()
                .any(|(name, t)| name == "master.model.norm.weight" && t.kind() == Kind::Float)
        );
    }

    #[test]
    fn gradients_of_micro_batches_add_up_in_float32() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let parameters = parameters(kind);
            let clones = parameters
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
                .collect();
            let mut optimiser = Optimiser::new(clones, &settings()).unwrap();
            // 1 + 2⁻⁹ rounds to 1 in bfloat16.
            for slope in [1.0, f64::powi(2.0, -9)] {
                let loss: Tensor = parameters
                    .iter()
                    .map(|(_, p)| p.to_kind(Kind::Float).sum(Kind::Float))
                    .sum::<Tensor>()
                    * slope;
                loss.backward();
                optimiser.accumulate().unwrap();
            }
            let expected = 8f64.sqrt() * (1.0 + f64::powi(2.0, -9));
            assert!(
                (optimiser.gradient_norm().unwrap() - expected).abs() < 1e-6,
                "{kind:?}"
            );
            optimiser.clear_gradients().unwrap();
            assert_eq!(optimiser.gradient_norm().unwrap(), 0.0);
        }
    }

    #[test]
    fn parameters_without_gradient_keep_their_bits() {
        let parameters = parameters(Kind::Float);
        let mut optimiser = Optimiser::new(
            parameters
                .iter()
                .map(|(n, p)| (n.clone(), p.shallow_clone()))
                .collect(),
            &settings(),
        )
        .unwrap();
        step(&mut optimiser, &parameters, 1.0);
        let before = values(&parameters[0].1);
        step(&mut optimiser, &parameters[1..], 1.0);
        assert_eq!(values(&parameters[0].1), before);
        assert_eq!(values(&optimiser.state()[0].1), [1.0, 2.0, 2.0]);
    }

    #[test]
    fn state_moves_to_another_optimiser_bit_for_bit() {
        let cases =
            [Kind::Float, Kind::BFloat16].map(|kind| [(kind, settings()), (kind, narrow())]);
        for (kind, settings) in cases.into_iter().flatten() {
            let (a, b) = (parameters(kind), parameters(kind));
            let clones = |p: &[(String, Tensor)]| {
                p.iter()
                    .map(|(n, t)| (n.clone(), t.shallow_clone()))
                    .collect()
            };
            let mut straight = Optimiser::new(clones(&a), &settings).unwrap();
            step(&mut straight, &a, 0.3);
            let mut resumed = Optimiser::new(clones(&b), &settings).unwrap();
            tch::no_grad(|| {
                b.iter()
                    .zip(&a)
                    .for_each(|((_, to), (_, from))| to.shallow_clone().copy_(from))
            });
            let saved: Vec<Tensor> = straight.state().iter().map(|(_, t)| t.copy()).collect();
            resumed
                .state()
                .iter()
                .zip(&saved)
                .for_each(|((_, to), from)| to.shallow_clone().copy_(from));
            resumed.restored().unwrap();
            step(&mut straight, &a, -0.7);
            step(&mut resumed, &b, -0.7);
            for ((name, x), (_, y)) in a.iter().zip(&b) {
                assert!(x.equal(y), "{name} differs in {kind:?}");
            }
            for ((name, x), (_, y)) in straight.state().iter().zip(&resumed.state()) {
                assert!(x.equal(y), "{name} differs in {kind:?}");
            }
        }
    }

    /// AdamW by the paper's equations on moments of either dtype differs by the rounding of the
    /// moments only, here 40 updates with gradients that change.
    #[test]
    fn moments_in_bfloat16_follow_those_in_float32() {
        let moved = |settings: &hyperparameters::Optimiser| {
            let parameters = parameters(Kind::Float);
            let clones = parameters
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
            let mut optimiser = Optimiser::new(clones.collect(), settings).unwrap();
            for update in 0..40 {
                let _ = step(
                    &mut optimiser,
                    &parameters,
                    1.0 + f64::from(update % 5) / 4.0,
                );
            }
            let state = optimiser.state();
            let dtypes: Vec<Kind> = state.iter().map(|(_, tensor)| tensor.kind()).collect();
            (1.0 - values(&parameters[1].1)[0], dtypes)
        };
        let gentle = |dtype: Dtype| hyperparameters::Optimiser {
            exp_avg_dtype: dtype,
            exp_avg_sq_dtype: dtype,
            max_grad_norm: 0.0,
            ..settings()
        };
        let (wide, dtypes) = moved(&gentle(Dtype::Float32));
        assert!(dtypes.iter().all(|&dtype| dtype == Kind::Float));
        let (narrow, dtypes) = moved(&gentle(Dtype::Bfloat16));
        assert_eq!(dtypes[1..], [Kind::BFloat16; 6]);
        assert!(wide != narrow, "nothing was rounded");
        assert!((wide - narrow).abs() < 0.01 * wide, "{wide} {narrow}");
    }

    #[test]
    fn a_step_in_parts_is_the_whole_step() {
        let settings = AdamW {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let stepped = |part: i64| {
            let row = |from: f64| {
                (Tensor::arange(35, (Kind::Float, Device::Cpu)) * 0.3 + from)
                    .sin()
                    .view([5, 7])
            };
            let slot = Slot {
                name: String::new(),
                parameter: row(0.0),
                weight: row(0.0),
                exp_avg: row(1.0).to_kind(Kind::BFloat16),
                exp_avg_sq: row(2.0).square().to_kind(Kind::BFloat16),
                step: Tensor::from(3f32),
                gradient: None,
                decays: true,
            };
            let scale = Tensor::from(2f32);
            slot.step_in_parts(&settings, &row(3.0), Some(&scale), part)
                .unwrap();
            [slot.weight, slot.exp_avg, slot.exp_avg_sq]
        };
        // Parts of whole vectors, so that the last elements are computed by the same code.
        let (whole, parts) = (stepped(64), stepped(16));
        assert!(whole.iter().zip(&parts).all(|(a, b)| a.equal(b)));
    }

    #[test]
    fn second_moments_that_rounding_would_hold_are_refused() {
        let settings = hyperparameters::Optimiser {
            adam_beta2: 0.999,
            ..narrow()
        };
        let refused = Optimiser::new(parameters(Kind::Float), &settings)
            .err()
            .unwrap();
        assert!(
            refused.to_string().contains("set adam_beta2 to 0.99"),
            "{refused}"
        );
        let first = hyperparameters::Optimiser {
            exp_avg_sq_dtype: Dtype::Float32,
            ..settings
        };
        assert!(Optimiser::new(parameters(Kind::Float), &first).is_ok());
    }
}
