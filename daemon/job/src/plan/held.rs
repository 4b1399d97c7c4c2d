//! What a stage holds on its device from its beginning to its end.

use super::facts::InputFacts;
use super::spread::Spread;
use crate::job::Job;
use crate::model_shape::{ModelShape, PredictionShape};
use crate::reward::AskedModel;
use crate::stage::{Stage, Training};
use r1d_proto::worker::Dtype;
use std::collections::BTreeMap;

pub(super) const FLOAT32_BYTES: u64 = 4;
/// Bytes of a weight's copies for products in FP8: one in e4m3, one in bfloat16.
const FP8_COPIES_BYTES: u64 = 3;
/// The holder of the sampler's cache.
pub(super) const CACHE: &str = "sampler";
/// The holder of what an update takes.
pub(super) const UPDATE: &str = "update";
/// The holder of the judges that write, each with a cache.
const JUDGES: &str = "judges";
/// Holders of the device's memory from the stage's beginning to its end. The others' part depends
/// on how long completions are, or is an upper bound.
const RESIDENT: [&str; 5] = [
    "policy",
    "reference",
    "optimiser",
    "gradients",
    "value model",
];

/// Bytes of [`super::memory`] that a stage takes from its beginning to its end.
pub(super) fn resident(memory: &BTreeMap<String, u64>) -> u64 {
    let held = RESIDENT.iter().filter_map(|holder| memory.get(*holder));
    held.fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

/// Returns the bytes that a stage takes while it samples, beside caches, by holder; and the bytes
/// of a cached token, by the holder of the cache. On a GPU the sampler has [copies of
/// weights](copies).
pub(super) fn beside_cache(
    job: &Job,
    stage: &Stage,
    own: &ModelShape,
    facts: &[ModelShape],
    seen: &InputFacts,
    on_gpu: bool,
) -> (BTreeMap<String, u64>, BTreeMap<&'static str, u64>) {
    let value_bytes = job.model.dtype.bytes();
    let module = own.prediction.filter(|_| stage.opens_prediction());
    let of_module = module.map_or(0, |module| module.cache_values_per_token);
    let of_policy = (own.cache_values_per_token + of_module) * value_bytes;
    let mut bytes = weights(job, stage, own, module, value_bytes);
    let mut per_token = BTreeMap::from([(CACHE, of_policy)]);
    let copies = copies(job, stage, own).saturating_mul(u64::from(on_gpu && job.samples(stage)));
    if copies > 0 {
        bytes.insert(CACHE.into(), copies);
    }
    for asked in asked(job, stage) {
        let (shape, scores) = shape_of(job, &asked, facts, seen);
        let shape = shape.unwrap_or(own);
        let holder = if scores { "reward models" } else { JUDGES };
        *bytes.entry(holder.into()).or_insert(0) += shape.parameters * value_bytes;
        if !scores {
            // The cache of a judge that writes holds as many tokens as the policy's.
            *per_token.entry(JUDGES).or_insert(0) += shape.cache_values_per_token * value_bytes;
        }
    }
    (bytes, per_token)
}

/// Bytes of the copies of weights that own kernels multiply by: adapted ones, or those in FP8.
fn copies(job: &Job, stage: &Stage, own: &ModelShape) -> u64 {
    match stage.adapters() {
        Some(lora) => own.adapted_values(&lora.target_modules) * job.model.dtype.bytes(),
        None if job.model.fp8 && own.routing.is_none() => own.layer_values() * FP8_COPIES_BYTES,
        None => 0,
    }
}

/// What a stage trains of a model, and what its optimiser takes.
pub(super) struct Trained {
    /// Number of values: the adapters', or the weights'.
    pub parameters: u64,
    /// Number of those that are of routed experts, which a layout shares out.
    pub experts: u64,
    /// Number of the adapters' values; 0 without adapters.
    pub adapters: u64,
    /// Number of those that one device trains.
    pub local: u64,
    /// Bytes of one device's optimiser: moments, and weights of its own.
    pub optimiser: u64,
    /// Whether gradients are summed in float32 beside the weights.
    pub has_sums: bool,
    /// Whether the optimiser is in the host's memory.
    pub is_on_host: bool,
}

impl Trained {
    pub(super) fn of(job: &Job, stage: &Stage, own: &ModelShape) -> Trained {
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
        let spread = Spread::of(job);
        let experts = if lora.is_some() {
            0
        } else {
            own.expert_values()
        };
        let kept = spread.optimiser(parameters, experts);
        Trained {
            optimiser: kept.saturating_mul(moment_bytes + master_bytes),
            local: spread.weights(parameters, experts),
            parameters,
            experts,
            adapters,
            has_sums,
            is_on_host,
        }
    }

    /// Bytes of the gradients' sums.
    pub(super) fn sums(&self) -> u64 {
        if self.has_sums {
            self.local.saturating_mul(FLOAT32_BYTES)
        } else {
            0
        }
    }

    /// Bytes of the optimiser on the device.
    pub(super) fn on_device(&self) -> u64 {
        if self.is_on_host { 0 } else { self.optimiser }
    }
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
    let all = own.parameters + module.map_or(0, |module| module.parameters);
    let base = Spread::of(job).weights(all, own.expert_values()) * value_bytes;
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
