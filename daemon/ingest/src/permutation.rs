//! The order of an epoch's rows as a pure function, and how a file holds it.

use crate::ahead::OrderKey;
use crate::file::bytes;
use r1d_proto::world::counter_order;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write};

/// Rows that are written to a file at a time.
const WRITTEN_ROWS: usize = 1 << 14;

/// Who writes the orders of long epochs.
pub trait MakesOrders: Debug + Send + Sync {
    /// Writes the order of an epoch to an empty file, four bytes a row, little endian.
    fn make_order(&self, key: &OrderKey, file: &File) -> io::Result<()>;
}

/// This process writes them itself.
#[derive(Debug)]
pub struct InThisProcess;

impl MakesOrders for InThisProcess {
    fn make_order(&self, key: &OrderKey, file: &File) -> io::Result<()> {
        write(key, file)
    }
}

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
