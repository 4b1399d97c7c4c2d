//! The order of an epoch's rows as a pure function, and how a file holds it.

use crate::ahead::OrderKey;
use crate::file::bytes;
use r1d_proto::world::counter_order;
use std::fs::File;
use std::io::{self, Write};

/// Rows that are written to a file at a time.
const WRITTEN_ROWS: usize = 1 << 14;

/// The rows of an order, one after the other.
pub(crate) fn rows_of(key: &OrderKey) -> io::Result<Vec<u32>> {
    let [salt, seed, stage, epoch, len] = *key;
    let rows = u32::try_from(len)
        .map_err(|_| io::Error::other("an epoch of more than 4,294,967,295 rows"))?;
    Ok(counter_order(&[salt, seed, stage, epoch], rows))
}

/// Writes an order to a file, four bytes a row, little endian.
pub(crate) fn write(key: &OrderKey, mut file: &File) -> io::Result<()> {
    for rows in rows_of(key)?.chunks(WRITTEN_ROWS) {
        file.write_all(&bytes(rows))?;
    }
    Ok(())
}
