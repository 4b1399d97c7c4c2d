//! Questions to a reward model, and scores from its answers: for judged rewards.
//!
//! A reward model reads a conversation and gives one number, as decimal text; it generates nothing,
//! so its [`Ask`] has `max_tokens` 0. Its numbers have no fixed range, but a reward's scores have:
//! [`Scale`] maps the numbers into the range and keeps their order.

use crate::{Ask, Error, Result};
use serde::Deserialize;

/// How a number of a reward model becomes a score from 0 to 1. Configuration: `scale = "sigmoid"`,
/// or `scale = { min = -4.0, max = 4.0 }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "RawScale")]
pub enum Scale {
    /// 1 / (1 + e^−x): the probability that the Bradley-Terry model (or a classifier's logit) means
    /// by x.
    #[default]
    Sigmoid,
    /// (x − min) / (max − min), cut to 0 and 1.
    Linear {
        /// The number that scores 0.
        min: f64,
        /// The number that scores 1; greater than `min`.
        max: f64,
    },
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`scale` is neither \"sigmoid\" nor { min = NUMBER, max = NUMBER }"
)]
enum RawScale {
    Named(Named),
    Linear(Linear),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Named {
    Sigmoid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Linear {
    min: f64,
    max: f64,
}

impl TryFrom<RawScale> for Scale {
    type Error = String;

    fn try_from(raw: RawScale) -> std::result::Result<Self, String> {
        match raw {
            RawScale::Named(Named::Sigmoid) => Ok(Scale::Sigmoid),
            RawScale::Linear(Linear { min, max }) if min < max && (max - min).is_finite() => {
                Ok(Scale::Linear { min, max })
            }
            RawScale::Linear(Linear { min, max }) => Err(format!(
                "`scale` goes from {min} to {max}: `min` must be less than `max`"
            )),
        }
    }
}

impl Scale {
    /// The score of a reward model's number: within 0 to 1 for every finite `x`.
    pub fn score(self, x: f64) -> f32 {
        let share = match self {
            Scale::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Scale::Linear { min, max } => (x.clamp(min, max) - min) / (max - min),
        };
        share.clamp(0.0, 1.0) as f32
    }
}

/// Asks a reward model for the number of this conversation.
pub fn ask(model: &str, conversation: String) -> Ask {
    Ask {
        model: model.into(),
        prompt: conversation,
        max_tokens: 0,
    }
}

/// The number that a reward model answered with. Everything else is a fault of the model's, not of
/// the completion's: `internal`, which the job sees, and never a score.
pub fn number(model: &str, answers: &[std::result::Result<String, String>]) -> Result<f64> {
    let fault = |why: String| Err(Error::Internal(format!("reward model `{model}`: {why}")));
    match answers {
        [Ok(text)] => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => fault(format!("answered {}, not a number", excerpt(text))),
        },
        [Err(why)] => fault(format!("no answer: {why}")),
        _ => fault(format!("{} answers to one question", answers.len())),
    }
}

/// Enough of an answer to recognise it by.
fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let start: String = text.trim().chars().take(CHARS_MAX).collect();
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(json: &str) -> std::result::Result<Scale, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn scales_keep_order_and_range() {
        let linear = scale(r#"{"min": -2, "max": 6}"#).unwrap();
        assert_eq!(
            [-9.0, -2.0, 0.0, 2.0, 6.0, 1e300].map(|x| linear.score(x)),
            [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
        );
        let sigmoid = scale(r#""sigmoid""#).unwrap();
        assert_eq!(
            [-f64::MAX, 0.0, f64::MAX].map(|x| sigmoid.score(x)),
            [0.0, 0.5, 1.0]
        );
        assert!((sigmoid.score(3.0_f64.ln()) - 0.75).abs() < 1e-7);
        for wrong in [
            r#""tanh""#,
            r#"{"min": 1}"#,
            r#"{"min": 1, "max": 1}"#,
            r#"{"min": -1e308, "max": 1e308}"#,
            "3",
        ] {
            assert!(scale(wrong).unwrap_err().contains("`scale`"), "{wrong}");
        }
    }

    #[test]
    fn only_a_number_is_an_answer() {
        let number = |text: &str| number("rm", &[Ok(text.into())]);
        assert_eq!(number(" -1.25e1\n"), Ok(-12.5));
        for text in [
            "",
            "yes",
            "NaN",
            "inf",
            "-infinity",
            "1e999",
            "1,5",
            "0x10",
            "1 2",
            "７",
        ] {
            assert!(
                matches!(number(text), Err(Error::Internal(why)) if why.contains("`rm`: answered")),
                "{text}"
            );
        }
        assert_eq!(
            super::number("rm", &[Err("busy".into())]),
            Err(Error::Internal("reward model `rm`: no answer: busy".into()))
        );
        assert!(
            super::number("rm", &[]).is_err()
                && super::number("rm", &[Ok("1".into()), Ok("2".into())]).is_err()
        );
        let long = number(&"é".repeat(10_000)).unwrap_err();
        assert!(matches!(long, Error::Internal(why) if why.len() < 200));
    }
}
