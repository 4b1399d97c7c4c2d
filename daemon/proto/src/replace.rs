//! Files that appear whole or not at all (`CKP-1`).

use crate::storage::sync_parent;
use std::fs::OpenOptions;
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The mode of a new file that everybody may read whom the umask lets.
pub const FILE_MODE: u32 = 0o666;

/// Writes a file of this mode, less the umask, beside `path`, flushes it to the disk, renames it to `path` and makes
/// the name survive a crash. On an error `path` is as it was, and nothing is left beside it. If several threads or
/// processes write at once, `path` holds what the last one to finish wrote, whole.
pub fn replace(path: &Path, mode: u32, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let part = part_of(path).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "not the path of a file"))?;
    let written = fill_and_sync(&part, mode, fill).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // Nothing to add to the error that is reported if this fails as well.
        let _ = std::fs::remove_file(&part);
    }
    written.and_then(|()| sync_parent(path))
}

fn fill_and_sync(part: &Path, mode: u32, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(part)?;
    let mut writer = BufWriter::new(file);
    fill(&mut writer)?;
    writer.into_inner().map_err(|e| e.into_error())?.sync_all()
}

/// `.NAME.PROCESS-N.part` in the same directory: the same file system, so that the rename is atomic, and no two
/// writers share it.
fn part_of(path: &Path) -> Option<PathBuf> {
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name()?.to_string_lossy().into_owned();
    let (process, writer) = (std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed));
    Some(path.with_file_name(format!(".{name}.{process}-{writer}{PART}")))
}

/// The end of the name of a file that is being written.
const PART: &str = ".part";

/// Removes what writers left in a directory that did not live to finish; those of this process are left alone. The
/// files are only in the way, so an error is ignored.
pub fn remove_parts(directory: &Path) {
    let own = format!(".{}-", std::process::id());
    let is_left = |name: &str| name.starts_with('.') && name.ends_with(PART) && !name.contains(&own);
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
                writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
            });
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes.len() == 64 && bytes.iter().all(|byte| *byte == bytes[0]), "one writer's, whole");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn after_an_error_the_file_is_as_it_was() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        replace(&path, 0o600, |file| file.write_all(b"old")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let failed = replace(&path, 0o600, |file| {
            file.write_all(b"new")?;
            Err(ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(replace(Path::new("/"), 0o600, |_| Ok(())).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
