//! Files that appear whole or not at all (`CKP-1`).

use crate::error::DataError;
use std::fs::File;
use std::io::{BufWriter, Error, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Writes a file beside `path`, flushes it to the disk and renames it to `path`. On an error `path` is as it was, and nothing is left beside it.
/// One writer per path at a time.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), DataError> {
    let wrong = |e: Error| DataError::write(path, e);
    let part = part_of(path).ok_or_else(|| wrong(Error::new(ErrorKind::InvalidInput, "not the path of a file")))?;
    let written = fill_and_sync(&part, fill).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // Nothing to add to the error that is reported if this fails as well.
        let _ = std::fs::remove_file(&part);
    }
    written.and_then(|()| sync_directory(path)).map_err(wrong)
}

fn fill_and_sync(part: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut writer = BufWriter::new(File::create(part)?);
    fill(&mut writer)?;
    writer.into_inner().map_err(|e| e.into_error())?.sync_all()
}

/// Without it the rename itself may be lost with the power.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// `.NAME.part` in the same directory: the same file system, so that the rename is atomic.
fn part_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    Some(path.with_file_name(format!(".{name}.part")))
}
