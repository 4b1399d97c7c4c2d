//! Which rank of a gang computes which items of a step (sequences, pairs, texts), and in which
//! micro-batches. It is decided from lengths alone, so every rank finds the same for all of them.
//!
//! Ranks that are to end together get items by their cost. In layout-independent mode the items are
//! cut into 2^k leaves, in their order and evenly by number, whatever the number of ranks; a rank
//! computes an aligned run of leaves. A leaf has as many micro-batches as its tokens need.

use crate::gang::Gang;
use r1d_parallel::balance::shared_out;
use r1d_parallel::micro_batches::{items_of, run_of};

/// Pieces of a rank's share that items are balanced by: with more of them ranks end closer
/// together, and fewer sequences share their prompt.
const PIECES_OF_A_SHARE: usize = 8;

/// The micro-batches whose gradients are added up one by one, each with the items that it has.
pub(crate) type Leaf = Vec<Vec<usize>>;

/// Packs chosen items into micro-batches of at most this many tokens.
pub(crate) type Pack<'a> = dyn Fn(&[usize], usize) -> Vec<Vec<usize>> + 'a;

/// Who divides a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Divider {
    rank: usize,
    ranks: usize,
    leaves: Option<usize>,
}

impl Divider {
    /// The ranks of a gang, as one of them; without a gang a single one.
    pub(crate) fn of(gang: Option<&Gang>) -> Divider {
        Divider {
            rank: gang.map_or(0, Gang::rank),
            ranks: gang.map_or(1, Gang::ranks),
            leaves: gang.and_then(Gang::leaves),
        }
    }

    /// Divides `items`. `cost` is about an item's tokens, and a micro-batch has `budget` at most.
    pub(crate) fn divide(
        self,
        items: &[usize],
        cost: &dyn Fn(usize) -> usize,
        budget: usize,
        pack: &Pack,
    ) -> Division {
        let ranks = match (self.leaves, self.ranks) {
            (None, 1) => vec![vec![pack(items, budget)]],
            (None, ranks) => balanced(items, cost, ranks, budget, pack),
            (Some(leaves), ranks) => {
                let leaf = |leaf| pack(&items[items_of(leaf, leaves, items.len())], budget);
                let of_rank = |rank| match run_of(rank, ranks, leaves) {
                    Ok(run) => run.map(leaf).collect(),
                    // A gang has checked that there is a run for each rank.
                    Err(_) => Vec::new(),
                };
                (0..ranks).map(of_rank).collect()
            }
        };
        Division {
            ranks,
            own: self.rank,
        }
    }
}

/// A leaf for each rank, of which all take about as long.
fn balanced(
    items: &[usize],
    cost: &dyn Fn(usize) -> usize,
    ranks: usize,
    budget: usize,
    pack: &Pack,
) -> Vec<Vec<Leaf>> {
    let total: usize = items.iter().map(|&item| cost(item)).sum();
    let pieces = pack(
        items,
        budget.min(total / (PIECES_OF_A_SHARE * ranks)).max(1),
    );
    let costs: Vec<usize> = pieces
        .iter()
        .map(|piece| piece.iter().map(|&item| cost(item)).sum())
        .collect();
    let of_rank = |share: Vec<usize>| {
        let mut own: Vec<usize> = share.iter().flat_map(|&at| pieces[at].clone()).collect();
        own.sort_unstable();
        vec![pack(&own, budget)]
    };
    shared_out(&costs, ranks).into_iter().map(of_rank).collect()
}

/// The items of a step, divided among ranks, leaves and micro-batches.
#[derive(Debug)]
pub(crate) struct Division {
    ranks: Vec<Vec<Leaf>>,
    own: usize,
}

impl Division {
    /// The leaves that this rank computes. Without micro-batches they are empty, but there.
    pub(crate) fn own(&self) -> &[Leaf] {
        &self.ranks[self.own]
    }

    /// The micro-batches that this rank computes.
    pub(crate) fn micro_batches(&self) -> impl Iterator<Item = &Vec<usize>> {
        self.own().iter().flatten()
    }

    /// All items, rank by rank in the order in which each computes them.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = usize> {
        self.ranks.iter().flatten().flatten().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packing::best_fit_of;
    use proptest::prelude::*;

    fn divided(
        lengths: &[usize],
        ranks: usize,
        leaves: Option<usize>,
        budget: usize,
    ) -> Vec<Vec<Leaf>> {
        let items: Vec<usize> = (0..lengths.len()).collect();
        let length = |item: usize| lengths[item];
        let pack = |chosen: &[usize], budget| best_fit_of(chosen, &length, budget);
        let divider = Divider {
            rank: 0,
            ranks,
            leaves,
        };
        divider.divide(&items, &length, budget, &pack).ranks
    }

    proptest! {
        #[test]
        fn every_item_once_and_every_rank_has_leaves(
            lengths in prop::collection::vec(1usize..60, 0..40),
            ranks in 1usize..7, budget in 1usize..200,
        ) {
            let found = divided(&lengths, ranks, None, budget);
            prop_assert_eq!(found.len(), ranks);
            prop_assert!(found.iter().all(|leaves| leaves.len() == 1));
            let mut seen: Vec<usize> = found.concat().concat().concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for bin in found.concat().concat() {
                let load: usize = bin.iter().map(|&item| lengths[item]).sum();
                prop_assert!(load <= budget || bin.len() == 1);
            }
            // Nobody waits long: a piece is an eighth of a share, or one long sequence.
            let (total, longest) = (lengths.iter().sum::<usize>(), lengths.iter().max());
            for leaves in &found {
                let load: usize = leaves.concat().concat().iter().map(|&item| lengths[item]).sum();
                let piece = (total / (8 * ranks)).max(*longest.unwrap_or(&0));
                prop_assert!(load <= total / ranks + piece, "{} of {}", load, total);
            }
        }

        #[test]
        fn leaves_do_not_depend_on_the_number_of_ranks(
            lengths in prop::collection::vec(1usize..60, 0..40), budget in 1usize..200,
        ) {
            let alone = divided(&lengths, 1, Some(8), budget).concat();
            prop_assert_eq!(alone.len(), 8);
            let seen: Vec<usize> = {
                let mut seen = alone.concat().concat();
                seen.sort_unstable();
                seen
            };
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for ranks in [2, 4, 8] {
                let found = divided(&lengths, ranks, Some(8), budget);
                prop_assert!(found.iter().all(|leaves| leaves.len() == 8 / ranks));
                prop_assert_eq!(found.concat(), alone.clone());
            }
        }
    }
}
