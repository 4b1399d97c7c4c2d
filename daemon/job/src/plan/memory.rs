//! The memory that a stage keeps.

use super::disk::checkpoint;
use super::facts::InputFacts;
use crate::job::Job;
use crate::model_shape::{ModelShape, PredictionShape};
use crate::reward::AskedModel;
use crate::stage::{Stage, Training};
use r1d_proto::worker::Dtype;
use r1d_shape::Activations;
use std::collections::BTreeMap;

/// Float32 logits that the head computes at a time on a GPU; a CPU computes fewer.
const LOGITS_MAX: u64 = 1 << 27;
/// Tensors as large as the logits that loss, entropy and gradient take at a time.
const LOGITS_COPIES: u64 = 7;
const FLOAT32_BYTES: u64 = 4;
/// Values that an optimiser on the host exchanges with the device at a time.
const STAGED_VALUES: u64 = 1 << 24;
/// Bytes of the host for each of them: gradients and weights in float32, two of each.
const STAGING_BYTES: u64 = 16;

/// Returns the bytes that a stage takes on its device, by holder: `policy`, `reference`,
/// `optimiser` (AdamW's moments; in bfloat16 also the float32 weights that it updates), `gradients`
/// (their float32 sums, where weights have another dtype or are updated elsewhere), `update`
/// (activations, logits and other gradients at their peak), `value model` (with its optimiser),
/// `reward models` and `judges` that rewards ask, `sampler` (its cache, which makes room for the
/// update on a GPU).
///
/// `facts` are the shapes of [`Job::models`], in their order; the result is empty without them. A
/// reward model of a directory whose shape is not in `seen` is taken to be as large as the policy.
pub fn memory(
    job: &Job,
    stage: &Stage,
    facts: &[ModelShape],
    seen: &InputFacts,
) -> BTreeMap<String, u64> {
    let model = job.model_of(stage);
    let Some(own) = facts.get(model) else {
        return BTreeMap::new();
    };
    let value_bytes = job.model.dtype.bytes();
    let module = own.prediction.filter(|_| stage.opens_prediction());
    let mut bytes = weights(job, stage, own, module, value_bytes);
    if stage.trains() {
        bytes.insert("update".into(), update(job, stage, own, seen));
    }
    let eval_prompt_max = seen.eval_prompt_max.get(model).copied().unwrap_or(0);
    let slots = job.slots(stage, seen.prompt_max(stage), eval_prompt_max);
    let cached = slots.map_or(0, |slots| slots.tokens);
    for asked in asked(job, stage) {
        let (shape, scores) = shape_of(job, &asked, facts, seen);
        let shape = shape.unwrap_or(own);
        // The cache of a judge that writes holds as many tokens as the policy's.
        let (name, cached) = if scores {
            ("reward models", 0)
        } else {
            ("judges", cached)
        };
        *bytes.entry(name.into()).or_insert(0) +=
            (shape.parameters + cached * shape.cache_values_per_token) * value_bytes;
    }
    if slots.is_some() {
        let per_token =
            own.cache_values_per_token + module.map_or(0, |module| module.cache_values_per_token);
        bytes.insert("sampler".into(), cached * per_token * value_bytes);
    }
    bytes
}

/// Bytes of an update at its peak. That is where the loss of a micro-batch is computed, beside the
/// gradients of those before it; or at the end of its pass backward, where the gradients are whole.
fn update(job: &Job, stage: &Stage, own: &ModelShape, seen: &InputFacts) -> u64 {
    let prompt_max = seen.prompt_max(stage);
    let longest = stage.longest().sequence(prompt_max);
    let room = u64::from(stage.max_tokens_per_device().max(longest));
    let all = stage.tokens_per_step(prompt_max) / stage.updates_per_step().max(1);
    let tokens = room.min(all.max(1));
    let kept = match stage.gradient_checkpointing() {
        None => own.activations.all_blocks,
        Some(checkpointing) => {
            let Activations {
                all_blocks,
                largest_block,
                blocks,
                inputs,
            } = own.activations;
            let again = u64::from(checkpointing.recompute_num_layers).min(blocks);
            let share = |of: u64, count: u64| of.saturating_mul(count) / blocks.max(1);
            share(all_blocks, blocks - again) + largest_block + share(inputs, again)
        }
    };
    let logits = tokens.saturating_mul(own.vocab_size).min(LOGITS_MAX);
    let activations = tokens.saturating_mul(kept.saturating_mul(job.model.dtype.bytes()));
    let at_the_loss = activations.saturating_add(logits * LOGITS_COPIES * FLOAT32_BYTES);
    let trained = Trained::of(job, stage, own);
    let gradients = match job.model.dtype {
        // The sums of other dtypes are kept between updates.
        _ if trained.has_sums => 0,
        dtype => trained.parameters.saturating_mul(dtype.bytes()),
    };
    // A whole pass leaves its gradients in the weights' dtype before they are added to the sums.
    let left = match stage.gradient_checkpointing() {
        None if trained.has_sums => trained.parameters * job.model.dtype.bytes(),
        _ => gradients,
    };
    let earlier = if all > room { gradients } else { 0 };
    at_the_loss.saturating_add(earlier).max(left)
}

/// What a stage trains of a model, and what its optimiser takes.
struct Trained {
    /// Number of values: the adapters', or the weights'.
    parameters: u64,
    /// Number of the adapters' values; 0 without adapters.
    adapters: u64,
    /// Bytes of the optimiser: moments, and weights of its own.
    optimiser: u64,
    /// Whether gradients are summed in float32 beside the weights.
    has_sums: bool,
    /// Whether the optimiser is in the host's memory.
    is_on_host: bool,
}

impl Trained {
    fn of(job: &Job, stage: &Stage, own: &ModelShape) -> Trained {
        let lora = stage.adapters();
        let adapters = lora
            .as_ref()
            .map_or(0, |lora| own.adapter_values(lora.r, &lora.target_modules));
        let module = own.prediction.filter(|_| stage.mtp_loss_weight() > 0.0);
        let weights = own.parameters + module.map_or(0, |module| module.parameters);
        let parameters = if lora.is_some() { adapters } else { weights };
        let is_on_host = stage.training().is_some_and(Training::is_on_host);
        let has_sums = job.model.dtype != Dtype::Float32 || is_on_host;
        let master_bytes = if has_sums { FLOAT32_BYTES } else { 0 };
        let moment_bytes = stage.training().map_or(0, Training::moment_bytes);
        Trained {
            optimiser: parameters.saturating_mul(moment_bytes + master_bytes),
            parameters,
            adapters,
            has_sums,
            is_on_host,
        }
    }

    /// Bytes of the gradients' sums.
    fn sums(&self) -> u64 {
        if self.has_sums {
            self.parameters.saturating_mul(FLOAT32_BYTES)
        } else {
            0
        }
    }

    /// Bytes of the optimiser on the device.
    fn on_device(&self) -> u64 {
        if self.is_on_host { 0 } else { self.optimiser }
    }
}

/// Bytes that a stage takes of the host's memory beside its device's, by holder: `optimiser`, if it
/// is kept there, and `snapshot`, the checkpoint that is written while training goes on. That takes
/// less where the host has less to spare.
pub fn host_memory(job: &Job, stage: &Stage, facts: &[ModelShape]) -> BTreeMap<String, u64> {
    let Some(own) = facts.get(job.model_of(stage)).filter(|_| stage.trains()) else {
        return BTreeMap::new();
    };
    let mut bytes = BTreeMap::from([("snapshot".to_owned(), checkpoint(job, stage, own))]);
    let trained = Trained::of(job, stage, own);
    if trained.is_on_host {
        let models = 1 + u64::from(stage.ppo().is_some());
        let staging = trained.parameters.min(STAGED_VALUES) * STAGING_BYTES;
        let each = trained.optimiser.saturating_add(staging);
        bytes.insert("optimiser".into(), each.saturating_mul(models));
    }
    bytes
}

/// Bytes of the stage's own models and their optimisers, by actor. `module` is the prediction
/// module if the stage opens it.
fn weights(
    job: &Job,
    stage: &Stage,
    own: &ModelShape,
    module: Option<PredictionShape>,
    value_bytes: u64,
) -> BTreeMap<String, u64> {
    let trained = Trained::of(job, stage, own);
    let base = (own.parameters + module.map_or(0, |module| module.parameters)) * value_bytes;
    let adapters = trained.adapters * value_bytes;
    let mut bytes = BTreeMap::from([("policy".to_string(), base + adapters)]);
    let mut add = |holder: &str, n: u64| {
        if n > 0 {
            bytes.insert(holder.to_owned(), n);
        }
    };
    if stage.trains() {
        add("optimiser", trained.on_device());
        add("gradients", trained.sums());
        if stage.needs_reference() {
            // The weights under adapters are shared.
            add("reference", if adapters > 0 { adapters } else { base });
        }
    }
    if stage.ppo().is_some() {
        add("value model", base + trained.on_device() + trained.sums());
    }
    bytes
}

/// The models that the stage's rewards ask, each once.
fn asked(job: &Job, stage: &Stage) -> Vec<AskedModel> {
    let rewards = stage.rollouts().map(|rollouts| &rollouts.rewards[..]);
    let mut all = Vec::new();
    for asked in rewards
        .into_iter()
        .flatten()
        .filter_map(|reward| job.asked(reward))
    {
        if !all.contains(&asked) {
            all.push(asked);
        }
    }
    all
}

/// Shape of a model that a reward asks, if it is known, and whether it answers with a number.
fn shape_of<'a>(
    job: &Job,
    asked: &AskedModel,
    facts: &'a [ModelShape],
    seen: &'a InputFacts,
) -> (Option<&'a ModelShape>, bool) {
    let shape = match asked {
        AskedModel::Stage(maker) => {
            let maker = job.stages.get(*maker);
            let scores = maker.is_some_and(|maker| maker.reward_model().is_some());
            return (
                maker.and_then(|maker| facts.get(job.model_of(maker))),
                scores,
            );
        }
        AskedModel::Model(model) => facts.get(*model),
        AskedModel::Directory(directory) => seen.asked.get(directory),
    };
    (shape, shape.is_none_or(|shape| shape.scores))
}
