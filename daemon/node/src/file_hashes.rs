//! SHA-256 of the files that jobs read. A file is read again only when its stamp is another.

use crate::digest;
use r1d_proto::user_file;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most files whose hashes are remembered (`LIM-1`); with more, all are forgotten.
const FILES_MAX: usize = 1 << 16;

/// Metadata that changes whenever a file is written or replaced, and sometimes otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub bytes: u64,
    modified_ns: i128,
    /// Time of the inode's last change, which a copy cannot set.
    changed_ns: i128,
    inode: u64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> io::Result<Stamp> {
        let found = user_file::open(path)?.metadata()?;
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Ok(Stamp {
            bytes: found.len(),
            modified_ns: ns(found.mtime(), found.mtime_nsec()),
            changed_ns: ns(found.ctime(), found.ctime_nsec()),
            inode: found.ino(),
        })
    }
}

/// The hashes of files that were read whole, by path and stamp. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct FileHashes(Arc<Mutex<HashMap<PathBuf, (Stamp, String)>>>);

impl FileHashes {
    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, (Stamp, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a record has of a file.
    pub(crate) fn learn(&self, path: &Path, stamp: Stamp, sha256: &str) {
        let mut known = self.known();
        if known.len() >= FILES_MAX {
            known.clear();
        }
        known.insert(path.into(), (stamp, sha256.into()));
    }

    /// SHA-256 of all bytes of a file, in hexadecimal. One that changes while it is read is an
    /// error; `wanted` is called between parts, and its error ends the reading.
    pub(crate) fn sha256(
        &self,
        path: &Path,
        wanted: &dyn Fn() -> io::Result<()>,
    ) -> io::Result<String> {
        let stamp = Stamp::of(path)?;
        if let Some((_, sha256)) = self.known().get(path).filter(|(known, _)| *known == stamp) {
            return Ok(sha256.clone());
        }
        let sha256 = digest::of_file(path, wanted)?;
        if Stamp::of(path)? != stamp {
            return Err(io::Error::other(CHANGES));
        }
        self.learn(path, stamp, &sha256);
        Ok(sha256)
    }
}

/// The problem of a file whose bytes are not the same from beginning to end.
pub(crate) const CHANGES: &str = "it changes while it is read: submit the job when it is whole";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_again_when_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let (hashes, count) = (FileHashes::default(), Mutex::new(0));
        let wanted = || {
            *count.lock().unwrap() += 1;
            Ok(())
        };
        let hash = || hashes.sha256(&path, &wanted).unwrap();
        std::fs::write(&path, "one").unwrap();
        let first = hash();
        let reads = *count.lock().unwrap();
        assert!(hash() == first && *count.lock().unwrap() == reads && reads > 0);
        std::fs::write(&path, "two").unwrap();
        let second = hash();
        assert!(second != first && *count.lock().unwrap() > reads);
        std::fs::remove_file(&path).unwrap();
        assert!(hashes.sha256(&path, &wanted).is_err());
    }

    #[test]
    fn who_leaves_ends_the_hashing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "one").unwrap();
        let left = || Err(io::Error::other("left"));
        let hashes = FileHashes::default();
        assert!(hashes.sha256(&path, &left).is_err());
        assert!(
            hashes.sha256(&path, &|| Ok(())).is_ok(),
            "nothing is remembered of it"
        );
    }
}
