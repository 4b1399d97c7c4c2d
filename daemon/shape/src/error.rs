//! What can be wrong with a config.json. Each message names the field to correct.

use std::path::PathBuf;

/// A config.json that cannot be read or run.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A field of config.json is missing, has the wrong type, or contradicts another.
    #[error("config.json: {0}")]
    Config(String),
    /// A well-formed config.json asks for something that this release does not compute.
    #[error("config.json: `{field}` is {found}, which is not supported: {supported}")]
    Unsupported {
        /// The field's name.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// What is supported, as the rest of a sentence about the field.
        supported: String,
    },
    /// A problem with the config.json of a directory.
    #[error("{}/{problem}", dir.display())]
    InDirectory {
        /// The directory, as the user gave it.
        dir: PathBuf,
        /// The problem; its message begins with `config.json`.
        problem: Box<ShapeError>,
    },
}

pub(crate) type Result<T, E = ShapeError> = std::result::Result<T, E>;

/// An error for a field that asks for something that this release does not compute.
pub(crate) fn unsupported(
    field: &str,
    found: impl std::fmt::Display,
    supported: impl Into<String>,
) -> ShapeError {
    ShapeError::Unsupported {
        field: field.into(),
        found: found.to_string(),
        supported: supported.into(),
    }
}

/// An error for fields of config.json that contradict each other or this model.
pub fn contradiction(message: impl Into<String>) -> ShapeError {
    ShapeError::Config(message.into())
}
