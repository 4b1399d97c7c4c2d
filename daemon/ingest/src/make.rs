//! What the making of a token set shares: its errors, and the word to those who wait for it.

use crate::file::{SetError, Writer};
use r1d_data::DataError;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;

/// Rows between two reports, and bytes of them: a second's work.
const REPORT_ROWS: u64 = 1024;
const REPORT_BYTES: u64 = 1 << 20;

/// Why a token set was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The files, or a row in them, are not what the job says.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The same as [`MakeError::Data`], in the words of the process that read them.
    #[error("{0}")]
    Told(String),
    /// The processes that were to make it were lost to the machine, or it failed them.
    #[error("{0}")]
    Lost(String),
    /// The rows that it is made of cannot be read.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The set cannot be written.
    #[error("cannot write a token set: {0}")]
    Write(#[from] io::Error),
    /// Nobody waits for it any more.
    #[error("nobody waits for the token set any more")]
    Unwanted,
}

/// How far the making of a token set is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Rows that are done.
    pub rows: u64,
    /// Bytes that these rows were made of: of files, or of the sets of rows.
    pub bytes: u64,
    /// Bytes of all that there is to read.
    pub bytes_total: u64,
}

/// What becomes of a token set that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MakeStatus<'a> {
    /// It waits for its turn.
    Waiting,
    /// It is being made.
    Working {
        /// So much is done.
        done: Done,
        /// Without a sign of life, its maker is given up after this time; `None` if it is this
        /// process.
        left: Option<Duration>,
    },
    /// Its maker was lost.
    Again {
        /// How the maker ended, in words.
        cause: &'a str,
        /// Another begins after this time.
        pause: Duration,
    },
}

impl MakeStatus<'_> {
    /// How much is done.
    pub fn done(&self) -> Done {
        match self {
            MakeStatus::Working { done, .. } => *done,
            MakeStatus::Waiting | MakeStatus::Again { .. } => Done::default(),
        }
    }
}

/// Hears what becomes of a set, again and again; returns whether the rest is wanted.
pub type Watch<'a> = &'a mut dyn FnMut(MakeStatus<'_>) -> bool;

/// Writes records for those who watch.
pub struct Making<'a> {
    /// The set.
    pub writer: Writer,
    watch: Watch<'a>,
    done: Done,
    told: Done,
}

impl<'a> Making<'a> {
    /// Begins to make a set.
    pub fn new(writer: Writer, watch: Watch<'a>) -> Making<'a> {
        Making {
            writer,
            watch,
            done: Done::default(),
            told: Done::default(),
        }
    }

    /// Says how many bytes there are to read.
    pub(crate) fn of(&mut self, bytes: u64) {
        self.done.bytes_total = bytes;
    }

    /// Counts a row that is done, up to which so many more bytes were read.
    pub(crate) fn done(&mut self, bytes: u64) -> Result<(), MakeError> {
        self.done.rows += 1;
        self.done.bytes += bytes;
        let is_due = self.done.rows - self.told.rows >= REPORT_ROWS
            || self.done.bytes - self.told.bytes >= REPORT_BYTES;
        if !is_due {
            return Ok(());
        }
        self.told = self.done;
        let status = MakeStatus::Working {
            done: self.done,
            left: None,
        };
        if (self.watch)(status) {
            Ok(())
        } else {
            Err(MakeError::Unwanted)
        }
    }
}
