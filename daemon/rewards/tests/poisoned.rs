//! The attack corpus against every shipped plugin, inside the sandbox: each text ends in a verdict within the default limits, as a completion,
//! as a reference, as a prompt, in the row, and as a model's answer; neighbours keep theirs, and the process keeps its size (`RWD-1`).

mod guests;

use guests::{completion, resident_bytes, rewards};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Answers, Ask, Completion, Judged, LoadedReward, Member, RewardSpec, Rewards, World, attacks};

/// Every shipped plugin, under each configuration that takes another path.
const PLUGINS: [(&str, &str); 14] = [
    ("accuracy", "{}"),
    ("correctness", "{}"),
    ("correctness", r#"{"text": "completion", "needs_reference": false}"#),
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
    ("soft-overlong", r#"{"max_completion_len": 100, "soft_punish_cache": 50}"#),
];
const THREADS: usize = 2;
const BATCH: usize = 64;
const GROUP: usize = 16;

/// A model that says the same of everything: a reward model this, a judge its verdict.
struct Model<'a>(&'a str);

const VERDICT: &str = r#"{"analysis": "No.", "correctness": "incorrect"}"#;

impl Answers for Model<'_> {
    fn answer(&self, ask: &Ask) -> Option<Result<String, String>> {
        Some(Ok(if ask.max_tokens == 0 { self.0 } else { VERDICT }.into()))
    }
}

/// A judge that writes this.
struct Writes<'a>(&'a str);

impl Answers for Writes<'_> {
    fn answer(&self, ask: &Ask) -> Option<Result<String, String>> {
        assert!(ask.max_tokens > 0);
        Some(Ok(self.0.into()))
    }
}

fn load(rewards: &Rewards, (name, config): (&str, &str)) -> LoadedReward {
    rewards.load(&RewardSpec { config_json: config.into(), ..RewardSpec::named(name) }).unwrap()
}

fn judge_all(reward: &LoadedReward, members: &[Member], model: &str) -> Vec<Judged> {
    let mut all = Vec::new();
    let tell = |_, judged| {
        all.push(judged);
        true
    };
    reward.judge_all(members, &Model(model), THREADS, tell).unwrap();
    assert_eq!(all.len(), members.len());
    all
}

fn asked(text: &str) -> Completion {
    Completion { prompt: "What is three and four?".into(), ..completion(text, Some("7")) }
}

/// Each alone in its group.
fn alone(completions: impl Iterator<Item = Completion>) -> Vec<Member> {
    completions.enumerate().map(|(i, completion)| Member { completion, group: i.to_string() }).collect()
}

#[test]
fn every_poison_ends_in_a_verdict_within_the_limits() {
    let rewards = rewards(THREADS);
    let texts = attacks::texts();
    let honest = || asked("<think>3 + 4 is 7</think><answer>7</answer>");
    let poisoned = |poison: &dyn Fn(&str) -> Completion| alone(texts.iter().map(|(_, text)| poison(text)));
    let row = |text: &str| serde_json::json!({ "language": text, "other": text }).to_string();
    for plugin in PLUGINS {
        let reward = load(&rewards, plugin);
        let range = reward.info().min..=reward.info().max;
        for (place, members) in [
            ("completion", poisoned(&asked)),
            ("reference", poisoned(&|text| Completion { reference: Some(text.into()), ..honest() })),
            ("prompt", poisoned(&|text| Completion { prompt: text.into(), ..honest() })),
            ("row", poisoned(&|text| Completion { meta: Some(row(text)), ..honest() })),
        ] {
            for ((name, _), judged) in texts.iter().zip(judge_all(&reward, &members, "0.5")) {
                let found = format!("{plugin:?}, {place}, {name}: {judged:?}");
                match &judged.outcome {
                    Outcome::Score { value, .. } => assert!(range.contains(value), "{found}"),
                    // What is wrong with the row is no fault of the completion's; nothing that a completion says is.
                    Outcome::Abstain { reason } => assert!(place != "completion" && reason.len() < 600, "{found}"),
                    _ => panic!("{found}"),
                }
                assert!(judged.reason.is_none_or(|reason| reason.len() < 600), "{plugin:?}, {place}, {name}");
            }
        }
    }
}

#[test]
fn no_poison_is_the_right_answer_or_keeps_the_form() {
    let rewards = rewards(THREADS);
    let texts = attacks::texts();
    let members = alone(texts.iter().map(|(_, text)| completion(text, Some("6"))));
    for plugin in [("accuracy", "{}"), ("format", "{}"), ("format", r#"{"style": "chat"}"#)] {
        for ((name, _), judged) in texts.iter().zip(judge_all(&load(&rewards, plugin), &members, "0")) {
            assert_eq!(judged.outcome, Outcome::Score { value: 0.0, parts: vec![] }, "{plugin:?}, {name}");
            assert!(judged.reason.is_some(), "{plugin:?}, {name}: a failure says why");
        }
    }
}

/// What a reward model says is input too: what is no number is a fault that names the model, whatever it is.
#[test]
fn a_reward_models_poison_is_a_fault() {
    let rewards = rewards(THREADS);
    let members = alone([completion("<think>a</think>b", None)].into_iter());
    for name in ["helpfulness", "harmlessness"] {
        let reward = load(&rewards, (name, "{}"));
        assert_eq!(reward.world(), World::JudgedReward);
        for (attack, text) in attacks::texts() {
            let judged = judge_all(&reward, &members, &text).remove(0);
            let Outcome::Trap { reason } = judged.outcome else { panic!("{name}, {attack}: {judged:?}") };
            assert!(reason.contains(&format!("reward model `{name}`")) && reason.len() < 600, "{name}, {attack}: {reason}");
        }
    }
}

/// What a judge writes is input too: no poison is a fault, or a verdict that nobody wrote.
#[test]
fn a_judges_poison_is_no_verdict() {
    let rewards = rewards(THREADS);
    let reward = load(&rewards, ("correctness", "{}"));
    let members = alone([asked("<think>3 + 4 is 7</think><answer>7</answer>")].into_iter());
    for (attack, text) in attacks::texts() {
        for (reply, right) in [(text.clone(), None), (format!("{VERDICT} {text} {VERDICT}"), Some(0.0))] {
            let mut found = None;
            let tell = |_, judged: Judged| {
                found = Some(judged.outcome);
                true
            };
            reward.judge_all(&members, &Writes(&reply), 1, tell).unwrap();
            match (found.unwrap(), right) {
                (Outcome::Abstain { reason }, _) => assert!(reason.starts_with("no verdict: ") && reason.len() < 600, "{attack}: {reason}"),
                (Outcome::Score { value, .. }, Some(right)) => assert_eq!(value, right, "{attack}"),
                (outcome, _) => panic!("{attack}: {outcome:?}"),
            }
        }
    }
}

/// As many groups of completions that differ in everything; each has as many tokens as its neighbours.
fn batch() -> Vec<Member> {
    let text = |i: usize| format!("<think>{}so it is {i}</think><answer>{}</answer>", "we add one and one ".repeat(i), i % 9);
    let member = |i: usize| Member {
        completion: Completion { tokens: 10 + (i % GROUP) as u32, ..asked(&text(i)) },
        group: (i / GROUP).to_string(),
    };
    (0..BATCH).map(member).collect()
}

const POISONED: usize = 21;

fn with_poison(batch: &[Member], text: &str) -> Vec<Member> {
    let mut batch = batch.to_vec();
    batch[POISONED].completion.text = text.into();
    batch
}

#[test]
fn the_rest_of_a_poisoned_batch_keeps_its_verdicts() {
    let rewards = rewards(THREADS);
    let clean = batch();
    for plugin in PLUGINS {
        let reward = load(&rewards, plugin);
        // A group's fuel is shown in equal shares: a part of it is the poison's.
        let told =
            |judged: Judged| (judged.outcome, judged.reason, if reward.world() == World::GroupReward { 0 } else { judged.fuel });
        let judge = |members: &[Member]| judge_all(&reward, members, "0.5").into_iter().map(told).collect::<Vec<_>>();
        let expected = judge(&clean);
        for (name, text) in attacks::texts() {
            let mut found = judge(&with_poison(&clean, &text));
            assert!(matches!(found[POISONED].0, Outcome::Score { .. }), "{plugin:?}, {name}: {:?}", found[POISONED]);
            found[POISONED] = expected[POISONED].clone();
            assert!(found == expected, "{plugin:?}, {name}: a neighbour's verdict changed");
        }
    }
}

#[test]
fn two_hundred_poisoned_batches_leave_nothing_behind() {
    const GROWTH_BYTES_MAX: usize = 16 << 20;
    let rewards = rewards(THREADS);
    let loaded: Vec<LoadedReward> = PLUGINS.into_iter().map(|plugin| load(&rewards, plugin)).collect();
    let clean = batch();
    let texts = attacks::texts();
    // Every plugin in turn, and each time another poison.
    let run = |i: usize| drop(judge_all(&loaded[i % loaded.len()], &with_poison(&clean, &texts[i % texts.len()].1), "0.5"));
    (0..100).for_each(run);
    let before = resident_bytes();
    (100..300).for_each(run);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more after 200 poisoned batches");
}
