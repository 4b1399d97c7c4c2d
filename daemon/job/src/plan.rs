//! The plan: what a job will do and need, before it does it.

use crate::facts::ModelFacts;
use crate::job::Job;
use crate::stage::Stage;
use r1d_proto::control::PlanStage;
use std::collections::BTreeMap;

/// What the daemon read of the job's files.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Rows (packed sequences, for `pretrain`) of each stage's data, by stage name.
    pub rows: BTreeMap<String, u64>,
    /// Longest prompt of each GRPO stage, tokens, by stage name.
    pub prompt_max: BTreeMap<String, u32>,
    /// Longest prompt of the evaluations, tokens.
    pub eval_prompt_max: u32,
}

/// One line of the plan for each stage.
pub fn stages(job: &Job, facts: Option<&ModelFacts>, seen: &Seen) -> Vec<PlanStage> {
    let _ = (job, facts, seen);
    todo!()
}

/// What is allowed and probably not meant.
pub fn warnings(job: &Job, facts: Option<&ModelFacts>, seen: &Seen) -> Vec<String> {
    let _ = (job, facts, seen);
    todo!()
}

/// Most tokens that one step takes; `prompt_max` in tokens.
pub fn tokens_per_step(stage: &Stage, prompt_max: u32) -> u64 {
    let _ = (stage, prompt_max);
    todo!()
}

/// Bytes by actor: `policy`, `reference`, `optimiser`, `sampler`, `activations`.
pub fn memory(job: &Job, stage: &Stage, facts: &ModelFacts, prompt_max: u32, eval_prompt_max: u32) -> BTreeMap<String, u64> {
    let _ = (job, stage, facts, prompt_max, eval_prompt_max);
    todo!()
}
