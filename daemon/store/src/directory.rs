//! Directories whose names survive a crash of the machine.

use r1d_proto::storage::Storage;
use std::io::{ErrorKind, Result};
use std::path::Path;

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
