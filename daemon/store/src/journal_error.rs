//! Why a journal cannot be read or written, and what opening one cut off.

use crate::entry::Refused;
use crate::segment;
use std::io;
use std::path::{Path, PathBuf};

/// Why a method of the journal failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system failed: disk full, no permission, read error. Free the disk or repair the
    /// path, then try again.
    #[error("journal {}: {source}", .path.display())]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// The file of a committed step is not as it was written, or an uncommitted one holds a whole
    /// record that does not fit: put a copy back, or resubmit the job.
    #[error("journal {} is damaged at byte {offset}: {what}; put a copy back, or resubmit the job",
        .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the first wrong byte's record.
        offset: u64,
        /// What is wrong there, in words.
        what: String,
    },
    /// Another release wrote the file: run that release.
    #[error("journal {} has version {found}, this release reads {}: run the release that wrote it",
        .path.display(), segment::VERSION)]
    OtherRelease {
        /// The file.
        path: PathBuf,
        /// The file's version of the format.
        found: u16,
    },
    /// The step's file is gone or has no seal, although the step is committed or to be trained on
    /// again.
    #[error("journal {} has no sealed record of step {step}", .path.display())]
    Missing {
        /// The file that was expected.
        path: PathBuf,
        /// The step, from 0.
        step: u64,
    },
    /// An entry does not fit what the journal holds; nothing of the call was appended.
    #[error("journal entry refused: {0}")]
    Refused(#[from] Refused),
    /// The disk did not confirm what was appended, so what the file holds is unknown: drop the step
    /// ([`Journal::drop_from`]) and redo it.
    #[error("journal {} could not be synced ({why}): drop step {step} and redo it",
        .path.display())]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// The step, from 0.
        step: u64,
        /// The file system's error.
        why: String,
    },
}

/// A cut that opening a journal made in the file of an uncommitted step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub path: PathBuf,
    /// The step, from 0.
    pub step: u64,
    /// Number of whole records that are left.
    pub records: u64,
    /// Number of bytes that were cut off.
    pub bytes_cut: u64,
}

pub(crate) fn storage_error(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_path_buf();
    move |source| JournalError::Storage { path, source }
}
