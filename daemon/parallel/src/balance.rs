//! Work of known cost for ranks that end together: the heaviest piece first, each to the rank that
//! has the least so far (Graham 1969, "longest processing time first").

use std::cmp::Reverse;

/// Shares pieces of these costs out. Returns the pieces of each rank, in their order: a function of
/// the arguments only, so that every rank finds the same. No rank has more than an even share and
/// the heaviest piece.
pub fn shared_out(costs: &[usize], ranks: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&piece| (Reverse(costs[piece]), piece));
    let mut shares = vec![(0, Vec::new()); ranks.max(1)];
    for piece in order {
        // The first of the ranks that have as little.
        if let Some((load, pieces)) = shares.iter_mut().min_by_key(|(load, _)| *load) {
            *load += costs[piece];
            pieces.push(piece);
        }
    }
    let in_order = |(_, mut pieces): (usize, Vec<usize>)| {
        pieces.sort_unstable();
        pieces
    };
    shares.into_iter().map(in_order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_piece_once_and_no_rank_far_above_its_share(
            costs in prop::collection::vec(0usize..100, 0..40), ranks in 1usize..9,
        ) {
            let shares = shared_out(&costs, ranks);
            prop_assert_eq!(shares.len(), ranks);
            let mut seen = shares.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..costs.len()).collect::<Vec<_>>());
            let (total, heaviest) = (costs.iter().sum::<usize>(), costs.iter().max());
            for share in &shares {
                prop_assert!(share.is_sorted());
                let load: usize = share.iter().map(|&piece| costs[piece]).sum();
                prop_assert!(load <= total / ranks + heaviest.unwrap_or(&0), "{:?}", shares);
            }
        }
    }

    #[test]
    fn the_heaviest_goes_first() {
        assert_eq!(shared_out(&[3, 1, 4, 1, 5], 2), [vec![1, 3, 4], vec![0, 2]]);
        assert_eq!(shared_out(&[7], 3), [vec![0], vec![], vec![]]);
    }
}
