//! The component's side of `wit/reward.wit`: generated bindings, and the step from their types to the crate's own.

use crate::{Finish, Reward};

wit_bindgen::generate!({
    path: "wit",
    world: "reward",
    pub_export_macro: true,
    default_bindings_module: "reward_sdk::guest",
});

pub use r1d::reward::types::FinishReason;

pub fn describe<R: Reward>() -> Info {
    let info = R::INFO;
    Info {
        name: info.name.into(),
        version: info.version.into(),
        min: info.min,
        max: info.max,
        parts: info.parts.iter().map(|&part| part.into()).collect(),
    }
}

pub fn score<R: Reward>(reward: Option<&R>, item: Completion) -> Result<Score, Error> {
    let reward = reward.ok_or_else(|| Error::Internal("score was called before configure".into()))?;
    let completion = crate::Completion {
        id: item.id,
        prompt: item.prompt,
        text: item.text,
        reference: item.reference,
        tokens: item.tokens,
        finish: match item.finish {
            FinishReason::Stop => Finish::Stop,
            FinishReason::Length => Finish::Length,
            FinishReason::Aborted => Finish::Aborted,
        },
        meta: item.meta,
    };
    match reward.score(&completion) {
        Ok(score) => Ok(Score { value: score.value, parts: score.parts, reason: score.reason }),
        Err(crate::Error::Unscorable(reason)) => Err(Error::Unscorable(reason)),
        Err(crate::Error::Internal(reason)) => Err(Error::Internal(reason)),
    }
}
