//! Writes a job as `job.toml`: every default filled in, every path absolute, the same bytes each
//! time. The text parses to the same job.

use crate::eval::Eval;
use crate::file::{Kind, Table};
use crate::job::{Checkpoint, DataSource, Job, Model, TemplateSource, Weights};
use crate::reward::{ModelRef, OnAbstain, OnFault, Plugin, Reward};
use crate::stage::{
    Change, Dpo, Grpo, Length, Origin, Ppo, RejectionSampling, RewardLoss, RewardModel, Rollouts,
    Schedule, Select, Stage, StageKind,
};
use serde::Serialize;
use std::path::Path;
use toml::Value;

/// Returns the job file; its keys are in the order of [`crate::keys`].
pub fn job(job: &Job) -> String {
    let mut table = toml::Table::new();
    set(&mut table, "name", &job.name);
    set(&mut table, "seed", job.seed);
    set(&mut table, "priority", job.priority);
    if let Some(date) = &job.date {
        set(&mut table, "date", date);
    }
    set(&mut table, "batch_invariant", job.batch_invariant);
    set(&mut table, "model", model(&job.model));
    let models = job
        .models
        .iter()
        .map(|(name, model)| (name.clone(), Value::Table(weights(model))));
    set(&mut table, "models", models.collect::<toml::Table>());
    set(
        &mut table,
        "data",
        job.data
            .iter()
            .map(|(name, source)| (name.clone(), Value::Table(data(source))))
            .collect::<toml::Table>(),
    );
    set(
        &mut table,
        "stage",
        job.stages.iter().map(stage).collect::<Vec<_>>(),
    );
    let sampler = [
        ("slots", i64::from(job.sampler.slots)),
        ("tokens", job.sampler.tokens.into()),
    ];
    set(
        &mut table,
        "sampler",
        toml::Table::from_iter(sampler.map(|(key, value)| (key.to_string(), value.into()))),
    );
    set(&mut table, "checkpoint", checkpoint(&job.checkpoint));
    set(
        &mut table,
        "eval",
        job.evals.iter().map(eval).collect::<Vec<_>>(),
    );
    let mut text = String::new();
    document(&mut text, &table, crate::job_keys::JOB, "");
    text
}

/// Sets a key. Every value here is a string, a number, a list or a table of these, so it always
/// converts.
fn set(table: &mut toml::Table, key: &str, value: impl Serialize) {
    if let Ok(value) = Value::try_from(value) {
        table.insert(key.into(), value);
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn model(model: &Model) -> toml::Table {
    let mut table = weights(&model.weights);
    set(&mut table, "dtype", model.dtype);
    set(&mut table, "fp8", model.fp8);
    table
}

fn weights(weights: &Weights) -> toml::Table {
    let mut table = toml::Table::new();
    match weights {
        Weights::Directory(directory) => set(&mut table, "path", path(directory)),
        Weights::Init { config, tokenizer } => {
            set(&mut table, "init", path(config));
            set(&mut table, "tokenizer", path(tokenizer));
        }
    }
    table
}

pub(crate) fn data(data: &DataSource) -> toml::Table {
    let mut table = toml::Table::new();
    set(&mut table, "path", path(&data.path));
    let columns = [
        ("messages", &data.messages),
        ("prompt", &data.prompt),
        ("completion", &data.completion),
        ("chosen", &data.chosen),
        ("rejected", &data.rejected),
        ("label", &data.label),
        ("margin", &data.margin),
        ("text", &data.text),
        ("reference", &data.reference),
        ("domain", &data.domain),
        ("tools", &data.tools),
    ];
    for (key, column) in columns {
        if let Some(column) = column {
            set(&mut table, key, column);
        }
    }
    set(&mut table, "shuffle", data.shuffle);
    set(&mut table, "template", template(&data.template));
    if let Ok(kwargs) = serde_json::from_str::<toml::Table>(&data.chat_template_kwargs) {
        set(&mut table, "chat_template_kwargs", kwargs);
    }
    if let Some(tokens) = data.max_prompt_length {
        set(&mut table, "max_prompt_length", tokens);
    }
    table
}

fn template(source: &TemplateSource) -> String {
    match source {
        TemplateSource::R1Zero => "r1-zero".into(),
        TemplateSource::Chat => "chat".into(),
        TemplateSource::Plain => "plain".into(),
        TemplateSource::File(file) => path(file),
    }
}

pub(crate) fn stage(stage: &Stage) -> toml::Table {
    let mut table = toml::Table::new();
    set(&mut table, "name", &stage.name);
    set(&mut table, "kind", stage.kind_name());
    if let Some(model) = &stage.model {
        set(&mut table, "model", model);
    }
    let from = match &stage.from {
        Origin::Base => "base",
        Origin::Stage(name) => name,
    };
    set(&mut table, "from", from);
    set(&mut table, "data", &stage.data);
    if let Some(eval) = stage.evaluation() {
        evaluation(&mut table, eval);
        return table;
    }
    match stage.length {
        Length::Steps(steps) => set(&mut table, "steps", steps),
        Length::Epochs(epochs) => set(&mut table, "epochs", epochs),
    }
    match &stage.kind {
        StageKind::Pretrain(p) => supervised(&mut table, stage, p.batch_size, p.max_length),
        StageKind::Sft(s) => {
            supervised(&mut table, stage, s.batch_size, s.max_length);
            if let Some(tokenize) = s.tokenize {
                set(&mut table, "tokenize", tokenize);
            }
            if let Some(source) = &s.template {
                set(&mut table, "template", template(source));
            }
        }
        StageKind::Grpo(g) => {
            grpo(&mut table, g);
            set(
                &mut table,
                "speculative_decoding",
                stage.speculative_decoding,
            );
        }
        StageKind::RejectionSampling(r) => rejection_sampling(&mut table, r),
        StageKind::RewardModel(r) => {
            further_data(&mut table, stage);
            reward_model(&mut table, r);
        }
        StageKind::Dpo(d) => {
            further_data(&mut table, stage);
            dpo(&mut table, d);
        }
        StageKind::Ppo(p) => ppo(&mut table, p),
        StageKind::Eval(_) => {}
    }
    if let Some(s) = &stage.schedule {
        schedule(&mut table, s);
        training(&mut table, stage);
    }
    table
}

/// Writes the further data sets if there are any: a stage without them is written, and known for
/// reuse, as before the key was written at all.
fn further_data(table: &mut toml::Table, stage: &Stage) {
    if !stage.more_data.is_empty() {
        set(table, "more_data", &stage.more_data);
    }
}

fn supervised(table: &mut toml::Table, stage: &Stage, batch_size: u32, max_length: u32) {
    set(table, "more_data", &stage.more_data);
    set(table, "batch_size", batch_size);
    set(table, "max_length", max_length);
    set(table, "mtp_loss_weight", stage.mtp_loss_weight);
}

fn schedule(table: &mut toml::Table, s: &Schedule) {
    set(table, "learning_rate", s.learning_rate);
    set(table, "lr_scheduler_type", s.lr_scheduler_type);
    set(table, "warmup_steps", s.warmup_steps);
    set(table, "min_lr_ratio", s.min_lr_ratio);
    set(table, "adam_beta1", s.adam_beta1);
    set(table, "adam_beta2", s.adam_beta2);
    set(table, "adam_epsilon", s.adam_epsilon);
    set(table, "weight_decay", s.weight_decay);
    set(table, "max_grad_norm", s.max_grad_norm);
}

fn training(table: &mut toml::Table, stage: &Stage) {
    set(table, "max_tokens_per_device", stage.max_tokens_per_device);
    if let Some(lora) = &stage.lora {
        set(table, "lora_r", lora.r);
        set(table, "lora_alpha", lora.lora_alpha);
        set(table, "lora_target_modules", lora.target_modules.clone());
    }
    set(table, "bias_update_speed", stage.router.bias_update_speed);
    set(table, "aux_loss_alpha", stage.router.aux_loss_alpha);
    set(table, "device_loss_alpha", stage.router.device_loss_alpha);
}

fn rollouts(table: &mut toml::Table, rollouts: &Rollouts) {
    set(table, "prompts_per_step", rollouts.prompts_per_step);
    set(table, "num_generations", rollouts.num_generations);
    set(
        table,
        "max_completion_length",
        rollouts.max_completion_length,
    );
    set(table, "temperature", rollouts.temperature);
    set(table, "top_p", rollouts.top_p);
    set(table, "top_k", rollouts.top_k);
    set(
        table,
        "schedule",
        rollouts.changes.iter().map(change).collect::<Vec<_>>(),
    );
    set(
        table,
        "reward",
        rollouts.rewards.iter().map(reward).collect::<Vec<_>>(),
    );
}

fn change(change: &Change) -> toml::Table {
    let mut table = toml::Table::new();
    set(&mut table, "after_step", change.after_step);
    if let Some(temperature) = change.temperature {
        set(&mut table, "temperature", temperature);
    }
    if let Some(length) = change.max_completion_length {
        set(&mut table, "max_completion_length", length);
    }
    table
}

fn reward_model(table: &mut toml::Table, reward_model: &RewardModel) {
    set(table, "batch_size", reward_model.batch_size);
    set(table, "max_length", reward_model.max_length);
    match reward_model.loss {
        RewardLoss::Pairwise {
            center_rewards_coefficient,
        } => {
            set(table, "loss", "pairwise");
            set(
                table,
                "center_rewards_coefficient",
                center_rewards_coefficient,
            );
        }
        RewardLoss::Pointwise => set(table, "loss", "pointwise"),
    }
    if let Some(eval_data) = &reward_model.eval_data {
        set(table, "eval_data", eval_data);
    }
}

fn dpo(table: &mut toml::Table, dpo: &Dpo) {
    set(table, "batch_size", dpo.batch_size);
    set(table, "max_length", dpo.max_length);
    set(table, "tokenize", dpo.tokenize);
    set(table, "loss_type", dpo.objective.loss_type);
    set(table, "beta", dpo.objective.beta);
    set(table, "label_smoothing", dpo.objective.label_smoothing);
}

fn ppo(table: &mut toml::Table, ppo: &Ppo) {
    rollouts(table, &ppo.rollouts);
    set(table, "num_ppo_epochs", ppo.num_ppo_epochs);
    set(table, "num_mini_batches", ppo.num_mini_batches);
    set(table, "cliprange", ppo.cliprange);
    set(table, "cliprange_value", ppo.cliprange_value);
    set(table, "vf_coef", ppo.vf_coef);
    set(table, "gamma", ppo.gamma);
    set(table, "lam", ppo.lam);
    set(table, "kl_coef", ppo.kl_coef);
    set(table, "keep_sampling_mask", ppo.rollouts.keep_sampling_mask);
    set(table, "routing_replay", ppo.routing_replay);
    set(
        table,
        "routing_replay_reference",
        ppo.routing_replay_reference,
    );
    set(table, "value_learning_rate", ppo.value_learning_rate);
    if let Some(model) = &ppo.value_model {
        set(table, "value_model", model);
    }
}

fn rejection_sampling(table: &mut toml::Table, rejection: &RejectionSampling) {
    rollouts(table, &rejection.rollouts);
    match rejection.select {
        Select::Correct { at } => {
            set(table, "select", "correct");
            set(table, "correct_at", at);
        }
        Select::BestOfN => set(table, "select", "best-of-n"),
        Select::TopP { share } => {
            set(table, "select", "top-p");
            set(table, "keep_share", share);
        }
    }
    set(table, "keep", rejection.keep);
    set(table, "review", rejection.review);
}

fn grpo(table: &mut toml::Table, grpo: &Grpo) {
    rollouts(table, &grpo.rollouts);
    set(table, "num_iterations", grpo.num_iterations);
    set(table, "steps_per_generation", grpo.steps_per_generation);
    set(table, "loss_type", grpo.loss_type);
    set(
        table,
        "importance_sampling_level",
        grpo.importance_sampling_level,
    );
    set(table, "baseline", grpo.baseline);
    set(table, "scale_rewards", grpo.scale_rewards);
    set(table, "epsilon", grpo.epsilon);
    set(table, "epsilon_high", grpo.epsilon_high);
    set(table, "beta", grpo.beta);
    set(table, "use_bias_correction_kl", grpo.use_bias_correction_kl);
    if let Some(threshold) = grpo.off_policy_mask_threshold {
        set(table, "off_policy_mask_threshold", threshold);
    }
    set(table, "sync_ref_steps", grpo.sync_ref_steps);
    set(
        table,
        "mask_truncated_completions",
        grpo.mask_truncated_completions,
    );
    set(table, "dynamic_sampling", grpo.dynamic_sampling);
    set(table, "max_resample_rounds", grpo.max_resample_rounds);
    set(
        table,
        "keep_sampling_mask",
        grpo.rollouts.keep_sampling_mask,
    );
    set(table, "routing_replay", grpo.routing_replay);
    set(
        table,
        "routing_replay_reference",
        grpo.routing_replay_reference,
    );
}

pub(crate) fn reward(reward: &Reward) -> toml::Table {
    let mut table = toml::Table::new();
    let plugin = match &reward.plugin {
        Plugin::Named(name) => name.clone(),
        Plugin::Path(file) => path(file),
    };
    set(&mut table, "plugin", plugin);
    set(&mut table, "name", &reward.name);
    set(&mut table, "weight", reward.weight);
    if let Ok(config) = serde_json::from_str::<toml::Table>(&reward.config_json) {
        set(&mut table, "config", config);
    }
    let mut limits = toml::Table::new();
    if let Some(fuel) = reward.limits.fuel {
        set(&mut limits, "fuel", fuel);
    }
    if let Some(memory_mb) = reward.limits.memory_mb {
        set(&mut limits, "memory_mb", memory_mb);
    }
    set(&mut limits, "hostcall_kb", reward.limits.hostcall_kb);
    if let Some(wall_ms) = reward.limits.wall_ms {
        set(&mut limits, "wall_ms", wall_ms);
    }
    set(&mut table, "limits", limits);
    match &reward.model {
        Some(ModelRef::Named(name)) => set(&mut table, "model", name),
        Some(ModelRef::Directory(dir)) => set(&mut table, "model", path(dir)),
        None => {}
    }
    set(&mut table, "max_answer_length", reward.max_answer_length);
    set(&mut table, "after_step", reward.after_step);
    set(&mut table, "domains", &reward.domains);
    match reward.on_abstain {
        OnAbstain::DropSample => set(&mut table, "on_abstain", "drop-sample"),
        OnAbstain::DropGroup => set(&mut table, "on_abstain", "drop-group"),
        OnAbstain::Score(score) => set(&mut table, "on_abstain", scored(score)),
    }
    match reward.on_fault {
        OnFault::Min => set(&mut table, "on_fault", "min"),
        OnFault::DropSample => set(&mut table, "on_fault", "drop-sample"),
        OnFault::Score(score) => set(&mut table, "on_fault", scored(score)),
    }
    if let Some(min_score) = reward.min_score {
        set(&mut table, "min_score", min_score);
    }
    if let Some(sha256) = &reward.sha256 {
        set(&mut table, "sha256", sha256);
    }
    table
}

fn scored(score: f64) -> toml::Table {
    toml::Table::from_iter([("score".to_string(), score.into())])
}

fn checkpoint(checkpoint: &Checkpoint) -> toml::Table {
    let mut table = toml::Table::new();
    set(&mut table, "every_steps", checkpoint.every_steps);
    set(&mut table, "keep", checkpoint.keep);
    if let Some(to) = &checkpoint.to {
        set(&mut table, "to", format!("file://{}", path(to)));
    }
    table
}

pub(crate) fn eval(eval: &Eval) -> toml::Table {
    let mut table = toml::Table::new();
    set(&mut table, "data", &eval.data);
    set(&mut table, "every_steps", eval.every_steps);
    set(&mut table, "stages", &eval.stages);
    set(&mut table, "at_start", eval.at_start);
    evaluation(&mut table, eval);
    table
}

fn evaluation(table: &mut toml::Table, eval: &Eval) {
    set(table, "num_generations", eval.num_generations);
    set(table, "temperature", eval.temperature);
    set(table, "top_p", eval.top_p);
    set(table, "top_k", eval.top_k);
    set(table, "max_completion_length", eval.max_completion_length);
    set(table, "max_rows", eval.max_rows);
    set(
        table,
        "metrics",
        eval.metrics
            .iter()
            .map(|metric| metric.to_string())
            .collect::<Vec<_>>(),
    );
    set(table, "rewards", &eval.rewards);
    set(table, "correct_at", eval.correct_at);
}

/// Writes a table in the order of its keys: plain values first, then the tables below it.
fn document(text: &mut String, table: &toml::Table, spec: &'static Table, path: &str) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_string()
        } else {
            format!("{path}.{name}")
        }
    };
    for key in spec.keys() {
        if let Some(value) = table.get(key.name)
            && !is_section(&key.kind)
        {
            text.push_str(&format!("{} = {value}\n", key.name));
        }
    }
    for key in spec.keys().filter(|key| is_section(&key.kind)) {
        match (&key.kind, table.get(key.name)) {
            (Kind::Table(spec), Some(Value::Table(inner))) => section(
                text,
                inner,
                spec,
                &format!("[{}]", below(key.name)),
                &below(key.name),
            ),
            (Kind::Named(spec), Some(Value::Table(named))) => {
                for (name, inner) in named
                    .iter()
                    .filter_map(|(name, value)| Some((name, value.as_table()?)))
                {
                    // A name that holds dots is quoted.
                    let name = if name.contains('.') {
                        format!("{name:?}")
                    } else {
                        name.clone()
                    };
                    let path = format!("{}.{name}", below(key.name));
                    section(text, inner, spec, &format!("[{path}]"), &path);
                }
            }
            (kind, Some(Value::Array(items))) => {
                for inner in items.iter().filter_map(Value::as_table) {
                    if let Some(spec) = spec_of(kind, inner) {
                        section(
                            text,
                            inner,
                            spec,
                            &format!("[[{}]]", below(key.name)),
                            &below(key.name),
                        );
                    }
                }
            }
            _ => {}
        }
    }
}

fn section(text: &mut String, table: &toml::Table, spec: &'static Table, header: &str, path: &str) {
    text.push_str(&format!("\n{header}\n"));
    document(text, table, spec, path);
}

/// Whether the kind is written under a header of its own. A reward's limits are short: they stay in
/// line.
fn is_section(kind: &Kind) -> bool {
    match kind {
        Kind::Table(table) => !table.path.ends_with(".limits"),
        Kind::Named(_) | Kind::Tables(_) | Kind::Variants { .. } => true,
        _ => false,
    }
}

fn spec_of(kind: &Kind, table: &toml::Table) -> Option<&'static Table> {
    match kind {
        Kind::Tables(spec) => Some(spec),
        Kind::Variants { tag, variants } => {
            let found = table.get(*tag)?.as_str()?;
            variants
                .iter()
                .find(|(name, _)| *name == found)
                .map(|(_, spec)| *spec)
        }
        _ => None,
    }
}
