//! The sampler's cache: how many tokens the device's memory has room for, and what shares its
//! memory.

use super::facts::InputFacts;
use super::held::{CACHE, UPDATE, beside_cache};
use super::room::{Room, gib};
use crate::job::Job;
use crate::model_shape::ModelShape;
use crate::stage::Stage;
use r1d_proto::worker::SLOT_BLOCK_TOKENS;
use std::collections::BTreeMap;

/// Percent of a GPU's memory that a stage's models and its sampler's cache take together at most,
/// unless the job file gives the cache's size. The rest is for passes over prompts, kernels, graphs
/// and libraries.
const DEVICE_PERCENT: u64 = 90;

/// Returns how many tokens a stage's cache has room for beside its models and optimisers. An update
/// counts nothing, because it has the cache's memory. `None` where the memory of the device or the
/// model is not known; the host's does not count, because it may be another's too.
///
/// It depends on what the device has, not on what is free there at the time: rows that find no page
/// are computed again, which in bfloat16 rounds other numbers, so a job that is taken up again must
/// have as many pages as before (`STEP-2`).
pub fn fitting_tokens(
    job: &Job,
    stage: &Stage,
    facts: &[ModelShape],
    seen: &InputFacts,
    room: Room,
) -> Option<u64> {
    let (device, own) = room.device.zip(facts.get(job.model_of(stage)))?;
    let (held, per_token) = beside_cache(job, stage, own, facts, seen, true);
    let held = held.values().fold(0u64, |sum, n| sum.saturating_add(*n));
    let per_token = per_token.values().sum::<u64>().max(1);
    let left = (device / 100 * DEVICE_PERCENT).saturating_sub(held);
    let block = u64::from(SLOT_BLOCK_TOKENS);
    Some(left / per_token / block * block)
}

/// Returns the most bytes that a stage takes at a time of what [`memory`] counts. On a GPU an
/// update has the memory of the sampler's cache, so the larger of the two counts; on a CPU the
/// cache stays.
///
/// [`memory`]: super::memory
pub fn peak(memory: &BTreeMap<String, u64>, room: Room) -> u64 {
    let all = memory.values().fold(0u64, |sum, n| sum.saturating_add(*n));
    let of = |holder: &str| memory.get(holder).copied().unwrap_or(0);
    if room.device.is_some() {
        all - of(CACHE).min(of(UPDATE))
    } else {
        all
    }
}

/// Returns a sentence for each stage whose cache the device's memory makes smaller than all of its
/// completions need at their longest.
pub fn small_caches(job: &Job, facts: &[ModelShape], seen: &InputFacts, room: Room) -> Vec<String> {
    let of_stage = |stage: &Stage| {
        let eval_prompt_max = seen.eval_prompt_max(job.model_of(stage));
        let tokens = |fitting: Option<u64>| {
            let slots = job.slots(stage, seen.prompt_max(stage), eval_prompt_max, fitting);
            slots.map(|slots| slots.tokens)
        };
        let fitting = fitting_tokens(job, stage, facts, seen, room);
        let (has, needs) = tokens(fitting).zip(tokens(None))?;
        (has < needs).then(|| {
            format!(
                "[[stage]] {:?}: the sampler's cache holds {has} tokens of the {needs} that its \
                 completions may come to, by the device's memory of {} ([sampler] tokens = 0): \
                 those that find no room wait, or are put back and computed again \
                 (perf/sampling_preemptions)",
                stage.name,
                gib(room.device.unwrap_or(0)),
            )
        })
    };
    job.stages.iter().filter_map(of_stage).collect()
}
