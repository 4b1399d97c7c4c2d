//! The component's side of `wit/reward.wit`: generated bindings, and the step from their types to
//! the crate's own.

use crate::{Finish, GroupReward, JudgedReward, Reward};

pub mod one {
    wit_bindgen::generate!({
        path: "wit",
        world: "reward",
        pub_export_macro: true,
        default_bindings_module: "reward_sdk::guest::one",
    });
}

pub mod group {
    wit_bindgen::generate!({
        path: "wit",
        world: "group-reward",
        pub_export_macro: true,
        default_bindings_module: "reward_sdk::guest::group",
        with: { "r1d:reward/types@1.0.0": super::one::r1d::reward::types },
    });
}

pub mod judged {
    wit_bindgen::generate!({
        path: "wit",
        world: "judged-reward",
        pub_export_macro: true,
        default_bindings_module: "reward_sdk::guest::judged",
        with: { "r1d:reward/types@1.0.0": super::one::r1d::reward::types },
    });
}

pub use one::r1d::reward::types::{Ask, Completion, Error, FinishReason, Info, Score};

pub fn describe(info: crate::Info) -> Info {
    Info {
        name: info.name.into(),
        version: info.version.into(),
        min: info.min,
        max: info.max,
        parts: info.parts.iter().map(|&part| part.into()).collect(),
    }
}

pub fn score<R: Reward>(reward: Option<&R>, item: Completion) -> Result<Score, Error> {
    to_host(configured(reward).and_then(|reward| reward.score(&from_host(item))))
}

pub fn score_group<R: GroupReward>(
    reward: Option<&R>,
    group: Vec<Completion>,
) -> Vec<Result<Score, Error>> {
    let completions: Vec<crate::Completion> = group.into_iter().map(from_host).collect();
    match configured(reward) {
        Ok(reward) => reward
            .score_group(&completions)
            .into_iter()
            .map(to_host)
            .collect(),
        Err(error) => completions
            .iter()
            .map(|_| to_host(Err(error.clone())))
            .collect(),
    }
}

pub fn plan<R: JudgedReward>(reward: Option<&R>, item: Completion) -> Vec<Ask> {
    let asks = configured(reward).map_or(Vec::new(), |reward| reward.plan(&from_host(item)));
    asks.into_iter()
        .map(|ask| Ask {
            model: ask.model,
            prompt: ask.prompt,
            max_tokens: ask.max_tokens,
        })
        .collect()
}

pub fn conclude<R: JudgedReward>(
    reward: Option<&R>,
    item: Completion,
    answers: Vec<Result<String, String>>,
) -> Result<Score, Error> {
    to_host(configured(reward).and_then(|reward| reward.conclude(&from_host(item), &answers)))
}

fn configured<R>(reward: Option<&R>) -> crate::Result<&R> {
    reward.ok_or_else(|| crate::Error::Internal("called before configure".into()))
}

fn from_host(item: Completion) -> crate::Completion {
    crate::Completion {
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
    }
}

fn to_host(result: crate::Result<crate::Score>) -> Result<Score, Error> {
    match result {
        Ok(score) => Ok(Score {
            value: score.value,
            parts: score.parts,
            reason: score.reason.map(cut),
        }),
        Err(crate::Error::Unscorable(reason)) => Err(Error::Unscorable(cut(reason))),
        Err(crate::Error::Internal(reason)) => Err(Error::Internal(cut(reason))),
    }
}

/// The host shows so much of a reason, and takes a plugin that hands over far more for a hostile
/// one.
const REASON_BYTES_MAX: usize = 512;

/// A reason that quotes a long row or completion must not make a fault of a verdict.
pub fn cut(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason.push('…');
    }
    reason
}
