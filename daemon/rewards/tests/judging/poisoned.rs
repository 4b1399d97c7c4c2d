//! The attack corpus against every shipped plugin, inside the sandbox: each text ends in a verdict
//! within the default limits, as a completion, as a reference, as a prompt, in the row, and as a
//! model's answer; neighbours keep theirs, and the process keeps its size (`growth.rs`) (`RWD-1`).

use crate::guests::shipped::*;
use crate::guests::{completion, rewards};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Answers, Ask, Completion, Judged, Member, World, attacks};

/// Members that are each alone in their group.
fn alone(completions: impl Iterator<Item = Completion>) -> Vec<Member> {
    completions
        .enumerate()
        .map(|(i, completion)| Member {
            completion,
            group: i.to_string(),
        })
        .collect()
}

#[test]
fn every_poison_ends_in_a_verdict_within_the_limits() {
    let rewards = rewards(THREADS);
    let texts = attacks::texts();
    let honest = || asked("<think>3 + 4 is 7</think><answer>7</answer>");
    let poisoned =
        |poison: &dyn Fn(&str) -> Completion| alone(texts.iter().map(|(_, text)| poison(text)));
    let row = |text: &str| serde_json::json!({ "language": text, "other": text }).to_string();
    for plugin in PLUGINS {
        let reward = load_shipped(&rewards, plugin);
        let range = reward.info().min..=reward.info().max;
        for (place, members) in [
            ("completion", poisoned(&asked)),
            (
                "reference",
                poisoned(&|text| Completion {
                    reference: Some(text.into()),
                    ..honest()
                }),
            ),
            (
                "prompt",
                poisoned(&|text| Completion {
                    prompt: text.into(),
                    ..honest()
                }),
            ),
            (
                "row",
                poisoned(&|text| Completion {
                    meta: Some(row(text)),
                    ..honest()
                }),
            ),
        ] {
            for ((name, _), judged) in texts.iter().zip(judge_all(&reward, &members, "0.5")) {
                let found = format!("{plugin:?}, {place}, {name}: {judged:?}");
                match &judged.outcome {
                    Outcome::Score { value, .. } => assert!(range.contains(value), "{found}"),
                    // Something wrong with the row may make an abstention; nothing in a completion
                    // does.
                    Outcome::Abstain { reason } => {
                        assert!(place != "completion" && reason.len() < 600, "{found}")
                    }
                    _ => panic!("{found}"),
                }
                assert!(
                    judged.reason.is_none_or(|reason| reason.len() < 600),
                    "{plugin:?}, {place}, {name}"
                );
            }
        }
    }
}

#[test]
fn no_poison_is_the_right_answer_or_keeps_the_form() {
    let rewards = rewards(THREADS);
    let texts = attacks::texts();
    let members = alone(texts.iter().map(|(_, text)| completion(text, Some("6"))));
    for plugin in [
        ("accuracy", "{}"),
        ("format", "{}"),
        ("format", r#"{"style": "chat"}"#),
    ] {
        for ((name, _), judged) in
            texts
                .iter()
                .zip(judge_all(&load_shipped(&rewards, plugin), &members, "0"))
        {
            assert_eq!(
                judged.outcome,
                Outcome::Score {
                    value: 0.0,
                    parts: vec![]
                },
                "{plugin:?}, {name}"
            );
            assert!(
                judged.reason.is_some(),
                "{plugin:?}, {name}: a failure says why"
            );
        }
    }
}

/// A reward model's answer is input too: if it is no number, that is a fault that names the model,
/// whatever the text.
#[test]
fn a_reward_models_poison_is_a_fault() {
    let rewards = rewards(THREADS);
    let members = alone([completion("<think>a</think>b", None)].into_iter());
    for name in ["helpfulness", "harmlessness"] {
        let reward = load_shipped(&rewards, (name, "{}"));
        assert_eq!(reward.world(), World::JudgedReward);
        for (attack, text) in attacks::texts() {
            let judged = judge_all(&reward, &members, &text).remove(0);
            let Outcome::Trap { reason } = judged.outcome else {
                panic!("{name}, {attack}: {judged:?}")
            };
            assert!(
                reason.contains(&format!("reward model `{name}`")) && reason.len() < 600,
                "{name}, {attack}: {reason}"
            );
        }
    }
}

/// A judge that answers everything with this text.
struct Writes<'a>(&'a str);

impl Answers for Writes<'_> {
    fn answer(&self, ask: &Ask) -> Option<Result<String, String>> {
        assert!(ask.max_tokens > 0);
        Some(Ok(self.0.into()))
    }
}

/// A judge's text is input too: no poison is a fault, or a verdict that the judge did not give.
#[test]
fn a_judges_poison_is_no_verdict() {
    let rewards = rewards(THREADS);
    let reward = load_shipped(&rewards, ("correctness", "{}"));
    let members = alone([asked("<think>3 + 4 is 7</think><answer>7</answer>")].into_iter());
    for (attack, text) in attacks::texts() {
        for (reply, right) in [
            (text.clone(), None),
            (format!("{VERDICT} {text} {VERDICT}"), Some(0.0)),
        ] {
            let mut found = None;
            let tell = |_, judged: Judged| {
                found = Some(judged.outcome);
                true
            };
            reward
                .judge_all(&members, &Writes(&reply), 1, tell)
                .unwrap();
            match (found.unwrap(), right) {
                (Outcome::Abstain { reason }, _) => {
                    assert!(
                        reason.starts_with("no verdict: ") && reason.len() < 600,
                        "{attack}: {reason}"
                    )
                }
                (Outcome::Score { value, .. }, Some(right)) => assert_eq!(value, right, "{attack}"),
                (outcome, _) => panic!("{attack}: {outcome:?}"),
            }
        }
    }
}

#[test]
fn the_rest_of_a_poisoned_batch_keeps_its_verdicts() {
    let rewards = rewards(THREADS);
    let clean = batch();
    for plugin in PLUGINS {
        let reward = load_shipped(&rewards, plugin);
        // A group's fuel is shown in equal shares: a part of it is the poison's.
        let told = |judged: Judged| {
            (
                judged.outcome,
                judged.reason,
                if reward.world() == World::GroupReward {
                    0
                } else {
                    judged.fuel
                },
            )
        };
        let judge = |members: &[Member]| {
            judge_all(&reward, members, "0.5")
                .into_iter()
                .map(told)
                .collect::<Vec<_>>()
        };
        let expected = judge(&clean);
        for (name, text) in attacks::texts() {
            let mut found = judge(&with_poison(&clean, &text));
            assert!(
                matches!(found[POISONED].0, Outcome::Score { .. }),
                "{plugin:?}, {name}: {:?}",
                found[POISONED]
            );
            found[POISONED] = expected[POISONED].clone();
            assert!(
                found == expected,
                "{plugin:?}, {name}: a neighbour's verdict changed"
            );
        }
    }
}
