//! The policy's parameters under AdamW: gradients, master weights and moments in flat arenas,
//! clipping, and their exact state.
//!
//! An update is queued on the device without waiting for it: the norm of the gradients, the scale
//! that clipping divides them by and whether they are finite stay there. Where the optimiser is on
//! the host (`host`), an update begins by waiting for those three, since the host's part depends on
//! them.

mod by_kernels;
mod host;
#[cfg(test)]
mod tests;

use crate::LearnError;
use crate::arena::{Arena, Block, Part, Table};
use host::Staging;
use r1d_kernels::TrainKernels;
use r1d_proto::hyperparameters::{self, Dtype, NARROW_ADAM_BETA2_MAX, OptimizerOffload};
use r1d_torch::adamw::{AdamW, Conditions, Slices};
use r1d_torch::foreach;
use r1d_torch::work;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Elements whose narrow moments are widened at a time.
const WIDENED_ELEMENTS: i64 = 1 << 26;
/// Elements of a block whose square sum is a term of the norm.
const NORM_ELEMENTS: i64 = 1 << 26;
/// The number that torch's `clip_grad_norm_` adds to the norm that it divides by.
const CLIP_EPSILON: f64 = 1e-6;

/// AdamW over a model's parameters.
pub struct Optimiser {
    settings: hyperparameters::Optimiser,
    parameters: Vec<Parameter>,
    /// The parameters' places in all arenas.
    table: Table,
    /// The float32 weights that AdamW updates, which do not lose small updates; `None` if these are
    /// the parameters themselves.
    masters: Option<Arena>,
    /// The moments, float32 or narrower.
    exp_avg: Arena,
    exp_avg_sq: Arena,
    /// The number of updates of each parameter, `[parameters]` float32.
    steps: Tensor,
    /// The float32 sums over micro-batches, made with the first gradient; only for parameters with
    /// a master.
    gradients: Option<Arena>,
    /// Which parameters have a gradient, in their sum or held.
    reached: Vec<bool>,
    /// The gradients that are held as the backward pass left them.
    held: Vec<Option<Tensor>>,
    /// Whether a parameter's first gradient is held.
    holds: bool,
    /// r1d's own kernels, where they make the update.
    kernels: Option<Arc<TrainKernels>>,
    /// What passes between the device and the host; `None` if the optimiser is on the device.
    staging: Option<Staging>,
}

/// A parameter of the model and its parts of the arenas, in its shape.
struct Parameter {
    tensor: Tensor,
    decays: bool,
    /// Whether AdamW updates a master in its place: it is of lower precision, or elsewhere.
    has_master: bool,
    /// The tensor that AdamW updates, the master or the parameter itself.
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

/// Whether a parameter decays: decoupled weight decay pulls matrices towards 0, but not norms,
/// biases and other vectors.
fn decays(name: &str, parameter: &Tensor) -> bool {
    parameter.dim() >= 2 && !name.ends_with("bias") && !name.contains("norm")
}

fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::Bfloat16 => Kind::BFloat16,
    }
}

/// What an update does with its gradients, on the optimiser's device.
struct Verdict {
    /// What they are divided by, a float32 scalar of at least 1; `None` without clipping.
    gradient_scale: Option<Tensor>,
    /// 1 if something is not finite, so that nothing may change; 0 otherwise. A float32 scalar.
    found_inf: Tensor,
}

/// The lists of one call of AdamW.
#[derive(Default)]
struct Lists([Vec<Tensor>; 5]);

impl Lists {
    fn push(&mut self, tensors: [Tensor; 5]) {
        let Lists(lists) = self;
        lists
            .iter_mut()
            .zip(tensors)
            .for_each(|(list, tensor)| list.push(tensor));
    }

    fn slices(&self) -> Slices<'_> {
        let Lists([parameters, gradients, exp_avg, exp_avg_sq, steps]) = self;
        Slices {
            parameters,
            gradients,
            exp_avg,
            exp_avg_sq,
            steps,
        }
    }
}

impl Optimiser {
    /// Makes an optimiser with fresh moments. `parameters` are the model's leaves; they are updated
    /// in place.
    pub fn new(
        parameters: Vec<(String, Tensor)>,
        settings: &hyperparameters::Optimiser,
    ) -> Result<Optimiser, LearnError> {
        check(settings)?;
        let Some((_, first)) = parameters.first() else {
            return Err(LearnError::Request(
                "the model has no parameters to train".into(),
            ));
        };
        let offloads = settings.optimizer_offload == OptimizerOffload::Cpu;
        let device = first.device();
        let home = if offloads { Device::Cpu } else { device };
        let table = Table::new(
            parameters
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.size())),
        );
        // It takes time to zero memory, so this reports progress.
        let arena = |kind: Kind| {
            work::moved(0);
            Arena::zeros(&table, kind, home)
        };
        let has_master = |tensor: &Tensor| offloads || tensor.kind() != Kind::Float;
        let masters = parameters.iter().any(|(_, tensor)| has_master(tensor));
        let masters = masters.then(|| arena(Kind::Float)).transpose()?;
        let exp_avg = arena(kind_of(settings.exp_avg_dtype))?;
        let exp_avg_sq = arena(kind_of(settings.exp_avg_sq_dtype))?;
        let with_place = parameters.into_iter().zip(&table.places);
        let parameters = with_place.map(|((name, tensor), place)| {
            let has_master = has_master(&tensor);
            Ok(Parameter {
                decays: decays(&name, &tensor),
                has_master,
                weight: match masters.as_ref().filter(|_| has_master) {
                    Some(masters) => masters.tensor(place)?,
                    None => tensor.f_detach()?,
                },
                exp_avg: exp_avg.tensor(place)?,
                exp_avg_sq: exp_avg_sq.tensor(place)?,
                tensor,
            })
        });
        let parameters = parameters.collect::<Result<Vec<_>, LearnError>>()?;
        let optimiser = Optimiser {
            settings: settings.clone(),
            masters,
            exp_avg,
            exp_avg_sq,
            steps: Tensor::f_zeros([parameters.len() as i64], (Kind::Float, home))?,
            gradients: None,
            reached: vec![false; parameters.len()],
            held: parameters.iter().map(|_| None).collect(),
            holds: false,
            kernels: None,
            staging: offloads.then(|| Staging::new(&table, device)).transpose()?,
            table,
            parameters,
        };
        optimiser.take_masters(|_| true)?;
        Ok(optimiser)
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &hyperparameters::Optimiser {
        &self.settings
    }

    /// Copies the chosen parameters into their masters.
    fn take_masters(&self, chosen: impl Fn(&Parameter) -> bool) -> Result<(), LearnError> {
        for own in self.parameters.iter().filter(|own| own.has_master) {
            if chosen(own) {
                tch::no_grad(|| own.weight.shallow_clone().f_copy_(&own.tensor))?;
                work::moved(0);
            }
        }
        Ok(())
    }

    /// Makes updates on the device by r1d's own kernels.
    pub fn with_kernels(self, kernels: Option<Arc<TrainKernels>>) -> Optimiser {
        let known = |own: &Parameter| matches!(own.tensor.kind(), Kind::Float | Kind::BFloat16);
        Optimiser {
            kernels: kernels.filter(|_| self.parameters.iter().all(known)),
            ..self
        }
    }

    /// Sets whether a parameter's first gradient stays as the backward pass leaves it, in the
    /// parameter's own dtype, until a second one is added to it. Where one pass is all of an
    /// update, it need not go through a float32 sum, whose value would be the same. It has an
    /// effect where r1d's own kernels make the update.
    pub fn hold_gradients(&mut self, on: bool) {
        self.holds = on && self.kernels.is_some() && self.staging.is_none();
    }

    /// Drops all gradients.
    pub fn clear_gradients(&mut self) -> Result<(), LearnError> {
        self.reached.fill(false);
        self.held.fill_with(|| None);
        let tensors = self
            .parameters
            .iter()
            .map(|own| own.tensor.shallow_clone())
            .collect::<Vec<_>>();
        Ok(foreach::clear_gradients(&tensors)?)
    }

    /// Adds the gradients of a backward pass, and must be called after each one: gradients of
    /// parameters with a master are summed in float32, not in their own dtype.
    pub fn accumulate(&mut self) -> Result<(), LearnError> {
        let mut taken = Vec::new();
        for index in 0..self.parameters.len() {
            if !self.parameters[index].has_master {
                continue;
            }
            let gradient = self.parameters[index].tensor.f_grad()?;
            if !gradient.defined() {
                continue;
            }
            if self.holds && !self.reached[index] {
                self.held[index] = Some(gradient.f_detach()?);
            } else {
                self.add(index, &gradient)?;
            }
            self.reached[index] = true;
            taken.push(self.parameters[index].tensor.shallow_clone());
            work::moved(0);
        }
        Ok(foreach::clear_gradients(&taken)?)
    }

    /// Adds a gradient to the parameter's float32 sum.
    fn add(&mut self, index: usize, gradient: &Tensor) -> Result<(), LearnError> {
        let mut sum = self.sum(index)?;
        let held = self.held[index].take();
        Ok(tch::no_grad(|| {
            if let Some(held) = &held {
                sum.f_copy_(held)?;
            }
            if self.reached[index] {
                sum.f_add_(gradient).map(drop)
            } else {
                sum.f_copy_(gradient)
            }
        })?)
    }

    /// The float32 sum of a parameter's gradients, a view whose contents count once the parameter
    /// is `reached`.
    fn sum(&mut self, index: usize) -> Result<Tensor, LearnError> {
        let gradients = match self.gradients.take() {
            Some(gradients) => gradients,
            None => {
                let device = self.parameters[index].tensor.device();
                Arena::zeros(&self.table, Kind::Float, device)?
            }
        };
        self.gradients
            .insert(gradients)
            .tensor(&self.table.places[index])
    }

    /// The float32 sum of a parameter's gradients, for those who add to it themselves; `None` if it
    /// has none, because it is float32 itself or not trained.
    pub fn sum_of(&mut self, parameter: &Tensor) -> Result<Option<Tensor>, LearnError> {
        let index = self
            .parameters
            .iter()
            .position(|own| own.has_master && own.tensor.data_ptr() == parameter.data_ptr());
        let Some(index) = index else { return Ok(None) };
        let mut sum = self.sum(index)?;
        if let Some(held) = self.held[index].take() {
            tch::no_grad(|| sum.f_copy_(&held))?;
        } else if !self.reached[index] {
            let _ = tch::no_grad(|| sum.f_zero_())?;
            self.reached[index] = true;
        }
        Ok(Some(sum))
    }

    /// The gradient of each parameter; `None` for those without one.
    fn gradients(&self) -> Result<Vec<Option<Tensor>>, LearnError> {
        let of = |(index, own): (usize, &Parameter)| {
            if let Some(held) = &self.held[index] {
                return Ok(Some(held.shallow_clone()));
            }
            if own.has_master {
                let sums = self.gradients.as_ref().filter(|_| self.reached[index]);
                let place = &self.table.places[index];
                return sums.map(|sums| sums.tensor(place)).transpose();
            }
            let gradient = own.tensor.f_grad()?;
            Ok(gradient.defined().then_some(gradient))
        };
        self.parameters.iter().enumerate().map(of).collect()
    }

    /// The global norm of the gradients before clipping, a float64 scalar on their device, which is
    /// not waited for. On a GPU it is the root of square sums in float64, of parts of a fixed size
    /// in a fixed order; on the CPU it is summed parameter by parameter in float32.
    pub fn gradient_norm(&self) -> Result<Tensor, LearnError> {
        if let Some(kernels) = &self.kernels {
            return self.norm_by_kernels(kernels);
        }
        let whole = match &self.gradients {
            Some(sums) if self.reached.iter().all(|&reached| reached) => Some(sums),
            _ => None,
        };
        let terms = match whole {
            // What lies between two parameters is 0.
            Some(sums) if self.parameters[0].tensor.device().is_cuda() => {
                let blocks = self.table.blocks(NORM_ELEMENTS);
                blocks
                    .iter()
                    .map(|block| sums.block(block))
                    .collect::<Result<Vec<_>, _>>()?
            }
            _ => self.gradients()?.into_iter().flatten().collect(),
        };
        Ok(foreach::global_norm(&terms)?)
    }

    /// Makes one update at `learning_rate`, with gradients whose global norm is `norm` clipped to
    /// `max_grad_norm`. Parameters without a gradient do not change, nor do their moments. Where
    /// `is_finite`, a bool scalar, is false, nothing changes. The gradients are consumed.
    pub fn update(
        &mut self,
        learning_rate: f64,
        norm: &Tensor,
        is_finite: &Tensor,
    ) -> Result<(), LearnError> {
        let verdict = tch::no_grad(|| self.verdict(norm, is_finite))?;
        match &self.staging {
            Some(staging) => {
                if f64::try_from(&verdict.found_inf)? == 0.0 {
                    self.count_updates(&verdict)?;
                    self.update_on_host(staging, learning_rate, &verdict)?;
                }
            }
            None => {
                self.count_updates(&verdict)?;
                match &self.kernels {
                    Some(kernels) => self.update_by_kernels(kernels, learning_rate, &verdict)?,
                    None => self.update_in_place(learning_rate, &verdict)?,
                }
            }
        }
        self.clear_gradients()
    }

    fn verdict(&self, norm: &Tensor, is_finite: &Tensor) -> Result<Verdict, LearnError> {
        let home = self.steps.device();
        let limit = self.settings.max_grad_norm;
        let scale = || {
            let ratio = norm.f_add_scalar(CLIP_EPSILON)?.f_div_scalar(limit)?;
            ratio
                .f_clamp_min(1.0)?
                .f_to_kind(Kind::Float)?
                .f_to_device(home)
        };
        Ok(Verdict {
            gradient_scale: (limit > 0.0).then(scale).transpose()?,
            found_inf: is_finite
                .f_logical_not()?
                .f_to_kind(Kind::Float)?
                .f_to_device(home)?,
        })
    }

    fn update_in_place(&self, learning_rate: f64, verdict: &Verdict) -> Result<(), LearnError> {
        // Moments that are float32 already need not be widened part by part.
        let elements = if self.has_narrow_moments() {
            WIDENED_ELEMENTS
        } else {
            self.table.elements
        };
        let gradients = self.gradients()?;
        let flat = |part: &Part| {
            let gradient = gradients[part.place].as_ref();
            let of = |whole: &Tensor| part.of_place(&whole.f_contiguous()?);
            gradient.map(of).transpose()
        };
        for block in self.table.blocks(elements) {
            self.step_block(&block, &flat, learning_rate, verdict)?;
        }
        self.publish()
    }

    fn has_narrow_moments(&self) -> bool {
        [&self.exp_avg, &self.exp_avg_sq]
            .iter()
            .any(|moments| moments.kind() != Kind::Float)
    }

    /// Makes one step on a block; `gradient` gives a part's gradients, flat. Narrow moments are
    /// float32 for the step, and rounded to the nearest number behind it.
    fn step_block(
        &self,
        block: &Block,
        gradient: &dyn Fn(&Part) -> Result<Option<Tensor>, LearnError>,
        learning_rate: f64,
        verdict: &Verdict,
    ) -> Result<(), LearnError> {
        let kept = [self.exp_avg.block(block)?, self.exp_avg_sq.block(block)?];
        let [first, second] = [0, 1].map(|i: usize| kept[i].f_to_kind(Kind::Float));
        let wide = [first?, second?];
        let (mut with_decay, mut without) = (Lists::default(), Lists::default());
        for part in &block.parts {
            let Some(gradient) = gradient(part)? else {
                continue;
            };
            let own = &self.parameters[part.place];
            let lists = if own.decays {
                &mut with_decay
            } else {
                &mut without
            };
            lists.push([
                part.of_place(&own.weight)?,
                gradient,
                part.of(&wide[0])?,
                part.of(&wide[1])?,
                self.steps.f_select(0, part.place as i64)?,
            ]);
        }
        let conditions = Conditions {
            gradient_scale: verdict.gradient_scale.as_ref(),
            found_inf: Some(&verdict.found_inf),
        };
        for (lists, decays) in [(with_decay, true), (without, false)] {
            let settings = self.step_settings(learning_rate, decays);
            settings.step(&lists.slices(), conditions)?;
        }
        // A moment that is float32 already was updated in place.
        for (kept, stepped) in kept.iter().zip(&wide) {
            if kept.kind() != Kind::Float {
                foreach::copy(&[kept.shallow_clone()], &[stepped.shallow_clone()])?;
            }
        }
        Ok(())
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

    /// Counts the update for the parameters that it reaches, unless it changes nothing.
    fn count_updates(&self, verdict: &Verdict) -> Result<(), LearnError> {
        let reached: Vec<f32> = self
            .gradients()?
            .iter()
            .map(|gradient| gradient.is_some() as u8 as f32)
            .collect();
        let mut steps = self.steps.shallow_clone();
        tch::no_grad(|| {
            let counted = verdict.found_inf.f_mul_scalar(-1.0)?.f_add_scalar(1.0)?;
            if reached.iter().all(|&reached| reached == 1.0) {
                return steps.f_add_(&counted).map(drop);
            }
            let reached = Tensor::f_from_slice(&reached)?.f_to_device(steps.device())?;
            steps.f_add_(&reached.f_mul(&counted)?).map(drop)
        })?;
        Ok(())
    }

    /// Rounds the master weights into the model's.
    fn publish(&self) -> Result<(), LearnError> {
        let masters = self.parameters.iter().filter(|own| own.has_master);
        let (parameters, weights): (Vec<Tensor>, Vec<Tensor>) = masters
            .map(|own| (own.tensor.shallow_clone(), own.weight.shallow_clone()))
            .unzip();
        Ok(foreach::copy(&parameters, &weights)?)
    }

    /// Everything that is needed to continue with the same bits, as views of live memory: `steps`
    /// `[parameters]`, and for each parameter in its shape `exp_avg.NAME` and `exp_avg_sq.NAME` in
    /// their dtypes and, below float32, `master.NAME`, float32. It does not depend on where the
    /// optimiser is. After writing to them call [`restored`](Self::restored).
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("steps".to_owned(), self.steps.shallow_clone())];
        for (place, own) in self.table.places.iter().zip(&self.parameters) {
            let mut put = |what: &str, tensor: &Tensor| {
                state.push((format!("{what}.{}", place.name), tensor.shallow_clone()));
            };
            put("exp_avg", &own.exp_avg);
            put("exp_avg_sq", &own.exp_avg_sq);
            if own.tensor.kind() != Kind::Float {
                put("master", &own.weight);
            }
        }
        state
    }

    /// Rounds the masters into the model's weights, and takes those that are not in the state from
    /// there. Call it after the tensors of [`state`](Self::state) have been written to, and the
    /// model's weights are restored.
    pub fn restored(&self) -> Result<(), LearnError> {
        self.take_masters(|own| own.tensor.kind() == Kind::Float)?;
        self.publish()
    }
}

fn check(settings: &hyperparameters::Optimiser) -> Result<(), LearnError> {
    if settings.exp_avg_sq_dtype == Dtype::Float32 || settings.adam_beta2 <= NARROW_ADAM_BETA2_MAX {
        return Ok(());
    }
    Err(LearnError::Request(format!(
        "exp_avg_sq_dtype = \"bfloat16\" with adam_beta2 = {}: second moments would be rounded \
         back to where they were; set adam_beta2 to {NARROW_ADAM_BETA2_MAX} at most",
        settings.adam_beta2
    )))
}
