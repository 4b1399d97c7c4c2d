//! The model that a judged plugin asks.

use crate::error::JobError;
use crate::file::setting::{path_text, read_by_serde};
use crate::file::{Fields, Kind, Setting};
use std::path::PathBuf;
use toml::Value;

/// The model that a judged plugin asks, as the job file names it. Its own kind decides whether it
/// answers with numbers or text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// The name of an earlier stage or of a `[models.NAME]`.
    Named(String),
    /// A Hugging Face directory: a `…ForSequenceClassification`, or a causal language model.
    Directory(PathBuf),
}

/// The model that a judged plugin asks, once it is found; see [`crate::Job::asked`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskedModel {
    /// Index of a stage: its reward model, or the last weights of its policy.
    Stage(usize),
    /// Index into [`crate::Job::models`].
    Model(usize),
    /// A Hugging Face directory.
    Directory(PathBuf),
}

/// Writes the name or path as a job file has it.
impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelRef::Named(name) => f.write_str(name),
            ModelRef::Directory(path) => path.display().fmt(f),
        }
    }
}

/// A path has a slash, anything else is a name.
impl Setting for ModelRef {
    fn kind() -> Kind {
        Kind::Text
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<ModelRef, JobError> {
        let text: String = read_by_serde(value, from, key)?;
        Ok(if text.contains('/') {
            ModelRef::Directory(from.absolute(&text))
        } else {
            ModelRef::Named(text)
        })
    }

    fn to_value(&self) -> Option<Value> {
        Some(match self {
            ModelRef::Named(name) => name.as_str().into(),
            ModelRef::Directory(directory) => path_text(directory).into(),
        })
    }
}
