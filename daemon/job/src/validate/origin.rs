//! Which model a stage has, and which weights it starts from.

use super::nearest::or_nearest;
use crate::error::JobError;
use crate::job::Job;
use crate::stage::{Origin, Stage};

/// Checks that `model` and `from` go together.
pub(super) fn check(job: &Job, index: usize, stage: &Stage, place: &str) -> Result<(), JobError> {
    if let Some(name) = &stage.model
        && !job.models.contains_key(name)
    {
        let near = or_nearest(name, job.models.keys().map(String::as_str));
        return Err(JobError::unsound(
            place,
            format!("`model` = {name:?} is no model of this job{near}"),
            format!("add a table [models.{name}], name another, or leave `model` out for [model]"),
        ));
    }
    let Origin::Stage(from) = &stage.from else {
        return Ok(());
    };
    let before = job.stages.get(..index).unwrap_or_default();
    let Some(origin) = before.iter().find(|before| before.name == *from) else {
        return Err(unknown(job, stage, before, from, place));
    };
    if origin.model != stage.model {
        return Err(of_another_model(stage, origin, before, place));
    }
    if stage.reward_model().is_none() && job.reward_model(from).is_some() {
        return Err(JobError::unsound(
            place,
            format!("`from` = {from:?} is a reward model, which writes nothing"),
            "start from a stage that trains a policy, or from \"base\"",
        ));
    }
    Ok(())
}

/// The error of a `from` that names none of the stages `before`.
fn unknown(job: &Job, stage: &Stage, before: &[Stage], from: &str, place: &str) -> JobError {
    if job.stage(from).is_some() {
        return JobError::unsound(
            place,
            format!("`from` = {from:?} does not come before this stage"),
            "stages run in order and start from what is finished: put that one first, or name \
             another",
        );
    }
    let of_model = before.iter().filter(|before| before.model == stage.model);
    let near = or_nearest(from, of_model.map(|before| before.name.as_str()));
    JobError::unsound(
        place,
        format!("`from` = {from:?} is no stage before this one{near}"),
        "name one, or \"base\"",
    )
}

/// The error of a stage whose `origin` is of another model.
fn of_another_model(stage: &Stage, origin: &Stage, before: &[Stage], place: &str) -> JobError {
    let shown = |stage: &Stage| match &stage.model {
        None => "[model]".into(),
        Some(name) => format!("[models.{name}]"),
    };
    let (from, theirs, own) = (&origin.name, shown(origin), shown(stage));
    let fix = match before.iter().rfind(|before| before.model == stage.model) {
        Some(near) => format!(
            "name a stage of {own}, as {:?}, or \"base\" for its own weights",
            near.name
        ),
        None => format!("set from = \"base\" for the weights of {own}, or `model` to theirs"),
    };
    JobError::unsound(
        place,
        format!("`from` = {from:?} is a stage of {theirs}, and this one is of {own}"),
        fix,
    )
}
