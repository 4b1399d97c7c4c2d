//! Errors of stored files. Every message names the file and says what is wrong with it.

use std::io;
use std::path::{Path, PathBuf};

/// A file of r1d's own that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The Parquet file is damaged or cannot be decoded.
    #[error("{}: not a Parquet file that can be read: {problem}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        problem: String,
    },
}

impl StoreError {
    pub(crate) fn read(path: &Path, source: io::Error) -> StoreError {
        StoreError::Read {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> StoreError {
        StoreError::Write {
            path: path.into(),
            source,
        }
    }
}
