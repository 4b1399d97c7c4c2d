//! Prompts of a data set, rendered and tokenised once.

use crate::dataset::DataSet;
use crate::error::DataError;
use crate::template::Template;
use crate::tokenizer::Tokenizer;

#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Row of the data set.
    pub row: u64,
    /// As the model reads it.
    pub text: String,
    pub ids: Vec<u32>,
}

/// One prompt per row, in the data set's order.
pub struct Prompts {
    prompts: Vec<Prompt>,
    adds_special: bool,
}

impl Prompts {
    pub fn build(data: &DataSet, template: &Template, tokenizer: &Tokenizer) -> Result<Prompts, DataError> {
        let prompt = |(index, row)| {
            let (text, ids) = template.prompt_ids(row, tokenizer).map_err(|e| e.in_row(data.name(), index))?;
            Ok(Prompt { row: index as u64, text, ids })
        };
        let adds_special = template.adds_special();
        Ok(Prompts { adds_special, prompts: data.rows().iter().enumerate().map(prompt).collect::<Result<_, DataError>>()? })
    }

    /// The prompt of a row, `row` taken modulo the number of rows.
    pub fn of_row(&self, row: u64) -> &Prompt {
        &self.prompts[(row % self.prompts.len() as u64) as usize]
    }

    /// Whether the texts lack the tokenizer's special ids, which the ids have.
    pub fn adds_special(&self) -> bool {
        self.adds_special
    }

    pub fn all(&self) -> &[Prompt] {
        &self.prompts
    }

    /// Tokens of the longest prompt.
    pub fn length_max(&self) -> u32 {
        self.prompts.iter().map(|p| p.ids.len() as u32).max().unwrap_or(0)
    }
}
