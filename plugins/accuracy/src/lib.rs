//! `accuracy`: 1 when the answer is the reference, else 0.

mod ball;
mod choice;
mod compare;
mod elementary;
mod equal;
mod equations;
mod expression;
mod formula;
mod lexer;
mod math;
mod matrix;
mod numeric;
mod parse;
mod points;
mod real_set;
mod surd;
mod text;

use math::Outcome;
use reward_sdk::answers::{excerpt, of_completion, of_reference};
use reward_sdk::{Completion, Error, Info, Result, Reward, Score};

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accuracy {
    kind: Kind,
    lenient: bool,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Math,
    Choice,
    Exact,
}

impl Reward for Accuracy {
    const INFO: Info = Info::new("accuracy", env!("CARGO_PKG_VERSION"));

    fn score(&self, completion: &Completion) -> Result<Score> {
        let reference = completion.reference.as_deref().ok_or_else(|| Error::Unscorable("the row has no reference".into()))?;
        let truth = of_reference(reference);
        // Without an answer the reference is looked at all the same: a bad one masks the sample.
        let given = of_completion(&completion.text);
        let outcome = match self.kind {
            Kind::Math => math::judge(truth, given.unwrap_or_default(), self.lenient),
            Kind::Choice => choose(truth, given.unwrap_or_default()),
            Kind::Exact => exact(truth, given.unwrap_or_default(), self.lenient),
        };
        match (outcome, given) {
            (Outcome::Unusable(why), _) => Err(Error::Unscorable(why)),
            (_, None) => Ok(Score::fail("no answer")),
            (Outcome::Right, _) => Ok(Score::pass(true)),
            (Outcome::Wrong(why), _) => Ok(Score::fail(why)),
        }
    }
}

fn choose(reference: &str, answer: &str) -> Outcome {
    let Some(truth) = choice::read(reference) else {
        return Outcome::Unusable(format!("the reference is no choice: {}", excerpt(reference)));
    };
    match choice::read(answer) {
        Some(letters) if letters == truth => Outcome::Right,
        Some(_) => Outcome::Wrong(format!("wrong answer: {}", excerpt(answer))),
        None => Outcome::Wrong(format!("not one choice: {}", excerpt(answer))),
    }
}

/// White space counts as one space.
fn exact(reference: &str, answer: &str, lenient: bool) -> Outcome {
    let plain = |text: &str| -> String {
        let text = text.split_whitespace().collect::<Vec<&str>>().join(" ");
        if lenient { text.trim_end_matches('.').to_lowercase() } else { text }
    };
    if reference.trim().is_empty() {
        return Outcome::Unusable("the reference is empty".into());
    }
    if plain(reference) == plain(answer) { Outcome::Right } else { Outcome::Wrong(format!("wrong answer: {}", excerpt(answer))) }
}

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
