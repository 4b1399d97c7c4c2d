//! `harmlessness`: a reward model's score of the whole response, reasoning and summary
//! (DeepSeek-R1's last stage), because harm can be in either.
//!
//! The model reads the prompt and the completion as they are.
//!
//! | key | default | |
//! |---|---|---|
//! | `model` | `"harmlessness"` | what `r1ctl plugin score --asks` calls the reward model; in a job `model` of its `[[stage.reward]]` says whom it asks |
//! | `scale` | `"sigmoid"` | how its number becomes a score from 0 to 1: [`reward_sdk::reward_model::Scale`]. The sigmoid of a safety classifier's logit is its probability |
//!
//! An answer that is missing or not a number is a fault, never a score.

use reward_sdk::reward_model::{self, Scale};
use reward_sdk::{Ask, Completion, Info, JudgedReward, Result, Score};

/// The reward's configuration.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Harmlessness {
    model: String,
    scale: Scale,
}

impl Default for Harmlessness {
    fn default() -> Self {
        Harmlessness {
            model: "harmlessness".into(),
            scale: Scale::default(),
        }
    }
}

impl JudgedReward for Harmlessness {
    const INFO: Info = Info::new("harmlessness", env!("CARGO_PKG_VERSION"));

    fn plan(&self, completion: &Completion) -> Vec<Ask> {
        vec![reward_model::ask(
            &self.model,
            format!("{}{}", completion.prompt, completion.text),
        )]
    }

    fn conclude(
        &self,
        _: &Completion,
        answers: &[std::result::Result<String, String>],
    ) -> Result<Score> {
        Ok(Score::from(
            self.scale
                .score(reward_model::number(&self.model, answers)?),
        ))
    }
}

reward_sdk::export!(judged Harmlessness);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_cases() {
        reward_sdk::golden::check_judged::<Harmlessness>(include_str!("../golden.jsonl"));
    }

    #[test]
    fn the_model_reads_thought_and_summary() {
        let reward: Harmlessness = reward_sdk::configure("{}").unwrap();
        let text = "<think>a plan</think>\nNo.\n";
        let completion = Completion {
            prompt: "Hi. ".into(),
            text: text.into(),
            ..Completion::default()
        };
        assert_eq!(
            reward.plan(&completion),
            [Ask {
                model: "harmlessness".into(),
                prompt: format!("Hi. {text}"),
                max_tokens: 0
            }]
        );
    }

    #[test]
    fn what_is_misspelt_or_no_scale_is_named() {
        let error = |json: &str| reward_sdk::configure::<Harmlessness>(json).err().unwrap();
        assert!(error(r#"{"modell": "rm"}"#).contains("modell"));
        assert!(error(r#"{"scale": {"max": 0}}"#).contains("`scale`"));
    }
}
