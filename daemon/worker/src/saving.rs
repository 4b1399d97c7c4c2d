//! Saves a checkpoint beside the work: its snapshot is taken on the device's thread, and a thread
//! of its own writes, hashes and syncs it while later requests are carried out.

use crate::checkpoints::{carried_from, carry_files, checkpoint_bytes, put_checkpoint};
use crate::device::{DeviceState, Opened};
use crate::failure::{of_model, of_the_machine, of_writing};
use crate::host_memory;
use crate::outbox::Outbox;
use r1d_model::checkpoint::{self, Blocks, SnapshotParts};
use r1d_proto::worker::{CheckpointState, Failure, FailureKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use tch::Device;

/// A checkpoint to save.
#[derive(Clone, Debug)]
pub(crate) struct ToSave {
    pub stage: u32,
    pub step: u64,
    pub dir: PathBuf,
}

/// Begins to make the memory for snapshots of a model on a GPU. On the CPU it is made for each and
/// freed once it is written.
pub(crate) fn reserve(opened: &mut Opened, device: Device) -> Result<(), Failure> {
    if opened.trainer.is_none() || device == Device::Cpu {
        return Ok(());
    }
    let bytes = checkpoint_bytes(opened);
    let blocks = Blocks::pinned(device, bytes, memory_max()).map_err(of_the_machine)?;
    opened.snapshot_memory = Some(blocks);
    Ok(())
}

/// Most bytes of a snapshot that are in memory at a time: half of what the host has to spare.
fn memory_max() -> u64 {
    host_memory::available() / 2
}

/// Takes a snapshot, and leaves it to a thread to write. One is written at a time: an earlier one
/// is waited for.
pub(crate) fn save(
    device_state: &mut DeviceState,
    to_save: ToSave,
    outbox: &Outbox,
) -> Result<(), Failure> {
    if let Some(before) = device_state.writing.take() {
        // It has reported its own end, and its panics.
        let _ = before.join();
    }
    let opened = device_state.opened()?;
    let bytes = checkpoint_bytes(opened);
    let reserved = opened.snapshot_memory.take();
    let is_reserved = reserved.is_some();
    let mut blocks = reserved.unwrap_or_else(|| Blocks::new(bytes, memory_max()));
    let (mut snapshot, parts) = checkpoint::snapshot(&mut blocks);
    let carried = carried_from(&opened.request);
    let writing = begin_to_write(to_save, carried, parts, bytes, outbox.clone())?;
    let taken = put_checkpoint(opened, &mut snapshot).and_then(|()| snapshot.finish());
    opened.snapshot_memory = is_reserved.then_some(blocks);
    device_state.writing = Some(writing);
    taken.map_err(of_model)
}

/// Starts the thread that writes a checkpoint and reports on it.
fn begin_to_write(
    ToSave { stage, step, dir }: ToSave,
    carried: Option<PathBuf>,
    parts: SnapshotParts,
    bytes: u64,
    outbox: Outbox,
) -> Result<JoinHandle<()>, Failure> {
    let work = move || {
        let reports = outbox.of_checkpoint(stage, step);
        // The bytes are written, and read again to be hashed.
        let written = reports.during("checkpointing", "bytes", 2 * bytes, |_| {
            catch_unwind(AssertUnwindSafe(|| write(&dir, carried.as_deref(), parts)))
        });
        reports.checkpoint(written.unwrap_or_else(|_| {
            let message = "the thread that writes checkpoints panicked";
            CheckpointState::Failed(Failure::new(FailureKind::Internal, message))
        }));
    };
    let thread = Builder::new().name("checkpoint".into()).spawn(work);
    thread.map_err(of_the_machine)
}

fn write(dir: &Path, carried: Option<&Path>, parts: SnapshotParts) -> CheckpointState {
    let written = checkpoint::write_directory_atomically(dir, |into| {
        // The carried files come first, so that the model's own files (config.json) win.
        carry_files(carried, into)?;
        parts.write(into)
    });
    match written {
        Ok(manifest) => CheckpointState::Stored {
            manifest_sha256: manifest.sha256,
        },
        Err(error) => CheckpointState::Failed(of_writing(error)),
    }
}
