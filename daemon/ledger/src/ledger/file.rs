//! The ledger's file: opened, whole, and still the one at its path.

use super::{Ledger, OpenDatabase};
use crate::changes::Changes;
use crate::error::{LedgerError, io_error, storage_error};
use crate::format1;
use crate::group::Group;
use crate::stored::FORMAT_VERSION;
use crate::tables::{self, begin};
use crate::watched::WatchedPath;
use r1d_proto::storage::Storage;
use r1d_proto::user_file;
use r1d_store::Disk;
use redb::Database;
use std::cell::Cell;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::watch;

thread_local! {
    static DAMAGE_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread reads pages that may be damaged. A panic is then caught and becomes
/// [`LedgerError::Damaged`], so a panic hook should be silent.
pub fn is_damage_expected() -> bool {
    DAMAGE_EXPECTED.get()
}

/// The identity of a file, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> std::io::Result<FileId> {
        let found = std::fs::metadata(path)?;
        Ok(FileId {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

impl Ledger {
    /// Opens or creates the ledger at `path`, whose directory exists. Reads the whole file: a page
    /// that the disk has damaged is found now, and not when a job is missing.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let io = |source| io_error(path, source);
        match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ledger::create(path)?,
            Err(error) => return Err(io(error)),
            Ok(found) if !found.is_file() => {
                let what = user_file::instead(&found).unwrap_or_default();
                return Err(LedgerError::NoFile {
                    path: path.to_path_buf(),
                    what,
                });
            }
            // A new ledger is renamed to its place with its first pages in it.
            Ok(found) if found.len() == 0 => {
                return Err(LedgerError::Damaged {
                    path: path.to_path_buf(),
                    what: "the file is empty".into(),
                });
            }
            Ok(_) => {}
        }
        let open = || Ledger::open_watched(WatchedPath::new(path), path);
        match open() {
            Err(LedgerError::Older {
                found: format1::VERSION,
                ..
            }) => {
                format1::migrate(path)?;
                open()
            }
            opened => opened,
        }
    }

    fn open_watched(watched: WatchedPath, path: &Path) -> Result<Ledger, LedgerError> {
        let ledger = Ledger::open_with(path, Box::new(move || watched.open()), Disk::shared())?;
        let file = FileId::of(path).map_err(|source| io_error(path, source))?;
        Ok(Ledger {
            file: Some(Mutex::new(file)),
            ..ledger
        })
    }

    /// Creates the file under another name and renames it: a crash while redb writes a new file's
    /// first pages leaves one that it cannot open.
    fn create(path: &Path) -> Result<(), LedgerError> {
        tables::replace(path, tables::create).map_err(|error| storage_error(path, error))
    }

    /// Opens a ledger like [`Ledger::open`], but with a storage of the caller's; `path` is only for
    /// messages, and names the directory that paths are relative to.
    pub fn open_with(
        path: &Path,
        open: OpenDatabase,
        storage: Arc<dyn Storage>,
    ) -> Result<Ledger, LedgerError> {
        let ledger = Ledger {
            path: path.to_path_buf(),
            open,
            storage,
            file: None,
            state: Mutex::default(),
            group: Group::new(),
            database: Mutex::default(),
            reading: RwLock::default(),
            queue_changes: watch::Sender::new(0),
            changes: Changes::default(),
        };
        ledger.unharmed(|| {
            let mut database = (ledger.open)().map_err(|error| ledger.failed(error.into()))?;
            // `false` means that redb has counted its free pages anew, after a crash. Contents that
            // do not fit their checksums are an error: no commit of two phases is ever undone.
            database
                .check_integrity()
                .map_err(|error| ledger.failed(error.into()))?;
            ledger.take(&mut ledger.lock(), database).map(drop)
        })?;
        Ok(ledger)
    }

    /// Checks that the open file is still the one at its path. A ledger whose directory was removed
    /// would go on to acknowledge commands that are lost.
    pub(super) fn file_is_in_place(&self) -> Result<(), LedgerError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        // Held while a fresh copy takes the file's place.
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if FileId::of(&self.path).ok() == Some(*file) {
            Ok(())
        } else {
            Err(LedgerError::Gone {
                path: self.path.clone(),
            })
        }
    }

    /// Runs code that reads pages that have not been checked yet. redb asserts what it relies on,
    /// so a damaged page may cause a panic in it, which becomes an error.
    fn unharmed<T>(&self, read: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let outer = DAMAGE_EXPECTED.replace(true);
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        DAMAGE_EXPECTED.set(outer);
        read.unwrap_or_else(|panic| {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(panic.downcast_ref::<&str>().copied());
            Err(self.damaged(format!(
                "reading it panics ({})",
                said.unwrap_or("no message")
            )))
        })
    }

    pub(super) fn database(
        &self,
        open: &mut Option<Arc<Database>>,
    ) -> Result<Arc<Database>, LedgerError> {
        match open {
            Some(database) => Ok(database.clone()),
            None => self.reopen(open),
        }
    }

    /// Opens the file again, after a write that failed.
    fn reopen(&self, open: &mut Option<Arc<Database>>) -> Result<Arc<Database>, LedgerError> {
        // A file that a reader still has open cannot be opened again.
        drop(self.reading.write().unwrap_or_else(PoisonError::into_inner));
        self.file_is_in_place()?;
        let mut file = self
            .file
            .as_ref()
            .map(|file| file.lock().unwrap_or_else(PoisonError::into_inner));
        self.unharmed(|| {
            let opened = (self.open)();
            if let Some(file) = &mut file {
                **file = FileId::of(&self.path).map_err(|source| io_error(&self.path, source))?;
            }
            self.take(open, opened.map_err(|error| self.failed(error.into()))?)
        })
    }

    /// Replaces the state by what the database holds.
    fn take(
        &self,
        open: &mut Option<Arc<Database>>,
        database: Database,
    ) -> Result<Arc<Database>, LedgerError> {
        let found = tables::version(&database).map_err(|error| self.failed(error))?;
        match found {
            None => begin(&database)
                .and_then(|write| {
                    tables::create(&write)?;
                    Ok(write.commit()?)
                })
                .map_err(|error| self.failed(error))?,
            Some(FORMAT_VERSION) => {}
            Some(found) if found > FORMAT_VERSION => {
                return Err(LedgerError::Newer {
                    path: self.path.clone(),
                    found,
                });
            }
            Some(found) => {
                return Err(LedgerError::Older {
                    path: self.path.clone(),
                    found,
                });
            }
        }
        let state = tables::load(&database, self.root()).map_err(|error| self.failed(error))?;
        self.set_state(state);
        self.changes.note_all();
        Ok(open.insert(Arc::new(database)).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Record;
    use crate::command::{Command, NewJob};
    use r1d_proto::ids::JobId;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::Ordering;

    fn submit(job: &str) -> Command {
        Command::Submit(NewJob::of(JobId(job.into()), "seed = 1"))
    }

    /// Nothing is acknowledged on pages that may not be on the disk: a fresh file has taken their
    /// place.
    #[test]
    fn a_failed_sync_makes_a_fresh_file_before_anything_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.redb");
        Ledger::create(&path).unwrap();
        let watched = WatchedPath::new(&path);
        let ledger = Ledger::open_watched(watched.clone(), &path).unwrap();
        ledger.apply(submit("a")).unwrap();
        let inode = || std::fs::metadata(&path).unwrap().ino();
        let before = inode();
        watched.fails.store(true, Ordering::Relaxed);
        let refused = ledger.apply(submit("b")).unwrap_err();
        assert!(matches!(&refused, LedgerError::Io { .. }), "{refused}");
        assert_eq!(ledger.state().jobs().len(), 1);
        ledger.apply(submit("c")).unwrap();
        assert_ne!(
            inode(),
            before,
            "acknowledged on the pages of a failed sync"
        );
        ledger.is_in_place().unwrap();
        assert!(!path.with_extension("redb.new").exists());
        let known = ledger.state().jobs();
        drop(ledger);
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.state().jobs(), known);
        assert!(
            ledger.state().job(&JobId("a".into())).is_some()
                && ledger.state().job(&JobId("c".into())).is_some()
        );
        // A command that is refused for another reason does not cost a copy.
        let after = inode();
        assert!(ledger.apply(submit("c")).is_err());
        assert_eq!(inode(), after);
    }
}
