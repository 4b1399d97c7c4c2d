//! Second names for files that do not change any more.

use crate::directory::{PartialDir, create_dir};
use crate::error::StoreError;
use r1d_proto::storage::Storage;
use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// Gives each file of the pairs the name beside it, in place of whatever has that name; copies it
/// where the file system cannot link. When it returns, all names survive a crash of the machine.
/// Each directory is synced once, so thousands of files cost no more than the links.
pub fn link_files(
    storage: &dyn Storage,
    files: impl IntoIterator<Item = (PathBuf, PathBuf)>,
) -> Result<(), StoreError> {
    let mut dirs = BTreeSet::new();
    for (from, to) in files {
        let dir = to.parent().unwrap_or(&to).to_path_buf();
        if !dirs.contains(&dir) {
            create_dir(storage, &dir).map_err(|error| StoreError::write(&dir, error))?;
            dirs.insert(dir);
        }
        link(storage, &from, &to)?;
    }
    for dir in &dirs {
        let synced = storage.sync_dir(dir);
        synced.map_err(|error| StoreError::write(dir, error))?;
    }
    Ok(())
}

/// Links all files below the directory `from` into a new one at `to`, which appears whole or not at
/// all (`CKP-1`), in place of whatever is there. More than `files_max` files and directories are an
/// error.
pub fn link_dir(
    storage: &dyn Storage,
    from: &Path,
    to: &Path,
    files_max: usize,
) -> Result<(), StoreError> {
    let write = |error| StoreError::write(to, error);
    remove_dir(storage, to).map_err(write)?;
    let partial = PartialDir::create(storage, to).map_err(write)?;
    let (mut folders, mut count) = (vec![PathBuf::new()], 0);
    while let Some(folder) = folders.pop() {
        let (source, target) = (from.join(&folder), partial.path().join(&folder));
        let read = |error| StoreError::read(&source, error);
        let inner = storage.list_dirs(&source).map_err(read)?;
        let files = storage.list(&source).map_err(read)?;
        count += inner.len() + files.len();
        if count > files_max {
            let what = format!("more than {files_max} files");
            return Err(StoreError::read(from, Error::other(what)));
        }
        storage.make_dir(&target).map_err(write)?;
        for name in files {
            link(storage, &source.join(&name), &target.join(&name))?;
        }
        folders.extend(inner.into_iter().map(|name| folder.join(name)));
    }
    partial.place().map_err(write)
}

/// Removes a directory with all that is in it; it need not exist.
pub fn remove_dir(storage: &dyn Storage, dir: &Path) -> std::io::Result<()> {
    match storage.remove_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn link(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), StoreError> {
    let linked = match storage.link(from, to) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let removed = storage.remove(to);
            removed.map_err(|error| StoreError::write(to, error))?;
            storage.link(from, to)
        }
        linked => linked,
    };
    // Another file system, or one without links.
    linked
        .or_else(|_| storage.copy(from, to))
        .map_err(|error| StoreError::write(to, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    #[test]
    fn files_are_linked_over_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b"] {
            std::fs::write(path(name), name).unwrap();
        }
        std::fs::create_dir(path("new")).unwrap();
        std::fs::write(path("new/b"), "old").unwrap();
        let pairs = ["a", "b"].map(|name| (path(name), path("new").join(name)));
        link_files(&Disk, pairs.clone()).unwrap();
        link_files(&Disk, pairs).unwrap();
        for name in ["a", "b"] {
            assert_eq!(
                std::fs::read_to_string(path("new").join(name)).unwrap(),
                name
            );
        }
        let missing = link_files(&Disk, [(path("gone"), path("new/c"))]);
        assert!(missing.unwrap_err().to_string().contains("new/c"));
        assert!(!path("new/c").exists());
    }

    #[test]
    fn a_directory_is_linked_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("deep/to"));
        std::fs::create_dir_all(from.join("inner")).unwrap();
        for name in ["a", "inner/b"] {
            std::fs::write(from.join(name), name).unwrap();
        }
        link_dir(&Disk, &from, &to, 3).unwrap();
        link_dir(&Disk, &from, &to, 3).unwrap();
        for name in ["a", "inner/b"] {
            assert_eq!(std::fs::read_to_string(to.join(name)).unwrap(), name);
        }
        let other = dir.path().join("other");
        assert!(link_dir(&Disk, &from, &other, 2).is_err());
        let left = Disk.list_dirs(dir.path()).unwrap();
        assert_eq!(left, ["deep", "from"], "nothing is left beside it");
    }

    /// Prints how long it takes to link the rollout files of a long stage.
    #[test]
    #[ignore = "prints a duration"]
    #[allow(
        clippy::disallowed_methods,
        reason = "a measurement reads the machine's clock"
    )]
    fn links_of_ten_thousand_files() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        let name = |i: u32| format!("rl-step-{i:06}.parquet");
        (0..10_000).for_each(|i| std::fs::write(from.join(name(i)), "x").unwrap());
        let started = std::time::Instant::now();
        let pairs = (0..10_000).map(|i| (from.join(name(i)), to.join(name(i))));
        link_files(&Disk, pairs).unwrap();
        println!("linking: {:.3} s", started.elapsed().as_secs_f64());
    }
}
