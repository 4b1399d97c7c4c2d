//! Refuses settings that are each fine and cannot work together. Each error names the fix.

use crate::error::JobError;
use crate::eval::Eval;
use crate::file::keys::nearest;
use crate::job::{DataSource, Job, Weights};
use crate::limits::TEMPERATURE_MIN;
use crate::model_shape::ModelShape;
use crate::reward::{AskedModel, ModelRef, Plugin, Reward};
use crate::stage::{
    Dpo, Grpo, Length, Origin, Ppo, RejectionSampling, Rollouts, Select, Stage, StageKind,
};
use r1d_proto::hyperparameters::{Baseline, DpoLossType};
use r1d_proto::shown;
use r1d_proto::worker::Dtype;
use std::borrow::Cow;
use std::collections::HashSet;

/// Checks everything that does not depend on the machine or the models.
pub fn check(job: &Job) -> Result<(), JobError> {
    if job.stages.is_empty() {
        return refuse(
            "the top level",
            "the job has no stage",
            "add a [[stage]] with `name`, `kind` and `data`",
        );
    }
    if job.model.fp8 && job.model.dtype != Dtype::Bfloat16 {
        return refuse(
            "[model]",
            "fp8 = true rounds what bfloat16 layers multiply",
            "set dtype = \"bfloat16\", or fp8 = false",
        );
    }
    if job.batch_invariant && job.model.dtype != Dtype::Float32 {
        return refuse(
            "the top level",
            "`batch_invariant` is exact in float32 alone",
            "set dtype = \"float32\" in [model]",
        );
    }
    for (index, stage) in job.stages.iter().enumerate() {
        check_stage(job, index, stage)?;
    }
    job.evals.iter().try_for_each(|eval| check_eval(job, eval))
}

/// Checks what depends on the device (`cpu`, `cuda:0`) that the job would run on.
pub fn check_device(job: &Job, device: &str) -> Result<(), JobError> {
    if job.batch_invariant && device != "cpu" {
        return refuse(
            "the top level",
            format!("`batch_invariant` holds on the CPU alone, and the job's device is {device}"),
            "set batch_invariant = false, or run the job on a node with devices = [\"cpu\"]",
        );
    }
    if job.model.fp8 && device == "cpu" {
        return refuse(
            "[model]",
            "fp8 = true needs a GPU, and the job's device is cpu",
            "set fp8 = false, or run the job on a node with one",
        );
    }
    Ok(())
}

/// Checks what depends on the models' architectures. `facts` are the shapes of [`Job::models`], in
/// their order.
pub fn check_models(job: &Job, facts: &[ModelShape]) -> Result<(), JobError> {
    for stage in &job.stages {
        let Some(facts) = facts.get(job.model_of(stage)) else {
            continue;
        };
        let place = format!("[[stage]] {:?}", stage.name);
        if facts.scores && stage.reward_model().is_none() {
            let problem = format!(
                "the model is a {}, a reward model, which writes nothing",
                facts.architecture
            );
            return refuse(place, problem, "name a …ForCausalLM");
        }
        if let Some(key) = stage.prediction_key()
            && facts.prediction.is_none()
        {
            let problem = format!("{key}, and the model has no multi-token prediction module");
            return refuse(
                place,
                problem,
                "leave it out, or set num_nextn_predict_layers = 1 in the config.json of a \
                 DeepSeek-V3",
            );
        }
        let targets = stage
            .adapters()
            .map(|lora| &lora.target_modules[..])
            .unwrap_or_default();
        let known = |target: &str| {
            target == "all-linear"
                || target
                    .rsplit('.')
                    .next()
                    .is_some_and(|last| facts.linear_layers.contains(&last))
        };
        if let Some(target) = targets.iter().find(|target| !known(target)) {
            let fix = format!(
                "name some of {}, or \"all-linear\"",
                facts.linear_layers.join(", ")
            );
            return refuse(
                place,
                format!(
                    "lora_target_modules has {target:?}, which is no layer of {}",
                    facts.architecture
                ),
                fix,
            );
        }
    }
    Ok(())
}

fn refuse<T>(
    place: impl Into<String>,
    problem: impl Into<String>,
    fix: impl Into<String>,
) -> Result<T, JobError> {
    Err(JobError::Unsound {
        place: place.into(),
        problem: problem.into(),
        fix: fix.into(),
    })
}

/// The end of an error's text, ` (the nearest is "train")`; empty if no name is known.
fn or_nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(name, known)
        .map(|near| format!(" (the nearest is {near:?})"))
        .unwrap_or_default()
}

fn check_stage(job: &Job, index: usize, stage: &Stage) -> Result<(), JobError> {
    let place = format!("[[stage]] {:?}", stage.name);
    let before = || job.stages.iter().take(index).map(|s| s.name.as_str());
    if stage.name == "base" {
        return refuse(
            place,
            "\"base\" names a model's own weights",
            "give the stage another name",
        );
    }
    if before().any(|name| name == stage.name) {
        return refuse(
            place,
            "two stages have this name",
            "give each stage a name of its own",
        );
    }
    check_model(job, index, stage, &place)?;
    if let Origin::Stage(from) = &stage.from
        && stage.reward_model().is_none()
        && job.reward_model(from).is_some()
    {
        let problem = format!("`from` = {from:?} is a reward model, which writes nothing");
        return refuse(
            place,
            problem,
            "start from a stage that trains a policy, or from \"base\"",
        );
    }
    if let Some(eval) = stage.evaluation() {
        check_evaluation(job, eval, &place)?;
        return job
            .eval_rewards(eval)
            .iter()
            .try_for_each(|reward| check_asked(job, index, reward, &place));
    }
    if stage.rejection_sampling().is_some() && job.data.contains_key(&stage.name) {
        let problem = format!(
            "[data.{}] has the name of this stage, and so of the data set that it makes",
            stage.name
        );
        return refuse(place, problem, "give one of them another name");
    }
    for name in stage.data_sets().chain(stage.held_out()) {
        check_made(job, index, stage, name, &place)?;
    }
    if let Some(name) = stage.held_out() {
        data_of(job, name, &place)?;
        if stage.data_sets().any(|data| data == name) {
            let problem = format!("eval_data = {name:?} is what the stage trains on");
            return refuse(
                place,
                problem,
                "name rows that it does not train on, or leave it out",
            );
        }
    }
    let data = data_of(job, &stage.data, &place)?;
    for (i, name) in stage.more_data.iter().enumerate() {
        data_of(job, name, &place)?;
        if *name == stage.data || stage.more_data.iter().take(i).any(|other| other == name) {
            return refuse(
                place,
                format!("{name:?} is named twice in `data` and `more_data`"),
                "name it once",
            );
        }
    }
    if let Length::Steps(steps) = stage.length
        && let Some(schedule) = &stage.schedule
        && schedule.warmup_steps > steps.saturating_mul(stage.updates_per_step())
    {
        let (warmup, updates) = (
            schedule.warmup_steps,
            steps.saturating_mul(stage.updates_per_step()),
        );
        return refuse(
            place,
            format!("warmup_steps = {warmup} is longer than the stage's {updates} updates"),
            "lower `warmup_steps` or raise `steps`",
        );
    }
    let longest = match &stage.kind {
        StageKind::Pretrain(p) => ("max_length", p.max_length),
        StageKind::Sft(s) => ("max_length", s.max_length),
        StageKind::RewardModel(r) => ("max_length", r.max_length),
        StageKind::Dpo(d) => ("max_length", d.max_length),
        StageKind::Grpo(g) => ("max_completion_length", g.rollouts.longest_completion()),
        StageKind::Ppo(p) => ("max_completion_length", p.rollouts.longest_completion()),
        StageKind::RejectionSampling(_) | StageKind::Eval(_) => ("max_completion_length", 0),
    };
    if longest.1 > stage.max_tokens_per_device {
        return refuse(
            place,
            format!(
                "{} = {} does not fit into a micro-batch of max_tokens_per_device = {}",
                longest.0, longest.1, stage.max_tokens_per_device
            ),
            format!(
                "raise `max_tokens_per_device` to at least {}, or lower `{}`",
                longest.1, longest.0
            ),
        );
    }
    if let Some(key) = stage.prediction_key()
        && let Some(before) = job.origin(stage).and_then(|origin| job.stages.get(origin))
        && !before.opens_prediction()
    {
        let problem = format!(
            "{key} after stage {:?}, which leaves the prediction module out",
            before.name
        );
        let fix = "give that stage a mtp_loss_weight above 0 (a grpo stage speculative_decoding = \
                   true), or start from one that has it";
        return refuse(place, problem, fix);
    }
    if stage.mtp_loss_weight > 0.0 && job.batch_invariant {
        let problem = format!(
            "mtp_loss_weight = {} with batch_invariant = true",
            stage.mtp_loss_weight
        );
        return refuse(
            place,
            problem,
            "multi-token prediction is trained outside the reference mode: set one of them to 0 \
             or false",
        );
    }
    if let (Some(key), Some(lora)) = (stage.prediction_key(), stage.adapters()) {
        let problem = format!("{key} with lora_r = {}", lora.r);
        return refuse(
            place,
            problem,
            "adapters and the prediction module do not go together: leave one of them out",
        );
    }
    if let Some(lora) = stage.adapters() {
        if stage.router.bias_update_speed > 0.0 {
            let problem = format!(
                "lora_r = {} freezes the weights, bias_update_speed = {} moves the routers' biases",
                lora.r, stage.router.bias_update_speed
            );
            return refuse(place, problem, "set one of them to 0");
        }
        if lora.target_modules.is_empty() {
            return refuse(
                place,
                "lora_target_modules is empty: no layer would be trained",
                "name layers, or \"all-linear\"",
            );
        }
    }
    if stage.kind_name() == "distill" && stage.model.is_none() {
        let students = job
            .models
            .keys()
            .next()
            .map_or("add a table [models.student]".into(), |name| {
                format!("name [models.{name}]")
            });
        let fix = format!("{students}, and set `model` to its name; kind = \"sft\" trains [model]");
        return refuse(place, "nothing says which student learns", fix);
    }
    match &stage.kind {
        StageKind::Grpo(grpo) => check_grpo(grpo, &data, &place),
        StageKind::RejectionSampling(rejection) => {
            check_rejection_sampling(rejection, &data, &place)
        }
        StageKind::Dpo(dpo) => check_dpo(dpo, &place),
        StageKind::Ppo(ppo) => check_ppo(job, index, ppo, &data, &place),
        StageKind::Pretrain(_)
        | StageKind::Sft(_)
        | StageKind::RewardModel(_)
        | StageKind::Eval(_) => Ok(()),
    }?;
    let Some(rollouts) = stage.rollouts() else {
        return Ok(());
    };
    check_changes(stage, rollouts, &place)?;
    rollouts
        .rewards
        .iter()
        .try_for_each(|reward| check_asked(job, index, reward, &place))
}

/// Checks that the model which a reward asks exists by then. Whether the plugin asks at all, and
/// for what, is known when it is loaded.
fn check_asked(job: &Job, index: usize, reward: &Reward, place: &str) -> Result<(), JobError> {
    let place = format!("{place}, [[stage.reward]] {:?}", reward.name);
    let refuse = |problem: String, fix: &str| refuse(&place, problem, fix);
    let name = match &reward.model {
        Some(ModelRef::Named(name)) => name.as_str(),
        _ => "",
    };
    match job.asked(reward) {
        Some(AskedModel::Stage(maker)) if job.models.contains_key(name) => {
            let what = if job.reward_model(name) == Some(maker) {
                "a reward-model stage"
            } else {
                "a stage"
            };
            refuse(
                format!("`model` = {name:?} is {what} and a table [models.{name}]"),
                "give one of them another name",
            )
        }
        Some(AskedModel::Stage(maker)) if maker >= index => {
            let asked = job.stages.get(maker).map_or(name, |stage| &stage.name);
            refuse(
                format!("it asks what stage {asked:?} has trained, which does not come before it"),
                "put that stage before this one",
            )
        }
        Some(AskedModel::Stage(maker)) => match job.stages.get(maker) {
            Some(stage) if !stage.trains() => {
                let origin = job.origin(stage).and_then(|origin| job.stages.get(origin));
                let fix = origin.map_or("name a stage that trains".into(), |origin| {
                    format!("name {:?}, whose weights it has", origin.name)
                });
                refuse(
                    format!("it asks stage {name:?}, which trains nothing"),
                    &fix,
                )
            }
            _ => Ok(()),
        },
        Some(AskedModel::Model(model)) => match job.models().nth(model) {
            Some(Weights::Init { .. }) => refuse(
                format!("it asks [models.{name}], which starts from random weights"),
                "give that table a `path`, or name a stage that trains it",
            ),
            _ => Ok(()),
        },
        None if !name.is_empty() => {
            let trained = job
                .stages
                .iter()
                .take(index)
                .filter(|stage| stage.trains())
                .map(|stage| stage.name.as_str());
            let near = or_nearest(name, trained.chain(job.models.keys().map(String::as_str)));
            refuse(
                format!(
                    "`model` = {name:?} is neither a stage before this one nor a table \
                     [models.NAME]{near}"
                ),
                "name one, or the path (with a slash) of a Hugging Face directory",
            )
        }
        Some(AskedModel::Directory(_)) | None => Ok(()),
    }
}

fn check_dpo(dpo: &Dpo, place: &str) -> Result<(), JobError> {
    if dpo.objective.loss_type == DpoLossType::Ipo && dpo.objective.label_smoothing > 0.0 {
        let problem = format!(
            "label_smoothing = {} with loss_type = \"ipo\", which has none",
            dpo.objective.label_smoothing
        );
        return refuse(
            place,
            problem,
            "leave it out, or set loss_type = \"robust\"",
        );
    }
    Ok(())
}

fn check_ppo(
    job: &Job,
    index: usize,
    ppo: &Ppo,
    data: &DataSource,
    place: &str,
) -> Result<(), JobError> {
    let completions = ppo.rollouts.prompts_per_step as u64 * ppo.rollouts.num_generations as u64;
    let minibatches = ppo.num_mini_batches as u64;
    if !completions.is_multiple_of(minibatches) {
        let problem = format!(
            "prompts_per_step × num_generations = {completions} completions do not divide into \
             num_mini_batches = {minibatches}"
        );
        return refuse(place, problem, "change one of them");
    }
    if ppo.rollouts.temperature == 0.0 {
        return refuse(
            place,
            "temperature = 0: nothing new would ever be tried",
            "set temperature = 1.0",
        );
    }
    if let Some(name) = &ppo.value_model
        && job.reward_model(name).is_none_or(|maker| maker >= index)
    {
        let makers = job
            .stages
            .iter()
            .take(index)
            .filter(|stage| stage.reward_model().is_some());
        let near = or_nearest(name, makers.map(|stage| stage.name.as_str()));
        let problem =
            format!("value_model = {name:?} is no reward-model stage before this one{near}");
        return refuse(
            place,
            problem,
            "name one, or leave it out: the policy's first weights are taken then",
        );
    }
    let of = |stage: Option<&Stage>| stage.map(|stage| job.model_of(stage));
    if let Some(name) = &ppo.value_model
        && of(job.stage(name)) != of(job.stages.get(index))
    {
        let problem = format!(
            "value_model = {name:?} is of another model than this stage, and reads other token ids"
        );
        return refuse(
            place,
            problem,
            "name a reward-model stage with the same `model`, or leave it out",
        );
    }
    check_learned_from(&ppo.rollouts, "ppo", data, place)
}

/// Checks that `model` and `from` go together.
fn check_model(job: &Job, index: usize, stage: &Stage, place: &str) -> Result<(), JobError> {
    let shown = |model: &Option<String>| {
        model
            .as_ref()
            .map_or("[model]".into(), |name| format!("[models.{name}]"))
    };
    if let Some(name) = stage
        .model
        .as_ref()
        .filter(|name| !job.models.contains_key(*name))
    {
        let near = or_nearest(name, job.models.keys().map(String::as_str));
        let fix =
            format!("add a table [models.{name}], name another, or leave `model` out for [model]");
        return refuse(
            place,
            format!("`model` = {name:?} is no model of this job{near}"),
            fix,
        );
    }
    let Origin::Stage(from) = &stage.from else {
        return Ok(());
    };
    let before = || job.stages.iter().take(index);
    let Some(origin) = before().find(|before| before.name == *from) else {
        if job.stages.iter().any(|later| later.name == *from) {
            let problem = format!("`from` = {from:?} does not come before this stage");
            return refuse(
                place,
                problem,
                "stages run in order and start from what is finished: put that one first, or name \
                 another",
            );
        }
        let near = or_nearest(
            from,
            before()
                .filter(|before| before.model == stage.model)
                .map(|before| before.name.as_str()),
        );
        return refuse(
            place,
            format!("`from` = {from:?} is no stage before this one{near}"),
            "name one, or \"base\"",
        );
    };
    if origin.model != stage.model {
        let (theirs, own) = (shown(&origin.model), shown(&stage.model));
        let problem = format!("`from` = {from:?} is a stage of {theirs}, and this one is of {own}");
        let fix = match before().rfind(|before| before.model == stage.model) {
            Some(near) => format!(
                "name a stage of {own}, as {:?}, or \"base\" for its own weights",
                near.name
            ),
            None => format!("set from = \"base\" for the weights of {own}, or `model` to theirs"),
        };
        return refuse(place, problem, fix);
    }
    Ok(())
}

/// Checks a data set that a stage makes: it is there once that stage is finished, and holds prompts
/// and completions.
fn check_made(
    job: &Job,
    index: usize,
    stage: &Stage,
    name: &str,
    place: &str,
) -> Result<(), JobError> {
    let Some(maker) = job.maker(name).filter(|_| !job.data.contains_key(name)) else {
        return Ok(());
    };
    if !job
        .stages
        .iter()
        .take(index)
        .any(|before| before.name == maker.name)
    {
        let problem = format!("it reads what stage {name:?} keeps, which does not come before it");
        return refuse(
            place,
            problem,
            "put that stage before this one, or name another data set",
        );
    }
    let reads = match stage.kind {
        StageKind::Pretrain(_) => "text",
        StageKind::Dpo(_) => "pairs",
        StageKind::RewardModel(_) => "pairs or labels",
        _ => return Ok(()),
    };
    let problem = format!(
        "stage {name:?} keeps prompts and completions, and a {} stage reads {reads}",
        stage.kind_name()
    );
    refuse(place, problem, "read it with kind = \"sft\"")
}

/// Checks that changes come in their order and within the stage.
fn check_changes(stage: &Stage, rollouts: &Rollouts, place: &str) -> Result<(), JobError> {
    let mut before = 0;
    for change in &rollouts.changes {
        if change.after_step <= before && before > 0 {
            let problem = format!(
                "[[stage.schedule]] after_step = {} comes after one of {before}",
                change.after_step
            );
            return refuse(place, problem, "write them in the order of their steps");
        }
        if change.temperature.is_none() && change.max_completion_length.is_none() {
            let problem = format!(
                "[[stage.schedule]] after_step = {} changes nothing",
                change.after_step
            );
            return refuse(
                place,
                problem,
                "add `temperature` or `max_completion_length`",
            );
        }
        check_temperature(change.temperature.unwrap_or(1.0), place)?;
        before = change.after_step;
    }
    let late = rollouts
        .changes
        .iter()
        .map(|change| ("[[stage.schedule]]", change.after_step));
    let late = late.chain(
        rollouts
            .rewards
            .iter()
            .map(|reward| (reward.name.as_str(), reward.after_step)),
    );
    if let Length::Steps(steps) = stage.length
        && let Some((what, after)) = late.clone().find(|(_, after)| *after >= steps)
    {
        let problem = format!(
            "{what}: after_step = {after}, and the stage has {steps} steps: it would never come"
        );
        return refuse(place, problem, "lower it, or leave it out");
    }
    if rollouts.rewards.iter().all(|reward| reward.after_step > 0) && !rollouts.rewards.is_empty() {
        return refuse(
            place,
            "every reward has an `after_step`: nothing judges the first steps",
            "leave one without",
        );
    }
    Ok(())
}

/// Checks that float32 can hold the temperature.
fn check_temperature(temperature: f64, place: &str) -> Result<(), JobError> {
    if temperature > 0.0 && temperature < TEMPERATURE_MIN {
        let problem = format!(
            "temperature = {} is too low to divide by",
            shown::number(temperature)
        );
        return refuse(
            place,
            problem,
            format!(
                "set it to {TEMPERATURE_MIN} or more, or to 0 for the likeliest token each time"
            ),
        );
    }
    Ok(())
}

fn data_of<'a>(job: &'a Job, name: &str, place: &str) -> Result<Cow<'a, DataSource>, JobError> {
    match job.source(name) {
        Some(data) => Ok(data),
        None => {
            let makers = job
                .stages
                .iter()
                .filter(|stage| stage.rejection_sampling().is_some())
                .map(|stage| stage.name.as_str());
            let near = or_nearest(name, job.data.keys().map(String::as_str).chain(makers));
            refuse(
                place,
                format!("`data` = {name:?} is no data set of this job{near}"),
                format!("add a table [data.{name}] or name another"),
            )
        }
    }
}

fn check_grpo(grpo: &Grpo, data: &DataSource, place: &str) -> Result<(), JobError> {
    let completions = grpo.rollouts.prompts_per_step as u64 * grpo.rollouts.num_generations as u64;
    let minibatches = grpo.steps_per_generation as u64;
    if grpo.rollouts.num_generations < 2 && grpo.baseline != Baseline::Batch {
        return refuse(
            place,
            "num_generations = 1: a completion is judged relative to its group, and alone it has \
             none",
            "set num_generations to 2 or more (R1 used 16)",
        );
    }
    if grpo.rollouts.temperature == 0.0 {
        return refuse(
            place,
            "temperature = 0: all completions of a group would be the same",
            "set temperature = 1.0",
        );
    }
    if !completions.is_multiple_of(minibatches) {
        let fits = (1..=minibatches)
            .rev()
            .find(|m| completions.is_multiple_of(*m))
            .unwrap_or(1);
        return refuse(
            place,
            format!(
                "prompts_per_step × num_generations = {completions} completions do not divide \
                 into steps_per_generation = {minibatches} minibatches"
            ),
            format!("set steps_per_generation = {fits}, or change the others"),
        );
    }
    if grpo.epsilon_high < grpo.epsilon {
        let (low, high) = (grpo.epsilon, grpo.epsilon_high);
        return refuse(
            place,
            format!("epsilon_high = {high} is below epsilon = {low}"),
            "set epsilon_high to epsilon or more, or leave it out",
        );
    }
    if grpo.beta == 0.0 && grpo.sync_ref_steps > 0 {
        return refuse(
            place,
            "sync_ref_steps refreshes a reference that beta = 0 does not keep",
            "set beta above 0 (R1 used 0.001), or leave `sync_ref_steps` out",
        );
    }
    check_learned_from(&grpo.rollouts, "grpo", data, place)
}

/// Checks completions that a policy learns from.
fn check_learned_from(
    rollouts: &Rollouts,
    kind: &str,
    data: &DataSource,
    place: &str,
) -> Result<(), JobError> {
    if let Some(reward) = rollouts
        .rewards
        .iter()
        .find(|reward| reward.min_score.is_some())
    {
        let place = format!("{place}, [[stage.reward]] {:?}", reward.name);
        let problem = format!(
            "`min_score` says what a rejection-sampling stage keeps, and a {kind} stage keeps \
             nothing"
        );
        return refuse(
            place,
            problem,
            "leave it out: what scores little is learned from as well",
        );
    }
    check_rollouts(rollouts, data, place)?;
    if rollouts.rewards.iter().all(|reward| reward.weight == 0.0) {
        return refuse(
            place,
            "every reward has weight 0: there is nothing to learn",
            "give one a weight",
        );
    }
    Ok(())
}

fn check_rejection_sampling(
    rejection: &RejectionSampling,
    data: &DataSource,
    place: &str,
) -> Result<(), JobError> {
    let Rollouts {
        num_generations,
        temperature,
        ..
    } = rejection.rollouts;
    if temperature == 0.0 && num_generations > 1 {
        let problem = "temperature = 0 gives the same completion each time";
        return refuse(
            place,
            problem,
            "set temperature = 1.0, or num_generations = 1",
        );
    }
    if rejection.keep > num_generations {
        let problem = format!(
            "keep = {} of num_generations = {num_generations} completions",
            rejection.keep
        );
        return refuse(
            place,
            problem,
            "lower `keep`, or set it to 0 for all that are good",
        );
    }
    check_rollouts(&rejection.rollouts, data, place)?;
    let ranks = !matches!(rejection.select, Select::Correct { .. });
    if ranks
        && rejection
            .rollouts
            .rewards
            .iter()
            .all(|reward| reward.weight == 0.0)
    {
        return refuse(
            place,
            "every reward has weight 0: no completion is better than another",
            "give one a weight",
        );
    }
    Ok(())
}

/// Checks everything that samples and judges.
fn check_rollouts(rollouts: &Rollouts, data: &DataSource, place: &str) -> Result<(), JobError> {
    check_temperature(rollouts.temperature, place)?;
    if rollouts.rewards.is_empty() {
        return refuse(
            place,
            "nothing judges the completions",
            "add a [[stage.reward]] with plugin = \"accuracy\"",
        );
    }
    let mut names = HashSet::new();
    for reward in &rollouts.rewards {
        let place = format!("{place}, [[stage.reward]] {:?}", reward.name);
        if !names.insert(&reward.name) {
            return refuse(
                place,
                "two rewards of the stage have this name",
                "give one of them a `name` of its own",
            );
        }
        if !reward.domains.is_empty() && data.domain.is_none() {
            let fix = format!(
                "add `domain` to [data.{}], or leave `domains` out",
                data.name
            );
            return refuse(
                place,
                "it judges rows by `domains`, and the data set names no column for them",
                fix,
            );
        }
        check_reference(reward, data, &place)?;
    }
    Ok(())
}

/// Refuses a shipped reward that would abstain on every row, because the data set has nothing to
/// compare with.
fn check_reference(reward: &Reward, data: &DataSource, place: &str) -> Result<(), JobError> {
    let config: serde_json::Value = serde_json::from_str(&reward.config_json).unwrap_or_default();
    let compares = match &reward.plugin {
        Plugin::Named(name) if name == "accuracy" => true,
        Plugin::Named(name) if name == "correctness" => {
            config["needs_reference"] != serde_json::Value::Bool(false)
        }
        _ => false,
    };
    if compares && data.reference.is_none() {
        let fix = format!(
            "add `reference` to [data.{}]: the column that holds the answer",
            data.name
        );
        let problem = format!(
            "{} compares with a reference, and [data.{}] names no column for it",
            reward.plugin, data.name
        );
        return refuse(place, problem, fix);
    }
    Ok(())
}

fn check_eval(job: &Job, eval: &Eval) -> Result<(), JobError> {
    let place = format!("[[eval]] {:?}", eval.data);
    check_evaluation(job, eval, &place)?;
    if let Some(name) = eval
        .stages
        .iter()
        .find(|name| job.stage(name).is_some_and(|stage| !stage.trains()))
    {
        let problem = format!(
            "`stages` names {name:?}, which trains nothing: its weights are those it starts from"
        );
        return refuse(place, problem, "name a stage that trains");
    }
    if let Some(name) = eval.stages.iter().find(|name| job.stage(name).is_none()) {
        let near = or_nearest(name, job.stages.iter().map(|s| s.name.as_str()));
        return refuse(
            place,
            format!("`stages` names {name:?}, which is no stage of this job{near}"),
            "name one that is",
        );
    }
    if job
        .evals
        .iter()
        .filter(|other| other.data == eval.data)
        .count()
        > 1
    {
        return refuse(
            place,
            "two evaluations use this data set, and their results would have one name",
            "give one of them a [data.NAME] of its own",
        );
    }
    Ok(())
}

/// Checks an evaluation, whenever it runs.
fn check_evaluation(job: &Job, eval: &Eval, place: &str) -> Result<(), JobError> {
    if job.maker(&eval.data).is_some() && !job.data.contains_key(&eval.data) {
        let problem = format!(
            "{:?} is what a stage keeps: it is not there at the start, and no held-out data",
            eval.data
        );
        return refuse(place, problem, "name a table [data.NAME]");
    }
    let data = data_of(job, &eval.data, place)?;
    check_temperature(eval.temperature, place)?;
    if eval.temperature == 0.0 && eval.num_generations > 1 {
        return refuse(
            place,
            "temperature = 0 gives the same completion each time",
            "set num_generations = 1, or temperature = 0.6",
        );
    }
    if let Some(metric) = eval
        .metrics
        .iter()
        .find(|metric| metric.k() > eval.num_generations)
    {
        let fix = format!("set num_generations = {}, or ask for less", metric.k());
        return refuse(
            place,
            format!(
                "{metric} needs more completions than num_generations = {}",
                eval.num_generations
            ),
            fix,
        );
    }
    if eval.metrics.is_empty() || eval.rewards.is_empty() {
        return refuse(
            place,
            "without `metrics` and `rewards` there is nothing to report",
            "leave both out for pass@1 by accuracy",
        );
    }
    if eval
        .metrics
        .iter()
        .enumerate()
        .any(|(i, metric)| eval.metrics.iter().take(i).any(|other| other == metric))
    {
        return refuse(place, "a metric is named twice", "name it once");
    }
    job.eval_rewards(eval)
        .iter()
        .try_for_each(|reward| check_reference(reward, &data, place))
}
