//! ZeRO by fixed blocks (Rajbhandari et al. 2020): what an optimiser remembers of a model is cut
//! into blocks, which do not depend on the layout, and the blocks are shared by the ranks. AdamW
//! looks at one element at a time, and a norm is a sum over blocks in their order, so neither knows
//! who has which. A checkpoint's blocks are loaded by any other layout.

use std::ops::Range;

/// Elements of a block at most: 4 MiB in float32.
pub const BLOCK_ELEMENTS: usize = 1 << 20;

/// Consecutive elements of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The tensor's number.
    pub tensor: usize,
    /// The elements, in the tensor's order.
    pub elements: Range<usize>,
}

/// Cuts tensors with these numbers of elements into blocks, in their order. No block is of two
/// tensors; only a tensor's last is smaller than [`BLOCK_ELEMENTS`].
pub fn blocks_of(lengths: &[usize]) -> Vec<Block> {
    let cut = |(tensor, length): (usize, &usize)| {
        let length = *length;
        (0..length).step_by(BLOCK_ELEMENTS).map(move |start| Block {
            tensor,
            elements: start..length.min(start + BLOCK_ELEMENTS),
        })
    };
    lengths.iter().enumerate().flat_map(cut).collect()
}

/// Shares blocks out: rank r has a run of them, so its elements are in one piece of an arena. A
/// rank has at most one block's elements more than an even share.
pub fn share_out(blocks: &[Block], ranks: usize) -> Vec<Range<usize>> {
    let total: usize = blocks.iter().map(|b| b.elements.len()).sum();
    // A block belongs where its middle falls; doubled, so that the middle is a whole number.
    let mut seen = 0;
    let owners = blocks.iter().map(|block| {
        let middle = 2 * seen + block.elements.len();
        seen += block.elements.len();
        (middle as u128 * ranks as u128 / (2 * total as u128)) as usize
    });
    let owners: Vec<usize> = owners.collect();
    let start = |rank: usize| owners.partition_point(|owner| *owner < rank);
    (0..ranks)
        .map(|rank| start(rank)..start(rank + 1))
        .collect()
}
