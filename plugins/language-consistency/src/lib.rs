//! `language-consistency`: the share of the chain of thought's words that are in the wanted
//! language (DeepSeek-R1, equation 7).
//!
//! Words are distinguished by their writing system: a run of letters is a word, and so is each
//! Chinese character. Code, formulas, digits and tags are left out, and so are names of variables,
//! points, functions and units; the text of `\text{…}` in a formula counts. The wanted language is,
//! in this order, the row's column `language`, `language` of the configuration (both ISO 639-1:
//! "en", "zh", …), or the one whose writing system most words of the prompt have.
//!
//! The chain of thought is the text before `</think>`, or the whole text if that is missing.
//! Without a word the score is 0.

use reward_sdk::words::{self, scripts_of};
use reward_sdk::{Completion, Error, Info, Result, Reward, Score, tags};

/// The reward's configuration.
#[derive(serde::Deserialize)]
#[serde(try_from = "Raw")]
pub struct LanguageConsistency {
    language: Option<String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    language: Option<String>,
}

impl TryFrom<Raw> for LanguageConsistency {
    type Error = String;

    fn try_from(Raw { language }: Raw) -> std::result::Result<Self, String> {
        match language
            .as_deref()
            .filter(|language| scripts_of(language).is_none())
        {
            Some(unknown) => Err(format!(
                "`language` is {unknown:?}: write a code such as \"en\" or \"zh\""
            )),
            None => Ok(LanguageConsistency { language }),
        }
    }
}

/// The columns of the row that this reward reads.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Row {
    language: Option<String>,
}

impl Reward for LanguageConsistency {
    const INFO: Info = Info::new("language-consistency", env!("CARGO_PKG_VERSION"));

    fn score(&self, completion: &Completion) -> Result<Score> {
        let row: Row = completion
            .meta
            .as_deref()
            .and_then(|meta| serde_json::from_str(meta).ok())
            .unwrap_or_default();
        let given = row.language.as_ref().or(self.language.as_ref());
        let dominant;
        let wanted = match given {
            Some(language) => scripts_of(language).ok_or_else(|| {
                Error::Unscorable(format!("the row's language {language:?} is not known"))
            })?,
            None => match words::dominant(&words::prose(&completion.prompt)) {
                Some(script) => {
                    dominant = [script];
                    &dominant[..]
                }
                None => {
                    return Err(Error::Unscorable(
                        "neither row nor configuration names a language, and the prompt has no \
                         word"
                            .into(),
                    ));
                }
            },
        };
        let thought = tags::split_think(&completion.text);
        let text = words::prose(thought.think.unwrap_or(thought.rest));
        Ok(match words::share(&text, wanted) {
            Some(share) => Score::from(share as f32),
            None => Score::fail("no word in the chain of thought"),
        })
    }
}

reward_sdk::export!(LanguageConsistency);

#[cfg(test)]
mod tests {
    #[test]
    fn golden_cases() {
        reward_sdk::golden::check::<super::LanguageConsistency>(include_str!("../golden.jsonl"));
    }

    #[test]
    fn a_misspelt_key_or_language_is_named() {
        let error = |json: &str| {
            reward_sdk::configure::<super::LanguageConsistency>(json)
                .err()
                .unwrap()
        };
        assert!(error(r#"{"lang": "en"}"#).contains("lang"));
        assert!(error(r#"{"language": "english"}"#).contains("\"english\""));
    }
}
