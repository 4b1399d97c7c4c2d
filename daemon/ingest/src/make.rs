//! What the making of a token set shares: its errors, and the word to those who wait for it.

use crate::file::{SetError, Writer};
use r1d_data::DataError;
use std::io;

/// Rows between two reports.
const REPORT_ROWS: u64 = 1024;

/// Why a token set was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The files, or a row in them, are not what the job says.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The same as [`MakeError::Data`], in the words of the process that read them.
    #[error("{0}")]
    Told(String),
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

/// Hears how many rows are done, again and again; returns whether the rest is wanted.
pub type Watch<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Writes records for those who watch.
pub struct Making<'a> {
    /// The set.
    pub writer: Writer,
    watch: Watch<'a>,
    rows: u64,
}

impl<'a> Making<'a> {
    /// Begins to make a set.
    pub fn new(writer: Writer, watch: Watch<'a>) -> Making<'a> {
        Making {
            writer,
            watch,
            rows: 0,
        }
    }

    /// Counts a row that is done.
    pub(crate) fn done(&mut self) -> Result<(), MakeError> {
        self.rows += 1;
        if self.rows.is_multiple_of(REPORT_ROWS) && !(self.watch)(self.rows) {
            return Err(MakeError::Unwanted);
        }
        Ok(())
    }
}
