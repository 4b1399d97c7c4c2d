//! A question to a model that writes its answer: one user message of its chat template, or the text
//! as it is where it has none.
//!
//! What is asked quotes what a policy wrote, and that may hold the very tokens by which a chat
//! template ends a message and begins the answer. They are made ordinary text first: `<|im_end|>`
//! becomes `< |im_end|>`. Whoever reads it still sees what stood there, and no quotation speaks for
//! the user or for the model.

use crate::dataset::Row;
use crate::error::DataError;
use crate::template::{Telling, Template};
use crate::tokenizer::Tokenizer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rounds of breaking all tokens up, each of which may make another one appear; no tokenizer was
/// seen to need a second.
const ROUNDS_MAX: usize = 8;
/// What a template is tried with: no tokenizer has a token of its own for it.
const TRIED: &str = "?";

pub struct Questions {
    tokenizer: Arc<Tokenizer>,
    template: Option<Template>,
    /// Tokens that steer the model: special ones, and those that its chat template writes. The
    /// longest first.
    control: Vec<String>,
    control_ids: BTreeSet<u32>,
    /// Those of an empty question, in their order.
    frame: Vec<u32>,
}

impl Questions {
    /// Errors name the template.
    pub fn open(tokenizer: Arc<Tokenizer>, telling: &Telling<'_>) -> Result<Questions, DataError> {
        let template = Template::chat_of(&tokenizer, telling)?;
        let mut questions = Questions {
            tokenizer,
            template,
            control: Vec::new(),
            control_ids: BTreeSet::new(),
            frame: Vec::new(),
        };
        let (text, _) = questions.rendered(TRIED)?;
        let added = questions.tokenizer.added_tokens();
        let steers = added.into_iter().filter(|(token, _, special)| {
            !token.trim().is_empty() && (*special || text.contains(token))
        });
        for (token, id, _) in steers {
            questions.control.push(token);
            questions.control_ids.insert(id);
        }
        questions
            .control
            .sort_by_key(|token| (std::cmp::Reverse(token.len()), token.clone()));
        questions.frame = questions.steering(&questions.encoded(TRIED)?);
        Ok(questions)
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The ids that the answer continues. An error is this question's: the template does not take
    /// it, or it cannot be told from the template's own words.
    pub fn ids(&self, question: &str) -> Result<Vec<u32>, DataError> {
        let ids = self.encoded(&self.as_text(question))?;
        if self.steering(&ids) != self.frame {
            let template = if self.template.is_some() {
                "chat"
            } else {
                "plain"
            };
            return Err(DataError::template(
                template,
                "the question holds tokens that steer the model, and cannot be asked",
            ));
        }
        Ok(ids)
    }

    /// The text of an answer: no special ids.
    pub fn answer(&self, ids: &[u32]) -> Result<String, DataError> {
        self.tokenizer.decode(ids, true)
    }

    /// The question, with every control token broken up behind its first character.
    fn as_text(&self, question: &str) -> String {
        let mut text = question.to_owned();
        for _ in 0..ROUNDS_MAX {
            let mut broken = false;
            for token in self
                .control
                .iter()
                .filter(|token| token.chars().nth(1).is_some())
            {
                if text.contains(token.as_str()) {
                    let first = token.chars().next().map_or(0, char::len_utf8);
                    let (head, tail) = token.split_at(first);
                    text = text.replace(token.as_str(), &format!("{head} {tail}"));
                    broken = true;
                }
            }
            if !broken {
                break;
            }
        }
        text
    }

    fn rendered(&self, question: &str) -> Result<(String, bool), DataError> {
        match &self.template {
            None => Ok((question.into(), true)),
            Some(template) => {
                let row = Row {
                    prompt: Some(question.into()),
                    ..Row::default()
                };
                Ok((template.render(&row)?, template.adds_special()))
            }
        }
    }

    fn encoded(&self, question: &str) -> Result<Vec<u32>, DataError> {
        let (text, adds_special) = self.rendered(question)?;
        self.tokenizer.encode_open(&text, adds_special)
    }

    fn steering(&self, ids: &[u32]) -> Vec<u32> {
        ids.iter()
            .copied()
            .filter(|id| self.control_ids.contains(id))
            .collect()
    }
}
