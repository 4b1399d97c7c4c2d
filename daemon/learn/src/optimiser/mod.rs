//! The policy's parameters under AdamW: gradients, master weights and moments in flat arenas,
//! clipping, and their exact state.
//!
//! An update is queued on the device without waiting for it: the norm of the gradients, the scale
//! that clipping divides them by and whether they are finite stay there. Where the optimiser is on
//! the host (`host`), an update begins by waiting for those three, since the host's part depends on
//! them.

mod by_kernels;
mod gradients;
mod host;
mod membership;
#[cfg(test)]
mod tests;
mod zone_share;

use crate::LearnError;
use crate::arena::{Arena, Block, Part, Table};
use crate::gang::Gang;
use host::Staging;
use membership::Membership;
use r1d_kernels::TrainKernels;
use r1d_model::checkpoint::part_name;
use r1d_model::is_of_experts;
use r1d_proto::hyperparameters::{self, Dtype, NARROW_ADAM_BETA2_MAX, OptimizerOffload};
use r1d_torch::adamw::{AdamW, Conditions, Slices};
use r1d_torch::foreach;
use r1d_torch::work;
use std::ops::Range;
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
    /// The float32 sums over micro-batches, made with the first gradient; only for parameters that
    /// are summed. In a gang they are a leaf's, and behind the exchange those of this rank's part.
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
    /// The part in a gang's updates; `None` without a gang.
    membership: Option<Membership>,
}

/// A parameter of the model, and what this rank has of its master and moments: in its shape if that
/// is all, else flat.
struct Parameter {
    tensor: Tensor,
    decays: bool,
    /// Whether AdamW updates a master in its place: it is of lower precision, or elsewhere.
    has_master: bool,
    /// The elements that this rank updates.
    own: Range<i64>,
    /// The tensor that AdamW updates: the master, or these elements of the parameter itself.
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

impl Parameter {
    /// The elements of the model's parameter that this rank updates, a view: in its shape if they
    /// are all, else flat.
    fn published(&self) -> Result<Tensor, LearnError> {
        elements_of(&self.tensor, &self.own)
    }
}

/// Some elements of a tensor, a flat view; all of them in its shape.
fn elements_of(tensor: &Tensor, elements: &Range<i64>) -> Result<Tensor, LearnError> {
    let length = elements.end - elements.start;
    let tensor = tensor.f_detach()?;
    if length == tensor.numel() as i64 {
        return Ok(tensor);
    }
    Ok(tensor.f_view([-1])?.f_narrow(0, elements.start, length)?)
}

impl Optimiser {
    /// Makes an optimiser with fresh moments. `parameters` are the model's leaves; they are updated
    /// in place.
    pub fn new(
        parameters: Vec<(String, Tensor)>,
        settings: &hyperparameters::Optimiser,
    ) -> Result<Optimiser, LearnError> {
        Optimiser::in_gang(parameters, settings, None)
    }

    /// Makes an optimiser that is part of a gang. The parameters are the same on all ranks.
    pub fn in_gang(
        parameters: Vec<(String, Tensor)>,
        settings: &hyperparameters::Optimiser,
        gang: Option<Gang>,
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
        let shapes = parameters
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.size()));
        let gang = gang.filter(|gang| !gang.is_alone());
        let table = match &gang {
            Some(gang) => Table::of_rank(shapes, (gang.shard() as i64, gang.shards() as i64)),
            None => Table::new(shapes),
        };
        let membership = gang.map(|gang| Membership::new(gang, &table));
        let elements = match &membership {
            Some(own) => own.elements(),
            None => table.all(),
        };
        // It takes time to zero memory, so this reports progress.
        let arena = |kind: Kind| {
            work::moved(0);
            Arena::zeros_of(elements.clone(), kind, home)
        };
        let has_master = |tensor: &Tensor| offloads || tensor.kind() != Kind::Float;
        let masters = parameters.iter().any(|(_, tensor)| has_master(tensor));
        let masters = masters.then(|| arena(Kind::Float)).transpose()?;
        let exp_avg = arena(kind_of(settings.exp_avg_dtype))?;
        let exp_avg_sq = arena(kind_of(settings.exp_avg_sq_dtype))?;
        let with_place = parameters.into_iter().zip(&table.places);
        let parameters = with_place.map(|((name, tensor), place)| {
            let own = table.within(place, &elements);
            let masters = masters.as_ref().filter(|_| has_master(&tensor));
            Ok(Parameter {
                decays: decays(&name, &tensor),
                has_master: masters.is_some(),
                weight: match masters {
                    Some(masters) => masters.part(place, &own)?,
                    None => elements_of(&tensor, &own)?,
                },
                exp_avg: exp_avg.part(place, &own)?,
                exp_avg_sq: exp_avg_sq.part(place, &own)?,
                own,
                tensor,
            })
        });
        let parameters = parameters.collect::<Result<Vec<_>, LearnError>>()?;
        let own_blocks = membership.as_ref().map(Membership::own_blocks);
        let staging = offloads.then(|| Staging::new(&table, own_blocks.as_deref(), device));
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
            staging: staging.transpose()?,
            membership,
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
                let weight = own.published()?;
                tch::no_grad(|| own.weight.shallow_clone().f_copy_(&weight))?;
                work::moved(0);
            }
        }
        Ok(())
    }

    /// Makes updates on the device by r1d's own kernels.
    pub fn with_kernels(self, kernels: Option<Arc<TrainKernels>>) -> Optimiser {
        let known = |own: &Parameter| matches!(own.tensor.kind(), Kind::Float | Kind::BFloat16);
        Optimiser {
            kernels: kernels
                .filter(|_| self.membership.is_none() && self.parameters.iter().all(known)),
            ..self
        }
    }

    /// The global norm of the gradients before clipping, a float64 scalar on their device, which is
    /// not waited for. On a GPU it is the root of square sums in float64, of parts of a fixed size
    /// in a fixed order; on the CPU it is summed parameter by parameter in float32, in a gang from
    /// square sums of blocks in float64.
    pub fn gradient_norm(&self) -> Result<Tensor, LearnError> {
        if let Some(own) = &self.membership {
            return self.norm_in_gang(own);
        }
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
        self.gather_weights()?;
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
        if let Some(own) = &self.membership {
            self.update_own_blocks(own, learning_rate, verdict)?;
            return self.publish();
        }
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
                part.of_place_from(&own.weight, own.own.start)?,
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
        let reached: Vec<f32> = match self.membership {
            Some(_) => self.reached.iter().map(|&own| own as u8 as f32).collect(),
            None => self
                .gradients()?
                .iter()
                .map(|gradient| gradient.is_some() as u8 as f32)
                .collect(),
        };
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
        let masters: Vec<&Parameter> = masters.filter(|own| !own.own.is_empty()).collect();
        let parameters = masters.iter().map(|own| own.published());
        let weights: Vec<Tensor> = masters
            .iter()
            .map(|own| own.weight.shallow_clone())
            .collect();
        Ok(foreach::copy(
            &parameters.collect::<Result<Vec<_>, _>>()?,
            &weights,
        )?)
    }

    /// Everything that is needed to continue with the same bits, as views of live memory: `steps`
    /// `[parameters]`, and for each parameter in its shape `exp_avg.NAME` and `exp_avg_sq.NAME` in
    /// their dtypes and, below float32, `master.NAME`, float32. It does not depend on where the
    /// optimiser is. After writing to them call [`restored`](Self::restored).
    ///
    /// A rank that has a share only gives this share; what it has in part is flat, by
    /// [`part_name`].
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("steps".to_owned(), self.steps.shallow_clone())];
        for (place, own) in self.table.places.iter().zip(&self.parameters) {
            let has = own.own.end - own.own.start;
            if has == 0 && place.elements() > 0 {
                continue;
            }
            let mut put = |what: &str, tensor: &Tensor| {
                let mut name = format!("{what}.{}", place.name);
                if !place.is_whole(&own.own) {
                    name = part_name(&name, place.first + own.own.start);
                }
                state.push((name, tensor.shallow_clone()));
            };
            put("exp_avg", &own.exp_avg);
            put("exp_avg_sq", &own.exp_avg_sq);
            if own.tensor.kind() != Kind::Float {
                put("master", &own.weight);
            }
        }
        state
    }

    /// What this rank saves of its [`state`](Self::state): what no rank before it has.
    pub fn to_save(&self) -> Vec<(String, Tensor)> {
        let mut state = self.state();
        let repeats = |own: &&Membership| own.repeats_the_first();
        if self.membership.as_ref().filter(repeats).is_some() {
            state.retain(|(name, _)| is_of_experts(name));
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
