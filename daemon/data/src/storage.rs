//! Files that appear whole or not at all (`CKP-1`).

use crate::error::DataError;
use r1d_proto::storage::sync_parent;
use std::fs::File;
use std::io::{BufWriter, Error, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes a file beside `path`, flushes it to the disk and renames it to `path`. On an error `path` is as it was, and nothing is left beside it.
/// If several write at once, `path` holds what the last one to finish wrote, whole.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), DataError> {
    let wrong = |e: Error| DataError::write(path, e);
    let part = part_of(path).ok_or_else(|| wrong(Error::new(ErrorKind::InvalidInput, "not the path of a file")))?;
    let written = fill_and_sync(&part, fill).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // Nothing to add to the error that is reported if this fails as well.
        let _ = std::fs::remove_file(&part);
    }
    written.and_then(|()| sync_parent(path)).map_err(wrong)
}

fn fill_and_sync(part: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut writer = BufWriter::new(File::create(part)?);
    fill(&mut writer)?;
    writer.into_inner().map_err(|e| e.into_error())?.sync_all()
}

/// `.NAME.PROCESS-N.part` in the same directory: the same file system, so that the rename is
/// atomic, and no two writers share it.
fn part_of(path: &Path) -> Option<PathBuf> {
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name()?.to_string_lossy().into_owned();
    let (process, writer) = (std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed));
    Some(path.with_file_name(format!(".{name}.{process}-{writer}{PART}")))
}

/// The end of the name of a file that is being written.
const PART: &str = ".part";

/// Removes what writers left in a directory that did not live to finish; those of this process are
/// left alone. The files are only in the way: an error is nobody's business.
pub fn remove_parts(directory: &Path) {
    let own = format!(".{}-", std::process::id());
    let is_left = |name: &str| name.starts_with('.') && name.ends_with(PART) && !name.contains(&own);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_left)) {
        let _ = std::fs::remove_file(entry.path());
    }
}
