//! What can be wrong with data, tokenizers, templates and files. Every message names the cause and
//! says what to do.

use std::path::{Path, PathBuf};

/// An error of a job's files or columns that the user can correct.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A key of the job file names a file that does not exist.
    #[error("`{key}`: there is no {}; {hint}", path.display())]
    Absent {
        /// The key, with its table: `data.train.path`.
        key: String,
        /// The file.
        path: PathBuf,
        /// What may have been meant, or what to write.
        hint: String,
    },
    /// A data set cannot be used as the job file describes it, or one of its rows cannot.
    #[error("data.{name}: {problem}")]
    Source {
        /// The data set's name in the job file.
        name: String,
        /// The problem, with the row's place if it is about a row.
        problem: String,
    },
    /// A row cannot be read.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The file that has the row.
        path: PathBuf,
        /// The line of the row from 1; for Parquet the number of the row.
        line: u64,
        /// The problem.
        problem: String,
    },
    /// A column of a Parquet file has a type that cannot be used, whatever the row.
    #[error("{}: {problem}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The problem, with the column's name and type.
        problem: String,
    },
    /// A file is of another kind than it should be, as its first bytes show.
    #[error("{}: it is {what}", path.display())]
    Instead {
        /// The file.
        path: PathBuf,
        /// The kind of file that it is, and what to do.
        what: &'static str,
    },
    /// A Parquet file is damaged or cannot be decoded.
    #[error("{}: not a Parquet file that can be read: {problem}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        problem: String,
    },
    /// A tokenizer, or a file beside it, cannot be used.
    #[error("tokenizer {}: {problem}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// A template does not compile, or fails for a row.
    #[error("template {name}: {problem}")]
    Template {
        /// The template's name or file.
        name: String,
        /// The problem, with the line of the template if it is known.
        problem: String,
    },
    /// The tokenizer has ids that the model's embedding has no rows for.
    #[error("tokenizer {} has ids up to {id_max}, the model's embedding has {vocab_size} rows: \
             {fix}", path.display())]
    Vocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// The tokenizer's largest id.
        id_max: u32,
        /// Rows of the embedding.
        vocab_size: u32,
        /// What to do.
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

    pub(crate) fn template(name: impl Into<String>, problem: impl ToString) -> DataError {
        DataError::Template {
            name: name.into(),
            problem: problem.to_string(),
        }
    }
}
