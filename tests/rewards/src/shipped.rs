//! The Rust plugins of the repository, natively.

use r1d_proto::rollout::FinishReason;
use reward_sdk::{Completion, Finish, GroupReward, JudgedReward, Result, Reward, Score, configure};

/// Every plugin, with each configuration that takes another path through it.
pub const PLUGINS: [(&str, &str); 14] = [
    ("accuracy", "{}"),
    ("correctness", "{}"),
    (
        "correctness",
        r#"{"text": "completion", "needs_reference": false}"#,
    ),
    ("format", "{}"),
    ("format", r#"{"style": "chat"}"#),
    ("harmlessness", r#"{"scale": {"min": -1, "max": 1}}"#),
    ("helpfulness", "{}"),
    ("language-consistency", r#"{"language": "en"}"#),
    ("language-consistency", "{}"),
    ("length", "{}"),
    ("length", r#"{"kind": "group"}"#),
    ("readability", "{}"),
    ("repetition", "{}"),
    (
        "soft-overlong",
        r#"{"max_completion_len": 100, "soft_punish_cache": 50}"#,
    ),
];

/// Judges a group; the text is the reward model's answer.
pub type Judge = Box<dyn Fn(&[Completion], &str) -> Vec<Result<Score>> + Send + Sync>;

/// The plugin of this name. The error says what is wrong with the configuration, or that no plugin
/// has this name.
pub fn natively(name: &str, config: &str) -> std::result::Result<Judge, String> {
    match name {
        "accuracy" => one::<accuracy::Accuracy>(config),
        "correctness" => judged::<correctness::Correctness>(config),
        "format" => one::<format::Format>(config),
        "harmlessness" => judged::<harmlessness::Harmlessness>(config),
        "helpfulness" => judged::<helpfulness::Helpfulness>(config),
        "language-consistency" => one::<language_consistency::LanguageConsistency>(config),
        "length" => group::<length::Length>(config),
        "readability" => one::<readability::Readability>(config),
        "repetition" => one::<repetition::Repetition>(config),
        "soft-overlong" => one::<soft_overlong::SoftOverlong>(config),
        _ => Err(format!("no Rust plugin `{name}`")),
    }
}

fn one<R: Reward + Send + Sync + 'static>(config: &str) -> std::result::Result<Judge, String> {
    let reward: R = configure(config)?;
    Ok(Box::new(move |group, _| {
        group
            .iter()
            .map(|completion| reward.score(completion))
            .collect()
    }))
}

fn group<R: GroupReward + Send + Sync + 'static>(
    config: &str,
) -> std::result::Result<Judge, String> {
    let reward: R = configure(config)?;
    Ok(Box::new(move |group, _| reward.score_group(group)))
}

fn judged<R: JudgedReward + Send + Sync + 'static>(
    config: &str,
) -> std::result::Result<Judge, String> {
    let reward: R = configure(config)?;
    let judge = move |completion: &Completion, answer: &str| {
        let answers: Vec<_> = reward
            .plan(completion)
            .iter()
            .map(|_| Ok(answer.to_owned()))
            .collect();
        reward.conclude(completion, &answers)
    };
    Ok(Box::new(move |group, answer| {
        group
            .iter()
            .map(|completion| judge(completion, answer))
            .collect()
    }))
}

/// Converts a completion to the host's type.
pub fn for_host(completion: &Completion) -> r1d_rewards::Completion {
    let Completion {
        id,
        prompt,
        text,
        reference,
        tokens,
        finish,
        meta,
    } = completion.clone();
    let finish = if finish == Finish::Length {
        FinishReason::Length
    } else {
        FinishReason::Stop
    };
    r1d_rewards::Completion {
        id,
        prompt,
        text,
        reference,
        tokens,
        finish,
        meta,
    }
}
