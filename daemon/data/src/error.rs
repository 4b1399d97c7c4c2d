//! What can be wrong with data, tokenizers, templates and files. Every text names the culprit and
//! says what to do.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("data.{name}: {problem}")]
    Source { name: String, problem: String },
    /// `line` counts from 1; for Parquet it is the row.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        path: PathBuf,
        line: u64,
        problem: String,
    },
    /// A column of a Parquet file whose type does not fit, whatever the row.
    #[error("{}: {problem}", path.display())]
    Column { path: PathBuf, problem: String },
    #[error("{}: it is {what}", path.display())]
    Instead { path: PathBuf, what: &'static str },
    #[error("{}: not a Parquet file that can be read: {problem}", path.display())]
    Parquet { path: PathBuf, problem: String },
    #[error("tokenizer {}: {problem}", path.display())]
    Tokenizer { path: PathBuf, problem: String },
    #[error("template {name}: {problem}")]
    Template { name: String, problem: String },
    #[error("tokenizer {} has ids up to {id_max}, the model's embedding has {vocab_size} rows: \
             {fix}", path.display())]
    Vocabulary {
        path: PathBuf,
        id_max: u32,
        vocab_size: u32,
        fix: String,
    },
}

impl DataError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> DataError {
        DataError::Read {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> DataError {
        DataError::Write {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn template(name: impl Into<String>, problem: impl ToString) -> DataError {
        DataError::Template {
            name: name.into(),
            problem: problem.to_string(),
        }
    }
}
