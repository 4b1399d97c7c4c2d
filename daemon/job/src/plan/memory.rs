//! The memory that a stage keeps.

use super::cache::fitting_tokens;
use super::disk::checkpoint;
use super::facts::InputFacts;
use super::held::{FLOAT32_BYTES, Trained, UPDATE, beside_cache};
use super::room::Room;
use crate::job::Job;
use crate::model_shape::ModelShape;
use crate::stage::Stage;
use r1d_shape::Activations;
use std::collections::BTreeMap;

/// Float32 logits that the head computes at a time on a GPU; a CPU computes fewer.
const LOGITS_MAX: u64 = 1 << 27;
/// Tensors as large as the logits that loss, entropy and gradient take at a time.
const LOGITS_COPIES: u64 = 7;
/// Values that an optimiser on the host exchanges with the device at a time.
const STAGED_VALUES: u64 = 1 << 24;
/// Bytes of the host for each of them: gradients and weights in float32, two of each.
const STAGING_BYTES: u64 = 16;

/// Returns the bytes that a stage takes on its device, on each of them if it takes several, by
/// holder: `policy`, `reference`,
/// `optimiser` (AdamW's moments; in bfloat16 also the float32 weights that it updates), `gradients`
/// (their float32 sums, where weights have another dtype or are updated elsewhere), `update`
/// (activations, logits and other gradients at their peak), `value model` (with its optimiser),
/// `reward models` and `judges` that rewards ask, `sampler` (its cache, which makes room for the
/// update on a GPU, as [`peak`] counts).
///
/// `facts` are the shapes of [`Job::models`], in their order; the result is empty without them. A
/// reward model of a directory whose shape is not in `seen` is taken to be as large as the policy.
/// `room` is the node's, whose device decides the size of a cache that is not given.
///
/// [`peak`]: super::peak
pub fn memory(
    job: &Job,
    stage: &Stage,
    facts: &[ModelShape],
    seen: &InputFacts,
    room: Room,
) -> BTreeMap<String, u64> {
    let model = job.model_of(stage);
    let Some(own) = facts.get(model) else {
        return BTreeMap::new();
    };
    let (mut bytes, per_token) = beside_cache(job, stage, own, facts, seen, room.device.is_some());
    if stage.trains() {
        bytes.insert(UPDATE.into(), update(job, stage, own, seen));
    }
    let fitting = fitting_tokens(job, stage, facts, seen, room);
    let eval_prompt_max = seen.eval_prompt_max(model);
    if let Some(slots) = job.slots(stage, seen.prompt_max(stage), eval_prompt_max, fitting) {
        for (holder, each) in per_token {
            let cached = slots.tokens.saturating_mul(each);
            let sum = bytes.entry(holder.into()).or_insert(0);
            *sum = sum.saturating_add(cached);
        }
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
        dtype => trained.local.saturating_mul(dtype.bytes()),
    };
    // A whole pass leaves its gradients in the weights' dtype before they are added to the sums.
    let left = match stage.gradient_checkpointing() {
        None if trained.has_sums => trained.local * job.model.dtype.bytes(),
        _ => gradients,
    };
    let earlier = if all > room { gradients } else { 0 };
    at_the_loss.saturating_add(earlier).max(left)
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
        // The states of all devices are in the memory of their one host.
        let devices = job.parallel.devices();
        let staging = trained.parameters.min(STAGED_VALUES) * STAGING_BYTES * devices;
        let each = trained
            .optimiser
            .saturating_mul(devices)
            .saturating_add(staging);
        bytes.insert("optimiser".into(), each.saturating_mul(models));
    }
    bytes
}
