//! The disk that a stage takes: an upper bound, before it does anything.

use super::facts::InputFacts;
use crate::job::Job;
use crate::model_shape::{ModelShape, RoutingShape};
use crate::stage::{Grpo, Stage, Training};
use r1d_proto::worker::Dtype;
use std::collections::BTreeMap;

/// Bytes of a sampled token on disk, before compression: its id, its log-probability and its text.
const TOKEN_BYTES: u64 = 12;
/// Bytes of a completion on disk beside its tokens: keys, lengths and checksums of its records.
const COMPLETION_BYTES: u64 = 128;
/// Bytes of a verdict: two hashes in hex, the reward's name, score, parts and fuel.
const VERDICT_BYTES: u64 = 224;
/// Bytes of a step's file beside its completions: the journal's header, and the description of its
/// columns in the Parquet file.
const JOURNAL_FILE_BYTES: u64 = 256;
const ROLLOUTS_FILE_BYTES: u64 = 16 << 10;

/// Returns the most bytes that a stage leaves on disk, by what they are: `checkpoints` (those that
/// are kept, and the one that is being written), `rollouts` (of all steps), `journal` (of the steps
/// since the oldest checkpoint that is kept), `data set` (of a rejection-sampling stage) and, for
/// the last stage, `final` (the model).
///
/// `facts` are the shapes of [`Job::models`], in their order; the result is empty without them.
/// What grows with a number of steps that is not known yet is left out, and so is what is small
/// beside these: metrics, traces and logs, a tokenizer with each model, and the ids that top-k and
/// top-p left, whose number nobody knows beforehand.
pub fn disk(
    job: &Job,
    stage: &Stage,
    facts: &[ModelShape],
    seen: &InputFacts,
) -> BTreeMap<String, u64> {
    let Some(shape) = facts.get(job.model_of(stage)) else {
        return BTreeMap::new();
    };
    let mut bytes = BTreeMap::new();
    let mut add = |what: &str, n: u64| {
        if n > 0 {
            bytes.insert(what.to_string(), n);
        }
    };
    let steps = stage.steps(seen.rows(stage));
    let (every, keep) = (
        job.checkpoint.every_steps,
        u64::from(job.checkpoint.keep.max(1)),
    );
    let saved = match (steps, every) {
        (_, 0) => 1,
        // It is not known yet how many there are.
        (0, _) => keep + 1,
        (steps, every) => steps.div_ceil(every),
    };
    if stage.trains() {
        add(
            "checkpoints",
            saved
                .min(keep + 1)
                .saturating_mul(checkpoint(job, stage, shape)),
        );
    }
    if let Some(rollouts) = stage.rollouts() {
        let tokens = stage.tokens_per_step(seen.prompt_max(stage));
        let completion = COMPLETION_BYTES + VERDICT_BYTES * rollouts.rewards.len() as u64;
        let completions = rollouts.completions().saturating_mul(completion);
        let rounds = 1 + stage.grpo().map_or(0, Grpo::further_rounds);
        let step = tokens
            .saturating_mul(token(shape))
            .saturating_add(completions)
            .saturating_mul(rounds);
        let journaled = match (stage.trains(), every) {
            // What is not trained on is never sampled again from its journal.
            (false, _) => 1,
            (true, 0) => steps,
            // The oldest checkpoint goes, and the journal up to the next one, when one more than
            // are kept is on record. That is written while training goes on, until one more is due.
            (true, every) => {
                let most = every.saturating_mul(keep + 2);
                if steps == 0 { most } else { most.min(steps) }
            }
        };
        let files = |file: u64, count: u64| step.saturating_add(file).saturating_mul(count);
        add("rollouts", files(ROLLOUTS_FILE_BYTES, steps));
        add("journal", files(JOURNAL_FILE_BYTES, journaled));
        if stage.rejection_sampling().is_some() {
            // Texts that the rollouts have too.
            add("data set", step.saturating_mul(steps));
        }
    }
    if job
        .stages
        .last()
        .is_some_and(|last| last.name == stage.name)
    {
        add("final", shape.parameters.saturating_mul(weight(job).0));
    }
    bytes
}

/// Bytes of a weight as it is saved, and of the float32 one that an optimiser keeps beside it.
fn weight(job: &Job) -> (u64, u64) {
    match job.model.dtype {
        Dtype::Float32 => (4, 0),
        Dtype::Bfloat16 => (2, 4),
    }
}

/// Bytes of one checkpoint: weights, optimiser, reference; a value model with its optimiser.
pub(super) fn checkpoint(job: &Job, stage: &Stage, shape: &ModelShape) -> u64 {
    let (value_bytes, master_bytes) = weight(job);
    let module = shape.prediction.filter(|_| stage.opens_prediction());
    let parameters = shape.parameters + module.map_or(0, |module| module.parameters);
    let weights = parameters.saturating_mul(value_bytes);
    let moment_bytes = stage.training().map_or(0, Training::moment_bytes);
    let state = |parameters: u64| parameters.saturating_mul(moment_bytes + master_bytes);
    if let Some(lora) = stage.adapters() {
        // The adapters are there merged into the weights, and once more, with the reference's.
        let adapters = shape.adapter_values(lora.r, &lora.target_modules);
        let copies = adapters.saturating_mul(2 * value_bytes);
        return weights
            .saturating_add(state(adapters))
            .saturating_add(copies);
    }
    let optimiser = state(parameters);
    let references = u64::from(stage.needs_reference());
    let trained = 1 + u64::from(stage.ppo().is_some());
    weights
        .saturating_add(optimiser)
        .saturating_mul(trained)
        .saturating_add(weights.saturating_mul(references))
}

/// Bytes of a sampled token, with the experts that it took.
fn token(shape: &ModelShape) -> u64 {
    let experts = |routing: RoutingShape| routing.layers * routing.per_token * 2;
    TOKEN_BYTES + shape.routing.map_or(0, experts)
}
