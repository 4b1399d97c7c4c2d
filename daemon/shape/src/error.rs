//! What can be wrong with a config.json, told so that the reader knows which field to mend.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A field of config.json is missing, has the wrong type, or contradicts another.
    #[error("config.json: {0}")]
    Config(String),
    /// A well-formed config.json asks for something that this release does not compute.
    #[error("config.json: `{field}` is {found}, which is not supported: {supported}")]
    Unsupported {
        field: String,
        found: String,
        supported: String,
    },
    /// The config.json of a directory.
    #[error("{}/{problem}", dir.display())]
    InDirectory {
        dir: PathBuf,
        problem: Box<ShapeError>,
    },
}

pub(crate) type Result<T, E = ShapeError> = std::result::Result<T, E>;
