//! Files that appear whole or not at all (`CKP-1`).

use crate::directory::sync_parent;
use crate::error::StoreError;
use r1d_proto::storage::{Append, Storage};
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The mode of a new file that everybody may read and write, less what the umask forbids.
pub const FILE_MODE: u32 = 0o666;
/// The mode of a new file that only its owner may read and write.
pub const PRIVATE_MODE: u32 = 0o600;

/// Replaces `path`: writes a new file of this mode, less the umask, beside it, flushes it to the
/// disk, renames it to `path` and makes the name survive a crash. After an error no file is left
/// beside `path`, which is unchanged; only if the last step fails, the sync of the directory, is it
/// the new file, and a crash may bring the old one back. If several threads or processes write at
/// once, `path` holds what the last one to finish wrote, whole.
pub fn replace(
    storage: &dyn Storage,
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>,
) -> Result<()> {
    let (part, file) = create_part(storage, path, mode)?;
    let written = fill_and_sync(file, fill).and_then(|()| storage.rename(&part, path));
    if written.is_err() {
        // If this fails too, the error above is still the one to report.
        let _ = storage.remove(&part);
    }
    written.and_then(|()| sync_parent(storage, path))
}

/// Replaces `path` as [`replace`] does by a file that everybody may read; errors name the path.
pub fn write_file(
    storage: &dyn Storage,
    path: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>,
) -> std::result::Result<(), StoreError> {
    replace(storage, path, FILE_MODE, fill).map_err(|error| StoreError::write(path, error))
}

/// Creates `path`, which must not exist, as [`replace`] does; an error of kind `AlreadyExists` if
/// it does, also if another process was faster.
pub fn create_file(
    storage: &dyn Storage,
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>,
) -> Result<()> {
    let (part, file) = create_part(storage, path, mode)?;
    let linked = fill_and_sync(file, fill).and_then(|()| storage.link(&part, path));
    // What was linked stays; if the other name cannot be removed, it is removed at the next start.
    let _ = storage.remove(&part);
    linked.and_then(|()| sync_parent(storage, path))
}

/// Passes what is written on to a file of a [`Storage`].
struct Appending(Box<dyn Append>);

impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 64 << 10;

fn fill_and_sync(
    file: Box<dyn Append>,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>,
) -> Result<()> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, Appending(file));
    fill(&mut writer)?;
    let Appending(mut file) = writer.into_inner().map_err(|e| e.into_error())?;
    file.sync()
}

/// Creates a file in the directory of `path`: the same file system, so that the rename is atomic,
/// and no two writers share it. A name that is taken, by another's file or a link, is not touched:
/// the next number is tried.
fn create_part(
    storage: &dyn Storage,
    path: &Path,
    mode: u32,
) -> Result<(PathBuf, Box<dyn Append>)> {
    if path.file_name().is_none() {
        let what = "not the path of a file";
        return Err(Error::new(ErrorKind::InvalidInput, what));
    }
    loop {
        let part = part_of(path);
        match storage.create(&part, mode) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => return Ok((part, created?)),
        }
    }
}

/// A new name beside `path` for a file that is being written; [`remove_parts`] knows it.
pub(crate) fn part_of(path: &Path) -> PathBuf {
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (process, writer) = (std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed));
    path.with_file_name(format!(".{name}.{process}-{writer}{PART}"))
}

/// The end of the name of a file that is being written.
const PART: &str = ".part";

/// Removes the files that writers left in a directory because they did not live to finish; those of
/// this process stay. The files are only in the way, so an error is ignored.
pub fn remove_parts(storage: &dyn Storage, directory: &Path) {
    let own = format!(".{}-", std::process::id());
    let is_left =
        |name: &str| name.starts_with('.') && name.ends_with(PART) && !name.contains(&own);
    let names = storage.list(directory).unwrap_or_default();
    for name in names.iter().filter(|name| is_left(name)) {
        let _ = storage.remove(&directory.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    #[test]
    fn eight_writers_of_one_path_all_succeed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wasm");
        for _ in 0..50 {
            std::thread::scope(|scope| {
                let writers: Vec<_> = (0..8u8)
                    .map(|i| {
                        scope.spawn({
                            let path = &path;
                            move || replace(&Disk, path, FILE_MODE, |file| file.write_all(&[i; 64]))
                        })
                    })
                    .collect();
                writers
                    .into_iter()
                    .for_each(|writer| writer.join().unwrap().unwrap());
            });
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                bytes.len() == 64 && bytes.iter().all(|byte| *byte == bytes[0]),
                "one writer's, whole"
            );
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    /// Whoever may write in the directory can guess the names of parts.
    #[test]
    fn what_stands_in_the_place_of_a_part_is_neither_followed_nor_removed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("key"), dir.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        for writer in 0..1000 {
            let part = dir
                .path()
                .join(format!(".key.{}-{writer}.part", std::process::id()));
            std::os::unix::fs::symlink(&victim, part).unwrap();
        }
        replace(&Disk, &path, 0o600, |file| file.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file(), "no link");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1002,
            "nothing is left beside it"
        );
    }

    #[test]
    fn after_an_error_the_file_is_as_it_was() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        replace(&Disk, &path, 0o600, |file| file.write_all(b"old")).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let failed = replace(&Disk, &path, 0o600, |file| {
            file.write_all(b"new")?;
            Err(ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        let nameless = replace(&Disk, Path::new("/"), 0o600, |_| Ok(()));
        assert_eq!(nameless.unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_created_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_file(&Disk, &path, PRIVATE_MODE, |file| file.write_all(b"first")).unwrap();
        let second = create_file(&Disk, &path, PRIVATE_MODE, |file| file.write_all(b"second"));
        assert_eq!(second.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }
}
