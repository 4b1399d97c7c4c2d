//! `helpfulness`: a reward model's score of the final summary only (DeepSeek-R1's last stage), so
//! that preferences do not interfere with the reasoning.
//!
//! The summary is the text after the first `</think>`; in the R1-Zero form, the text in its last
//! `<answer>…</answer>`. A completion without any thought is all summary. A completion whose
//! thought was never closed, or has no text behind it, has no summary: it scores 0 with the reason
//! `no summary`, and the model is not asked.
//!
//! The model reads the prompt, without a `<think>` at its end, and the summary.
//!
//! | key | default | |
//! |---|---|---|
//! | `model` | `"helpfulness"` | what `r1ctl plugin score --asks` calls the reward model; in a job `model` of its `[[stage.reward]]` says whom it asks |
//! | `scale` | `"sigmoid"` | how its number becomes a score from 0 to 1: [`reward_sdk::reward_model::Scale`] |
//!
//! An answer that is missing or not a number is a fault, never a score.

use reward_sdk::reward_model::{self, Scale};
use reward_sdk::{Ask, Completion, Info, JudgedReward, Result, Score, tags};

/// The reward's configuration.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Helpfulness {
    model: String,
    scale: Scale,
}

impl Default for Helpfulness {
    fn default() -> Self {
        Helpfulness {
            model: "helpfulness".into(),
            scale: Scale::default(),
        }
    }
}

impl JudgedReward for Helpfulness {
    const INFO: Info = Info::new("helpfulness", env!("CARGO_PKG_VERSION"));

    fn plan(&self, completion: &Completion) -> Vec<Ask> {
        let conversation =
            |summary: &str| format!("{}{summary}", without_think(&completion.prompt));
        summary(completion)
            .map(|summary| reward_model::ask(&self.model, conversation(summary)))
            .into_iter()
            .collect()
    }

    fn conclude(
        &self,
        completion: &Completion,
        answers: &[std::result::Result<String, String>],
    ) -> Result<Score> {
        match summary(completion) {
            Some(_) => Ok(Score::from(
                self.scale
                    .score(reward_model::number(&self.model, answers)?),
            )),
            None => Ok(Score::fail("no summary")),
        }
    }
}

fn summary(completion: &Completion) -> Option<&str> {
    let thought = tags::split_think(&completion.text);
    let thinks = completion.text.contains("<think>")
        || without_think(&completion.prompt) != completion.prompt;
    if thought.think.is_none() && thinks {
        return None;
    }
    let summary = tags::last(thought.rest, "answer")
        .unwrap_or(thought.rest)
        .trim();
    Some(summary).filter(|summary| !summary.is_empty())
}

/// Removes the tag that opens the thought, with which many templates end the prompt.
fn without_think(prompt: &str) -> &str {
    prompt.trim_end().strip_suffix("<think>").unwrap_or(prompt)
}

reward_sdk::export!(judged Helpfulness);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_cases() {
        reward_sdk::golden::check_judged::<Helpfulness>(include_str!("../golden.jsonl"));
    }

    fn asked(prompt: &str, text: &str) -> Vec<String> {
        let reward: Helpfulness = reward_sdk::configure(r#"{"model": "rm"}"#).unwrap();
        let completion = Completion {
            prompt: prompt.into(),
            text: text.into(),
            ..Completion::default()
        };
        let asks = reward.plan(&completion);
        assert!(
            asks.iter()
                .all(|ask| ask.model == "rm" && ask.max_tokens == 0)
        );
        asks.into_iter().map(|ask| ask.prompt).collect()
    }

    #[test]
    fn the_model_reads_the_summary_and_no_thought() {
        assert_eq!(
            asked("Hi. ", "<think>secret</think>\n\nHello!\n"),
            ["Hi. Hello!"]
        );
        assert_eq!(asked("Hi.<think>\n", "secret</think>Hello!"), ["Hi.Hello!"]);
        assert_eq!(
            asked("Hi. ", "<think>secret</think> <answer> Hello! </answer>"),
            ["Hi. Hello!"]
        );
        assert_eq!(asked("Hi. ", "Hello!"), ["Hi. Hello!"]);
        assert_eq!(asked("Hi. ", "<think>secret"), [""; 0]);
        assert_eq!(asked("Hi.<think>\n", "secret, on and on"), [""; 0]);
        assert_eq!(asked("Hi. ", "<think>secret</think> \n"), [""; 0]);
        assert_eq!(
            asked("Hi. ", "<think>secret</think><answer> </answer>"),
            [""; 0]
        );
    }

    #[test]
    fn what_is_misspelt_or_no_scale_is_named() {
        let error = |json: &str| reward_sdk::configure::<Helpfulness>(json).err().unwrap();
        assert!(error(r#"{"modell": "rm"}"#).contains("modell"));
        assert!(error(r#"{"scale": "tanh"}"#).contains("`scale`"));
        assert!(error(r#"{"scale": {"min": 1, "max": 0}}"#).contains("less than"));
    }
}
