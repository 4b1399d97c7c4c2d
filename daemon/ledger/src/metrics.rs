//! Metrics of committed steps: the last few of a stage in the ledger's file, all before them in a
//! file of the job, in blocks.
//!
//! ```text
//! jobs/<id>/metrics.blocks    block │ block │ block │ …         only ever appended to
//! ledger.redb                 metrics_blocks: (job, stage, first step) → where the block is
//!                             metrics: (job, stage, step) → the rows since the last block
//! ```
//!
//! A step's row is in the same transaction as its commit. Once there are
//! [`BLOCK_STEPS`] of them they are appended to the job's file, synced, and then replaced by a
//! line in the index, in the transaction of the job's next command. So a committed step always has
//! its metrics, whatever a crash cuts off, and the ledger's file stays small. As nothing in the
//! job's file is ever overwritten, an old copy of the ledger finds what it knows of there. The file
//! goes with the job's directory.
//!
//! A damaged file is not appended to: a copy of it from before would not fit any more. It is made
//! whole from the rows of `metrics.jsonl`, if these give the same bytes.

use crate::stored;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_proto::worker::Metrics;
use r1d_store::{FILE_MODE, JobLayout, create_dir, replace, sync_parent};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Steps in a block.
pub(crate) const BLOCK_STEPS: u64 = 32;
/// Most bytes of a block that is read: those of a block's most names and steps.
const BLOCK_MAX_BYTES: u32 = 64 << 20;

/// The file with the metrics of a job, in a state directory `root`.
pub(crate) fn path(root: &Path, job: &JobId) -> PathBuf {
    JobLayout::of(root, job).metrics_blocks()
}

/// A row in `metrics_blocks`: where the metrics of some steps in a row are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Block {
    /// Number of steps, from the one in the row's key.
    pub(crate) steps: u64,
    offset: u64,
    length: u32,
    crc32c: u32,
}

/// A block's bytes: the values of each name, step by step; MessagePack. `None`: the step has no
/// metric of that name.
type Columns = BTreeMap<String, Vec<Option<f64>>>;

/// Appends the metrics of steps to a job's file, in blocks of steps in a row; returns each with its
/// first step.
pub(crate) fn append(
    storage: &dyn Storage,
    path: &Path,
    rows: &[(u64, Metrics)],
) -> io::Result<Vec<(u64, Block)>> {
    let (mut bytes, mut blocks) = (Vec::new(), Vec::new());
    for rows in rows.chunk_by(|(step, _), (next, _)| *next == step + 1) {
        for rows in rows.chunks(BLOCK_STEPS as usize) {
            let block = encode(rows)?;
            let row = Block {
                steps: rows.len() as u64,
                offset: bytes.len() as u64,
                length: u32::try_from(block.len()).map_err(io::Error::other)?,
                crc32c: crc32c::crc32c(&block),
            };
            blocks.extend(rows.first().map(|(first, _)| (*first, row)));
            bytes.extend(block);
        }
    }
    if !bytes.is_empty() {
        let start = append_bytes(storage, path, &bytes)?;
        blocks
            .iter_mut()
            .for_each(|(_, block)| block.offset += start);
    }
    Ok(blocks)
}

/// Appends to a file, which is created with its directories if it does not exist, and returns where
/// the bytes begin. When it returns, the bytes and the file's name survive a crash of the machine.
fn append_bytes(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<u64> {
    let mut file = match (storage.append(path), path.parent()) {
        (Err(error), Some(dir)) if error.kind() == ErrorKind::NotFound => {
            create_dir(storage, dir)?;
            storage.append(path)?
        }
        (file, _) => file?,
    };
    let start = file.length()?;
    file.append(bytes)?;
    file.sync()?;
    // The file may be of a process that ended before it synced the name.
    sync_parent(storage, path)?;
    Ok(start)
}

fn encode(rows: &[(u64, Metrics)]) -> io::Result<Vec<u8>> {
    let mut columns = Columns::new();
    for (index, (_, row)) in rows.iter().enumerate() {
        for (name, value) in row {
            let column = columns.entry(name.clone());
            let column = column.or_insert_with(|| vec![None; rows.len()]);
            if let Some(place) = column.get_mut(index) {
                *place = Some(*value);
            }
        }
    }
    stored::encode(&columns).map_err(io::Error::other)
}

/// Whether an error of [`read`] means that the file is not the one that was written.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidData
            | ErrorKind::UnexpectedEof
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidInput
    )
}

/// Reads a block: one row for each of its steps. Errors that [`is_damage`] knows mean that the file
/// is not the one that was written.
pub(crate) fn read(storage: &dyn Storage, path: &Path, block: &Block) -> io::Result<Vec<Metrics>> {
    let bytes = read_bytes(storage, path, block)?;
    let damaged = |error: redb::Error| io::Error::new(ErrorKind::InvalidData, error.to_string());
    let columns: Columns = stored::decode("metrics", &bytes).map_err(damaged)?;
    let mut rows = vec![Metrics::new(); block.steps as usize];
    for (name, column) in columns {
        for (row, value) in rows.iter_mut().zip(column) {
            if let Some(value) = value {
                row.insert(name.clone(), value);
            }
        }
    }
    Ok(rows)
}

/// Writes a job's file anew, with these blocks of a stage each in its place: as they are in the
/// file, or made of `rows`, which are by stage and step. The error says that one is in neither; the
/// file is as it was then. Nobody may append meanwhile.
pub(crate) fn mend(
    storage: &dyn Storage,
    path: &Path,
    blocks: &[(u32, u64, Block)],
    rows: &BTreeMap<(u32, u64), Metrics>,
) -> io::Result<()> {
    // What the ledger does not know of may be a newer one's.
    let mut bytes = storage.read(path).unwrap_or_default();
    for (stage, first, block) in blocks {
        let found = read_bytes(storage, path, block).or_else(|damage| {
            let steps = *first..first.saturating_add(block.steps);
            let rows: Vec<_> = steps
                .filter_map(|step| Some((step, rows.get(&(*stage, step))?.clone())))
                .collect();
            let made = encode(&rows)?;
            let is_it = crc32c::crc32c(&made) == block.crc32c;
            if is_it { Ok(made) } else { Err(damage) }
        })?;
        let start = usize::try_from(block.offset).map_err(io::Error::other)?;
        let end = start + found.len();
        bytes.resize(bytes.len().max(end), 0);
        if let Some(place) = bytes.get_mut(start..end) {
            place.copy_from_slice(&found);
        }
    }
    replace(storage, path, FILE_MODE, |file| file.write_all(&bytes))
}

fn read_bytes(storage: &dyn Storage, path: &Path, block: &Block) -> io::Result<Vec<u8>> {
    let damaged = |what: String| io::Error::new(ErrorKind::InvalidData, what);
    if block.length > BLOCK_MAX_BYTES {
        return Err(damaged(format!("a block of {} bytes", block.length)));
    }
    let bytes = storage.read_at(path, block.offset, block.length as usize)?;
    if crc32c::crc32c(&bytes) != block.crc32c {
        let what = format!(
            "the block at byte {} does not fit its checksum",
            block.offset
        );
        return Err(damaged(what));
    }
    Ok(bytes)
}
