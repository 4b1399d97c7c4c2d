//! The forms that a reward may have, natively.

use reward_sdk::{
    Ask, Completion, Error, GroupReward, Info, JudgedReward, Result, Reward as _, Score,
};

fn completion(text: &str) -> Completion {
    Completion {
        text: text.into(),
        ..Completion::default()
    }
}

mod plain {
    use super::*;

    #[reward_sdk::reward]
    fn answered(completion: &Completion) -> bool {
        completion.text.contains("<answer>")
    }

    #[test]
    fn a_function_is_a_reward() {
        let reward: Reward = reward_sdk::configure("{}").unwrap();
        assert_eq!(reward.score(&completion("<answer>")).unwrap().value, 1.0);
        assert_eq!(reward.score(&completion("")).unwrap().value, 0.0);
        assert_eq!(
            Reward::INFO,
            Info::new("reward-sdk", env!("CARGO_PKG_VERSION"))
        );
        assert!(
            answered(&completion("<answer>")),
            "it can still be called by its name"
        );
        assert!(
            reward_sdk::configure::<Reward>(r#"{"limit": 1}"#)
                .err()
                .unwrap()
                .contains("limit"),
            "it has no configuration"
        );
    }
}

mod configured {
    use super::*;

    #[derive(Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        words_max: usize,
    }

    #[reward_sdk::reward(name = "brief", version = "2.0.0", min = -1.0, parts = ["words", "limit"])]
    fn score(completion: &Completion, config: &Config) -> Result<Score> {
        if completion.reference.is_none() {
            return Err(Error::Unscorable("no reference".into()));
        }
        let words = completion.text.split_whitespace().count();
        let value = if words <= config.words_max { 1.0 } else { -1.0 };
        Ok(Score {
            value,
            parts: vec![words as f32, config.words_max as f32],
            reason: None,
        })
    }

    #[test]
    fn a_second_parameter_is_its_configuration() {
        let reward: Reward = reward_sdk::configure(r#"{"words_max": 2}"#).unwrap();
        let item = Completion {
            reference: Some("x".into()),
            ..completion("one two three")
        };
        assert_eq!(
            reward.score(&item).unwrap(),
            Score {
                value: -1.0,
                parts: vec![3.0, 2.0],
                reason: None
            }
        );
        assert_eq!(
            reward.score(&completion("")),
            Err(Error::Unscorable("no reference".into()))
        );
        let info = Reward::INFO;
        assert_eq!(
            (info.name, info.version, info.min, info.max, info.parts),
            ("brief", "2.0.0", -1.0, 1.0, &["words", "limit"][..])
        );
        assert!(
            reward_sdk::configure::<Reward>(r#"{"word_max": 2}"#)
                .err()
                .unwrap()
                .contains("word_max")
        );
    }
}

mod of_groups {
    use super::*;

    /// How many of the group are longer.
    #[reward_sdk::reward(max = 64.0)]
    fn rank(group: &[Completion]) -> Vec<f32> {
        group
            .iter()
            .map(|one| {
                group
                    .iter()
                    .filter(|other| other.tokens > one.tokens)
                    .count() as f32
            })
            .collect()
    }

    #[test]
    fn a_slice_makes_it_a_reward_of_groups() {
        let reward: Reward = reward_sdk::configure("{}").unwrap();
        let group: Vec<_> = [3, 1, 2]
            .map(|tokens| Completion {
                tokens,
                ..Completion::default()
            })
            .into();
        let values: Vec<f32> = reward
            .score_group(&group)
            .into_iter()
            .map(|score| score.unwrap().value)
            .collect();
        assert_eq!(values, [0.0, 2.0, 1.0]);
        reward_sdk::golden::check_group::<Reward>(
            r#"{"case": "long", "group": 1, "completion": "", "tokens": 9, "expect": {"score": 0}}
{"case": "short", "group": 1, "completion": "", "tokens": 2, "expect": {"score": 1}}
{"case": "alone", "completion": "", "tokens": 1, "expect": {"score": 0}}"#,
        );
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Polite {
    model: String,
}

impl JudgedReward for Polite {
    const INFO: Info = Info::new("polite", "1.0.0");

    fn plan(&self, completion: &Completion) -> Vec<Ask> {
        vec![Ask {
            model: self.model.clone(),
            prompt: format!("Is this polite? {}", completion.text),
            max_tokens: 1,
        }]
    }

    fn conclude(
        &self,
        _: &Completion,
        answers: &[std::result::Result<String, String>],
    ) -> Result<Score> {
        match answers {
            [Ok(answer)] => Ok(Score::pass(answer == "yes")),
            [Err(why)] => Err(Error::Unscorable(why.clone())),
            _ => Err(Error::Internal("one answer was asked for".into())),
        }
    }
}

reward_sdk::export!(judged Polite);

#[test]
fn a_judged_reward_is_tested_with_answers_of_the_cases() {
    reward_sdk::golden::check_judged::<Polite>(
        r#"{"case": "yes", "completion": "Thank you.", "answers": ["yes"], "expect": {"score": 1}}
{"case": "no", "completion": "Go away.", "answers": ["no"], "expect": {"score": 0}}
{"case": "none", "completion": "Hm.", "answers": [{"error": "busy"}], "expect": {"verdict": "abstain", "reason": "busy"}}"#,
    );
}

#[test]
#[should_panic(expected = "asks 1 questions, the case has 0 answers")]
fn a_judged_case_without_answers_fails() {
    reward_sdk::golden::check_judged::<Polite>(
        r#"{"case": "yes", "completion": "Thank you.", "expect": {"score": 1}}"#,
    );
}
