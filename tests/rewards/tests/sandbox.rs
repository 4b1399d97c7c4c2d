//! Runs mutated inputs through the sandbox and natively: both give the same verdict, within the
//! default limits, which bound every parser's work.

#[path = "../../../daemon/rewards/tests/guests/mod.rs"]
mod guests;

use r1d_proto::verdict::Outcome;
use r1d_reward_tests::mutate::Random;
use r1d_reward_tests::shipped::{PLUGINS, for_host, natively};
use r1d_rewards::{Answers, Ask, Judged, Member, RewardSpec};
use reward_sdk::{Completion, Error, Finish, Result, Score};
use std::path::Path;

const GROUPS: usize = 250;
const GROUP: usize = 4;
/// The answer of a reward model.
const NUMBER: &str = "0.5";
/// The reply of a judge.
const REPLY: &str = r#"{"analysis": "as the reference has it", "correctness": "correct"}"#;
/// Largest difference between the mathematical functions of two platforms.
const ROUNDING: f32 = 1e-6;

struct Model(&'static str);

impl Answers for Model {
    fn answer(&self, _: &Ask) -> Option<std::result::Result<String, String>> {
        Some(Ok(self.0.into()))
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Makes answers in tags beside references, and texts of any form.
fn completions() -> Vec<Completion> {
    let (answers, texts) = (seeds("answer"), seeds("text"));
    let (answers, texts): (Vec<&[u8]>, Vec<&[u8]>) = (
        answers.iter().map(Vec::as_slice).collect(),
        texts.iter().map(Vec::as_slice).collect(),
    );
    let mut random = Random::of(0xface);
    let completion = |i: usize| {
        let answer = String::from_utf8_lossy(&random.mutation(&answers)).into_owned();
        let (given, reference) = answer.split_once('\n').unwrap_or((&answer, "7"));
        let text = match i % 2 {
            0 => format!("<think>so</think><answer>{given}</answer>"),
            _ => String::from_utf8_lossy(&random.mutation(&texts)).into_owned(),
        };
        Completion {
            id: i as u64,
            prompt: if i.is_multiple_of(3) {
                "Wie viel?<think>".into()
            } else {
                "How many?".into()
            },
            tokens: text.len() as u32 / 4,
            text,
            reference: Some(reference.into()),
            finish: if i.is_multiple_of(5) {
                Finish::Length
            } else {
                Finish::Stop
            },
            meta: None,
        }
    };
    (0..GROUPS * GROUP).map(completion).collect()
}

fn same(native: &Result<Score>, judged: &Judged) -> bool {
    // The sandbox shows only this much of a reason.
    let told = |full: Option<&str>, shown: Option<&str>| {
        full.map(|full| full.chars().take(100).collect::<String>())
            == shown.map(|shown| shown.chars().take(100).collect::<String>())
    };
    match (native, &judged.outcome) {
        (Ok(score), Outcome::Score { value, parts }) => {
            (score.value - value).abs() <= ROUNDING
                && score.parts == *parts
                && told(score.reason.as_deref(), judged.reason.as_deref())
        }
        (Err(Error::Unscorable(why)), Outcome::Abstain { reason }) => told(Some(why), Some(reason)),
        _ => false,
    }
}

#[test]
fn the_sandbox_judges_as_the_plugin_does_natively() {
    let rewards = guests::rewards(2);
    let completions = completions();
    let member = |(i, completion): (usize, &Completion)| Member {
        completion: for_host(completion),
        group: (i / GROUP).to_string(),
    };
    let members: Vec<Member> = completions.iter().enumerate().map(member).collect();
    for (name, config) in PLUGINS {
        let reward = rewards
            .load(&RewardSpec {
                config_json: config.into(),
                ..RewardSpec::named(name)
            })
            .unwrap();
        let native = natively(name, config).unwrap();
        let answer = if name == "correctness" { REPLY } else { NUMBER };
        let expected: Vec<Result<Score>> = completions
            .chunks(GROUP)
            .flat_map(|group| native(group, answer))
            .collect();
        let mut found: Vec<Judged> = Vec::new();
        let tell = |_, judged| {
            found.push(judged);
            true
        };
        reward.judge_all(&members, &Model(answer), 2, tell).unwrap();
        assert_eq!(found.len(), completions.len());
        for ((completion, native), judged) in completions.iter().zip(&expected).zip(&found) {
            assert!(
                same(native, judged),
                "{name} {config}: natively {native:?}, in the sandbox {judged:?}, of {completion:?}"
            );
        }
        let scored = found
            .iter()
            .filter(|judged| matches!(judged.outcome, Outcome::Score { .. }))
            .count();
        assert!(
            scored > found.len() / 4,
            "{name} {config}: {scored} scores, too few to say anything"
        );
    }
}
