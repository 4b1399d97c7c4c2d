//! Files that are named by a hash, in one directory: each appears whole, never changes, and goes
//! when nothing needs it. A blob's path is `<dir>/<hash><suffix>`; what belongs to one lies beside
//! it under a longer name.

use crate::directory::{create_dir, sync_parent};
use crate::replace::{FILE_MODE, part_of, remove_parts, replace};
use r1d_proto::storage::{FileFacts, Storage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// SHA-256 of a blob's contents, or of all that they depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobHash([u8; 32]);

impl BlobHash {
    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> BlobHash {
        BlobHash(bytes)
    }

    /// The hash's bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads a hash as [`BlobHash`] shows it: 64 hex digits, none of them a capital letter. `None`
    /// if the text is no hash.
    pub fn parse(text: &str) -> Option<BlobHash> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 64 || !text.bytes().all(is_hex) {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(BlobHash(bytes))
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A directory of blobs.
#[derive(Clone)]
pub struct Blobs {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    suffix: &'static str,
}

/// What [`Blobs::collect`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Number of files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The files of one blob.
#[derive(Default)]
struct Found {
    /// When any of them was used last, since the Unix epoch.
    used: Duration,
    bytes: u64,
    /// The blob itself is first, so that nothing is ever without what belongs to it.
    names: Vec<String>,
}

impl Blobs {
    /// The blobs in `dir`, which need not exist, whose names end in `suffix`. Removes what writers
    /// left that did not live to finish.
    pub fn open(storage: Arc<dyn Storage>, dir: &Path, suffix: &'static str) -> Blobs {
        remove_parts(&*storage, dir);
        Blobs {
            storage,
            dir: dir.into(),
            suffix,
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a blob; it need not exist.
    pub fn path(&self, hash: &BlobHash) -> PathBuf {
        self.dir.join(format!("{hash}{}", self.suffix))
    }

    /// Keeps these bytes under their hash, in place of a damaged file of that name. When it
    /// returns, they survive a crash of the machine.
    pub fn put(&self, hash: &BlobHash, bytes: &[u8]) -> Result<()> {
        self.write(&self.path(hash), bytes)
    }

    /// Keeps what belongs to a blob, under the blob's name and `ending`, as [`Blobs::put`] does. It
    /// goes with the blob.
    pub fn put_beside(&self, hash: &BlobHash, ending: &str, bytes: &[u8]) -> Result<()> {
        let name = format!("{hash}{}{ending}", self.suffix);
        self.write(&self.dir.join(name), bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        create_dir(&*self.storage, &self.dir)?;
        // A whole file was synced before it was renamed to its place; the renaming may not be
        // durable yet.
        let storage = &*self.storage;
        let is_as_long = |facts: FileFacts| facts.bytes == bytes.len() as u64;
        if storage.facts(path).is_ok_and(is_as_long)
            && storage.read(path).is_ok_and(|known| known == bytes)
        {
            return sync_parent(storage, path);
        }
        replace(storage, path, FILE_MODE, |file| file.write_all(bytes))
    }

    /// A path in the directory for a blob that another writes, a child process, say:
    /// [`Blobs::place`] names it. What is never placed is removed by the next [`Blobs::open`].
    pub fn part(&self, hash: &BlobHash) -> PathBuf {
        part_of(&self.path(hash))
    }

    /// Gives a part its blob's name, in place of an older file. Syncs nothing: what may be torn by
    /// a loss of power has to be checked by who reads it.
    pub fn place(&self, part: &Path, hash: &BlobHash) -> Result<()> {
        self.storage.rename(part, &self.path(hash))
    }

    /// Removes a blob whose contents are damaged.
    pub fn remove(&self, hash: &BlobHash) -> Result<()> {
        self.storage.remove(&self.path(hash))
    }

    /// Notes that a blob is used now.
    pub fn touch(&self, hash: &BlobHash) -> Result<()> {
        self.storage.touch(&self.path(hash))
    }

    /// Removes blobs that are not needed, those that were not used for longest first, until all
    /// that are left take at most `bytes_max` bytes. Other files stay.
    pub fn collect(
        &self,
        bytes_max: u64,
        is_needed: impl Fn(&BlobHash) -> bool,
    ) -> Result<Collected> {
        let found = self.found()?;
        let mut total: u64 = found.values().map(|found| found.bytes).sum();
        let mut by_age: Vec<_> = found.into_iter().collect();
        by_age.sort_by_key(|(hash, found)| (found.used, *hash));
        let mut collected = Collected::default();
        for (hash, found) in by_age {
            // Where nothing is to stay, those of no bytes go too.
            let fits = total <= bytes_max && bytes_max > 0;
            if fits || is_needed(&hash) {
                continue;
            }
            for name in &found.names {
                self.storage.remove(&self.dir.join(name))?;
                collected.files += 1;
            }
            total -= found.bytes;
            collected.bytes += found.bytes;
        }
        Ok(collected)
    }

    /// All files whose names begin with a hash, blob by blob.
    fn found(&self) -> Result<BTreeMap<BlobHash, Found>> {
        let names = match self.storage.list(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let mut found: BTreeMap<BlobHash, Found> = BTreeMap::new();
        // Names are sorted, so that the shortest, the blob's own, is first.
        for name in names {
            let Some(hash) = self.hash_of(&name) else {
                continue;
            };
            let facts = match self.storage.facts(&self.dir.join(&name)) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                facts => facts?,
            };
            let of_blob = found.entry(hash).or_default();
            of_blob.used = of_blob.used.max(facts.modified);
            of_blob.bytes += facts.bytes;
            of_blob.names.push(name);
        }
        Ok(found)
    }

    /// The hash in the name of a blob, or of what belongs to one.
    fn hash_of(&self, name: &str) -> Option<BlobHash> {
        let (hash, rest) = name.split_at_checked(64)?;
        let is_ours = rest.starts_with(self.suffix) && (!self.suffix.is_empty() || rest.is_empty());
        BlobHash::parse(hash).filter(|_| is_ours)
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blobs({})", self.dir.display())
    }
}
