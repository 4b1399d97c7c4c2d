//! Directories whose names survive a crash of the machine, and those that appear whole or not at
//! all (`CKP-1`).

use r1d_proto::storage::Storage;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// Creates a directory and its parents, where they are missing. When it returns, their names
/// survive a crash of the machine: a name is in its parent, which is what has to be synced.
pub fn create_dir(storage: &dyn Storage, dir: &Path) -> Result<()> {
    match storage.make_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            create_dir(storage, parent.ok_or(error)?)?;
            storage.make_dir(dir)?;
        }
        made => made?,
    }
    // A directory that exists already may be of a process that ended before it synced it.
    sync_parent(storage, dir)
}

/// Makes what happened to the name of `path` (created, renamed, removed) survive a crash of the
/// machine.
pub fn sync_parent(storage: &dyn Storage, path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => storage.sync_dir(parent),
        // The root of the file system has no name.
        None => Ok(()),
    }
}

/// A directory that is being written under another name beside its own. Dropped before it was
/// placed, it is removed; what a crash leaves is removed by the next one of its name.
pub struct PartialDir<'s> {
    storage: &'s dyn Storage,
    dir: PathBuf,
    partial: PathBuf,
    is_placed: bool,
}

impl<'s> PartialDir<'s> {
    /// Creates the directory that [`PartialDir::place`] is to rename to `dir`.
    pub fn create(storage: &'s dyn Storage, dir: &Path) -> Result<PartialDir<'s>> {
        let nameless = || Error::new(ErrorKind::InvalidInput, "not a name for a new directory");
        let name = dir.file_name().ok_or_else(nameless)?.to_string_lossy();
        let partial = dir.with_file_name(format!(".{name}.partial"));
        match storage.remove_dir(&partial) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => create_dir(storage, &partial)?,
        }
        Ok(PartialDir {
            storage,
            dir: dir.into(),
            partial,
            is_placed: false,
        })
    }

    /// The directory to fill. Its files are to be synced by whoever writes them.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Makes the names in the directory durable, renames it to its place, where there must be
    /// nothing, and makes that name durable.
    pub fn place(mut self) -> Result<()> {
        sync_below(self.storage, &self.partial)?;
        self.storage.rename(&self.partial, &self.dir)?;
        self.is_placed = true;
        sync_parent(self.storage, &self.dir)
    }
}

impl Drop for PartialDir<'_> {
    fn drop(&mut self) {
        if !self.is_placed {
            // The error for which it is given up is reported, whatever happens here.
            let _ = self.storage.remove_dir(&self.partial);
        }
    }
}

/// Makes the names in a directory, and in those below it, survive a crash of the machine.
fn sync_below(storage: &dyn Storage, dir: &Path) -> Result<()> {
    for inner in storage.list_dirs(dir)? {
        sync_below(storage, &dir.join(inner))?;
    }
    storage.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    #[test]
    fn directories_are_made_with_all_their_parents() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_dir(&Disk, &deep).unwrap();
        create_dir(&Disk, &deep).unwrap();
        assert!(deep.is_dir());
        std::fs::write(root.path().join("file"), "").unwrap();
        assert!(create_dir(&Disk, &root.path().join("file/below")).is_err());
        assert!(create_dir(&Disk, &root.path().join("file")).is_err());
        create_dir(&Disk, Path::new("/")).unwrap();
        sync_parent(&Disk, Path::new("/")).unwrap();
        let gone = root.path().join("gone/x");
        assert_eq!(
            sync_parent(&Disk, &gone).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}
