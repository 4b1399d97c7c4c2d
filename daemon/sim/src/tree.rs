//! The contents of a simulated disk: files and directories, each with what is durable of it.

use r1d_proto::world::counter_hash;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};

const SECTOR_BYTES: usize = 512;
/// The index of the root directory.
const ROOT: usize = 0;

/// All files and directories that there ever were, by index; names point to them.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    File(FileState),
    Directory(Names),
}

/// The names in a directory: as the running system sees them, and as a crash finds them.
#[derive(Clone, Debug, Default)]
struct Names {
    now: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FileState {
    pub(crate) bytes: Vec<u8>,
    /// The number of the operation that wrote or touched the file last: the disk's time.
    pub(crate) modified: u64,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
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

impl FileState {
    pub(crate) fn change(&mut self, change: Change) {
        change.apply(&mut self.bytes);
        self.unsynced.push(change);
    }

    pub(crate) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Flips one bit, durably.
    pub(crate) fn flip(&mut self, bit: usize) {
        for bytes in [&mut self.bytes, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    fn crash(&mut self, fate: impl Fn(u64) -> u64) {
        for (i, change) in self.unsynced.drain(..).enumerate() {
            change.survive(&mut self.durable, fate(i as u64));
        }
        self.bytes = self.durable.clone();
    }
}

impl Names {
    /// Makes `name` durably what it is now.
    fn settle(&mut self, name: &str) {
        match self.now.get(name) {
            Some(index) => self.durable.insert(name.to_string(), *index),
            None => self.durable.remove(name),
        };
    }

    /// Makes each name that no sync had settled as before or as after.
    fn crash(&mut self, fate: impl Fn(u64) -> u64) {
        let names = self.now.keys().chain(self.durable.keys());
        let unsettled: BTreeSet<String> = names
            .filter(|name| self.now.get(*name) != self.durable.get(*name))
            .cloned()
            .collect();
        for (i, name) in unsettled.iter().enumerate() {
            if fate(i as u64).is_multiple_of(2) {
                self.settle(name);
            }
        }
        self.now = self.durable.clone();
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree {
            nodes: vec![Node::Directory(Names::default())],
        }
    }
}

fn missing(path: &Path) -> io::Error {
    let text = format!("{} does not exist", path.display());
    io::Error::new(ErrorKind::NotFound, text)
}

fn taken(path: &Path) -> io::Error {
    let text = format!("{} exists already", path.display());
    io::Error::new(ErrorKind::AlreadyExists, text)
}

impl Tree {
    fn index(&self, path: &Path) -> io::Result<usize> {
        let mut at = ROOT;
        for part in path.components().filter(|part| *part != Component::RootDir) {
            let name = part.as_os_str().to_string_lossy();
            let Node::Directory(names) = &self.nodes[at] else {
                return Err(io::Error::from(ErrorKind::NotADirectory));
            };
            at = *names.now.get(&*name).ok_or_else(|| missing(path))?;
        }
        Ok(at)
    }

    pub(crate) fn file(&self, path: &Path) -> io::Result<usize> {
        match self.index(path)? {
            index if matches!(self.nodes[index], Node::File(_)) => Ok(index),
            _ => Err(io::Error::from(ErrorKind::IsADirectory)),
        }
    }

    /// The file of this index, which [`Tree::file`] gave.
    pub(crate) fn state(&mut self, index: usize) -> &mut FileState {
        match &mut self.nodes[index] {
            Node::File(file) => file,
            Node::Directory(_) => panic!("node {index} is a directory"),
        }
    }

    fn directory(&mut self, dir: &Path) -> io::Result<&mut Names> {
        let index = self.index(dir)?;
        match &mut self.nodes[index] {
            Node::Directory(names) => Ok(names),
            Node::File(_) => Err(io::Error::from(ErrorKind::NotADirectory)),
        }
    }

    /// The directory that the name of `path` is in, and that name.
    fn place(&mut self, path: &Path) -> io::Result<(&mut Names, String)> {
        let nameless = || io::Error::from(ErrorKind::InvalidInput);
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(nameless)?.to_string();
        let parent = path.parent().ok_or_else(nameless)?;
        Ok((self.directory(parent)?, name))
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let index = self.nodes.len();
        let (names, name) = self.place(path)?;
        if names.now.contains_key(&name) {
            return Err(taken(path));
        }
        names.now.insert(name, index);
        self.nodes.push(node);
        Ok(index)
    }

    /// Creates a file, which must not exist.
    pub(crate) fn create(&mut self, path: &Path) -> io::Result<usize> {
        self.add(path, Node::File(FileState::default()))
    }

    /// Creates a directory; it may exist.
    pub(crate) fn make_dir(&mut self, dir: &Path) -> io::Result<()> {
        if self.directory(dir).is_ok() {
            return Ok(());
        }
        let node = Node::Directory(Names::default());
        self.add(dir, node).map(drop)
    }

    /// Creates a directory and its parents, all of them durably.
    pub(crate) fn make_durable_dir(&mut self, dir: &Path) -> io::Result<()> {
        if let Some(parent) = dir.parent() {
            self.make_durable_dir(parent)?;
            self.make_dir(dir)?;
            self.sync_dir(parent)?;
        }
        Ok(())
    }

    /// Names in a directory of the files, or of the directories, in it.
    pub(crate) fn list(&self, dir: &Path, files: bool) -> io::Result<Vec<String>> {
        let Node::Directory(names) = &self.nodes[self.index(dir)?] else {
            return Err(io::Error::from(ErrorKind::NotADirectory));
        };
        let wanted = |index: &usize| matches!(self.nodes[*index], Node::File(_)) == files;
        let found = names.now.iter().filter(|(_, index)| wanted(index));
        Ok(found.map(|(name, _)| name.clone()).collect())
    }

    pub(crate) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let index = self.file(from)?;
        let (names, name) = self.place(to)?;
        if names.now.contains_key(&name) {
            return Err(taken(to));
        }
        names.now.insert(name, index);
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let index = self.index(from)?;
        if self.directory(to).is_ok_and(|names| !names.now.is_empty()) {
            return Err(io::Error::from(ErrorKind::DirectoryNotEmpty));
        }
        let (names, name) = self.place(to)?;
        names.now.insert(name, index);
        let (names, name) = self.place(from)?;
        names.now.remove(&name);
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (names, name) = self.place(path)?;
        names.now.remove(&name);
        Ok(())
    }

    /// Removes a directory, name by name: a crash may leave any of them.
    pub(crate) fn remove_dir(&mut self, dir: &Path) -> io::Result<()> {
        for inner in self.list(dir, false)? {
            self.remove_dir(&dir.join(inner))?;
        }
        self.directory(dir)?.now.clear();
        let (names, name) = self.place(dir)?;
        names.now.remove(&name);
        Ok(())
    }

    pub(crate) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        let names = self.directory(dir)?;
        names.durable = names.now.clone();
        Ok(())
    }

    /// Leaves what survives a crash; `fate` gives a random word for the n-th undecided thing of a
    /// file or directory.
    pub(crate) fn crash(&mut self, fate: impl Fn(u64, u64) -> u64) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let fate = |i| fate(index as u64, i);
            match node {
                Node::File(file) => file.crash(fate),
                Node::Directory(names) => names.crash(fate),
            }
        }
    }
}
