//! Writes files that appear whole or not at all (`CKP-1`), with errors that name them.

use crate::error::DataError;
use r1d_proto::replace::{FILE_MODE, replace};
use std::io::{Result, Write};
use std::path::Path;

/// Writes a file through `fill`; see [`replace`].
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> std::result::Result<(), DataError> {
    replace(path, FILE_MODE, fill).map_err(|error| DataError::write(path, error))
}
