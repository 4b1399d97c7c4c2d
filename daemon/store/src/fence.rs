//! Lets only a job's newest attempt change the job's files.
//!
//! A name that carries an epoch is its attempt's own: a segment of the journal, and a checkpoint
//! that the worker writes. What else an attempt changes (rollout files, data sets, metrics, and the
//! checkpoint's own name) has one name in all epochs. It goes through the storage that
//! [`Fence::next`] gives to the attempt, which fails as soon as a later attempt has got its own.

use r1d_proto::storage::{Append, FileFacts, Storage};
use std::io::{Error, Result};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// The fence around the files of one job; clones are the same fence.
#[derive(Clone, Default)]
pub struct Fence(Arc<RwLock<u64>>);

impl Fence {
    /// Gives `storage` to the job's next attempt. When it returns, all earlier attempts are cut
    /// off, and nothing that they had in hand goes on.
    pub fn next(&self, storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
        let mut newest = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *newest += 1;
        let pass = Pass {
            fence: self.clone(),
            number: *newest,
        };
        Arc::new(Fenced { pass, storage })
    }
}

/// What lets the attempt of a number through the fence.
#[derive(Clone)]
struct Pass {
    fence: Fence,
    number: u64,
}

impl Pass {
    /// Keeps the next attempt from beginning as long as the guard lives; an error if it has begun.
    fn hold(&self) -> Result<RwLockReadGuard<'_, u64>> {
        let newest = self.fence.0.read();
        let newest = newest.unwrap_or_else(PoisonError::into_inner);
        if *newest == self.number {
            Ok(newest)
        } else {
            Err(Error::other("a later attempt at the job has begun"))
        }
    }
}

/// The storage of one attempt.
struct Fenced {
    pass: Pass,
    storage: Arc<dyn Storage>,
}

/// A file that an attempt has open.
struct FencedFile {
    pass: Pass,
    file: Box<dyn Append>,
}

impl Fenced {
    fn file(&self, file: Box<dyn Append>) -> Box<dyn Append> {
        let pass = self.pass.clone();
        Box::new(FencedFile { pass, file })
    }
}

impl Append for FencedFile {
    fn length(&self) -> Result<u64> {
        self.file.length()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let _held = self.pass.hold()?;
        self.file.append(bytes)
    }

    fn truncate(&mut self, length: u64) -> Result<()> {
        let _held = self.pass.hold()?;
        self.file.truncate(length)
    }

    fn sync(&mut self) -> Result<()> {
        let _held = self.pass.hold()?;
        self.file.sync()
    }
}

impl Storage for Fenced {
    fn make_dir(&self, dir: &Path) -> Result<()> {
        let _held = self.pass.hold()?;
        self.storage.make_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.storage.list(dir)
    }

    fn list_dirs(&self, dir: &Path) -> Result<Vec<String>> {
        self.storage.list_dirs(dir)
    }

    fn append(&self, path: &Path) -> Result<Box<dyn Append>> {
        let _held = self.pass.hold()?;
        Ok(self.file(self.storage.append(path)?))
    }

    fn create(&self, path: &Path, mode: u32) -> Result<Box<dyn Append>> {
        let _held = self.pass.hold()?;
        Ok(self.file(self.storage.create(path, mode)?))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.storage.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.storage.read_at(path, offset, length)
    }

    fn facts(&self, path: &Path) -> Result<FileFacts> {
        self.storage.facts(path)
    }

    fn touch(&self, path: &Path) -> Result<()> {
        let _held = self.pass.hold()?;
        self.storage.touch(path)
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        let _held = self.pass.hold()?;
        self.storage.link(from, to)
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let _held = self.pass.hold()?;
        self.storage.copy(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let _held = self.pass.hold()?;
        self.storage.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let _held = self.pass.hold()?;
        self.storage.remove(path)
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        let _held = self.pass.hold()?;
        self.storage.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let _held = self.pass.hold()?;
        self.storage.sync_dir(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::replace::{FILE_MODE, replace};

    #[test]
    fn an_earlier_attempt_changes_nothing_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (path, fence) = (dir.path().join("x"), Fence::default());
        let first = fence.next(Disk::shared());
        let mut open = first.append(&path).unwrap();
        open.append(b"first").unwrap();
        let second = fence.next(Disk::shared());
        second.append(&path).unwrap().append(b"second").unwrap();
        assert!(open.append(b"late").is_err() && open.truncate(0).is_err());
        let other = dir.path().join("y");
        assert!(replace(&*first, &path, FILE_MODE, |file| file.write_all(b"late")).is_err());
        assert!(first.link(&path, &other).is_err() && first.rename(&path, &other).is_err());
        assert!(first.remove(&path).is_err() && first.remove_dir(dir.path()).is_err());
        assert_eq!(first.read(&path).unwrap(), b"firstsecond");
        assert_eq!(
            first.list(dir.path()).unwrap(),
            ["x"],
            "nothing is left beside it"
        );
    }
}
