//! The models that rewards ask.

use super::nearest::or_nearest;
use crate::error::JobError;
use crate::job::Job;
use crate::model::Weights;
use crate::reward::{AskedModel, ModelRef, Reward};

/// Checks that the models which rewards of stage `index` ask exist by then. Whether a plugin asks
/// at all, and for what, is known when it is loaded.
pub(super) fn check(
    job: &Job,
    index: usize,
    rewards: &[Reward],
    place: &str,
) -> Result<(), JobError> {
    rewards
        .iter()
        .try_for_each(|reward| check_reward(job, index, reward, place))
}

fn check_reward(job: &Job, index: usize, reward: &Reward, place: &str) -> Result<(), JobError> {
    let name = match &reward.model {
        Some(ModelRef::Named(name)) => name.as_str(),
        _ => "",
    };
    let wrong = match job.asked(reward) {
        Some(AskedModel::Stage(maker)) => wrong_stage(job, index, maker, name),
        Some(AskedModel::Model(model)) => match job.models().nth(model) {
            Some(Weights::Init { .. }) => Some((
                format!("it asks [models.{name}], which starts from random weights"),
                "give that table a `path`, or name a stage that trains it".into(),
            )),
            _ => None,
        },
        None if !name.is_empty() => Some(unknown(job, index, name)),
        Some(AskedModel::Directory(_)) | None => None,
    };
    match wrong {
        None => Ok(()),
        Some((problem, fix)) => Err(JobError::unsound(
            format!("{place}, [[stage.reward]] {:?}", reward.name),
            problem,
            fix,
        )),
    }
}

/// Problem and fix of a reward of stage `index` that asks stage `maker`, by this name; `None`: it
/// may.
fn wrong_stage(job: &Job, index: usize, maker: usize, name: &str) -> Option<(String, String)> {
    if job.models.contains_key(name) {
        let what = if job.reward_model(name) == Some(maker) {
            "a reward-model stage"
        } else {
            "a stage"
        };
        return Some((
            format!("`model` = {name:?} is {what} and a table [models.{name}]"),
            "give one of them another name".into(),
        ));
    }
    let asked = job.stages.get(maker)?;
    if maker >= index {
        let asked = &asked.name;
        return Some((
            format!("it asks what stage {asked:?} has trained, which does not come before it"),
            "put that stage before this one".into(),
        ));
    }
    if asked.trains() {
        return None;
    }
    let origin = job.origin(asked).and_then(|origin| job.stages.get(origin));
    Some((
        format!("it asks stage {name:?}, which trains nothing"),
        origin.map_or("name a stage that trains".into(), |origin| {
            format!("name {:?}, whose weights it has", origin.name)
        }),
    ))
}

/// Problem and fix of a reward of stage `index` that asks what nobody is called.
fn unknown(job: &Job, index: usize, name: &str) -> (String, String) {
    let before = job.stages.iter().take(index);
    let trained = before.filter(|stage| stage.trains());
    let trained = trained.map(|stage| stage.name.as_str());
    let near = or_nearest(name, trained.chain(job.models.keys().map(String::as_str)));
    (
        format!(
            "`model` = {name:?} is neither a stage before this one nor a table [models.NAME]{near}"
        ),
        "name one, or the path (with a slash) of a Hugging Face directory".into(),
    )
}
