//! AdamW on the host (ZeRO-Offload, Ren et al. 2021): masters and moments are in the host's memory,
//! and the device keeps parameters and the sums of gradients.
//!
//! ```text
//! device   sum of block 1 ─▶ sum of block 2 ─▶ ...        parameters of block 1 ─▶ ...
//!               │ copied          │ copied                      ▲ copied
//! host          └──▶ AdamW, round ──────┴──▶ AdamW, round ─▶ ...┘
//! ```
//!
//! Blocks are copied both ways while the host computes others; all of its cores compute one block
//! at a time. It begins when the norm of all gradients is known, which clipping and the check for
//! numbers that are not finite need: an update is made whole or not at all. To copy gradients
//! earlier, while the backward pass runs, would take 4 bytes more of the host for each parameter,
//! and save nothing where the host's arithmetic takes longer than the copies, which it hides.

use super::{Optimiser, Verdict};
use crate::LearnError;
use crate::arena::{Block, Part, Table};
use r1d_kernels::PinnedMemory;
use r1d_torch::transfer::{Event, copy_ahead};
use r1d_torch::{runtime, work};
use std::array;
use std::thread::available_parallelism;
use tch::{Device, Kind, Tensor};

/// Most elements of a block.
const BLOCK_ELEMENTS: i64 = 1 << 24;
const FLOAT32_BYTES: usize = 4;
/// Blocks that are on their way: one is copied while the host computes the other.
const LANES: usize = 2;

/// Memory of the host that blocks pass through, pinned if the device is a GPU.
pub(super) struct Staging {
    blocks: Vec<Block>,
    /// Gradients on their way to the host, float32 `[BLOCK_ELEMENTS]` at most.
    gradients: [Tensor; LANES],
    /// Parameters on their way to the device, as many bytes.
    parameters: [Tensor; LANES],
    /// What these are in on a GPU's host. It is dropped behind them.
    _pinned: Vec<PinnedMemory>,
}

impl Staging {
    /// Makes the memory for all blocks of the table, or for those of a rank's share.
    pub(super) fn new(
        table: &Table,
        own: Option<&[Block]>,
        device: Device,
    ) -> Result<Staging, LearnError> {
        let blocks = own.map_or_else(|| table.blocks(BLOCK_ELEMENTS), <[Block]>::to_vec);
        let sizes = blocks
            .iter()
            .map(|block| block.range.end - block.range.start);
        let elements = sizes.max().unwrap_or(0);
        let mut pinned = Vec::new();
        let mut buffer = || {
            if !device.is_cuda() {
                return Ok(Tensor::f_zeros([elements], (Kind::Float, Device::Cpu))?);
            }
            let memory = PinnedMemory::new(device, elements as usize * FLOAT32_BYTES)?;
            // SAFETY: the memory is kept beside the tensor, and dropped behind it.
            let buffer = unsafe { memory.tensor()? }.f_view_dtype(Kind::Float)?;
            pinned.push(memory);
            Ok(buffer)
        };
        Ok(Staging {
            gradients: lanes(&mut buffer)?,
            parameters: lanes(&mut buffer)?,
            blocks,
            _pinned: pinned,
        })
    }
}

fn lanes(
    buffer: &mut dyn FnMut() -> Result<Tensor, LearnError>,
) -> Result<[Tensor; LANES], LearnError> {
    let [first, second] = array::from_fn(|_| buffer());
    Ok([first?, second?])
}

impl Optimiser {
    /// Makes an update whose gradients are finite.
    pub(super) fn update_on_host(
        &self,
        staging: &Staging,
        learning_rate: f64,
        verdict: &Verdict,
    ) -> Result<(), LearnError> {
        let threads = runtime::threads();
        if self.parameters[0].tensor.device().is_cuda() {
            // A GPU's worker has one thread for other work.
            let cores = available_parallelism().map_or(1, |cores| cores.get() as u32);
            runtime::set_threads(cores)?;
        }
        let updated = self.update_blocks(staging, learning_rate, verdict);
        runtime::set_threads(threads)?;
        updated
    }

    fn update_blocks(
        &self,
        staging: &Staging,
        learning_rate: f64,
        verdict: &Verdict,
    ) -> Result<(), LearnError> {
        let fetched = |number: usize| {
            let block = staging.blocks.get(number)?;
            Some(self.fetch(block, &staging.gradients[number % LANES]))
        };
        let mut published: [Option<Event>; LANES] = Default::default();
        let mut next = fetched(0).transpose()?;
        for (number, block) in staging.blocks.iter().enumerate() {
            let here = next.take();
            next = fetched(number + 1).transpose()?;
            let lane = number % LANES;
            for copied in [here, published[lane].take()].into_iter().flatten() {
                copied.wait()?;
            }
            let gradient = |part: &Part| {
                let reached = self.reached[part.place];
                reached
                    .then(|| part.of(&staging.gradients[lane]))
                    .transpose()
            };
            self.step_block(block, &gradient, learning_rate, verdict)?;
            published[lane] = Some(self.publish_block(block, &staging.parameters[lane])?);
            work::moved(0);
        }
        let mut copied = published.into_iter().flatten();
        Ok(copied.try_for_each(|copied| copied.wait())?)
    }

    /// Begins to copy a block's gradients to the host.
    fn fetch(&self, block: &Block, to: &Tensor) -> Result<Event, LearnError> {
        if let Some(sums) = &self.gradients {
            let from = sums.block(block)?;
            copy_ahead(&to.f_narrow(0, 0, from.size1()?)?, &from)?;
        }
        Ok(Event::record(&self.parameters[0].tensor)?)
    }

    /// Rounds a block's masters, and begins to copy them into the model's parameters.
    fn publish_block(&self, block: &Block, through: &Tensor) -> Result<Event, LearnError> {
        let Some(masters) = &self.masters else {
            return Ok(Event::record(through)?);
        };
        let masters = masters.block(block)?;
        for part in block.parts.iter().filter(|part| self.reached[part.place]) {
            let count = part.range.end - part.range.start;
            let parameter = part.of_place(&self.parameters[part.place].tensor)?;
            let rounded = part.of(through)?.f_view_dtype(parameter.kind())?;
            let mut rounded = rounded.f_narrow(0, 0, count)?;
            tch::no_grad(|| {
                rounded
                    .f_copy_(&part.of(&masters)?)
                    .map_err(LearnError::from)
            })?;
            copy_ahead(&parameter, &rounded)?;
        }
        Ok(Event::record(&self.parameters[0].tensor)?)
    }
}
