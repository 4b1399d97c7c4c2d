//! Files that appear whole or not at all (`CKP-1`).

use crate::storage::sync_parent;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The mode of a new file that everybody may read and write, less what the umask forbids.
pub const FILE_MODE: u32 = 0o666;

/// Replaces `path`: writes a new file of this mode, less the umask, beside it, flushes it to the
/// disk, renames it to `path` and makes the name survive a crash. After an error no file is left
/// beside `path`, which is unchanged; only if the last step fails, the sync of the directory, is it
/// the new file, and a crash may bring the old one back. If several threads or processes write at
/// once, `path` holds what the last one to finish wrote, whole.
pub fn replace(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let (part, file) = create_part(path, mode)?;
    let written = fill_and_sync(file, fill).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // If this fails too, the error above is still the one to report.
        let _ = std::fs::remove_file(&part);
    }
    written.and_then(|()| sync_parent(path))
}

fn fill_and_sync(file: File, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut writer = BufWriter::new(file);
    fill(&mut writer)?;
    writer.into_inner().map_err(|e| e.into_error())?.sync_all()
}

/// Creates a file in the directory of `path`: the same file system, so that the rename is atomic,
/// and no two writers share it. A name that is taken, by another's file or a link, is not touched:
/// the next number is tried.
fn create_part(path: &Path, mode: u32) -> Result<(PathBuf, File)> {
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "not the path of a file"))?;
    let (name, process) = (name.to_string_lossy(), std::process::id());
    loop {
        let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
        let part = path.with_file_name(format!(".{name}.{process}-{writer}{PART}"));
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&part)
        {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => return Ok((part, created?)),
        }
    }
}

/// The end of the name of a file that is being written.
const PART: &str = ".part";

/// Removes the files that writers left in a directory because they did not live to finish; those of
/// this process stay. The files are only in the way, so an error is ignored.
pub fn remove_parts(directory: &Path) {
    let own = format!(".{}-", std::process::id());
    let is_left =
        |name: &str| name.starts_with('.') && name.ends_with(PART) && !name.contains(&own);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_left)) {
        let _ = std::fs::remove_file(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                            move || replace(path, FILE_MODE, |file| file.write_all(&[i; 64]))
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
        replace(&path, 0o600, |file| file.write_all(b"new")).unwrap();
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
        replace(&path, 0o600, |file| file.write_all(b"old")).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let failed = replace(&path, 0o600, |file| {
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
        assert_eq!(
            replace(Path::new("/"), 0o600, |_| Ok(()))
                .unwrap_err()
                .kind(),
            ErrorKind::InvalidInput
        );
    }
}
