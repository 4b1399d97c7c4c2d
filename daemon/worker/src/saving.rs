//! Saves a checkpoint beside the work: its snapshot is taken on the device's thread, and a thread
//! of its own writes, hashes and syncs it while later requests are carried out. Each rank of a gang
//! does so with its own part of the checkpoint.

use crate::checkpoints::{carried_from, carry_files, checkpoint_bytes, put_checkpoint};
use crate::device::{DeviceState, Opened};
use crate::failure::{of_model, of_the_machine};
use crate::host_memory;
use crate::outbox::Outbox;
use crate::shares::{Part, Shares};
use crate::source::Placement;
use r1d_model::checkpoint::{self, Blocks, SnapshotParts};
use r1d_proto::worker::{CheckpointState, Failure, FailureKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::Builder;
use std::time::Duration;
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
    let bytes = checkpoint_bytes(opened);
    if opened.trainer.is_none() || device == Device::Cpu || bytes == 0 {
        return Ok(());
    }
    let blocks = Blocks::pinned(device, bytes, memory_max()).map_err(of_the_machine)?;
    opened.snapshot_memory = Some(blocks);
    Ok(())
}

/// Most bytes of a snapshot that are in memory at a time: half of what the host has to spare.
fn memory_max() -> u64 {
    host_memory::available() / 2
}

/// Takes a snapshot of this worker's part, and leaves it to a thread to write. One is written at a
/// time: an earlier one is waited for.
pub(crate) fn save(
    device_state: &mut DeviceState,
    to_save: ToSave,
    placement: &Placement,
    outbox: &Outbox,
) -> Result<(), Failure> {
    if let Some(before) = device_state.writing.take() {
        // It has reported its own end, and its panics.
        let _ = before.join();
    }
    let opened = device_state.opened()?;
    let bytes = checkpoint_bytes(opened);
    if bytes == 0 {
        // Other ranks have all of it.
        return Ok(());
    }
    let reserved = opened.snapshot_memory.take();
    let is_reserved = reserved.is_some();
    // Ranks share the host.
    let most = memory_max() / u64::from(Part::of(&opened.request).writers());
    let mut blocks = reserved.unwrap_or_else(|| Blocks::new(bytes, most));
    let (mut snapshot, parts) = checkpoint::snapshot(&mut blocks);
    let writer = Writer {
        to_save,
        carried: carried_from(&opened.request),
        shares: shares(opened, placement, outbox),
        bytes,
        outbox: outbox.clone(),
    };
    let writing = Builder::new()
        .name("checkpoint".into())
        .spawn(move || writer.run(parts))
        .map_err(of_the_machine)?;
    let taken = put_checkpoint(opened, &mut snapshot).and_then(|()| snapshot.finish());
    opened.snapshot_memory = is_reserved.then_some(blocks);
    device_state.writing = Some(writing);
    taken.map_err(of_model)
}

/// How the ranks make a directory together that this request asks for.
pub(crate) fn shares(opened: &Opened, placement: &Placement, outbox: &Outbox) -> Shares {
    let within_ms = opened.request.place.map_or(0, |place| place.within_ms);
    Shares {
        part: Part::of(&opened.request),
        rendezvous: placement.rendezvous.clone(),
        clock: placement.clock.clone(),
        request: outbox.id(),
        within: Duration::from_millis(within_ms),
    }
}

/// What the thread that writes a checkpoint, or a rank's share of it, needs.
struct Writer {
    to_save: ToSave,
    carried: Option<PathBuf>,
    shares: Shares,
    bytes: u64,
    outbox: Outbox,
}

impl Writer {
    fn run(self, parts: SnapshotParts) {
        if self.shares.part.is_first() {
            self.write_and_report(parts);
        } else {
            self.hand_over(parts);
        }
    }

    /// Writes the checkpoint and reports on it.
    fn write_and_report(&self, parts: SnapshotParts) {
        let ToSave { stage, step, dir } = &self.to_save;
        let reports = self.outbox.of_checkpoint(*stage, *step);
        // The bytes are written, and read again to be hashed.
        let written = reports.during("checkpointing", "bytes", 2 * self.bytes, |_| {
            catch_unwind(AssertUnwindSafe(|| self.write(dir, parts)))
        });
        if !matches!(written, Ok(Ok(_))) {
            self.shares.give_up(dir);
        }
        reports.checkpoint(match written {
            Ok(Ok(manifest_sha256)) => CheckpointState::Stored { manifest_sha256 },
            Ok(Err(failure)) => CheckpointState::Failed(failure),
            Err(_) => CheckpointState::Failed(panicked()),
        });
    }

    /// Writes the checkpoint with the shares of all ranks. Returns the hash of its manifest.
    fn write(&self, dir: &Path, parts: SnapshotParts) -> Result<String, Failure> {
        self.shares.write(dir, |into| {
            // The carried files come first, so that the model's own files (config.json) win.
            carry_files(self.carried.as_deref(), into)?;
            parts.write(into)
        })
    }

    /// Writes this rank's share, and tells the first rank, which reports on the checkpoint.
    fn hand_over(&self, parts: SnapshotParts) {
        let dir = &self.to_save.dir;
        let written = || self.shares.hand_over(dir, |into| parts.write(into));
        let written = catch_unwind(AssertUnwindSafe(written)).unwrap_or_else(|_| Err(panicked()));
        if let Err(failure) = &written {
            tracing::error!(
                "a share of a checkpoint is not written: {}",
                failure.message
            );
        }
        if let Err(failure) = self.shares.tell(dir, &written) {
            tracing::error!("rank 0 is not told of a share: {}", failure.message);
        }
    }
}

fn panicked() -> Failure {
    let message = "the thread that writes checkpoints panicked";
    Failure::new(FailureKind::Internal, message)
}
