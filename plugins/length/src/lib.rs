//! `length`: the value of a completion's length, given that its answer is right or wrong.
//!
//! Right and wrong are [`accuracy`]'s verdicts, whose configuration is the table `accuracy`; if it
//! cannot judge (an unusable reference), the sample is masked here too. L is the completion's
//! length.
//!
//! **`kind = "cosine"`** (the default): right answers are worth more when they are short, wrong
//! ones cost less when they are long, because more thought may yet find the answer ("Demystifying
//! long chain-of-thought reasoning", equation 1; open-r1's `cosine_scaled_reward`). With c = (1 +
//! cos(π · min(L / `max_len`, 1))) / 2, which falls from 1 to 0:
//!
//! ```text
//! right: min_value_correct + (max_value_correct − min_value_correct) · c
//! wrong: max_value_wrong   − (max_value_wrong   − min_value_wrong)   · c
//! ```
//! Beyond `max_len` nothing changes any more; in open-r1 the cosine comes up again there, and twice
//! the length is worth what none is.
//!
//! **`kind = "group"`**: the length beside those of the other samples of the prompt (Kimi k1.5,
//! section 2.3.3; open-r1's `len_reward`). With λ = 1/2 − (L − shortest) / (longest − shortest):
//!
//! ```text
//! right: λ        wrong: min(0, λ)        all of one length: 0
//! ```
//!
//! | key | default | |
//! |---|---|---|
//! | `kind` | `"cosine"` | or `"group"` |
//! | `unit` | `"tokens"` | or `"characters"`, which is what open-r1 counts. Where no completion of the group has a number of tokens, characters are counted |
//! | `max_len` | 1000 | of the cosine |
//! | `min_value_wrong`, `max_value_wrong` | −1.0, −0.5 | of the cosine, −1 to 1 |
//! | `min_value_correct`, `max_value_correct` | 0.5, 1.0 | of the cosine, −1 to 1 |
//! | `accuracy` | `{}` | configuration of `accuracy` |

use accuracy::Accuracy;
use reward_sdk::{Completion, GroupReward, Info, Result, Reward, Score};
use std::f64::consts::PI;

/// The reward's configuration.
#[derive(serde::Deserialize)]
#[serde(try_from = "Raw")]
pub struct Length {
    kind: Kind,
    unit: Unit,
    accuracy: Accuracy,
}

enum Kind {
    Cosine(Cosine),
    Group,
}

/// Values of right and wrong answers, at length 0 and from `max_len` on.
struct Cosine {
    max_len: u32,
    right: [f64; 2],
    wrong: [f64; 2],
}

#[derive(Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    #[default]
    Tokens,
    Characters,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    kind: Name,
    unit: Unit,
    max_len: u32,
    min_value_wrong: f64,
    max_value_wrong: f64,
    min_value_correct: f64,
    max_value_correct: f64,
    accuracy: Accuracy,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Cosine,
    Group,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw {
            kind: Name::Cosine,
            unit: Unit::default(),
            max_len: 1000,
            min_value_wrong: -1.0,
            max_value_wrong: -0.5,
            min_value_correct: 0.5,
            max_value_correct: 1.0,
            accuracy: Accuracy::default(),
        }
    }
}

impl TryFrom<Raw> for Length {
    type Error = String;

    fn try_from(raw: Raw) -> std::result::Result<Self, String> {
        let between = |what: &str, min: f64, max: f64| {
            if -1.0 <= min && min <= max && max <= 1.0 {
                return Ok(());
            }
            Err(format!(
                "`min_value_{what}` is {min} and `max_value_{what}` {max}: write −1 ≤ min ≤ max ≤ \
                 1, and weigh the reward in the job"
            ))
        };
        between("wrong", raw.min_value_wrong, raw.max_value_wrong)?;
        between("correct", raw.min_value_correct, raw.max_value_correct)?;
        if raw.max_len == 0 {
            return Err("`max_len` is 0: write at least 1".into());
        }
        let cosine = Cosine {
            max_len: raw.max_len,
            right: [raw.max_value_correct, raw.min_value_correct],
            wrong: [raw.min_value_wrong, raw.max_value_wrong],
        };
        let kind = match raw.kind {
            Name::Cosine => Kind::Cosine(cosine),
            Name::Group => Kind::Group,
        };
        Ok(Length {
            kind,
            unit: raw.unit,
            accuracy: raw.accuracy,
        })
    }
}

impl GroupReward for Length {
    const INFO: Info = Info {
        min: -1.0,
        max: 1.0,
        ..Info::new("length", env!("CARGO_PKG_VERSION"))
    };

    fn score_group(&self, group: &[Completion]) -> Vec<Result<Score>> {
        let lengths = lengths(self.unit, group);
        let shortest = lengths.iter().copied().fold(f64::INFINITY, f64::min);
        let longest = lengths.iter().copied().fold(0.0, f64::max);
        let value = |right: bool, length: f64| match &self.kind {
            Kind::Cosine(cosine) => cosine.value(right, length),
            Kind::Group if longest <= shortest => 0.0,
            Kind::Group => {
                let lambda = 0.5 - (length - shortest) / (longest - shortest);
                if right { lambda } else { lambda.min(0.0) }
            }
        };
        let judge = |(completion, &length): (&Completion, &f64)| {
            let verdict = self.accuracy.score(completion)?;
            let value = value(verdict.value == 1.0, length);
            // Adding 0 turns a minus 0 into 0.
            Ok(Score {
                value: value as f32 + 0.0,
                parts: Vec::new(),
                reason: verdict.reason,
            })
        };
        group.iter().zip(&lengths).map(judge).collect()
    }
}

impl Cosine {
    fn value(&self, right: bool, length: f64) -> f64 {
        let [at_once, at_the_end] = if right { self.right } else { self.wrong };
        let passed = (length / f64::from(self.max_len)).min(1.0);
        let c = (1.0 + (PI * passed).cos()) / 2.0;
        at_the_end + (at_once - at_the_end) * c
    }
}

fn lengths(unit: Unit, group: &[Completion]) -> Vec<f64> {
    let counted = group.iter().any(|completion| completion.tokens > 0);
    let length = |completion: &Completion| match unit {
        Unit::Tokens if counted => f64::from(completion.tokens),
        _ => completion.text.chars().count() as f64,
    };
    group.iter().map(length).collect()
}

reward_sdk::export!(group Length);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_cases() {
        reward_sdk::golden::check_group::<Length>(include_str!("../golden.jsonl"));
    }

    #[test]
    fn what_is_misspelt_or_out_of_range_is_named() {
        let error = |json: &str| reward_sdk::configure::<Length>(json).err().unwrap();
        assert!(error(r#"{"maxlen": 2}"#).contains("maxlen"));
        assert!(error(r#"{"kind": "kimi"}"#).contains("kimi"));
        assert!(error(r#"{"unit": "words"}"#).contains("words"));
        assert!(error(r#"{"max_len": 0}"#).contains("max_len"));
        assert!(error(r#"{"min_value_wrong": -2}"#).contains("weigh"));
        assert!(
            error(r#"{"min_value_correct": 0.9, "max_value_correct": 0.1}"#)
                .contains("min_value_correct")
        );
        assert!(error(r#"{"accuracy": {"kinds": "math"}}"#).contains("kinds"));
    }

    /// A shorter right answer is worth at least as much, a shorter wrong one at most as much; every
    /// value is between its bounds.
    #[test]
    fn the_cosine_is_monotonous_and_bounded() {
        let reward: Length = reward_sdk::configure("{}").unwrap();
        let value = |text: &str, tokens: u32| {
            let completion = Completion {
                text: text.into(),
                reference: Some("4".into()),
                tokens,
                ..Completion::default()
            };
            reward.score_group(&[completion]).remove(0).unwrap().value
        };
        let of = |text: &str| {
            (1..2_500)
                .map(|tokens| value(text, tokens))
                .collect::<Vec<f32>>()
        };
        let (right, wrong) = (of("<answer>4</answer>"), of("<answer>5</answer>"));
        assert!(
            right.windows(2).all(|pair| pair[1] <= pair[0])
                && right.iter().all(|value| (0.5..=1.0).contains(value))
        );
        assert!(
            wrong.windows(2).all(|pair| pair[1] >= pair[0])
                && wrong.iter().all(|value| (-1.0..=-0.5).contains(value))
        );
        assert_eq!((right[999], right[2_498], wrong[999]), (0.5, 0.5, -0.5));
    }
}
