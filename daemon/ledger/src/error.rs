//! Why the ledger was not opened, or did not carry out a command.

use crate::command::Rejected;
use crate::stored::FORMAT_VERSION;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the ledger was not opened, or a command not carried out. All commands of a group that was
/// not written get the same one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// The command does not fit the state, which is unchanged.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Another process has the file open: stop it, or use another state directory.
    #[error("ledger {} is open in another process: stop the other r1d, or use another state \
             directory", .path.display())]
    InUse {
        /// The ledger's file.
        path: PathBuf,
    },
    /// A later release wrote the file: run that release.
    #[error("ledger {} has format {found}, this release reads up to {FORMAT_VERSION}: run the \
             release that wrote it or a later one", .path.display())]
    Newer {
        /// The ledger's file.
        path: PathBuf,
        /// The file's version of the format.
        found: u64,
    },
    /// An earlier release wrote the file, and it is not where it could be brought up.
    #[error("ledger {} has format {found}, and is brought up only where a daemon opens it",
             .path.display())]
    Older {
        /// The ledger's file.
        path: PathBuf,
        /// The file's version of the format.
        found: u64,
    },
    /// The file's contents are not what a ledger writes: put a copy back, or move it and `jobs`
    /// away.
    #[error("ledger {} is damaged: {what}; put a copy back, or move it and the directory `jobs` \
             beside it away to start anew", .path.display())]
    Damaged {
        /// The ledger's file.
        path: PathBuf,
        /// What is wrong, in words.
        what: String,
    },
    /// The path is not that of a regular file.
    #[error(
        "ledger {} is no file: {what} is in its place; move that away and put a copy of the \
         ledger there, or move the directory `jobs` beside it away as well to start anew",
        .path.display()
    )]
    NoFile {
        /// The ledger's path.
        path: PathBuf,
        /// What is there instead, in words.
        what: &'static str,
    },
    /// The file was removed or replaced while it was open: put it back, or start the daemon again.
    #[error("ledger {} is gone, or another file is in its place: nothing that is recorded now \
             would be kept", .path.display())]
    Gone {
        /// The ledger's path.
        path: PathBuf,
    },
    /// The file system failed: disk full, no permission, read error.
    #[error("ledger {}: {source}", .path.display())]
    Io {
        /// The ledger's file.
        path: PathBuf,
        /// The file system's error.
        source: Arc<std::io::Error>,
    },
    /// The database failed in another way.
    #[error("ledger {}: {source}", .path.display())]
    Storage {
        /// The ledger's file.
        path: PathBuf,
        /// The database's error.
        source: Arc<redb::Error>,
    },
    /// Metrics of steps are not in the file that the ledger knows: put a copy of it back.
    #[error("metrics {}: {what}; put a copy back", .path.display())]
    Metrics {
        /// The file with the metrics.
        path: PathBuf,
        /// What is wrong, in words.
        what: String,
    },
    /// The thread that wrote the command with others panicked. It may be in the file or not, as
    /// after a storage error.
    #[error("ledger {}: the thread that wrote to it panicked; the daemon's log says why",
             .path.display())]
    Interrupted {
        /// The ledger's file.
        path: PathBuf,
    },
}

pub(crate) fn io_error(path: &Path, source: std::io::Error) -> LedgerError {
    LedgerError::Io {
        path: path.to_path_buf(),
        source: Arc::new(source),
    }
}

pub(crate) fn storage_error(path: &Path, error: redb::Error) -> LedgerError {
    let path = path.to_path_buf();
    match error {
        redb::Error::DatabaseAlreadyOpen => LedgerError::InUse { path },
        redb::Error::Corrupted(what) => LedgerError::Damaged { path, what },
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            ) =>
        {
            LedgerError::Damaged {
                path,
                what: error.to_string(),
            }
        }
        // No release has written a file that gives these errors.
        error @ (redb::Error::UpgradeRequired(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }) => LedgerError::Damaged {
            path,
            what: error.to_string(),
        },
        redb::Error::Io(source) => io_error(&path, source),
        error => LedgerError::Storage {
            path,
            source: Arc::new(error),
        },
    }
}
