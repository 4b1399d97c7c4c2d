//! `correctness`: whether a completion's answer is right, according to a model that reads question,
//! reference and answer and writes its verdict. This is the generative judge by which DeepSeek-R1's
//! rejection sampling keeps answers that rules cannot judge (2.3.3 and its Listing 4; the prompt is
//! in words of our own).
//!
//! The judge has to reply with one JSON object, `{"analysis": "…", "correctness": "correct"}` or
//! `"incorrect"`: the score is 1 or 0, with the beginning of the analysis as the reason.
//! [`verdict`] describes how a reply is read. If a reply has no unambiguous verdict, or the judge
//! could not be asked, the answer has no score: the sample is left out of training, and rejection
//! sampling does not keep it.
//!
//! The question is the row's own prompt if the daemon gives it (`prompt` of the completion's
//! `meta`, a text that is not blank). Otherwise it is the prompt as the policy read it, with the
//! words of its template but without a `<think>` at the end.
//!
//! A row without a reference is left out too, unless `needs_reference` is false. A completion
//! without an answer is wrong, with the reason `no answer`, and the judge is not asked.
//!
//! A policy's text is untrusted. The prompt fences it, and no quoted text forms a fence, whatever
//! it adjoins ([`prompt`]); the daemon breaks up tokens by which a chat template would end a
//! message; the verdict is searched for in the judge's reply only. A quotation in the analysis of a
//! judge that replies `incorrect` never turns the verdict into `correct`, but it may leave no
//! verdict.
//!
//! | key | default | |
//! |---|---|---|
//! | `text` | `"answer"` | the final answer: of the last `<answer>…</answer>` or `\boxed{…}`, else what stands behind the thought; `"completion"`: all of it |
//! | `needs_reference` | `true` | false: a row without one is judged by its question alone |
//! | `prompt` | [`prompt::DEFAULT`] | with `{question}`, `{reference}`, `{answer}`, and `{fence}` around them |
//! | `max_tokens` | `512` | of the judge's reply, 1 to 65536; the job's `max_answer_length` holds too: the smaller counts |
//! | `model` | `"correctness"` | what `r1ctl plugin score --asks` calls the judge; in a job `model` of its `[[stage.reward]]` says whom it asks |

pub mod prompt;
pub mod verdict;

use prompt::{Prompt, Shown};
use reward_sdk::{Ask, Completion, Error, Info, JudgedReward, Result, Score, answers, tags};
use std::borrow::Cow;

const MAX_TOKENS: u32 = 1 << 16;

/// The reward's configuration.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Correctness {
    text: Text,
    needs_reference: bool,
    prompt: Prompt,
    #[serde(deserialize_with = "tokens")]
    max_tokens: u32,
    model: String,
}

/// The part of a completion that is judged.
#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Text {
    Answer,
    Completion,
}

fn tokens<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<u32, D::Error> {
    let tokens = <u32 as serde::Deserialize>::deserialize(deserializer)?;
    match tokens {
        1..=MAX_TOKENS => Ok(tokens),
        _ => Err(serde::de::Error::custom(format!(
            "`max_tokens` is {tokens}: write 1 to {MAX_TOKENS}"
        ))),
    }
}

impl Default for Correctness {
    fn default() -> Self {
        Correctness {
            text: Text::Answer,
            needs_reference: true,
            prompt: Prompt::default(),
            max_tokens: 512,
            model: "correctness".into(),
        }
    }
}

impl Correctness {
    /// The part of the completion that the judge reads; `None` if it is empty.
    fn shown<'a>(&self, completion: &'a Completion) -> Option<Cow<'a, str>> {
        let text = completion.text.as_str();
        let shown = match self.text {
            Text::Completion => text.trim().into(),
            Text::Answer => answers::of_completion(text)
                .or_else(|| behind_the_thought(completion).map(|text| text.trim().into()))?,
        };
        Some(shown).filter(|shown| !shown.is_empty())
    }

    fn reference<'a>(&self, completion: &'a Completion) -> Result<Option<&'a str>> {
        let reference = completion
            .reference
            .as_deref()
            .map(str::trim)
            .filter(|reference| !reference.is_empty());
        match reference {
            None if self.needs_reference => Err(Error::Unscorable("no reference".into())),
            reference => Ok(reference),
        }
    }
}

/// The row's own prompt, or the prompt as the policy read it if the daemon gives none.
fn question(completion: &Completion) -> Cow<'_, str> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Row {
        prompt: serde_json::Value,
    }
    let row: Row = completion
        .meta
        .as_deref()
        .and_then(|meta| serde_json::from_str(meta).ok())
        .unwrap_or_default();
    match row
        .prompt
        .as_str()
        .map(str::trim)
        .filter(|prompt| !prompt.is_empty())
    {
        Some(prompt) => Cow::Owned(prompt.into()),
        None => Cow::Borrowed(without_think(&completion.prompt).trim()),
    }
}

/// The text behind the thought. A completion without any thought is all answer; one whose thought
/// was never closed has no answer.
fn behind_the_thought(completion: &Completion) -> Option<&str> {
    let thought = tags::split_think(&completion.text);
    let thinks = completion.text.contains("<think>")
        || without_think(&completion.prompt) != completion.prompt;
    if thought.think.is_none() && thinks {
        None
    } else {
        Some(thought.rest)
    }
}

/// Removes the tag that opens the thought, with which many templates end the prompt.
fn without_think(prompt: &str) -> &str {
    prompt.trim_end().strip_suffix("<think>").unwrap_or(prompt)
}

impl JudgedReward for Correctness {
    const INFO: Info = Info::new("correctness", env!("CARGO_PKG_VERSION"));

    fn plan(&self, completion: &Completion) -> Vec<Ask> {
        let (Ok(reference), Some(answer)) = (self.reference(completion), self.shown(completion))
        else {
            return Vec::new();
        };
        let question = question(completion);
        let prompt = self.prompt.with(&Shown {
            question: &question,
            reference: reference.unwrap_or("(none is known)"),
            answer: &answer,
        });
        vec![Ask {
            model: self.model.clone(),
            prompt,
            max_tokens: self.max_tokens,
        }]
    }

    fn conclude(
        &self,
        completion: &Completion,
        answers: &[std::result::Result<String, String>],
    ) -> Result<Score> {
        self.reference(completion)?;
        if self.shown(completion).is_none() {
            return Ok(Score::fail("no answer"));
        }
        let reply = match answers {
            [Ok(reply)] => reply,
            [Err(why)] => return Err(Error::Unscorable(format!("the judge was not asked: {why}"))),
            _ => {
                return Err(Error::Internal(format!(
                    "{} answers to one question",
                    answers.len()
                )));
            }
        };
        let verdict =
            verdict::read(reply).map_err(|why| Error::Unscorable(format!("no verdict: {why}")))?;
        let reason = verdict
            .analysis
            .filter(|analysis| !analysis.trim().is_empty())
            .map(|analysis| answers::excerpt(&analysis));
        Ok(Score {
            reason,
            ..Score::pass(verdict.correct)
        })
    }
}

reward_sdk::export!(judged Correctness);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_cases() {
        reward_sdk::golden::check_judged::<Correctness>(include_str!("../golden.jsonl"));
    }

    fn completion(text: &str) -> Completion {
        Completion {
            prompt: "What is 6 * 7?<think>\n".into(),
            text: text.into(),
            reference: Some("42".into()),
            ..Completion::default()
        }
    }

    fn asked(config: &str, completion: &Completion) -> Vec<Ask> {
        reward_sdk::configure::<Correctness>(config)
            .unwrap()
            .plan(completion)
    }

    #[test]
    fn the_judge_reads_question_reference_and_answer() {
        let asks = asked(
            r#"{"model": "judge", "max_tokens": 9}"#,
            &completion("secret</think>It is \\boxed{42}."),
        );
        let [ask] = &asks[..] else { panic!("{asks:?}") };
        assert_eq!((ask.model.as_str(), ask.max_tokens), ("judge", 9));
        for part in [
            "\nWhat is 6 * 7?\n",
            "Reference answer:\n=====#1=====\n42\n=====#1=====",
            "\n=====#1=====\n42\n=====#1=====\n\nThe answer is",
        ] {
            assert!(ask.prompt.contains(part), "{part}: {}", ask.prompt);
        }
        assert!(
            !ask.prompt.contains("secret") && !ask.prompt.contains("<think>"),
            "{}",
            ask.prompt
        );
        let whole = asked(r#"{"text": "completion"}"#, &completion("secret</think>42"));
        assert!(whole[0].prompt.contains("\nsecret</think>42\n"));
        let summary = asked("{}", &completion("secret</think>\nForty-two.\n"));
        assert!(
            summary[0].prompt.contains("\nForty-two.\n") && !summary[0].prompt.contains("secret")
        );
    }

    #[test]
    fn the_question_is_the_rows_own_prompt() {
        let asked = |meta: Option<&str>| {
            let prompt = "User: What is 6 * 7? Assistant: <think>\n".into();
            let completion = Completion {
                prompt,
                meta: meta.map(Into::into),
                ..completion("so</think>42")
            };
            asked(
                r#"{"prompt": "{fence}{question}{fence}{answer}{fence}"}"#,
                &completion,
            )
            .remove(0)
            .prompt
        };
        assert_eq!(
            asked(Some(r#"{"prompt": " What is 6 * 7?\n", "level": 1}"#)),
            "=====#1=====What is 6 * 7?=====#1=====42=====#1====="
        );
        for meta in [
            None,
            Some("{}"),
            Some(r#"{"prompt": " "}"#),
            Some(r#"{"prompt": ["What?"]}"#),
            Some("[1]"),
            Some("no JSON"),
        ] {
            assert_eq!(
                asked(meta),
                "=====#1=====User: What is 6 * 7? Assistant:=====#1=====42=====#1=====",
                "{meta:?}"
            );
        }
    }

    #[test]
    fn what_is_misspelt_is_named() {
        let error = |json: &str| reward_sdk::configure::<Correctness>(json).err().unwrap();
        assert!(error(r#"{"max_token": 1}"#).contains("max_token"));
        assert!(error(r#"{"max_tokens": 0}"#).contains("`max_tokens` is 0"));
        assert!(error(r#"{"text": "thought"}"#).contains("thought"));
        assert!(error(r#"{"prompt": "{answr} {answer} {fence}"}"#).contains("{answr}"));
        assert!(error(r#"{"prompt": "{question} {fence}"}"#).contains("{answer}"));
        assert!(error(r#"{"prompt": "{answer}"}"#).contains("{fence}"));
    }
}
