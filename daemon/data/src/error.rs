//! What can be wrong with data, tokenizers, templates and files. Every text names the culprit and says what to do.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}{}", path.display(), storage_hint(source))]
    Write { path: PathBuf, source: std::io::Error },
    #[error("data.{name}: {problem}")]
    Source { name: String, problem: String },
    /// `line` counts from 1; for Parquet it is the row.
    #[error("{}:{line}: {problem}", path.display())]
    Row { path: PathBuf, line: u64, problem: String },
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
    #[error("tokenizer {} has ids up to {id_max}, the model's embedding has {vocab_size} rows: {fix}", path.display())]
    Vocabulary { path: PathBuf, id_max: u32, vocab_size: u32, fix: String },
}

fn storage_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull => ": the disk is full, free some space or move the state directory",
        std::io::ErrorKind::QuotaExceeded => ": the quota is used up, free some space or move the state directory",
        std::io::ErrorKind::PermissionDenied => ": the daemon's user may not write there",
        _ => "",
    }
}

impl DataError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> DataError {
        DataError::Read { path: path.into(), source }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> DataError {
        DataError::Write { path: path.into(), source }
    }

    pub(crate) fn template(name: impl Into<String>, problem: impl ToString) -> DataError {
        DataError::Template { name: name.into(), problem: problem.to_string() }
    }

    /// A file system that cannot take more, as against one that is broken or a file that is wrong.
    pub fn is_storage_full(&self) -> bool {
        matches!(self, DataError::Write { source, .. }
            if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
    }
}
