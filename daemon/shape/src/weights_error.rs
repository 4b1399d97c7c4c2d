//! What can be wrong with files of weights.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A tensor is missing that config.json asks for, or the scales of one that is there.
    #[error("{}: no tensor named {name:?}, {wanted_by}", dir.display())]
    Missing {
        dir: PathBuf,
        name: String,
        wanted_by: String,
    },
    #[error("{}: {problem}", path.display())]
    Wrong { path: PathBuf, problem: String },
}

pub(crate) type Result<T> = std::result::Result<T, WeightsError>;

pub(crate) fn wrong<T>(path: &Path, problem: impl Into<String>) -> Result<T> {
    Err(WeightsError::Wrong {
        path: path.into(),
        problem: problem.into(),
    })
}
