//! Files that appear whole or not at all (`CKP-1`).

use crate::error::DataError;
use std::io::Write;
use std::path::Path;

/// Writes a file beside `path`, flushes it to the disk and renames it to `path`. On an error `path` is as it was, and nothing is left beside it.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), DataError> {
    let _ = (path, fill);
    todo!()
}
