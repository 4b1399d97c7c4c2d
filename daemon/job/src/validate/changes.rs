//! What changes while a stage runs.

use crate::error::JobError;
use crate::sampling::check_temperature;
use crate::stage::{Length, Rollouts, Stage};

/// Checks that changes come in their order and within the stage.
pub(super) fn check(stage: &Stage, rollouts: &Rollouts, place: &str) -> Result<(), JobError> {
    check_order(rollouts, place)?;
    let changes = rollouts.changes.iter();
    let changes = changes.map(|change| ("[[stage.schedule]]", change.after_step));
    let rewards = rollouts.rewards.iter();
    let rewards = rewards.map(|reward| (reward.name.as_str(), reward.after_step));
    if let Length::Steps(steps) = stage.length
        && let Some((what, after)) = changes.chain(rewards).find(|(_, after)| *after >= steps)
    {
        return Err(JobError::unsound(
            place,
            format!(
                "{what}: after_step = {after}, and the stage has {steps} steps: it would never \
                 come"
            ),
            "lower it, or leave it out",
        ));
    }
    if rollouts.rewards.iter().all(|reward| reward.after_step > 0) && !rollouts.rewards.is_empty() {
        return Err(JobError::unsound(
            place,
            "every reward has an `after_step`: nothing judges the first steps",
            "leave one without",
        ));
    }
    Ok(())
}

fn check_order(rollouts: &Rollouts, place: &str) -> Result<(), JobError> {
    let mut before = 0;
    for change in &rollouts.changes {
        let after = change.after_step;
        if after <= before && before > 0 {
            return Err(JobError::unsound(
                place,
                format!("[[stage.schedule]] after_step = {after} comes after one of {before}"),
                "write them in the order of their steps",
            ));
        }
        if change.temperature.is_none() && change.max_completion_length.is_none() {
            return Err(JobError::unsound(
                place,
                format!("[[stage.schedule]] after_step = {after} changes nothing"),
                "add `temperature` or `max_completion_length`",
            ));
        }
        check_temperature(change.temperature.unwrap_or(1.0), place)?;
        before = after;
    }
    Ok(())
}
