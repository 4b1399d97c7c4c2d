//! A directory's files in host memory, so that what they were made of may change while another
//! thread writes them.
//!
//! ```text
//! device's thread: tensors ─▶ blocks ─▶ queue ─▶ writer's thread: files
//!                               ▲                     │
//!                               └──── free blocks ────┘
//! ```
//!
//! A snapshot that has no free block left waits until the writer has written one: memory is bounded
//! ([`Blocks`]), and what does not fit into it takes the time of the disk.

use super::file_sink::{FileSink, Folder};
use crate::error::{ModelError, Result};
use r1d_kernels::PinnedMemory;
use r1d_torch::work;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Size of a block. A power of two: libtorch rounds pinned memory up to one.
const BLOCK_BYTES: usize = 64 << 20;
/// Fewest blocks, so that copying and writing overlap.
const BLOCKS_MIN: usize = 4;
/// Blocks beside those that are full: each file ends in one of its own.
const BLOCKS_PARTLY_USED: u64 = 12;
/// Files, folders and short texts that may wait for the writer beside all blocks (`LIM-1`).
const PARTS_MAX: usize = 1024;

/// Time between two blocks that are pinned ahead: the device stands still while one is.
const PINNING_PAUSE: Duration = Duration::from_millis(50);

/// A block of host memory.
struct HostBlock {
    bytes: Tensor,
    /// What `bytes` lies in, if it is pinned. It is dropped after the tensor.
    _pinned: Option<PinnedMemory>,
}

/// Host memory that snapshots are taken into, in blocks that are used again.
pub struct Blocks {
    /// Free blocks, or why there are none.
    free: Receiver<Result<HostBlock>>,
    back: Sender<Result<HostBlock>>,
    /// The sender whose drop ends the pauses between blocks that are pinned.
    leisure: Option<Sender<Infallible>>,
    /// Blocks that may still be allocated when they are needed.
    to_allocate: usize,
    /// Most blocks.
    max: usize,
    block_bytes: usize,
}

impl Blocks {
    /// Memory for snapshots of `bytes`, of which at most `bytes_max` are in memory at a time. It is
    /// allocated when it is needed.
    pub fn new(bytes: u64, bytes_max: u64) -> Blocks {
        Blocks::of(count(bytes, bytes_max), BLOCK_BYTES)
    }

    fn of(max: usize, block_bytes: usize) -> Blocks {
        let (back, free) = mpsc::channel();
        Blocks {
            free,
            back,
            leisure: None,
            to_allocate: max,
            max,
            block_bytes,
        }
    }

    /// Pinned memory for snapshots of what is on `device`, which it copies to several times as
    /// fast. Pinning takes longer than copying, so a thread does it ahead, without haste; a
    /// snapshot that comes earlier takes the blocks as they come.
    pub fn pinned(device: Device, bytes: u64, bytes_max: u64) -> std::io::Result<Blocks> {
        let mut blocks = Blocks::new(bytes, bytes_max);
        let count = std::mem::take(&mut blocks.to_allocate);
        let (leisure, is_wanted) = mpsc::channel();
        blocks.leisure = Some(leisure);
        let pinned = blocks.back.clone();
        std::thread::Builder::new()
            .name("pinned memory".into())
            .spawn(move || pin(device, count, &pinned, &is_wanted))?;
        Ok(blocks)
    }

    /// A free block, which is waited for if there is none.
    fn take(&mut self) -> Result<HostBlock> {
        if let Ok(block) = self.free.try_recv() {
            return block;
        }
        if self.to_allocate > 0 {
            self.to_allocate -= 1;
            return block(self.block_bytes);
        }
        self.leisure = None;
        let ended = || ModelError::Input("the memory for snapshots is gone".into());
        self.free.recv().map_err(|_| ended())?
    }
}

fn count(bytes: u64, bytes_max: u64) -> usize {
    let wanted = bytes.div_ceil(BLOCK_BYTES as u64) + BLOCKS_PARTLY_USED;
    let allowed = bytes_max / BLOCK_BYTES as u64;
    usize::try_from(wanted.min(allowed))
        .unwrap_or(0)
        .max(BLOCKS_MIN)
}

fn block(bytes: usize) -> Result<HostBlock> {
    Ok(HostBlock {
        bytes: Tensor::f_empty([bytes as i64], (Kind::Uint8, Device::Cpu))?,
        _pinned: None,
    })
}

fn pinned_block(device: Device, bytes: usize) -> Result<HostBlock> {
    let memory = PinnedMemory::new(device, bytes)?;
    Ok(HostBlock {
        // SAFETY: a block's tensor is dropped before its memory, and nobody else keeps it.
        bytes: unsafe { memory.tensor()? },
        _pinned: Some(memory),
    })
}

/// Pins `count` blocks, with pauses until the other end of `is_wanted` is dropped. The device
/// copies to other memory too, so where no more can be pinned the blocks that there are have to do.
fn pin(
    device: Device,
    count: usize,
    pinned: &Sender<Result<HostBlock>>,
    is_wanted: &Receiver<Infallible>,
) {
    for number in 0..count {
        match pinned_block(device, BLOCK_BYTES) {
            Ok(block) => {
                // Without a receiver the stage is over.
                if pinned.send(Ok(block)).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("pinned {number} of {count} blocks for snapshots: {error}");
                let _ = pinned.send(block(BLOCK_BYTES));
                return;
            }
        }
        // Nothing is ever sent: this waits, or finds that a snapshot does.
        let _ = is_wanted.recv_timeout(PINNING_PAUSE);
    }
}

/// What a snapshot sends to its writer.
enum Queued {
    Folder(PathBuf),
    File(PathBuf, u64),
    Bytes(Vec<u8>),
    /// A block and how many of its bytes are used.
    Block(HostBlock, usize),
    End,
}

/// A snapshot that is being taken. Its files are copied to memory and handed to the writer.
pub struct Snapshot<'b> {
    blocks: &'b mut Blocks,
    parts: SyncSender<Queued>,
    /// The block that is being filled, and how many of its bytes are.
    filling: Option<(HostBlock, usize)>,
}

/// The other end of a snapshot: what is to be written.
pub struct SnapshotParts {
    parts: Receiver<Queued>,
    back: Sender<Result<HostBlock>>,
}

/// Begins a snapshot. Its two ends belong in two threads: the first waits for the second when there
/// are no blocks left.
pub fn snapshot(blocks: &mut Blocks) -> (Snapshot<'_>, SnapshotParts) {
    let (sender, receiver) = mpsc::sync_channel(blocks.max + PARTS_MAX);
    let parts = SnapshotParts {
        parts: receiver,
        back: blocks.back.clone(),
    };
    let snapshot = Snapshot {
        blocks,
        parts: sender,
        filling: None,
    };
    (snapshot, parts)
}

impl Snapshot<'_> {
    /// Ends the snapshot: everything is in it. One that is dropped before is not written.
    pub fn finish(mut self) -> Result<()> {
        self.hand_over()?;
        self.send(Queued::End)
    }

    fn send(&mut self, part: Queued) -> Result<()> {
        let gone = |_| ModelError::Input("the writer of the snapshot is gone".into());
        self.parts.send(part).map_err(gone)
    }

    /// Hands the block that is being filled to the writer.
    fn hand_over(&mut self) -> Result<()> {
        match self.filling.take() {
            Some((block, used)) => self.send(Queued::Block(block, used)),
            None => Ok(()),
        }
    }
}

impl FileSink for Snapshot<'_> {
    fn folder(&mut self, path: &Path) -> Result<()> {
        self.hand_over()?;
        self.send(Queued::Folder(path.to_owned()))
    }

    fn file(&mut self, path: &Path, bytes: u64) -> Result<()> {
        self.hand_over()?;
        self.send(Queued::File(path.to_owned(), bytes))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hand_over()?;
        self.send(Queued::Bytes(bytes.to_owned()))
    }

    fn put_tensor(&mut self, tensor: &Tensor) -> Result<()> {
        if tensor.numel() == 0 {
            return Ok(());
        }
        let flat = tensor.f_detach()?.f_contiguous()?.f_view([-1])?;
        let flat = flat.f_view_dtype(Kind::Uint8)?;
        let (mut start, bytes) = (0, flat.numel());
        while start < bytes {
            let (block, used) = match self.filling.take() {
                Some(filling) => filling,
                None => (self.blocks.take()?, 0),
            };
            let count = (self.blocks.block_bytes - used).min(bytes - start);
            let from = flat.f_narrow(0, start as i64, count as i64)?;
            let mut to = block.bytes.f_narrow(0, used as i64, count as i64)?;
            // The copy is on the device's stream, and is waited for.
            tch::no_grad(|| to.f_copy_(&from))?;
            (start, self.filling) = (start + count, Some((block, used + count)));
            if used + count == self.blocks.block_bytes {
                self.hand_over()?;
            }
            work::moved(count as u64);
        }
        Ok(())
    }
}

impl SnapshotParts {
    /// Writes the snapshot below `dir` as it comes. An error if it ends before it is whole.
    pub fn write(self, dir: &Path) -> Result<()> {
        let mut folder = Folder::of(dir);
        let mut buffer = Vec::new();
        loop {
            match self.parts.recv() {
                Ok(Queued::Folder(path)) => folder.folder(&path)?,
                Ok(Queued::File(path, bytes)) => folder.file(&path, bytes)?,
                Ok(Queued::Bytes(bytes)) => folder.put(&bytes)?,
                Ok(Queued::Block(block, used)) => {
                    let written = put_block(&mut folder, &block, used, &mut buffer);
                    self.give_back(block);
                    written?;
                }
                Ok(Queued::End) => return Ok(()),
                Err(_) => {
                    return Err(ModelError::Input("the snapshot was given up".into()));
                }
            }
        }
    }

    fn give_back(&self, block: HostBlock) {
        // Without a receiver nobody takes snapshots any more.
        let _ = self.back.send(Ok(block));
    }
}

/// Bytes of a block that are copied to be written at a time.
const BUFFER_BYTES: usize = 8 << 20;

fn put_block(
    folder: &mut Folder,
    block: &HostBlock,
    used: usize,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    for start in (0..used).step_by(BUFFER_BYTES) {
        let count = BUFFER_BYTES.min(used - start);
        buffer.resize(count, 0);
        let part = block.bytes.f_narrow(0, start as i64, count as i64)?;
        part.f_copy_data_u8(buffer, count)?;
        folder.put(buffer)?;
    }
    Ok(())
}

impl Drop for SnapshotParts {
    /// Lets the snapshot end, whatever became of its files: the device does not wait for a disk
    /// that takes nothing.
    fn drop(&mut self) {
        while let Ok(part) = self.parts.recv() {
            if let Queued::Block(block, _) = part {
                self.give_back(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tensors::{put_tensors, save_tensors};
    use super::*;
    use std::fs;

    /// Tensors of several kinds and layouts, one of which is longer than all blocks.
    fn tensors() -> Vec<(String, Tensor)> {
        let floats = |n: i64| Tensor::arange(n, tch::kind::FLOAT_CPU) * 0.5;
        vec![
            ("long".to_owned(), floats(100)),
            ("narrow".to_owned(), floats(7).to_kind(Kind::BFloat16)),
            ("turned".to_owned(), floats(6).view([2, 3]).tr()),
            ("count".to_owned(), Tensor::from(7i64)),
            (
                "none".to_owned(),
                Tensor::zeros([0, 3], tch::kind::FLOAT_CPU),
            ),
        ]
    }

    fn put_all(mut snapshot: Snapshot<'_>, tensors: &[(String, Tensor)]) {
        snapshot.put_file(Path::new("config.json"), b"{}").unwrap();
        snapshot.folder(Path::new("reference")).unwrap();
        for file in ["a.safetensors", "reference/b.safetensors"] {
            put_tensors(&mut snapshot, Path::new(file), tensors).unwrap();
        }
        snapshot.finish().unwrap();
    }

    /// Weights train on while they are written.
    #[test]
    fn what_is_written_is_what_was_there_when_it_was_taken() {
        let dir = tempfile::tempdir().unwrap();
        let expected = dir.path().join("expected");
        save_tensors(&expected, &tensors()).unwrap();
        let tensors = tensors();
        let mut blocks = Blocks::of(100, 64);
        let (snapshot, parts) = snapshot(&mut blocks);
        put_all(snapshot, &tensors);
        for (_, tensor) in &tensors {
            let _ = tensor.shallow_clone().zero_();
        }
        parts.write(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("config.json")).unwrap(), b"{}");
        for file in ["a.safetensors", "reference/b.safetensors"] {
            assert!(fs::read(dir.path().join(file)).unwrap() == fs::read(&expected).unwrap());
        }
    }

    #[test]
    fn a_snapshot_larger_than_its_memory_waits_for_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        save_tensors(&dir.path().join("expected"), &tensors()).unwrap();
        let mut blocks = Blocks::of(2, 16);
        for number in 0..2 {
            let dir = dir.path().join(number.to_string());
            fs::create_dir(&dir).unwrap();
            let (snapshot, parts) = snapshot(&mut blocks);
            std::thread::scope(|scope| {
                let written = scope.spawn(|| parts.write(&dir));
                put_all(snapshot, &tensors());
                written.join().unwrap().unwrap();
            });
        }
        assert_eq!(
            (blocks.to_allocate, blocks.free.iter().take(2).count()),
            (0, 2)
        );
        assert!(blocks.free.try_recv().is_err(), "no third block was made");
        let read = |file: &str| fs::read(dir.path().join(file)).unwrap();
        assert!(read("1/reference/b.safetensors") == read("expected"));
    }

    /// Neither end waits for the other in vain.
    #[test]
    fn a_snapshot_ends_where_nothing_can_be_written_and_one_given_up_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut blocks = Blocks::of(2, 16);
        let (snapshot, parts) = snapshot(&mut blocks);
        let missing = dir.path().join("missing");
        let written = std::thread::spawn(move || parts.write(&missing));
        put_all(snapshot, &tensors());
        assert!(matches!(
            written.join().unwrap(),
            Err(ModelError::Io { .. })
        ));

        let (mut snapshot, parts) = super::snapshot(&mut blocks);
        snapshot.put_file(Path::new("config.json"), b"{}").unwrap();
        drop(snapshot);
        let error = parts.write(dir.path()).unwrap_err().to_string();
        assert!(error.contains("given up"), "{error}");
    }
}
