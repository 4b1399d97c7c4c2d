//! A row's prompt as the model reads it.

use crate::dataset::Row;
use crate::error::DataError;
use crate::tokenizer::Tokenizer;
use r1d_job::TemplateSource;

pub struct Template {
    environment: minijinja::Environment<'static>,
    adds_special: bool,
}

impl Template {
    /// `tokenizer`'s directory is where `chat` finds the chat template.
    pub fn open(source: &TemplateSource, tokenizer: &Tokenizer) -> Result<Template, DataError> {
        let _ = (source, tokenizer);
        todo!()
    }

    /// The prompt's text. An error names what the template lacks.
    pub fn render(&self, row: &Row) -> Result<String, DataError> {
        let _ = (row, &self.environment);
        todo!()
    }

    /// Whether the rendered text still lacks the tokenizer's special ids (a chat template writes its own).
    pub fn adds_special(&self) -> bool {
        self.adds_special
    }

    /// Renders and tokenises: the ids that a completion continues.
    pub fn prompt_ids(&self, row: &Row, tokenizer: &Tokenizer) -> Result<(String, Vec<u32>), DataError> {
        let text = self.render(row)?;
        let ids = tokenizer.encode(&text, self.adds_special)?;
        Ok((text, ids))
    }
}
