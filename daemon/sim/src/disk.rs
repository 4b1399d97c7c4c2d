//! A disk in memory that fills up, fails to sync, and loses power.
//!
//! Every file keeps what is durable and the changes since its last sync; every directory keeps
//! which names are durable. A [`SimDisk::crash`] of the machine decides by seed, change by change,
//! which of the unsynced ones reached the disk: whole, not at all, or some of their 512-byte
//! sectors. That is harsher than a journaling file system and about what a drive with a volatile
//! cache may do. A crash of the process alone is just to go on with the same `SimDisk`.

use r1d_proto::storage::{Append, Storage};
use r1d_proto::world::counter_hash;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR_BYTES: usize = 512;

/// A simulated disk; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Contents>>);

#[derive(Clone, Debug, Default)]
struct Contents {
    files: Vec<FileState>,
    /// Names as the running system sees them; each points into `files`.
    names: BTreeMap<PathBuf, usize>,
    /// Names as a crash finds them.
    durable_names: BTreeMap<PathBuf, usize>,
    /// Bytes that can still be written; `None`: no limit.
    room: Option<u64>,
    /// Whether the machine dies when there is no room left: nothing works then until the crash.
    dies_when_full: bool,
    failing_syncs: u32,
    crashes: u64,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset..end].copy_from_slice(bytes);
            }
            Change::Length(length) => file.resize(*length, 0),
        }
    }

    /// Applies what a crash lets through of the change, chosen by the random word `fate`.
    fn survive(&self, file: &mut Vec<u8>, fate: u64) {
        match (fate % 3, self) {
            (0, _) => {}
            (1, Change::Write { offset, bytes }) => {
                for (i, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if counter_hash(&[fate, i as u64]).is_multiple_of(2) {
                        Change::Write {
                            offset: offset + i * SECTOR_BYTES,
                            bytes: sector.to_vec(),
                        }
                        .apply(file);
                    }
                }
            }
            _ => self.apply(file),
        }
    }
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
        if std::mem::take(&mut contents.dies_when_full) {
            contents.room = None;
        }
        for (index, file) in contents.files.iter_mut().enumerate() {
            let mut bytes = std::mem::take(&mut file.durable);
            for (i, change) in file.unsynced.drain(..).enumerate() {
                change.survive(
                    &mut bytes,
                    counter_hash(&[seed, contents.crashes, index as u64, i as u64]),
                );
            }
            file.durable = bytes.clone();
            file.bytes = bytes;
        }
        // Each name that a directory sync had not settled is as before or as after.
        let unsettled: BTreeSet<PathBuf> = contents
            .names
            .keys()
            .chain(contents.durable_names.keys())
            .cloned()
            .collect();
        for (i, name) in unsettled.into_iter().enumerate() {
            if counter_hash(&[seed, contents.crashes, u64::MAX, i as u64]).is_multiple_of(2) {
                settle(&contents.names, &mut contents.durable_names, &name);
            }
        }
        contents.names = contents.durable_names.clone();
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

    /// Makes the next `count` syncs of files fail, without making anything durable.
    pub fn fail_syncs(&self, count: u32) {
        self.contents().failing_syncs = count;
    }

    /// Flips one bit of a file, durably, as a failing drive may do.
    pub fn flip_bit(&self, path: &Path, bit: usize) {
        let mut contents = self.contents();
        if let Ok(index) = contents.index(path) {
            let file = &mut contents.files[index];
            for bytes in [&mut file.bytes, &mut file.durable] {
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }

    /// Opens a file for random access; creates it if it does not exist.
    pub fn open(&self, path: &Path) -> SimFile {
        let mut contents = self.contents();
        let index = match contents.index(path) {
            Ok(index) => index,
            Err(_) => {
                contents.files.push(FileState::default());
                let index = contents.files.len() - 1;
                contents.names.insert(path.to_path_buf(), index);
                index
            }
        };
        SimFile {
            disk: self.clone(),
            index,
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes `name` in `durable` what it is in `names`.
fn settle(names: &BTreeMap<PathBuf, usize>, durable: &mut BTreeMap<PathBuf, usize>, name: &Path) {
    match names.get(name) {
        Some(index) => durable.insert(name.to_path_buf(), *index),
        None => durable.remove(name),
    };
}

impl Contents {
    fn index(&self, path: &Path) -> io::Result<usize> {
        let missing = || {
            io::Error::new(
                ErrorKind::NotFound,
                format!("{} does not exist", path.display()),
            )
        };
        self.names.get(path).copied().ok_or_else(missing)
    }

    fn change(&mut self, index: usize, change: Change) {
        let file = &mut self.files[index];
        change.apply(&mut file.bytes);
        file.unsynced.push(change);
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
        self.disk.contents().files[self.index].bytes.len() as u64
    }

    /// Fills `out` from `offset`; an error of kind `UnexpectedEof` if the file ends before.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let contents = self.disk.contents();
        let start = offset as usize;
        let found = contents.files[self.index]
            .bytes
            .get(start..start + out.len());
        out.copy_from_slice(found.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    /// Writes `bytes` at `offset`, beyond the end too; an error of kind `StorageFull` after what
    /// fits the room.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = self.disk.contents();
        let fits = contents
            .room
            .map_or(bytes.len(), |room| bytes.len().min(room as usize));
        contents.room = contents.room.map(|room| room - fits as u64);
        contents.change(
            self.index,
            Change::Write {
                offset: offset as usize,
                bytes: bytes[..fits].to_vec(),
            },
        );
        if fits < bytes.len() {
            Err(io::Error::new(
                ErrorKind::StorageFull,
                "no space left on the simulated disk",
            ))
        } else {
            Ok(())
        }
    }

    /// Cuts the file, or fills it up with zeros.
    pub fn set_length(&self, length: u64) {
        self.disk
            .contents()
            .change(self.index, Change::Length(length as usize));
    }

    /// Makes the file's contents durable; an error if the machine is dead or syncs are to fail.
    pub fn sync_data(&self) -> io::Result<()> {
        let mut contents = self.disk.contents();
        if contents.dies_when_full && contents.room == Some(0) {
            return Err(io::Error::other("the simulated machine is dead"));
        }
        if contents.failing_syncs > 0 {
            contents.failing_syncs -= 1;
            return Err(io::Error::other("the simulated disk failed to sync"));
        }
        let file = &mut contents.files[self.index];
        file.durable = file.bytes.clone();
        file.unsynced.clear();
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
    /// Does nothing: a directory exists as soon as a name in it does.
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let contents = self.contents();
        let inside = contents
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir));
        Ok(inside
            .filter_map(|path| path.file_name()?.to_str().map(str::to_string))
            .collect())
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        Ok(Box::new(self.open(path)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let contents = self.contents();
        Ok(contents.files[contents.index(path)?].bytes.clone())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut contents = self.contents();
        let index = contents.index(from)?;
        contents.names.remove(from);
        contents.names.insert(to.to_path_buf(), index);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut contents = self.contents();
        contents.index(path)?;
        contents.names.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut contents = self.contents();
        let contents = &mut *contents;
        let names: Vec<PathBuf> = contents
            .names
            .keys()
            .chain(contents.durable_names.keys())
            .cloned()
            .collect();
        for name in names.iter().filter(|name| name.parent() == Some(dir)) {
            settle(&contents.names, &mut contents.durable_names, name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> PathBuf {
        PathBuf::from("/d/file")
    }

    /// A file with 1,000 synced bytes of 1 and 2,000 unsynced of 2.
    fn half_synced() -> SimDisk {
        let disk = SimDisk::default();
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
}
