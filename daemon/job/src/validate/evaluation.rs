//! Evaluations of `[[eval]]` and of stages.

use super::data::data_of;
use super::nearest::or_nearest;
use crate::error::JobError;
use crate::eval::Eval;
use crate::job::Job;

/// Checks an evaluation of `[[eval]]`.
pub(super) fn check_scheduled(job: &Job, eval: &Eval) -> Result<(), JobError> {
    let place = format!("[[eval]] {:?}", eval.data);
    check(job, eval, &place)?;
    let trains_nothing = |name: &&String| job.stage(name).is_some_and(|stage| !stage.trains());
    if let Some(name) = eval.stages.iter().find(trains_nothing) {
        return Err(JobError::unsound(
            place,
            format!(
                "`stages` names {name:?}, which trains nothing: its weights are those it starts \
                 from"
            ),
            "name a stage that trains",
        ));
    }
    if let Some(name) = eval.stages.iter().find(|name| job.stage(name).is_none()) {
        let near = or_nearest(name, job.stages.iter().map(|s| s.name.as_str()));
        return Err(JobError::unsound(
            place,
            format!("`stages` names {name:?}, which is no stage of this job{near}"),
            "name one that is",
        ));
    }
    let of_data = job.evals.iter().filter(|other| other.data == eval.data);
    if of_data.count() > 1 {
        return Err(JobError::unsound(
            place,
            "two evaluations use this data set, and their results would have one name",
            "give one of them a [data.NAME] of its own",
        ));
    }
    Ok(())
}

/// Checks an evaluation, whenever it runs.
pub(super) fn check(job: &Job, eval: &Eval, place: &str) -> Result<(), JobError> {
    if job.maker(&eval.data).is_some() && !job.data.contains_key(&eval.data) {
        return Err(JobError::unsound(
            place,
            format!(
                "{:?} is what a stage keeps: it is not there at the start, and no held-out data",
                eval.data
            ),
            "name a table [data.NAME]",
        ));
    }
    let data = data_of(job, &eval.data, place)?;
    eval.check_sampling(place)?;
    job.eval_rewards(eval)
        .iter()
        .try_for_each(|reward| reward.check_reference(&data, place))
}
