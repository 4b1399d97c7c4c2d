//! Blocks cover every element once, whatever the number of ranks, and are shared evenly.

use proptest::prelude::*;
use r1d_parallel::blocks::{BLOCK_ELEMENTS, Block, blocks_of, share_out};

proptest! {
    #[test]
    fn blocks_cover_the_tensors_in_order(
        lengths in prop::collection::vec(0usize..4 * BLOCK_ELEMENTS, 0..9),
    ) {
        let blocks = blocks_of(&lengths);
        for (tensor, length) in lengths.iter().enumerate() {
            let mut end = 0;
            for block in blocks.iter().filter(|b| b.tensor == tensor) {
                prop_assert_eq!(block.elements.start, end);
                prop_assert!(block.elements.len() <= BLOCK_ELEMENTS);
                prop_assert!(!block.elements.is_empty());
                end = block.elements.end;
            }
            prop_assert_eq!(end, *length);
        }
        prop_assert!(blocks.is_sorted_by_key(|b| (b.tensor, b.elements.start)));
    }

    #[test]
    fn blocks_are_shared_evenly_and_each_once(
        lengths in prop::collection::vec(0usize..4 * BLOCK_ELEMENTS, 0..9), ranks in 1usize..17,
    ) {
        let blocks = blocks_of(&lengths);
        let shares = share_out(&blocks, ranks);
        prop_assert_eq!(shares.len(), ranks);
        let all: Vec<usize> = shares.iter().cloned().flatten().collect();
        prop_assert_eq!(all, (0..blocks.len()).collect::<Vec<_>>());
        let total: usize = lengths.iter().sum();
        for share in shares {
            let own: usize = blocks[share].iter().map(|b| b.elements.len()).sum();
            prop_assert!(own <= total / ranks + BLOCK_ELEMENTS + 1, "{} of {}", own, total);
        }
    }
}

#[test]
fn the_last_block_of_a_tensor_is_what_is_left() {
    let block = |tensor, start, end| Block {
        tensor,
        elements: start..end,
    };
    assert_eq!(
        blocks_of(&[BLOCK_ELEMENTS + 1, 0, 3]),
        [
            block(0, 0, BLOCK_ELEMENTS),
            block(0, BLOCK_ELEMENTS, BLOCK_ELEMENTS + 1),
            block(2, 0, 3)
        ]
    );
    assert_eq!(share_out(&[], 2), [0..0, 0..0]);
}
