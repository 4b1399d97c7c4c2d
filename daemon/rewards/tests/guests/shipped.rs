//! The shipped plugins, and a batch of completions for them.

use super::completion;
use r1d_rewards::{Answers, Ask, Completion, Judged, LoadedReward, Member, RewardSpec, Rewards};

/// Every shipped plugin, under each configuration that takes another path.
pub(crate) const PLUGINS: [(&str, &str); 14] = [
    ("accuracy", "{}"),
    ("correctness", "{}"),
    (
        "correctness",
        r#"{"text": "completion", "needs_reference": false}"#,
    ),
    ("format", "{}"),
    ("format", r#"{"style": "chat"}"#),
    ("language-consistency", r#"{"language": "en"}"#),
    ("language-consistency", "{}"),
    ("helpfulness", "{}"),
    ("harmlessness", r#"{"scale": {"min": -1, "max": 1}}"#),
    ("length", r#"{"unit": "characters"}"#),
    ("length", r#"{"kind": "group"}"#),
    ("readability", "{}"),
    ("repetition", "{}"),
    (
        "soft-overlong",
        r#"{"max_completion_len": 100, "soft_punish_cache": 50}"#,
    ),
];
pub(crate) const THREADS: usize = 2;
pub(crate) const BATCH: usize = 64;
pub(crate) const GROUP: usize = 16;

/// A model that answers everything with the same text: a reward model with this number, a judge
/// with this verdict.
pub(crate) struct Model<'a>(pub &'a str);

pub(crate) const VERDICT: &str = r#"{"analysis": "No.", "correctness": "incorrect"}"#;

impl Answers for Model<'_> {
    fn answer(&self, ask: &Ask) -> Option<Result<String, String>> {
        Some(Ok(if ask.max_tokens == 0 { self.0 } else { VERDICT }.into()))
    }
}

pub(crate) fn load_shipped(rewards: &Rewards, (name, config): (&str, &str)) -> LoadedReward {
    rewards
        .load(&RewardSpec {
            config_json: config.into(),
            ..RewardSpec::named(name)
        })
        .unwrap()
}

pub(crate) fn judge_all(reward: &LoadedReward, members: &[Member], model: &str) -> Vec<Judged> {
    let mut all = Vec::new();
    let tell = |_, judged| {
        all.push(judged);
        true
    };
    reward
        .judge_all(members, &Model(model), THREADS, tell)
        .unwrap();
    assert_eq!(all.len(), members.len());
    all
}

pub(crate) fn asked(text: &str) -> Completion {
    Completion {
        prompt: "What is three and four?".into(),
        ..completion(text, Some("7"))
    }
}

/// Groups of completions that differ in everything; neighbours in a group differ in their tokens by
/// one.
pub(crate) fn batch() -> Vec<Member> {
    let text = |i: usize| {
        format!(
            "<think>{}so it is {i}</think><answer>{}</answer>",
            "we add one and one ".repeat(i),
            i % 9
        )
    };
    let member = |i: usize| Member {
        completion: Completion {
            tokens: 10 + (i % GROUP) as u32,
            ..asked(&text(i))
        },
        group: (i / GROUP).to_string(),
    };
    (0..BATCH).map(member).collect()
}

pub(crate) const POISONED: usize = 21;

pub(crate) fn with_poison(batch: &[Member], text: &str) -> Vec<Member> {
    let mut batch = batch.to_vec();
    batch[POISONED].completion.text = text.into();
    batch
}
