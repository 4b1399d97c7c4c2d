//! The ledger's file as redb uses it, which remembers whether a sync has failed.
//!
//! After a failed sync, Linux marks the pages that it could not write as clean: reads show what is
//! not on the disk, and the next sync succeeds. Nothing may be acknowledged on such a file. What
//! redb reads there is what it wrote, so it is copied into a fresh file, whose pages are all
//! written.

use r1d_store::{Disk, sync_parent};
use redb::backends::FileBackend;
use redb::{BackendError, Database, DatabaseError, StorageBackend};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most memory for pages of the file, in bytes; the whole state is in memory anyway.
const CACHE_MAX_BYTES: usize = 8 << 20;

/// A ledger's path, and whether a sync of the file there has failed.
#[derive(Clone, Debug)]
pub(crate) struct WatchedPath {
    path: PathBuf,
    is_unsynced: Arc<AtomicBool>,
    #[cfg(test)]
    pub(crate) fails: Arc<AtomicBool>,
}

impl WatchedPath {
    pub(crate) fn new(path: &Path) -> WatchedPath {
        WatchedPath {
            path: path.into(),
            is_unsynced: Arc::default(),
            #[cfg(test)]
            fails: Arc::default(),
        }
    }

    /// Opens the file; one whose sync has failed is replaced by a fresh copy first.
    pub(crate) fn open(&self) -> Result<Database, DatabaseError> {
        if self.is_unsynced.load(Ordering::Relaxed) {
            let beside = self.path.with_extension("redb.new");
            self.renew(&beside)
                .inspect_err(|_| drop(fs::remove_file(&beside)))?;
            self.is_unsynced.store(false, Ordering::Relaxed);
        }
        self.open_at(&self.path)
    }

    fn open_at(&self, path: &Path) -> Result<Database, DatabaseError> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let backend = Watched {
            file: FileBackend::new(file)?,
            watch: self.clone(),
        };
        Database::builder()
            .set_cache_size(CACHE_MAX_BYTES)
            .create_with_backend(backend)
    }

    /// Makes a fresh copy, which takes the file's place when it is whole and on the disk.
    fn renew(&self, beside: &Path) -> Result<(), DatabaseError> {
        fs::copy(&self.path, beside)?;
        File::open(beside)?.sync_all()?;
        let copy = WatchedPath {
            is_unsynced: Arc::default(),
            ..self.clone()
        };
        let mut database = copy.open_at(beside)?;
        // Pages that the system has dropped since the sync failed were read from the disk again,
        // and may be old.
        database.check_integrity()?;
        database.close()?;
        if copy.is_unsynced.load(Ordering::Relaxed) {
            return Err(io::Error::other("the fresh copy cannot be synced either").into());
        }
        fs::rename(beside, &self.path)?;
        Ok(sync_parent(&Disk, &self.path)?)
    }
}

#[derive(Debug)]
struct Watched {
    file: FileBackend,
    watch: WatchedPath,
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        #[cfg(test)]
        let synced = synced.and(if self.watch.fails.swap(false, Ordering::Relaxed) {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        });
        synced.inspect_err(|_| self.watch.is_unsynced.store(true, Ordering::Relaxed))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
