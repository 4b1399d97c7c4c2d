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

/// Returns the bytes that a stage takes on its device, by holder: `policy`, `reference`,
/// `optimiser` (AdamW's moments; in bfloat16 also the float32 weights that it updates), `update`
/// (activations, logits and gradients at their peak), `value model` (with its optimiser), `reward
/// models` and `judges` that rewards ask, `sampler` (its cache, which makes room for the update on
/// a GPU).
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
    let parameters = match stage.adapters() {
        // Adapters are small beside the weights.
        Some(_) => 0,
        None => own.parameters,
    };
    let sums = parameters.saturating_mul(FLOAT32_BYTES);
    let own_gradients = match job.model.dtype {
        Dtype::Bfloat16 if stage.gradient_checkpointing().is_none() => parameters * 2,
        _ => 0,
    };
    let earlier = if all > room { sums } else { 0 };
    at_the_loss
        .saturating_add(earlier)
        .max(sums.saturating_add(own_gradients))
}

/// Bytes that a stage takes of the host's memory beside its device's, by holder: `snapshot`, the
/// checkpoint that is written while training goes on. It takes less where the host has less to
/// spare.
pub fn host_memory(job: &Job, stage: &Stage, facts: &[ModelShape]) -> BTreeMap<String, u64> {
    let own = facts.get(job.model_of(stage)).filter(|_| stage.trains());
    let snapshot = |own| ("snapshot".to_owned(), checkpoint(job, stage, own));
    own.map(snapshot).into_iter().collect()
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
    let master_bytes = match job.model.dtype {
        Dtype::Float32 => 0,
        Dtype::Bfloat16 => 4,
    };
    let trained_module = module.filter(|_| stage.mtp_loss_weight() > 0.0);
    let parameters = own.parameters + trained_module.map_or(0, |module| module.parameters);
    let weights = (own.parameters + module.map_or(0, |module| module.parameters)) * value_bytes;
    let moment_bytes = stage.training().map_or(0, Training::moment_bytes);
    let optimiser = parameters * (moment_bytes + master_bytes);
    let mut bytes = BTreeMap::from([("policy".to_string(), weights)]);
    // Adapters are small beside the weights, and the reference shares those.
    if stage.trains() && stage.adapters().is_none() {
        bytes.insert("optimiser".into(), optimiser);
        if stage.needs_reference() {
            bytes.insert("reference".into(), weights);
        }
    }
    if stage.ppo().is_some() {
        bytes.insert("value model".into(), weights + optimiser);
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
