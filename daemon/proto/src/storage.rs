//! Files as an append-only log needs them, handed in like the clock: a simulator's can tear a
//! write, fill up and lose power.

use std::fs::File;
use std::io;
use std::path::Path;

/// Creates a directory and its parents, where they are missing. When it returns, their names
/// survive a crash of the machine: a name is in its parent, which is what has to be synced.
pub fn create_dir_durably(dir: &Path) -> io::Result<()> {
    let made = dir
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .count();
    std::fs::create_dir_all(dir)?;
    // A directory that exists already may be of a process that ended before it synced it.
    dir.ancestors().take(made.max(1)).try_for_each(sync_parent)
}

/// Makes what happened to the name of `path` (created, renamed, removed) survive a crash of the
/// machine.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        // The root of the file system has no name.
        None => Ok(()),
    }
}

/// A directory tree. Contract:
/// - what was appended and not synced may be lost, wholly or in part, by a crash of the machine; a
///   crash of the process loses nothing appended;
/// - that a file was created, renamed or removed survives a crash of the machine after
///   [`Storage::sync_dir`] of its directory;
/// - errors are the file system's own, of kind `NotFound` for what does not exist and `StorageFull`
///   where no room is left.
pub trait Storage: Send + Sync + 'static {
    /// Creates the directory and its parents; it may exist. When it returns, their names survive a
    /// crash of the machine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names of the files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file at its end; creates it if it does not exist.
    fn append(&self, path: &Path) -> io::Result<Box<dyn Append>>;
    /// Reads the whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Renames a file; replaces `to` if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory survive a crash of the machine.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file open at its end.
pub trait Append: Send {
    /// Bytes in the file.
    fn length(&self) -> io::Result<u64>;
    /// Writes all of `bytes`; after an error any first part of them may be in the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to its first `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Returns once everything appended survives a crash. After an error, nothing appended since
    /// the last success may be trusted to.
    fn sync(&mut self) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_with_all_their_parents() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_dir_durably(&deep).unwrap();
        create_dir_durably(&deep).unwrap();
        assert!(deep.is_dir());
        std::fs::write(root.path().join("file"), "").unwrap();
        assert!(create_dir_durably(&root.path().join("file/below")).is_err());
        sync_parent(Path::new("/")).unwrap();
        assert_eq!(
            sync_parent(&root.path().join("gone/x")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
