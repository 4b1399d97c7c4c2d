//! A disk in memory that fills up, fails to sync, and loses power.
//!
//! Every file keeps what is durable and the changes since its last sync; every directory keeps
//! which names are durable. A [`SimDisk::crash`] of the machine decides by seed, change by change,
//! which of the unsynced ones reached the disk: whole, not at all, or some of their 512-byte
//! sectors; and name by name, which of those that were created, renamed or removed since the last
//! sync of their directory are as before. A directory whose name is lost is lost with all that is
//! in it. That is harsher than a journaling file system and about what a drive with a volatile
//! cache may do. A crash of the process alone is just to go on with the same `SimDisk`.

use crate::tree::{Change, Tree};
use r1d_proto::storage::{Append, FileFacts, Storage};
use r1d_proto::world::counter_hash;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A simulated disk; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Contents>>);

#[derive(Clone, Debug, Default)]
struct Contents {
    tree: Tree,
    /// Bytes that can still be written; `None`: no limit.
    room: Option<u64>,
    /// Whether the machine dies when there is no room left: nothing works then until the crash.
    dies_when_full: bool,
    /// Operations that changed something so far, failed ones included.
    operations: u64,
    /// The operation in which the machine dies.
    last_operation: Option<u64>,
    failing_syncs: u32,
    crashes: u64,
}

impl SimDisk {
    /// The disk as a component sees it.
    pub fn shared(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// Takes the machine's power away; afterwards the disk holds what survived, by `seed`. Handles
    /// opened before must not be used again.
    pub fn crash(&self, seed: u64) {
        let mut contents = self.contents();
        let contents = &mut *contents;
        contents.crashes += 1;
        contents.last_operation = None;
        if std::mem::take(&mut contents.dies_when_full) {
            contents.room = None;
        }
        let crashes = contents.crashes;
        contents
            .tree
            .crash(|node, i| counter_hash(&[seed, crashes, node, i]));
    }

    /// Copies the disk as it is now, unsynced changes included: crash the copy to see what a crash
    /// here would leave.
    pub fn fork(&self) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(self.contents().clone())))
    }

    /// Limits the room: after this many more bytes writes fail with `StorageFull`, the last one in
    /// its middle; `None` removes the limit.
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.contents().room = bytes;
    }

    /// Makes the machine die in the middle of a write, after this many more bytes: from then on
    /// writes and syncs fail, until [`SimDisk::crash`] decides what survived.
    pub fn lose_power_after(&self, bytes: u64) {
        let mut contents = self.contents();
        (contents.room, contents.dies_when_full) = (Some(bytes), true);
    }

    /// Makes the machine die in the operation of this number, counted from 1 on a new disk: a write
    /// is cut, anything else is not done. All that follow fail, until [`SimDisk::crash`] decides
    /// what survived.
    pub fn lose_power_at(&self, operation: u64) {
        self.contents().last_operation = Some(operation);
    }

    /// The number of operations so far: writes, syncs, and changes of names.
    pub fn operations(&self) -> u64 {
        self.contents().operations
    }

    /// Makes the next `count` syncs of files fail, without making anything durable.
    pub fn fail_syncs(&self, count: u32) {
        self.contents().failing_syncs = count;
    }

    /// Flips one bit of a file, durably, as a failing drive may do.
    pub fn flip_bit(&self, path: &Path, bit: usize) {
        let mut contents = self.contents();
        if let Ok(index) = contents.tree.file(path) {
            contents.tree.state(index).flip(bit);
        }
    }

    /// Opens a file for random access; creates it if it does not exist, and its directory, durably.
    pub fn open(&self, path: &Path) -> SimFile {
        let mut contents = self.contents();
        let found = contents.tree.file(path);
        let index = found.or_else(|_| {
            let dir = path.parent().unwrap_or(path);
            contents.tree.make_durable_dir(dir)?;
            contents.tree.create(path)
        });
        SimFile {
            disk: self.clone(),
            index: index.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes names, which is one operation.
    fn change<T>(&self, change: impl FnOnce(&mut Tree) -> io::Result<T>) -> io::Result<T> {
        let mut contents = self.contents();
        contents.live()?;
        change(&mut contents.tree)
    }

    fn new_file(&self, path: &Path) -> io::Result<usize> {
        let index = self.change(|tree| tree.create(path))?;
        let mut contents = self.contents();
        let now = contents.operations;
        contents.tree.state(index).modified = now;
        Ok(index)
    }

    fn handle(&self, index: usize) -> Box<dyn Append> {
        Box::new(SimFile {
            disk: self.clone(),
            index,
        })
    }
}

impl Contents {
    /// Counts an operation; an error if the machine dies in it, or has died before.
    fn live(&mut self) -> io::Result<()> {
        self.operations += 1;
        let is_dead = self
            .last_operation
            .is_some_and(|last| self.operations >= last);
        if is_dead || self.dies_when_full && self.room == Some(0) {
            return Err(io::Error::other("the simulated machine is dead"));
        }
        Ok(())
    }
}

/// A file of a [`SimDisk`], for random access.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    index: usize,
}

impl SimFile {
    /// Length of the file in bytes, unsynced changes included.
    pub fn length(&self) -> u64 {
        self.disk.contents().tree.state(self.index).bytes.len() as u64
    }

    /// Fills `out` from `offset`; an error of kind `UnexpectedEof` if the file ends before.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut contents = self.disk.contents();
        let start = offset as usize;
        let found = contents
            .tree
            .state(self.index)
            .bytes
            .get(start..start + out.len());
        out.copy_from_slice(found.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    /// Writes `bytes` at `offset`, beyond the end too; an error of kind `StorageFull` after what
    /// fits the room.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = self.disk.contents();
        let was_dead = contents
            .last_operation
            .is_some_and(|last| contents.operations >= last);
        contents.operations += 1;
        let dies = contents.last_operation == Some(contents.operations);
        let fits = match contents.room {
            _ if was_dead => 0,
            _ if dies => counter_hash(&[contents.operations]) as usize % (bytes.len() + 1),
            Some(room) => bytes.len().min(room as usize),
            None => bytes.len(),
        };
        contents.room = contents.room.map(|room| room - (fits as u64).min(room));
        let change = Change::Write {
            offset: offset as usize,
            bytes: bytes[..fits].to_vec(),
        };
        let now = contents.operations;
        let state = contents.tree.state(self.index);
        state.change(change);
        state.modified = now;
        if was_dead || dies {
            Err(io::Error::other("the simulated machine is dead"))
        } else if fits < bytes.len() {
            let full = "no space left on the simulated disk";
            Err(io::Error::new(ErrorKind::StorageFull, full))
        } else {
            Ok(())
        }
    }

    /// Cuts the file, or fills it up with zeros; does nothing if the machine is dead.
    pub fn set_length(&self, length: u64) {
        let mut contents = self.disk.contents();
        if contents.last_operation.is_none() || contents.live().is_ok() {
            contents
                .tree
                .state(self.index)
                .change(Change::Length(length as usize));
        }
    }

    /// Makes the file's contents durable; an error if the machine is dead or syncs are to fail.
    pub fn sync_data(&self) -> io::Result<()> {
        let mut contents = self.disk.contents();
        contents.live()?;
        if contents.failing_syncs > 0 {
            contents.failing_syncs -= 1;
            return Err(io::Error::other("the simulated disk failed to sync"));
        }
        contents.tree.state(self.index).sync();
        Ok(())
    }
}

impl Append for SimFile {
    fn length(&self) -> io::Result<u64> {
        Ok(SimFile::length(self))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_at(SimFile::length(self), bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_length(length);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Storage for SimDisk {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|tree| tree.make_dir(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.contents().tree.list(dir, true)
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.contents().tree.list(dir, false)
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        let found = self.contents().tree.file(path);
        let index = match found {
            Err(error) if error.kind() == ErrorKind::NotFound => self.new_file(path)?,
            found => found?,
        };
        Ok(self.handle(index))
    }

    fn create(&self, path: &Path, _mode: u32) -> io::Result<Box<dyn Append>> {
        Ok(self.handle(self.new_file(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut contents = self.contents();
        let index = contents.tree.file(path)?;
        Ok(contents.tree.state(index).bytes.clone())
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let index = self.contents().tree.file(path)?;
        let disk = self.clone();
        let mut bytes = vec![0; length];
        SimFile { disk, index }.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        let mut contents = self.contents();
        let index = contents.tree.file(path)?;
        let state = contents.tree.state(index);
        Ok(FileFacts {
            bytes: state.bytes.len() as u64,
            modified: Duration::from_secs(state.modified),
        })
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        let mut contents = self.contents();
        contents.live()?;
        let now = contents.operations;
        let index = contents.tree.file(path)?;
        contents.tree.state(index).modified = now;
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|tree| tree.link(from, to))
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let bytes = self.read(from)?;
        let mut file = self.create(to, 0o666)?;
        file.append(&bytes)?;
        file.sync()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|tree| tree.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|tree| tree.remove(path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|tree| tree.remove_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|tree| tree.sync_dir(dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    fn path() -> PathBuf {
        PathBuf::from("/d/file")
    }

    /// A file with 1,000 synced bytes of 1 and 2,000 unsynced of 2.
    fn half_synced() -> SimDisk {
        let disk = SimDisk::default();
        disk.make_dir(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let mut file = Storage::append(&disk, &path()).unwrap();
        file.append(&[1; 1000]).unwrap();
        file.sync().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.append(&[2; 2000]).unwrap();
        disk
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut lengths = BTreeSet::new();
        for seed in 0..64 {
            let disk = half_synced();
            disk.crash(seed);
            let bytes = disk.read(&path()).unwrap();
            assert_eq!(bytes[..1000], [1; 1000], "seed {seed}");
            assert!(
                bytes[1000..].iter().all(|&b| b == 0 || b == 2),
                "seed {seed}"
            );
            lengths.insert(bytes.len());
        }
        assert!(
            lengths.contains(&1000) && lengths.contains(&3000) && lengths.len() > 2,
            "{lengths:?}"
        );
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_gone() {
        let left = |seed| {
            let disk = SimDisk::default();
            disk.open(&path()).sync_data().unwrap();
            disk.crash(seed);
            disk.list(Path::new("/d")).unwrap().len()
        };
        let outcomes: BTreeSet<usize> = (0..32).map(left).collect();
        assert_eq!(outcomes, BTreeSet::from([0, 1]));
    }

    #[test]
    fn the_same_seed_leaves_the_same_disk() {
        let leave = |seed| {
            let disk = half_synced();
            disk.crash(seed);
            disk.read(&path()).unwrap()
        };
        assert_eq!(leave(5), leave(5));
    }

    #[test]
    fn a_full_disk_takes_the_first_part_of_a_write() {
        let disk = half_synced();
        disk.limit_room(Some(10));
        let mut file = Storage::append(&disk, &path()).unwrap();
        assert_eq!(
            file.append(&[3; 20]).unwrap_err().kind(),
            ErrorKind::StorageFull
        );
        assert_eq!(disk.read(&path()).unwrap()[3000..], [3; 10]);
    }

    /// A directory is in its parent by a name, which is as good as lost until the parent is synced.
    #[test]
    fn a_directory_whose_parent_was_not_synced_may_be_gone_with_all_in_it() {
        let left = |seed, synced: bool| {
            let disk = half_synced();
            let (inner, file) = (Path::new("/d/inner"), Path::new("/d/inner/file"));
            disk.make_dir(inner).unwrap();
            disk.create(file, 0o666).unwrap().sync().unwrap();
            disk.sync_dir(inner).unwrap();
            if synced {
                disk.sync_dir(Path::new("/d")).unwrap();
            }
            disk.crash(seed);
            disk.read(file).is_ok()
        };
        let outcomes = |synced| {
            (0..32)
                .map(|seed| left(seed, synced))
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(outcomes(false), BTreeSet::from([false, true]));
        assert_eq!(outcomes(true), BTreeSet::from([true]));
    }

    #[test]
    fn a_renamed_directory_takes_its_files_along() {
        let disk = half_synced();
        disk.rename(Path::new("/d"), Path::new("/e")).unwrap();
        let moved = Path::new("/e/file");
        assert_eq!(disk.read(moved).unwrap().len(), 3000);
        assert_eq!(disk.read(&path()).unwrap_err().kind(), ErrorKind::NotFound);
        disk.sync_dir(Path::new("/")).unwrap();
        disk.crash(1);
        assert!(disk.read(moved).unwrap().len() >= 1000);
        disk.remove_dir(Path::new("/e")).unwrap();
        assert!(disk.list(Path::new("/e")).is_err());
    }

    /// Whatever the machine dies in, nothing after it is done.
    #[test]
    fn a_machine_that_died_does_nothing_until_the_crash() {
        let disk = half_synced();
        let dies = disk.operations() + 2;
        disk.lose_power_at(dies);
        let mut file = Storage::append(&disk, &path()).unwrap();
        file.append(&[3; 10]).unwrap();
        assert!(file.append(&[4; 10]).is_err(), "it dies in this write");
        assert!(file.sync().is_err() && disk.remove(&path()).is_err());
        let bytes = disk.read(&path()).unwrap();
        assert!((3010..=3020).contains(&bytes.len()));
        disk.crash(7);
        disk.remove(&path()).unwrap();
    }
}
