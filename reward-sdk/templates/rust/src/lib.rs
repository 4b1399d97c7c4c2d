//! `{{name}}`: 1 when the answer has at most `words_max` words, else 0.

use reward_sdk::{Completion, Error, Result, Score, reward, tags};

/// The `config` table of the job: `config = { words_max = 20 }`. A misspelt key is an error that
/// names it.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    words_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { words_max: 20 }
    }
}

#[reward]
fn score(completion: &Completion, config: &Config) -> Result<Score> {
    if completion.prompt.is_empty() {
        // The row is unusable: the sample is left out of training, never scored 0.
        return Err(Error::Unscorable("no prompt".into()));
    }
    let Some(answer) = tags::last(&completion.text, "answer") else { return Ok(Score::fail(
        "no answer")) };
    let words = answer.split_whitespace().count();
    Ok(if words <= config.words_max { Score::pass(true) } else { Score::fail(format!(
        "{words} words")) })
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_cases() {
        reward_sdk::golden::check::<super::Reward>(include_str!("../golden.jsonl"));
    }
}
