//! Files of a directory that several processes write and that appears whole or not at all
//! (`CKP-1`): each leaves its own in a folder beside the directory, and the one that writes the
//! manifest takes them in first.
//!
//! ```text
//! rank 1 ─▶ .step-50.share-1/trainer-00002-of-00002.safetensors ─┐ renamed
//! rank 0 ─▶ .step-50.partial/trainer-00001-of-00002.safetensors  ▼
//!           .step-50.partial/trainer-00002-of-00002.safetensors ─▶ manifest, rename to step-50/
//! ```

use super::directory::{files_below, sync_files};
use super::is_there;
use crate::error::{ModelError, Result};
use r1d_proto::storage::Storage;
use r1d_store::{Disk, PartialDir};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// The folder in which a rank leaves its files of `dir`. Its name begins with a dot, like that of
/// whatever else lies beside a directory and was never put in its place.
fn folder_of(dir: &Path, rank: usize) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.share-{rank}"))
}

/// Runs `fill` on a fresh folder, syncs what is in it, and leaves it for [`take_in`]. An error
/// leaves nothing behind; what a crash leaves behind is removed by the next try.
pub fn hand_over(dir: &Path, rank: usize, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = folder_of(dir, rank);
    discard(dir, rank)?;
    let partial = PartialDir::create(&Disk, &folder).map_err(ModelError::io(&folder))?;
    fill(partial.path())?;
    sync_files(partial.path())?;
    partial.place().map_err(ModelError::io(&folder))
}

/// Moves the files that a rank left for `dir` to `into`, where their folders are and no file has
/// their name.
pub fn take_in(dir: &Path, rank: usize, into: &Path) -> Result<()> {
    let folder = folder_of(dir, rank);
    for path in files_below(&folder)? {
        let to = into.join(&path);
        if is_there(&to)? {
            let source = Error::new(ErrorKind::AlreadyExists, "two ranks wrote it");
            return Err(ModelError::Io { path: to, source });
        }
        let moved = Disk.rename(&folder.join(&path), &to);
        moved.map_err(ModelError::io(&to))?;
    }
    discard(dir, rank)
}

/// Removes what a rank has left for `dir`, if anything.
pub fn discard(dir: &Path, rank: usize) -> Result<()> {
    let folder = folder_of(dir, rank);
    match Disk.remove_dir(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(ModelError::io(&folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{verify_manifest, write_directory_atomically};
    use super::*;
    use std::fs;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Writes what rank 1 adds to the directory.
    fn left(dir: &Path, contents: &str) -> Result<()> {
        hand_over(dir, 1, |into| {
            fs::create_dir(into.join("value")).unwrap();
            fs::write(into.join("value/b"), contents).unwrap();
            Ok(())
        })
    }

    #[test]
    fn a_directory_has_the_files_of_all_ranks_and_nothing_is_left_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("step-1");
        // A rank that was killed left another file, and half of one.
        for stale in [".step-1.share-1", "..step-1.share-1.partial"] {
            fs::create_dir(root.path().join(stale)).unwrap();
            fs::write(root.path().join(stale).join("stale"), "x").unwrap();
        }
        left(&dir, "of rank 1").unwrap();
        assert_eq!(names(root.path()), [".step-1.share-1"]);
        write_directory_atomically(&dir, |into| {
            fs::create_dir(into.join("value")).unwrap();
            fs::write(into.join("value/a"), "of rank 0").unwrap();
            take_in(&dir, 1, into)
        })
        .unwrap();
        assert_eq!(names(root.path()), ["step-1"]);
        let files = verify_manifest(&dir).unwrap().files;
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["value/a", "value/b"]);
        assert_eq!(fs::read(dir.join("value/b")).unwrap(), b"of rank 1");
    }

    #[test]
    fn what_fails_leaves_nothing_and_no_file_replaces_another() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("step-1");
        let failed = hand_over(&dir, 1, |into| {
            fs::write(into.join("half"), "x").unwrap();
            Err(ModelError::Input("planted".into()))
        });
        assert_eq!(failed.unwrap_err().to_string(), "planted");
        assert!(names(root.path()).is_empty());
        let written = |into: &Path| {
            fs::create_dir(into.join("value")).unwrap();
            fs::write(into.join("value/b"), "of rank 0").unwrap();
            take_in(&dir, 1, into)
        };
        // The rank has left nothing.
        assert!(write_directory_atomically(&dir, written).is_err());
        left(&dir, "of rank 1").unwrap();
        let twice = write_directory_atomically(&dir, written).unwrap_err();
        assert!(twice.to_string().contains("two ranks"), "{twice}");
        discard(&dir, 1).unwrap();
        assert!(names(root.path()).is_empty());
    }
}
