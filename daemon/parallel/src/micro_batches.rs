//! Layout-independent mode: a step is cut into 2^k micro-batches in the order of its records, and
//! their gradients are added along one binary tree. Each of 2^j ranks has an aligned run of them,
//! which is a sub-tree, so the sum does not depend on the number of ranks.

use std::ops::Range;

/// The micro-batches that a step is cut into, and so the most ranks. Results depend on it.
pub const LEAVES: usize = 8;

/// A number of ranks or micro-batches that makes no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The number is no power of two.
    #[error(
        "layout-independent mode adds along a binary tree: {what} are 1, 2, 4, 8, …, not {count}"
    )]
    NoPowerOfTwo {
        /// What is counted: ranks or micro-batches.
        what: &'static str,
        /// The number.
        count: usize,
    },
    /// Some ranks would have no micro-batch.
    #[error("{micro_batches} micro-batches are too few for {ranks} ranks: each needs one at least")]
    TooFew {
        /// Micro-batches of a step.
        micro_batches: usize,
        /// Ranks of the gang.
        ranks: usize,
    },
}

/// The micro-batches of a rank: an aligned run of a power of two, the leaves of a sub-tree.
pub fn run_of(rank: usize, ranks: usize, micro_batches: usize) -> Result<Range<usize>, TreeError> {
    for (what, count) in [("ranks", ranks), ("micro-batches", micro_batches)] {
        if !count.is_power_of_two() {
            return Err(TreeError::NoPowerOfTwo { what, count });
        }
    }
    if micro_batches < ranks {
        return Err(TreeError::TooFew {
            micro_batches,
            ranks,
        });
    }
    let each = micro_batches / ranks;
    Ok(rank * each..(rank + 1) * each)
}

/// The items of a step, in the order of its records, that a micro-batch has: an even share. With
/// fewer items than micro-batches some have none.
pub fn items_of(micro_batch: usize, micro_batches: usize, items: usize) -> Range<usize> {
    // Through u128: no product of two numbers overflows it.
    let start = |at: usize| (at as u128 * items as u128 / micro_batches as u128) as usize;
    start(micro_batch)..start(micro_batch + 1)
}
