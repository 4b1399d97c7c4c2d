//! The plan: what a job will do and need, before it does it.

use crate::error::JobError;
use crate::job::{Job, Weights};
use crate::model_shape::{ModelShape, RoutingShape};
use crate::reward::AskedModel;
use crate::stage::{Origin, Rollouts, Stage, StageKind};
use r1d_proto::control::PlanStage;
use r1d_proto::hyperparameters::ImportanceSamplingLevel;
use r1d_proto::rollout::RECORD_MAX_BYTES;
use r1d_proto::sampling_mask::KEPT_NUMBERS_MAX;
use r1d_proto::worker::Dtype;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the daemon learned from the files that a job names.
#[derive(Clone, Debug, Default)]
pub struct InputFacts {
    /// Number of rows (packed sequences, for `pretrain`) of each stage's data, by stage name. A
    /// stage whose data an earlier stage has yet to make has no entry.
    pub rows: BTreeMap<String, u64>,
    /// Longest prompt in tokens of each stage that samples, by stage name.
    pub prompt_max: BTreeMap<String, u32>,
    /// Longest prompt of the evaluations in tokens, for the tokenizer of each of [`Job::models`].
    pub eval_prompt_max: Vec<u32>,
    /// Number of rows of the data set of each of [`Job::evaluations`].
    pub eval_rows: Vec<u64>,
    /// Shapes of the models that rewards name by their directory.
    pub asked: BTreeMap<PathBuf, ModelShape>,
}

impl InputFacts {
    fn rows(&self, stage: &Stage) -> u64 {
        self.rows.get(&stage.name).copied().unwrap_or(0)
    }

    fn prompt_max(&self, stage: &Stage) -> u32 {
        self.prompt_max.get(&stage.name).copied().unwrap_or(0)
    }
}

/// Returns one line of the plan for each stage. `facts` are the shapes of [`Job::models`], in their
/// order; if it is empty, the lines have no memory.
pub fn stages(job: &Job, facts: &[ModelShape], seen: &InputFacts) -> Vec<PlanStage> {
    let line = |stage: &Stage| PlanStage {
        name: stage.name.clone(),
        kind: stage.kind_name().into(),
        model: stage.model.clone(),
        reused_from: None,
        from: match &stage.from {
            Origin::Base => "base".into(),
            Origin::Stage(name) => name.clone(),
        },
        data: stage.data_sets().collect::<Vec<_>>().join(" + "),
        rows: seen.rows(stage),
        steps: stage.steps(seen.rows(stage)),
        tokens_per_step: tokens_per_step(stage, seen.prompt_max(stage)),
        rewards: match stage.evaluation() {
            Some(eval) => eval.rewards.clone(),
            None => stage
                .rollouts()
                .map(|rollouts| rollouts.rewards.iter().map(|r| r.name.clone()).collect())
                .unwrap_or_default(),
        },
        memory: memory(job, stage, facts, seen),
    };
    job.stages.iter().map(line).collect()
}

/// Most tokens that one step samples or trains on. `prompt_max` is in tokens.
pub fn tokens_per_step(stage: &Stage, prompt_max: u32) -> u64 {
    let sampled = |r: &Rollouts| {
        r.prompts_per_step as u64
            * r.num_generations as u64
            * (prompt_max as u64 + r.longest_completion() as u64)
    };
    match &stage.kind {
        StageKind::Pretrain(p) => p.batch_size as u64 * p.max_length as u64,
        StageKind::Sft(s) => s.batch_size as u64 * s.max_length as u64,
        StageKind::RewardModel(r) => {
            r.batch_size as u64 * r.max_length as u64 * if stage.reads_pairs() { 2 } else { 1 }
        }
        StageKind::Dpo(d) => 2 * d.batch_size as u64 * d.max_length as u64,
        StageKind::Grpo(g) => sampled(&g.rollouts),
        StageKind::Ppo(p) => sampled(&p.rollouts),
        StageKind::RejectionSampling(r) => sampled(&r.rollouts),
        StageKind::Eval(_) => 0,
    }
}

/// Returns the bytes that stay allocated through a stage, by actor: `policy`, `reference`,
/// `optimiser` (gradients and AdamW's moments; in bfloat16 also the float32 weights that it
/// updates), `value model` (with its optimiser), `reward models` and `judges` that rewards ask,
/// `sampler` (its cache). Activations come on top: they grow with `max_tokens_per_device`.
///
/// `facts` are the shapes of [`Job::models`], in their order; the result is empty without them. A
/// reward model of a directory whose shape is not in `seen` is taken to be as large as the policy.
pub fn memory(
    job: &Job,
    stage: &Stage,
    facts: &[ModelShape],
    seen: &InputFacts,
) -> BTreeMap<String, u64> {
    let all = facts;
    let Some(facts) = all.get(job.model_of(stage)) else {
        return BTreeMap::new();
    };
    let (value_bytes, master_bytes) = match job.model.dtype {
        Dtype::Float32 => (4, 0),
        Dtype::Bfloat16 => (2, 4),
    };
    let module = facts.prediction.filter(|_| stage.opens_prediction());
    let trained_module = module.filter(|_| stage.mtp_loss_weight > 0.0);
    let parameters = facts.parameters + trained_module.map_or(0, |module| module.parameters);
    let weights = (facts.parameters + module.map_or(0, |module| module.parameters)) * value_bytes;
    let mut bytes = BTreeMap::from([("policy".to_string(), weights)]);
    // Adapters are small beside the weights, and the reference shares those.
    let trains_weights = stage.trains() && stage.adapters().is_none();
    if trains_weights {
        bytes.insert(
            "optimiser".into(),
            parameters * (value_bytes + 2 * 4 + master_bytes),
        );
    }
    if trains_weights && stage.needs_reference() {
        bytes.insert("reference".into(), weights);
    }
    if stage.ppo().is_some() {
        bytes.insert(
            "value model".into(),
            weights + parameters * (value_bytes + 2 * 4 + master_bytes),
        );
    }
    let eval_prompt_max = seen
        .eval_prompt_max
        .get(job.model_of(stage))
        .copied()
        .unwrap_or(0);
    let slots = job.slots(stage, seen.prompt_max(stage), eval_prompt_max);
    let mut asked: Vec<AskedModel> = Vec::new();
    for answering in stage
        .rollouts()
        .iter()
        .flat_map(|rollouts| &rollouts.rewards)
        .filter_map(|reward| job.asked(reward))
    {
        if !asked.contains(&answering) {
            asked.push(answering);
        }
    }
    for answering in &asked {
        let (of, scores) = match answering {
            AskedModel::Stage(maker) => {
                let maker = job.stages.get(*maker);
                let of = maker.and_then(|maker| all.get(job.model_of(maker)));
                (
                    of.unwrap_or(facts),
                    maker.is_some_and(|maker| maker.reward_model().is_some()),
                )
            }
            AskedModel::Model(model) => all.get(*model).map_or((facts, true), |of| (of, of.scores)),
            AskedModel::Directory(dir) => seen
                .asked
                .get(dir)
                .map_or((facts, true), |of| (of, of.scores)),
        };
        // The cache of a judge that writes holds as many tokens as the policy's.
        let cached = slots.filter(|_| !scores).map_or(0, |slots| slots.tokens);
        let name = if scores { "reward models" } else { "judges" };
        *bytes.entry(name.into()).or_insert(0) +=
            (of.parameters + cached * of.cache_values_per_token) * value_bytes;
    }
    if let Some(slots) = slots {
        let per_token =
            facts.cache_values_per_token + module.map_or(0, |module| module.cache_values_per_token);
        bytes.insert("sampler".into(), slots.tokens * per_token * value_bytes);
    }
    bytes
}

/// Number of passes over a data set above which a warning is given.
const EPOCHS_WARN: u64 = 50;

/// Warnings about settings that are allowed and probably not meant.
pub fn warnings(job: &Job, facts: &[ModelShape], seen: &InputFacts) -> Vec<String> {
    let mut found = Vec::new();
    for name in job.data.keys() {
        if !job.stages.iter().any(|stage| {
            stage
                .data_sets()
                .chain(stage.held_out())
                .any(|data| data == name)
        }) && !job.evals.iter().any(|eval| &eval.data == name)
        {
            found.push(format!(
                "[data.{name}] is used by no stage and no evaluation"
            ));
        }
    }
    if job.batch_invariant {
        found.push(
            "batch_invariant = true computes on one thread with fixed shapes: exact, and slower"
                .into(),
        );
    }
    let is_random = |stage: &Stage| {
        matches!(
            job.models().nth(job.model_of(stage)),
            Some(Weights::Init { .. })
        )
    };
    let starts_random =
        |stage: &&Stage| stage.from == Origin::Base && stage.grpo().is_some() && is_random(stage);
    if let Some(first) = job.stages.iter().find(starts_random) {
        found.push(format!(
            "[[stage]] {:?} starts reinforcement learning from random weights: nothing right will \
             be sampled, so nothing is learned; put a pretrain or sft stage before it",
            first.name
        ));
    }
    for stage in &job.stages {
        let is_read = || {
            job.stages
                .iter()
                .any(|later| later.data_sets().any(|data| data == stage.name))
        };
        if stage.rejection_sampling().is_some() && !is_read() {
            let name = &stage.name;
            found.push(format!(
                "[[stage]] {name:?}: no later stage reads what it keeps (data = {name:?}); it \
                 stays as datasets/{name}.jsonl"
            ));
        }
        if stage
            .reward_model()
            .is_some_and(|reward_model| reward_model.eval_data.is_none())
        {
            found.push(format!(
                "[[stage]] {:?} has no `eval_data`: nobody will know whether its reward model \
                 tells good from bad",
                stage.name
            ));
        }
        stage_warnings(stage, facts.get(job.model_of(stage)), seen, &mut found);
    }
    found
}

/// Refuses a stage whose completions may be longer than a record can hold. `facts` are the shapes
/// of [`Job::models`].
pub fn check_records(job: &Job, facts: &[ModelShape], seen: &InputFacts) -> Result<(), JobError> {
    for stage in &job.stages {
        let (Some(rollouts), Some(facts)) = (stage.rollouts(), facts.get(job.model_of(stage)))
        else {
            continue;
        };
        let Some(RoutingShape {
            layers,
            experts,
            per_token,
        }) = facts.routing
        else {
            continue;
        };
        // Experts are written as varints; 9 bytes more are an id and its log-probability.
        let width = if experts > 128 { 2 } else { 1 };
        let per_token = layers * per_token * width + 9;
        let tokens = u64::from(seen.prompt_max(stage)) + u64::from(rollouts.longest_completion());
        let tokens_max = RECORD_MAX_BYTES as u64 / per_token;
        if tokens > tokens_max {
            return Err(JobError::Unsound {
                place: format!("[[stage]] {:?}", stage.name),
                problem: format!(
                    "prompt and completion may have {tokens} tokens, and with the experts of \
                     {layers} layers a record holds {tokens_max}"
                ),
                fix: "leave long prompts out, or lower max_completion_length".into(),
            });
        }
    }
    Ok(())
}

/// The largest top_k with which sampling masks always fit into a record, even if every kept id
/// stood alone among dropped ones. `None` if the stage's own settings always fit.
fn fitting_top_k(rollouts: &Rollouts, vocab_size: u64) -> Option<u64> {
    let cuts = rollouts.top_p < 1.0 || rollouts.top_k > 0;
    let alone_max = vocab_size.div_ceil(2);
    let kept_max = if rollouts.top_k > 0 {
        alone_max.min(rollouts.top_k.into())
    } else {
        alone_max
    };
    let length = u64::from(rollouts.longest_completion()).max(1);
    // A kept id takes two numbers of a record; each token takes one more.
    let fits = (KEPT_NUMBERS_MAX as u64 / length).saturating_sub(1) / 2;
    (rollouts.keep_sampling_mask && cuts && kept_max > fits).then_some(fits)
}

fn stage_warnings(
    stage: &Stage,
    facts: Option<&ModelShape>,
    seen: &InputFacts,
    found: &mut Vec<String>,
) {
    let place = format!("[[stage]] {:?}", stage.name);
    let (rows, per_step) = (seen.rows(stage), stage.rows_per_step());
    if rows > 0 && stage.steps(rows).saturating_mul(per_step) > EPOCHS_WARN.saturating_mul(rows) {
        found.push(format!(
            "{place} goes through its {rows} rows {} times",
            stage.steps(rows).saturating_mul(per_step) / rows
        ));
    }
    let largest = stage.rows_of_step(0, rows);
    if rows > 0 && largest > rows {
        found.push(format!(
            "{place} takes {largest} rows a step and its data has {rows}: a step repeats rows"
        ));
    }
    if let Some(schedule) = &stage.schedule {
        let updates = stage.steps(rows).saturating_mul(stage.updates_per_step());
        if rows > 0 && schedule.warmup_steps > updates {
            found.push(format!(
                "{place}: warmup_steps = {} is longer than its {updates} updates, so the learning \
                 rate never rises to learning_rate",
                schedule.warmup_steps
            ));
        }
    }
    let longest = match &stage.kind {
        StageKind::Pretrain(p) => p.max_length,
        StageKind::Sft(s) => s.max_length,
        StageKind::Eval(eval) => seen
            .prompt_max(stage)
            .saturating_add(eval.max_completion_length),
        StageKind::RewardModel(r) => r.max_length,
        StageKind::Dpo(d) => d.max_length,
        StageKind::Grpo(_) | StageKind::Ppo(_) | StageKind::RejectionSampling(_) => seen
            .prompt_max(stage)
            .saturating_add(stage.rollouts().map_or(0, Rollouts::longest_completion)),
    };
    if let Some(facts) = facts
        && longest as u64 > facts.max_position_embeddings
    {
        let limit = facts.max_position_embeddings;
        found.push(format!(
            "{place} makes sequences of up to {longest} tokens; the model's positions reach to \
             {limit}: leave long rows out, or shorten completions"
        ));
    }
    if stage.trains() && longest > stage.max_tokens_per_device {
        let budget = stage.max_tokens_per_device;
        found.push(format!(
            "{place} makes sequences of up to {longest} tokens; above max_tokens_per_device = \
             {budget} each is a micro-batch alone"
        ));
    }
    if let (Some(rollouts), Some(facts)) = (stage.rollouts(), facts)
        && let Some(top_k) = fitting_top_k(rollouts, facts.vocab_size)
    {
        found.push(format!(
            "{place} keeps the sampling mask: if the model's distributions are flat, the ids that \
             top_p = {} leaves may come to more than a completion's record holds, which ends the \
             job. top_k = {top_k} always fits, and so does keep_sampling_mask = false",
            rollouts.top_p
        ));
    }
    if let Some(grpo) = stage.grpo()
        && grpo.importance_sampling_level == ImportanceSamplingLevel::Sequence
        && grpo.epsilon > 0.01
    {
        let epsilon = grpo.epsilon;
        found.push(format!(
            "{place}: epsilon = {epsilon} hardly ever clips a sequence's ratio; GSPO used 3e-4, \
             and 4e-4 for epsilon_high"
        ));
    }
}
