//! SHA-256 as records and keys write it: in hexadecimal.

use r1d_proto::user_file;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::path::Path;

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// SHA-256 of all bytes of a regular file. `wanted` is called between parts; its error ends the
/// reading.
pub(crate) fn of_file(path: &Path, wanted: &dyn Fn() -> io::Result<()>) -> io::Result<String> {
    let mut hash = Sha256::new();
    add(&mut hash, user_file::open(path)?, wanted)?;
    Ok(hex(hash))
}

/// Adds everything that the reader returns to a hash; `wanted` as in [`of_file`].
pub(crate) fn add(
    hash: &mut Sha256,
    mut from: impl Read,
    wanted: &dyn Fn() -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        wanted()?;
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}
