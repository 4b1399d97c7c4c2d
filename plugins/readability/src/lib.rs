//! `readability`: whether people can read the chain of thought (DeepSeek-R1, 2.3.3: "we have
//! filtered out chain-of-thought with mixed languages, long paragraphs, and code blocks").
//!
//! The score is 1 if no rule applies, else 0 with the first rule that does as the reason. It is
//! made for rejection sampling, with `min_score = 1`. The chain of thought is the text before
//! `</think>`, or the whole text if that is missing.
//!
//! | key | default | |
//! |---|---|---|
//! | `min_language_share` | 0.9 | least share of the words that are of one language, 0 to 1; 0: any |
//! | `language` | none | that language, an ISO 639-1 code |
//! | `max_paragraph_chars` | 2000 | most characters between two empty lines; 0: any number |
//! | `allow_code_blocks` | false | lines that open a block with three backquotes or tildes |
//! | `max_repetition` | 0.5 | most of the words' `ngram_size`-grams that repeat earlier ones, 0 to 1; 1: all may |
//! | `ngram_size` | 3 | as in `repetition`, 1 to 64 |
//!
//! Words are distinguished as in `language-consistency`: by their writing system, without code,
//! formulas, names, digits and tags. The language is, in this order, the row's column `language`,
//! `language` of the configuration, the one of most words of the prompt, or, if the prompt has no
//! words, of the thought itself. A thought without a word mixes no languages.

use repetition::repeated;
use reward_sdk::words::{self, scripts_of};
use reward_sdk::{Completion, Error, Info, Result, Reward, Score, tags};

/// The reward's configuration.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "Raw")]
pub struct Readability {
    rules: Raw,
}

#[derive(Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    min_language_share: f64,
    language: Option<String>,
    max_paragraph_chars: usize,
    allow_code_blocks: bool,
    max_repetition: f64,
    ngram_size: usize,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw {
            min_language_share: 0.9,
            language: None,
            max_paragraph_chars: 2000,
            allow_code_blocks: false,
            max_repetition: 0.5,
            ngram_size: 3,
        }
    }
}

impl TryFrom<Raw> for Readability {
    type Error = String;

    fn try_from(rules: Raw) -> std::result::Result<Self, String> {
        for (name, share) in [
            ("min_language_share", rules.min_language_share),
            ("max_repetition", rules.max_repetition),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("`{name}` is {share}: write 0 to 1"));
            }
        }
        if let Some(unknown) = rules
            .language
            .as_deref()
            .filter(|language| scripts_of(language).is_none())
        {
            return Err(format!(
                "`language` is {unknown:?}: write a code such as \"en\" or \"zh\""
            ));
        }
        if !(1..=repetition::NGRAM_SIZE_MAX).contains(&rules.ngram_size) {
            return Err(format!(
                "`ngram_size` is {}: write 1 to {}",
                rules.ngram_size,
                repetition::NGRAM_SIZE_MAX
            ));
        }
        Ok(Readability { rules })
    }
}

/// The columns of the row that this reward reads.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Row {
    language: Option<String>,
}

impl Reward for Readability {
    const INFO: Info = Info::new("readability", env!("CARGO_PKG_VERSION"));

    fn score(&self, completion: &Completion) -> Result<Score> {
        let split = tags::split_think(&completion.text);
        let thought = split.think.unwrap_or(split.rest);
        let rules = &self.rules;
        if !rules.allow_code_blocks && thought.lines().any(opens_code) {
            return Ok(Score::fail("a code block"));
        }
        let longest = paragraphs(thought).max().unwrap_or(0);
        if rules.max_paragraph_chars > 0 && longest > rules.max_paragraph_chars {
            return Ok(Score::fail(format!("a paragraph of {longest} characters")));
        }
        if let Some(share) = self
            .language_share(completion, thought)?
            .filter(|share| *share < rules.min_language_share)
        {
            return Ok(Score::fail(format!(
                "mixed languages: {:.0} % of the words are of the one",
                share * 100.0
            )));
        }
        let repeated = repeated(thought, rules.ngram_size);
        if repeated > rules.max_repetition {
            return Ok(Score::fail(format!(
                "repeats itself: {:.0} % of the n-grams come again",
                repeated * 100.0
            )));
        }
        Ok(Score::pass(true))
    }
}

impl Readability {
    /// The share of the thought's words that are of its language; `None` if the thought has no
    /// words, or any share is accepted.
    fn language_share(&self, completion: &Completion, thought: &str) -> Result<Option<f64>> {
        if self.rules.min_language_share == 0.0 {
            return Ok(None);
        }
        let row: Row = completion
            .meta
            .as_deref()
            .and_then(|meta| serde_json::from_str(meta).ok())
            .unwrap_or_default();
        let text = words::prose(thought);
        let Some(language) = row.language.as_ref().or(self.rules.language.as_ref()) else {
            let dominant = words::dominant(&words::prose(&completion.prompt))
                .or_else(|| words::dominant(&text));
            return Ok(dominant.and_then(|script| words::share(&text, &[script])));
        };
        let scripts = scripts_of(language).ok_or_else(|| {
            Error::Unscorable(format!("the row's language {language:?} is not known"))
        })?;
        Ok(words::share(&text, scripts))
    }
}

fn opens_code(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("```") || line.starts_with("~~~")
}

/// The number of characters of each run of lines that are not blank, without the white space around
/// it.
fn paragraphs(text: &str) -> impl Iterator<Item = usize> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut lines = lines
            .by_ref()
            .skip_while(|line| line.trim().is_empty())
            .take_while(|line| !line.trim().is_empty());
        let first = lines.next()?.trim().chars().count();
        // The end of a line counts as one space.
        Some(lines.fold(first, |length, line| {
            length + 1 + line.trim().chars().count()
        }))
    })
}

reward_sdk::export!(Readability);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_cases() {
        reward_sdk::golden::check::<super::Readability>(include_str!("../golden.jsonl"));
    }

    #[test]
    fn paragraphs_end_at_blank_lines() {
        let lengths = |text: &str| paragraphs(text).collect::<Vec<_>>();
        assert_eq!(lengths("one\ntwo\n\n \nthree\n"), [7, 5]);
        assert_eq!(lengths(" \n\n  早上 \r\n\r\nb"), [2, 1]);
        assert!(lengths("\n \n").is_empty() && lengths("").is_empty());
    }

    #[test]
    fn values_out_of_range_are_named() {
        let error = |json: &str| {
            reward_sdk::configure::<super::Readability>(json)
                .err()
                .unwrap()
        };
        assert!(error(r#"{"max_paragraph": 2}"#).contains("max_paragraph"));
        assert!(error(r#"{"min_language_share": 1.5}"#).contains("min_language_share"));
        assert!(error(r#"{"max_repetition": -0.5}"#).contains("max_repetition"));
        assert!(error(r#"{"language": "english"}"#).contains("\"english\""));
        assert!(error(r#"{"ngram_size": 0}"#).contains("ngram_size"));
    }
}
