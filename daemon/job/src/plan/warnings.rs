//! Settings that are allowed and probably not meant.

use super::facts::InputFacts;
use super::records::fitting_top_k;
use crate::job::Job;
use crate::model::Weights;
use crate::model_shape::ModelShape;
use crate::stage::{Origin, Stage};
use r1d_proto::hyperparameters::ImportanceSamplingLevel;

/// Number of passes over a data set above which a warning is given.
const EPOCHS_WARN: u64 = 50;

/// Warnings about settings that are allowed and probably not meant.
pub fn warnings(job: &Job, facts: &[ModelShape], seen: &InputFacts) -> Vec<String> {
    let mut found: Vec<String> = job
        .data
        .keys()
        .filter(|name| !is_used(job, name))
        .map(|name| format!("[data.{name}] is used by no stage and no evaluation"))
        .collect();
    if job.batch_invariant {
        found.push(
            "batch_invariant = true computes on one thread with fixed shapes: exact, and slower"
                .into(),
        );
    }
    if let Some(first) = job.stages.iter().find(|stage| starts_random(job, stage)) {
        found.push(format!(
            "[[stage]] {:?} starts reinforcement learning from random weights: nothing right will \
             be sampled, so nothing is learned; put a pretrain or sft stage before it",
            first.name
        ));
    }
    for stage in &job.stages {
        found.extend(unread(job, stage));
        found.extend(untested(stage));
        let facts = facts.get(job.model_of(stage));
        let place = format!("[[stage]] {:?}", stage.name);
        found.extend(
            steps(stage, seen.rows(stage))
                .into_iter()
                .chain(lengths(stage, facts, seen))
                .chain(rollouts(stage, facts))
                .map(|warning| format!("{place}{warning}")),
        );
    }
    found
}

/// Whether a stage or an evaluation of `[[eval]]` reads the data set.
fn is_used(job: &Job, name: &str) -> bool {
    let mut read = job
        .stages
        .iter()
        .flat_map(|stage| stage.data_sets().chain(stage.held_out()));
    read.any(|data| data == name) || job.evals.iter().any(|eval| eval.data == name)
}

/// Whether the stage is grpo's on random weights.
fn starts_random(job: &Job, stage: &Stage) -> bool {
    let model = job.models().nth(job.model_of(stage));
    stage.from == Origin::Base
        && stage.grpo().is_some()
        && matches!(model, Some(Weights::Init { .. }))
}

/// The warning of a rejection-sampling stage whose data set no stage reads.
fn unread(job: &Job, stage: &Stage) -> Option<String> {
    let name = &stage.name;
    let mut read = job.stages.iter().flat_map(Stage::data_sets);
    if stage.rejection_sampling().is_none() || read.any(|data| data == name) {
        return None;
    }
    Some(format!(
        "[[stage]] {name:?}: no later stage reads what it keeps (data = {name:?}); it stays as \
         datasets/{name}.jsonl"
    ))
}

/// The warning of a reward model that nothing is held out for.
fn untested(stage: &Stage) -> Option<String> {
    if stage.reward_model()?.eval_data.is_some() {
        return None;
    }
    Some(format!(
        "[[stage]] {:?} has no `eval_data`: nobody will know whether its reward model tells good \
         from bad",
        stage.name
    ))
}

/// Warnings of a stage that goes through its `rows` too often, or too seldom to warm up. They begin
/// behind the stage's place, as those below do.
fn steps(stage: &Stage, rows: u64) -> Vec<String> {
    let mut found = Vec::new();
    if rows == 0 {
        return found;
    }
    let taken = stage.steps(rows).saturating_mul(stage.rows_per_step());
    if taken > EPOCHS_WARN.saturating_mul(rows) {
        found.push(format!(
            " goes through its {rows} rows {} times",
            taken / rows
        ));
    }
    let largest = stage.rows_of_step(0, rows);
    if largest > rows {
        found.push(format!(
            " takes {largest} rows a step and its data has {rows}: a step repeats rows"
        ));
    }
    let updates = stage.steps(rows).saturating_mul(stage.updates_per_step());
    if let Some(training) = stage.training()
        && training.warmup_steps > updates
    {
        found.push(format!(
            ": warmup_steps = {} is longer than its {updates} updates, so the learning rate never \
             rises to learning_rate",
            training.warmup_steps
        ));
    }
    found
}

/// Warnings of sequences that are longer than the model or a micro-batch is made for.
fn lengths(stage: &Stage, facts: Option<&ModelShape>, seen: &InputFacts) -> Vec<String> {
    let mut found = Vec::new();
    let longest = stage.longest().sequence(seen.prompt_max(stage));
    if let Some(facts) = facts
        && u64::from(longest) > facts.max_position_embeddings
    {
        let limit = facts.max_position_embeddings;
        found.push(format!(
            " makes sequences of up to {longest} tokens; the model's positions reach to {limit}: \
             leave long rows out, or shorten completions"
        ));
    }
    if let Some(training) = stage.training()
        && longest > training.max_tokens_per_device
    {
        found.push(format!(
            " makes sequences of up to {longest} tokens; above max_tokens_per_device = {} each is \
             a micro-batch alone",
            training.max_tokens_per_device
        ));
    }
    found
}

/// Warnings of what a stage samples, and how it compares policies over it.
fn rollouts(stage: &Stage, facts: Option<&ModelShape>) -> Vec<String> {
    let mut found = Vec::new();
    if let (Some(rollouts), Some(facts)) = (stage.rollouts(), facts)
        && let Some(top_k) = fitting_top_k(stage, facts.vocab_size)
    {
        found.push(format!(
            " keeps the sampling mask: if the model's distributions are flat, the ids that top_p \
             = {} leaves may come to more than a completion's record holds, which ends the job. \
             top_k = {top_k} always fits, and so does keep_sampling_mask = false",
            rollouts.top_p
        ));
    }
    if let Some(grpo) = stage.grpo()
        && grpo.importance_sampling_level == ImportanceSamplingLevel::Sequence
        && grpo.epsilon > 0.01
    {
        let epsilon = grpo.epsilon;
        found.push(format!(
            ": epsilon = {epsilon} hardly ever clips a sequence's ratio; GSPO used 3e-4, and 4e-4 \
             for epsilon_high"
        ));
    }
    found
}
