//! The file of a step that still grows: whole records, and a tail that a failed write left.

use crate::journal_error::JournalError;
use crate::segment::Header;
use crate::step::Step;
use r1d_proto::storage::{Append, Storage};
use std::io;
use std::path::PathBuf;

/// The file of a step that still grows.
pub(crate) struct Segment {
    path: PathBuf,
    /// The open file; `None` until the first append.
    file: Option<Box<dyn Append>>,
    /// Bytes of whole records, header included; 0 while there is no header.
    pub(crate) length: u64,
    /// Whether the file may hold more than `length`: it is cut before the next append.
    torn: bool,
    /// Whether the file's name may not be durable yet.
    pub(crate) created: bool,
    unsynced: bool,
    /// Why a sync failed; the durable contents of the file are then unknown.
    failed: Option<String>,
    pub(crate) step: Step,
}

impl Segment {
    pub(crate) fn new(path: PathBuf) -> Segment {
        Segment {
            path,
            file: None,
            length: 0,
            torn: false,
            created: false,
            unsynced: false,
            failed: None,
            step: Step::default(),
        }
    }

    /// A file that holds whole records of so many bytes, header included; `file` is it, if it is
    /// open.
    pub(crate) fn with_records(
        path: PathBuf,
        file: Option<Box<dyn Append>>,
        length: u64,
        step: Step,
    ) -> Segment {
        Segment {
            file,
            length,
            step,
            ..Segment::new(path)
        }
    }

    pub(crate) fn usable(&self, step: u64) -> Result<(), JournalError> {
        match &self.failed {
            Some(why) => Err(JournalError::Unsynced {
                path: self.path.clone(),
                step,
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn write(
        &mut self,
        storage: &dyn Storage,
        header: &Header,
        frames: &[u8],
    ) -> Result<(), JournalError> {
        let path = self.path.clone();
        self.try_write(storage, header, frames)
            .map_err(|source| JournalError::Storage { path, source })
    }

    fn try_write(
        &mut self,
        storage: &dyn Storage,
        header: &Header,
        frames: &[u8],
    ) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(storage.append(&self.path)?),
        };
        if self.torn {
            file.truncate(self.length)?;
            self.torn = false;
        }
        let with_header = (self.length == 0).then(|| [&header.encode()[..], frames].concat());
        let bytes = with_header.as_deref().unwrap_or(frames);
        self.created |= self.length == 0;
        if let Err(error) = file.append(bytes) {
            // If this fails too, the next append tries again.
            self.torn = file.truncate(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    pub(crate) fn sync(&mut self, step: u64) -> Result<(), JournalError> {
        self.usable(step)?;
        let Some(file) = self.file.as_mut().filter(|_| self.unsynced) else {
            return Ok(());
        };
        if let Err(error) = file.sync() {
            self.failed = Some(error.to_string());
            return self.usable(step);
        }
        self.unsynced = false;
        Ok(())
    }
}
