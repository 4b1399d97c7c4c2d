//! `accuracy`: 1 when the answer is the reference, else 0. Exact: no tolerance, no ×100.
//!
//! The answer is what stands in the last `<answer>…</answer>` (its last `\boxed{…}` when it holds one), else in the last
//! `\boxed{…}` of the text, else there is none: 0, reason `no answer`.
//!
//! The reference is a final answer, or a worked solution that ends in `#### N` or `\boxed{…}`. One that cannot be read makes the
//! sample unscorable: it is masked, never scored 0, because the fault is the data's.
//!
//! `kind = "math"` (the only one yet) compares numbers as exact rationals; `reward_sdk::number` says what a number is. A
//! percentage is a hundredth: `50%` is 1/2, not 50.

use reward_sdk::number::{self, Quantity};
use reward_sdk::{Completion, Error, Info, Result, Reward, Score, boxed, tags};

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accuracy {
    kind: Kind,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Math,
}

impl Reward for Accuracy {
    const INFO: Info = Info::new("accuracy", env!("CARGO_PKG_VERSION"));

    fn score(&self, completion: &Completion) -> Result<Score> {
        let reference = completion.reference.as_deref().ok_or_else(|| Error::Unscorable("the row has no reference".into()))?;
        match self.kind {
            Kind::Math => math(&completion.text, reference),
        }
    }
}

fn math(text: &str, reference: &str) -> Result<Score> {
    let final_answer = of_reference(reference);
    let truth = number::read(final_answer)
        .ok_or_else(|| Error::Unscorable(format!("the reference is not a number: {}", excerpt(final_answer))))?;
    let Some(answer) = of_completion(text) else { return Ok(Score::fail("no answer")) };
    Ok(compare(answer, &truth))
}

fn compare(answer: &str, truth: &Quantity) -> Score {
    match number::read(answer) {
        Some(number) if number.agrees_with(truth) => Score::pass(true),
        Some(_) => Score::fail(format!("wrong answer: {}", excerpt(answer))),
        None => Score::fail(format!("not a number: {}", excerpt(answer))),
    }
}

/// The answer that a completion gives.
fn of_completion(text: &str) -> Option<&str> {
    let answer = match tags::last(text, "answer") {
        Some(answer) => boxed::last(answer).unwrap_or(answer),
        None => boxed::last(text)?,
    };
    Some(answer.trim()).filter(|answer| !answer.is_empty())
}

/// The final answer of a reference: behind the last `####`, else in the last `\boxed{}`, else all of it.
fn of_reference(reference: &str) -> &str {
    match reference.rsplit_once("####") {
        Some((_, rest)) => rest.trim().lines().next().unwrap_or_default(),
        None => boxed::last(reference).unwrap_or(reference).trim(),
    }
}

/// Enough of a text to recognise it by.
fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let text = text.trim();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("`{}…`", text.get(..end).unwrap_or_default()),
        None => format!("`{text}`"),
    }
}

#[cfg(feature = "component")]
reward_sdk::export!(Accuracy);

#[cfg(test)]
mod tests {
    #[test]
    fn golden_cases() {
        reward_sdk::golden::check::<super::Accuracy>(include_str!("../golden.jsonl"));
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let error = reward_sdk::configure::<super::Accuracy>(r#"{"kind": "chess"}"#).err().unwrap();
        assert!(error.contains("chess"), "{error}");
    }
}
