//! `format`: 1 if the completion has the form that the template asks for, else 0.
//!
//! | `style` | the whole text must be |
//! |---|---|
//! | `r1-zero` (default) | `<think>…</think>` then `<answer>…</answer>`, each tag exactly once |
//! | `chat` | `<think>…</think>` exactly once, then a summary that is not empty (DeepSeek-R1's chat form) |
//!
//! Outside the tags (and the summary) only white space is allowed.
//!
//! Many templates end the prompt with `<think>`, so that the model writes only the text behind it.
//! `prefix` is put before the completion for the check. By default it is `<think>` if the prompt
//! ends with that, and empty otherwise.

use reward_sdk::{Completion, Info, Result, Reward, Score, tags};

/// The reward's configuration.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Format {
    style: Style,
    prefix: Option<String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Style {
    #[default]
    R1Zero,
    Chat,
}

impl Reward for Format {
    const INFO: Info = Info::new("format", env!("CARGO_PKG_VERSION"));

    fn score(&self, completion: &Completion) -> Result<Score> {
        let implied = if completion.prompt.trim_end().ends_with("<think>") {
            "<think>"
        } else {
            ""
        };
        let text = format!(
            "{}{}",
            self.prefix.as_deref().unwrap_or(implied),
            completion.text
        );
        let kept = match self.style {
            Style::R1Zero => tags::is_exactly(&text, &["think", "answer"]),
            Style::Chat => chat(&text),
        };
        Ok(match kept {
            Ok(()) => Score::pass(true),
            Err(reason) => Score::fail(reason),
        })
    }
}

fn chat(text: &str) -> std::result::Result<(), String> {
    let end = text.find("</think>").ok_or("no </think>")? + "</think>".len();
    let (thought, summary) = text.split_at(end);
    tags::is_exactly(thought, &["think"])?;
    if summary.contains("<think>") || summary.contains("</think>") {
        return Err("<think> or </think> more than once".into());
    }
    if summary.trim().is_empty() {
        Err("no summary after </think>".into())
    } else {
        Ok(())
    }
}

reward_sdk::export!(Format);

#[cfg(test)]
mod tests {
    #[test]
    fn golden_cases() {
        reward_sdk::golden::check::<super::Format>(include_str!("../golden.jsonl"));
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let error = reward_sdk::configure::<super::Format>(r#"{"stile": "chat"}"#)
            .err()
            .unwrap();
        assert!(error.contains("stile"), "{error}");
    }
}
