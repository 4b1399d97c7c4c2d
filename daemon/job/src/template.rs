//! How a row's prompt becomes the text that the model reads.

use crate::error::JobError;
use crate::file::setting::{path_text, read_by_serde};
use crate::file::{Fields, Kind, Setting};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Value;

/// How a row's prompt becomes the text that the model reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TemplateSource {
    /// The template of DeepSeek-R1's Table 1, verbatim.
    R1Zero,
    /// The chat template beside the model's tokenizer.
    Chat,
    /// No template: the prompt's text as it is.
    Plain,
    /// A jinja file; it sees `prompt`, `reference`, `domain` and the row's other columns as `meta`.
    /// A file that reads `messages` is a chat template.
    File(PathBuf),
}

impl TemplateSource {
    /// Path of its file; `None` for those that need none.
    pub fn file(&self) -> Option<&Path> {
        match self {
            TemplateSource::File(file) => Some(file),
            TemplateSource::R1Zero | TemplateSource::Chat | TemplateSource::Plain => None,
        }
    }
}

impl Setting for TemplateSource {
    fn kind() -> Kind {
        Kind::Text
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
        let text: String = read_by_serde(value, from, key)?;
        Ok(match text.as_str() {
            "r1-zero" => TemplateSource::R1Zero,
            "chat" => TemplateSource::Chat,
            "plain" => TemplateSource::Plain,
            path => TemplateSource::File(from.absolute(path)),
        })
    }

    fn to_value(&self) -> Option<Value> {
        Some(match self {
            TemplateSource::R1Zero => "r1-zero".into(),
            TemplateSource::Chat => "chat".into(),
            TemplateSource::Plain => "plain".into(),
            TemplateSource::File(file) => path_text(file).into(),
        })
    }
}
