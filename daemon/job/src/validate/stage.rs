//! Stages, in the order in which they run.

use super::nearest::or_nearest;
use super::{asked, changes, data, evaluation, origin};
use crate::error::JobError;
use crate::job::Job;
use crate::stage::{Length, Ppo, Stage, Training};
use r1d_proto::hyperparameters::{Dtype, NARROW_ADAM_BETA2_MAX};

/// Checks stage `index`.
pub(super) fn check(job: &Job, index: usize, stage: &Stage) -> Result<(), JobError> {
    let place = format!("[[stage]] {:?}", stage.name);
    check_name(job, index, stage, &place)?;
    origin::check(job, index, stage, &place)?;
    if let Some(eval) = stage.evaluation() {
        evaluation::check(job, eval, &place)?;
        return asked::check(job, index, &job.eval_rewards(eval), &place);
    }
    let data = data::check(job, index, stage, &place)?;
    check_updates(stage, &place)?;
    check_prediction(job, stage, &place)?;
    check_adapters(stage, &place)?;
    check_student(job, stage, &place)?;
    let settings = stage.kind.settings();
    settings.check(&place)?;
    if let Some(ppo) = stage.ppo() {
        check_value_model(job, index, ppo, &place)?;
    }
    settings.check_rewards(&data, &place)?;
    match stage.rollouts() {
        None => Ok(()),
        Some(rollouts) => {
            changes::check(stage, rollouts, &place)?;
            asked::check(job, index, &rollouts.rewards, &place)
        }
    }
}

fn check_name(job: &Job, index: usize, stage: &Stage, place: &str) -> Result<(), JobError> {
    if stage.name == "base" {
        return Err(JobError::unsound(
            place,
            "\"base\" names a model's own weights",
            "give the stage another name",
        ));
    }
    let mut before = job.stages.iter().take(index);
    if before.any(|before| before.name == stage.name) {
        return Err(JobError::unsound(
            place,
            "two stages have this name",
            "give each stage a name of its own",
        ));
    }
    Ok(())
}

/// Checks what AdamW updates and when, and that a sequence fits into a micro-batch.
fn check_updates(stage: &Stage, place: &str) -> Result<(), JobError> {
    let Some(training) = stage.training() else {
        return Ok(());
    };
    let warmup = training.warmup_steps;
    if let Length::Steps(steps) = stage.length {
        let updates = steps.saturating_mul(stage.updates_per_step());
        if warmup > updates {
            return Err(JobError::unsound(
                place,
                format!("warmup_steps = {warmup} is longer than the stage's {updates} updates"),
                "lower `warmup_steps` or raise `steps`",
            ));
        }
    }
    check_moments(training, place)?;
    let ((key, longest), fits) = (stage.longest().key(), training.max_tokens_per_device);
    if longest > fits {
        return Err(JobError::unsound(
            place,
            format!(
                "{key} = {longest} does not fit into a micro-batch of max_tokens_per_device = \
                 {fits}"
            ),
            format!("raise `max_tokens_per_device` to at least {longest}, or lower `{key}`"),
        ));
    }
    Ok(())
}

/// Checks that second moments follow the gradients in the dtype that they are kept in.
fn check_moments(training: &Training, place: &str) -> Result<(), JobError> {
    let (narrow, beta2) = (
        training.exp_avg_sq_dtype == Dtype::Bfloat16,
        training.adam_beta2,
    );
    if narrow && beta2 > NARROW_ADAM_BETA2_MAX {
        return Err(JobError::unsound(
            place,
            format!(
                "exp_avg_sq_dtype = \"bfloat16\" with adam_beta2 = {beta2}: second moments would \
                 be rounded back to where they were"
            ),
            format!("set `adam_beta2` to {NARROW_ADAM_BETA2_MAX} at most"),
        ));
    }
    Ok(())
}

/// Checks that the prediction module is there, and goes with what else the stage does.
fn check_prediction(job: &Job, stage: &Stage, place: &str) -> Result<(), JobError> {
    let Some(key) = stage.prediction_key() else {
        return Ok(());
    };
    if let Some(before) = job.origin(stage).and_then(|origin| job.stages.get(origin))
        && !before.opens_prediction()
    {
        return Err(JobError::unsound(
            place,
            format!(
                "{key} after stage {:?}, which leaves the prediction module out",
                before.name
            ),
            "give that stage a mtp_loss_weight above 0 (a grpo stage speculative_decoding = \
             true), or start from one that has it",
        ));
    }
    let weight = stage.mtp_loss_weight();
    if weight > 0.0 && job.batch_invariant {
        return Err(JobError::unsound(
            place,
            format!("mtp_loss_weight = {weight} with batch_invariant = true"),
            "multi-token prediction is trained outside the reference mode: set one of them to 0 \
             or false",
        ));
    }
    match stage.adapters() {
        None => Ok(()),
        Some(lora) => Err(JobError::unsound(
            place,
            format!("{key} with lora_r = {}", lora.r),
            "adapters and the prediction module do not go together: leave one of them out",
        )),
    }
}

fn check_adapters(stage: &Stage, place: &str) -> Result<(), JobError> {
    let Some(lora) = stage.adapters() else {
        return Ok(());
    };
    let speed = stage.router().bias_update_speed;
    if speed > 0.0 {
        let problem = format!(
            "lora_r = {} freezes the weights, bias_update_speed = {speed} moves the routers' \
             biases",
            lora.r
        );
        return Err(JobError::unsound(place, problem, "set one of them to 0"));
    }
    if lora.target_modules.is_empty() {
        return Err(JobError::unsound(
            place,
            "lora_target_modules is empty: no layer would be trained",
            "name layers, or \"all-linear\"",
        ));
    }
    Ok(())
}

/// Checks that a stage which distils has a student.
fn check_student(job: &Job, stage: &Stage, place: &str) -> Result<(), JobError> {
    if stage.template().is_none() || stage.model.is_some() {
        return Ok(());
    }
    let students = match job.models.keys().next() {
        None => "add a table [models.student]".into(),
        Some(name) => format!("name [models.{name}]"),
    };
    Err(JobError::unsound(
        place,
        "nothing says which student learns",
        format!("{students}, and set `model` to its name; kind = \"sft\" trains [model]"),
    ))
}

/// Checks that the value model's weights are there, and those of a model that reads the same ids.
fn check_value_model(job: &Job, index: usize, ppo: &Ppo, place: &str) -> Result<(), JobError> {
    let Some(name) = &ppo.value_model else {
        return Ok(());
    };
    if job.reward_model(name).is_none_or(|maker| maker >= index) {
        let before = job.stages.iter().take(index);
        let makers = before.filter(|stage| stage.reward_model().is_some());
        let near = or_nearest(name, makers.map(|stage| stage.name.as_str()));
        return Err(JobError::unsound(
            place,
            format!("value_model = {name:?} is no reward-model stage before this one{near}"),
            "name one, or leave it out: the policy's first weights are taken then",
        ));
    }
    let model = |stage: Option<&Stage>| stage.map(|stage| job.model_of(stage));
    if model(job.stage(name)) != model(job.stages.get(index)) {
        return Err(JobError::unsound(
            place,
            format!(
                "value_model = {name:?} is of another model than this stage, and reads other \
                 token ids"
            ),
            "name a reward-model stage with the same `model`, or leave it out",
        ));
    }
    Ok(())
}
