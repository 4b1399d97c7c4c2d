//! Questions to a model that writes its answer: one user message of its chat template, or the plain
//! text if it has no chat template.
//!
//! A question quotes a policy's text, which may contain the tokens by which a chat template ends a
//! message and begins the answer. They are made ordinary text first: `<|im_end|>` becomes `<
//! |im_end|>`. The judge model can still read the quotation, but no quotation can pose as the user
//! or the model.

use crate::error::DataError;
use crate::row::Row;
use crate::template::{Telling, Template};
use crate::tokenizer::Tokenizer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most rounds of breaking up all tokens. Each round may create another token; no tokenizer was
/// seen to need a second round.
const ROUNDS_MAX: usize = 8;
/// The text that the template is tried with: no tokenizer has a control token for it.
const TRIED: &str = "?";

/// Turns questions into ids and ids into answers, for one judge model.
pub struct Questions {
    tokenizer: Arc<Tokenizer>,
    template: Option<Template>,
    /// Tokens that control the model: special ones, and those that its chat template writes. The
    /// longest come first.
    control: Vec<String>,
    control_ids: BTreeSet<u32>,
    /// The control ids of an empty question, in their order.
    frame: Vec<u32>,
}

impl Questions {
    /// Prepares questions for a model by its tokenizer and chat template. Errors name the template.
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

    /// The judge model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The ids that the answer continues. An error is about this question: the template refuses it,
    /// or it cannot be told apart from the template's own words.
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

    /// The text of an answer, without special ids.
    pub fn answer(&self, ids: &[u32]) -> Result<String, DataError> {
        self.tokenizer.decode(ids, true)
    }

    /// Breaks up every control token of the question behind its first character.
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
