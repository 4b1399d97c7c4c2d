//! What can be wrong with files of weights.

use std::io;
use std::path::{Path, PathBuf};

/// Files of weights that cannot be read, or that do not have the model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A tensor that config.json asks for is missing, or the scales of an FP8 tensor are.
    #[error("{}: no tensor named {name:?}, {wanted_by}", dir.display())]
    Missing {
        /// The directory that was searched.
        dir: PathBuf,
        /// The tensor's name.
        name: String,
        /// What needs it, as the rest of a sentence.
        wanted_by: String,
    },
    /// A file is damaged, or a tensor has another shape or dtype than the model. The message says
    /// what to do.
    #[error("{}: {problem}", path.display())]
    Wrong {
        /// The file or directory.
        path: PathBuf,
        /// The problem, as the rest of a sentence about the path.
        problem: String,
    },
}

pub(crate) type Result<T> = std::result::Result<T, WeightsError>;

pub(crate) fn wrong<T>(path: &Path, problem: impl Into<String>) -> Result<T> {
    Err(WeightsError::Wrong {
        path: path.into(),
        problem: problem.into(),
    })
}
