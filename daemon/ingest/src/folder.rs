//! The folder of token sets: each is made once, under the name of its key, and shared by all jobs.
//!
//! The folder is the daemon's own (mode 0700) and its files are read-only. A set appears by a
//! rename, so nobody sees half of one; two that are made at once, by two daemons, are the same
//! bytes. One that is damaged, cut off or another's is made again.

use crate::child::Maker;
use crate::file::{SetError, TokenSet, private_file};
use crate::key::Key;
use crate::make::{MakeError, MakeStatus, Watch};
use crate::order::Orders;
use crate::request::Request;
use r1d_store::{Blobs, Disk};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Sets that are made at a time: each takes a processor, and memory of its own.
const MADE_AT_ONCE: usize = 2;
/// Interval at which one that waits for its turn looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// What the files of a request hold.
pub trait Contents {
    /// SHA-256 of all bytes of a file, in hexadecimal.
    fn sha256(&self, path: &Path) -> io::Result<String>;
}

/// Why there is no token set.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// It was not made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// A file that it is made of cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file changed while the set was made of it.
    #[error("{}: it changes while it is read: submit the job when it is whole", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The folder cannot be read or written.
    #[error("token sets in {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The folder of token sets.
#[derive(Clone, Debug)]
pub struct TokenSets(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    blobs: Blobs,
    /// The build that makes sets: another one may read the same files differently.
    build: String,
    maker: Maker,
    bytes_max: u64,
    orders: Orders,
    sets: Mutex<Sets>,
    /// A set was made, or its making was given up.
    made: Condvar,
}

#[derive(Debug, Default)]
struct Sets {
    /// Sets that are open, and those that were found damaged while they were.
    open: BTreeMap<Key, OpenSet>,
    making: BTreeSet<Key>,
}

#[derive(Debug)]
struct OpenSet {
    set: Weak<TokenSet>,
    damaged: Arc<AtomicBool>,
}

impl OpenSet {
    fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }
}

impl TokenSets {
    /// Creates the folder if need be. `build` names the program that makes sets. When sets that no
    /// job has open take more than `bytes_max` bytes with the others, those that were not used for
    /// longest are removed.
    pub fn open(dir: &Path, build: String, maker: Maker, bytes_max: u64) -> io::Result<TokenSets> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        Ok(TokenSets(Arc::new(Folder {
            blobs: Blobs::open(Disk::shared(), dir, ""),
            build,
            bytes_max,
            orders: Orders::new(dir, Arc::new(maker.clone())),
            maker,
            sets: Mutex::default(),
            made: Condvar::new(),
        })))
    }

    /// The orders of epochs.
    pub fn orders(&self) -> Orders {
        self.0.orders.clone()
    }

    /// Returns the set that is asked for, and makes it first if there is none. Blocks; `watch`
    /// hears how much is done, and gives up if it returns false.
    pub fn get(
        &self,
        request: &Request,
        contents: &dyn Contents,
        watch: Watch<'_>,
    ) -> Result<Arc<TokenSet>, GetError> {
        let files = request.files();
        let hashes = hashes(&files, contents)?;
        let key = request
            .key(&self.0.build, &hashes)
            .map_err(|source| self.failed(source))?;
        let Some(turn) = self.turn(&key, watch)? else {
            return Err(MakeError::Unwanted.into());
        };
        let turn = match turn {
            Turn::Open(set) => return Ok(set),
            Turn::Make(turn) => turn,
        };
        if let Some(set) = self.found(&key)? {
            turn.end(&set);
            return Ok(set);
        }
        let set = self.make(request, &key, watch, &|| {
            let now = self::hashes(&files, contents)?;
            let changed = files.iter().zip(now.iter().zip(&hashes));
            let mut changed = changed.filter(|(_, (now, before))| now != before);
            match changed.next() {
                Some((path, _)) => Err(GetError::Changed { path: path.clone() }),
                None => Ok(()),
            }
        })?;
        turn.end(&set);
        // If this fails, the folder is larger than it should be, and the next set tries again.
        let _ = self.collect(&BTreeSet::new(), self.0.bytes_max);
        Ok(set)
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.0.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: io::Error) -> GetError {
        GetError::Folder {
            path: self.0.blobs.dir().into(),
            source,
        }
    }

    /// Waits until the set is open or it is this caller's turn to make it; `None` if it is no
    /// longer wanted.
    fn turn(&self, key: &Key, watch: Watch<'_>) -> Result<Option<Turn<'_>>, GetError> {
        let mut sets = self.sets();
        loop {
            let whole = sets.open.get(key).filter(|open| !open.is_damaged());
            if let Some(set) = whole.and_then(|open| open.set.upgrade()) {
                return Ok(Some(Turn::Open(set)));
            }
            if !sets.making.contains(key) && sets.making.len() < MADE_AT_ONCE {
                sets.making.insert(*key);
                return Ok(Some(Turn::Make(MakeTurn {
                    folder: &self.0,
                    key: *key,
                })));
            }
            let waited = self.0.made.wait_timeout(sets, LOOK);
            sets = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !watch(MakeStatus::Waiting) {
                return Ok(None);
            }
        }
    }

    /// The set of this key in the folder; `None` if there is none that is whole.
    fn found(&self, key: &Key) -> Result<Option<Arc<TokenSet>>, GetError> {
        let blobs = &self.0.blobs;
        let opened = match File::open(blobs.path(key)) {
            Ok(file) => {
                (blobs.touch(key).map_err(SetError::Io)).and_then(|()| TokenSet::open(file, key))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error.into()),
        };
        // One that was found damaged may look whole when it is opened.
        let is_damaged = self.sets().open.get(key).is_some_and(OpenSet::is_damaged);
        match opened {
            Ok(set) if !is_damaged => Ok(Some(Arc::new(set))),
            Ok(_) | Err(SetError::Damaged(_)) => {
                blobs.remove(key).map_err(|error| self.failed(error))?;
                Ok(None)
            }
            Err(SetError::Io(error)) => Err(self.failed(error)),
        }
    }

    fn make(
        &self,
        request: &Request,
        key: &Key,
        watch: Watch<'_>,
        check: &dyn Fn() -> Result<(), GetError>,
    ) -> Result<Arc<TokenSet>, GetError> {
        let part = self.0.blobs.part(key);
        let file = private_file(&part).map_err(|error| self.failed(error))?;
        let made = match self.fill(request, key, &file, watch) {
            Err(unwanted @ GetError::Make(MakeError::Unwanted)) => Err(unwanted),
            // What is wrong with a file that changes meanwhile says nothing.
            filled => check().and(filled).and_then(|()| {
                let placed = self.0.blobs.place(&part, key);
                placed.map_err(|error| self.failed(error))
            }),
        };
        if let Err(error) = made {
            // If this fails too, the next start of a daemon removes it.
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
        match TokenSet::open(file, key) {
            Ok(set) => Ok(Arc::new(set)),
            Err(error) => Err(MakeError::Set(error).into()),
        }
    }

    fn fill(
        &self,
        request: &Request,
        key: &Key,
        file: &File,
        watch: Watch<'_>,
    ) -> Result<(), GetError> {
        let file = file.try_clone().map_err(|error| self.failed(error))?;
        let made = (self.0.maker).make(request, (key, self.0.blobs.dir()), file, watch);
        Ok(made?)
    }

    /// Removes the sets that were not used for longest, until all together take at most `bytes_max`
    /// bytes. Those in `needed` and those that are open stay. Returns the bytes that were freed.
    pub fn collect(&self, needed: &BTreeSet<Key>, bytes_max: u64) -> io::Result<u64> {
        // What is open does not change while this goes on, and nothing new is opened.
        let sets = self.sets();
        let is_open = |key: &Key| {
            let open = sets.open.get(key);
            open.is_some_and(|open| open.set.strong_count() > 0) || sets.making.contains(key)
        };
        let is_needed = |key: &Key| needed.contains(key) || is_open(key);
        Ok(self.0.blobs.collect(bytes_max, is_needed)?.bytes)
    }
}

/// Whether a set is there, or has to be looked for and made.
enum Turn<'a> {
    Open(Arc<TokenSet>),
    Make(MakeTurn<'a>),
}

/// Held by the one who looks for a set and makes it.
struct MakeTurn<'a> {
    folder: &'a Folder,
    key: Key,
}

impl MakeTurn<'_> {
    /// Lets others have the set.
    fn end(self, set: &Arc<TokenSet>) {
        let mut sets = self
            .folder
            .sets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_of_use = |open: &OpenSet| open.set.strong_count() > 0 || open.is_damaged();
        sets.open.retain(|_, open| is_of_use(open));
        let open = OpenSet {
            set: Arc::downgrade(set),
            damaged: set.damage(),
        };
        sets.open.insert(self.key, open);
    }
}

impl Drop for MakeTurn<'_> {
    fn drop(&mut self) {
        let mut sets = self
            .folder
            .sets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sets.making.remove(&self.key);
        self.folder.made.notify_all();
    }
}

fn hashes(files: &[PathBuf], contents: &dyn Contents) -> Result<Vec<String>, GetError> {
    let hash = |path: &PathBuf| {
        contents.sha256(path).map_err(|source| GetError::Read {
            path: path.clone(),
            source,
        })
    };
    files.iter().map(hash).collect()
}
