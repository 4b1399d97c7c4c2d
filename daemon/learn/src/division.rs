//! Which rank of a gang computes which items of a step (sequences, pairs, texts), and in which
//! micro-batches. It is decided from lengths alone, so every rank finds the same for all of them.
//!
//! Ranks that are to end together get items by their cost. In layout-independent mode the items are
//! cut into 2^k leaves, in their order and evenly by number, whatever the number of ranks; a rank
//! computes an aligned run of leaves. A leaf has as many micro-batches as its tokens need.
//!
//! Ranks that share the experts go through passes together: where one has a micro-batch and another
//! has none, that one stands by. In layout-independent mode they take turns, so that a pass has
//! tokens of one leaf, as on one rank.

use crate::gang::Gang;
use r1d_parallel::balance::shared_out;
use r1d_parallel::micro_batches::{items_of, run_of};

/// Pieces of a rank's share that items are balanced by: with more of them ranks end closer
/// together, and fewer sequences share their prompt.
const PIECES_OF_A_SHARE: usize = 8;

/// The micro-batches whose gradients are added up one by one, each with the items that it has.
pub(crate) type Leaf = Vec<Vec<usize>>;

/// The passes through one leaf, as a rank of an expert group sees them.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The rank of the expert group whose leaf it is; where they do not take turns, this rank.
    pub of: usize,
    /// This rank's micro-batches; one without items stands for a pass that others have tokens for.
    pub micro_batches: Leaf,
}

/// Packs chosen items into micro-batches of at most this many tokens.
pub(crate) type Pack<'a> = dyn Fn(&[usize], usize) -> Vec<Vec<usize>> + 'a;

/// Who divides a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Divider {
    rank: usize,
    ranks: usize,
    /// Shards of the experts: this many neighbours are an expert group.
    shards: usize,
    leaves: Option<usize>,
}

impl Divider {
    /// The ranks of a gang, as one of them; without a gang a single one.
    pub(crate) fn of(gang: Option<&Gang>) -> Divider {
        Divider {
            rank: gang.map_or(0, Gang::rank),
            ranks: gang.map_or(1, Gang::ranks),
            shards: gang.map_or(1, Gang::shards),
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
            turns: self.turns(&ranks),
            ranks,
        }
    }

    /// The passes of this rank, of what each rank computes.
    fn turns(self, ranks: &[Vec<Leaf>]) -> Vec<Turn> {
        let first = self.rank - self.rank % self.shards;
        let group = &ranks[first..first + self.shards];
        let own = self.rank - first;
        let leaves = 0..group[own].len();
        leaves
            .flat_map(|leaf| self.turns_of(leaf, own, group))
            .collect()
    }

    /// The passes through one leaf of each rank of an expert group, as the rank `own` makes them.
    fn turns_of(self, leaf: usize, own: usize, group: &[Vec<Leaf>]) -> Vec<Turn> {
        let of_rank = |rank: usize| &group[rank][leaf];
        if self.leaves.is_some() {
            let turn = |of: usize| Turn {
                of,
                micro_batches: if of == own {
                    of_rank(own).clone()
                } else {
                    vec![Vec::new(); of_rank(of).len()]
                },
            };
            return (0..self.shards).map(turn).collect();
        }
        let passes = (0..self.shards).map(|rank| of_rank(rank).len()).max();
        let mut micro_batches = of_rank(own).clone();
        micro_batches.resize(passes.unwrap_or(0), Vec::new());
        vec![Turn {
            of: own,
            micro_batches,
        }]
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
    turns: Vec<Turn>,
}

impl Division {
    /// The leaves that this rank goes through. Without micro-batches they are empty, but there.
    pub(crate) fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The passes that this rank makes.
    pub(crate) fn micro_batches(&self) -> impl Iterator<Item = &Vec<usize>> {
        self.turns.iter().flat_map(|turn| &turn.micro_batches)
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
            shards: 1,
            leaves,
        };
        divider.divide(&items, &length, budget, &pack).ranks
    }

    /// The turns of each rank where `shards` neighbours share the experts.
    fn turns(
        lengths: &[usize],
        ranks: usize,
        shards: usize,
        leaves: Option<usize>,
    ) -> Vec<Vec<Turn>> {
        let items: Vec<usize> = (0..lengths.len()).collect();
        let length = |item: usize| lengths[item];
        let pack = |chosen: &[usize], budget| best_fit_of(chosen, &length, budget);
        let of_rank = |rank| {
            let divider = Divider {
                rank,
                ranks,
                shards,
                leaves,
            };
            divider.divide(&items, &length, 50, &pack).turns
        };
        (0..ranks).map(of_rank).collect()
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

        /// Ranks that share the experts go through the same passes; each item is computed once.
        #[test]
        fn ranks_of_an_expert_group_make_the_same_passes(
            lengths in prop::collection::vec(1usize..60, 0..40),
            data in 0u32..3, experts in 0u32..3, take_turns: bool,
        ) {
            let (data, experts) = (1usize << data, 1usize << experts);
            let leaves = take_turns.then_some(16);
            let all = turns(&lengths, data * experts, experts, leaves);
            let passes = |own: &Vec<Turn>| -> Vec<(usize, usize)> {
                let of = |turn: &Turn| if take_turns { turn.of } else { 0 };
                own.iter().map(|turn| (of(turn), turn.micro_batches.len())).collect()
            };
            for group in all.chunks(experts) {
                for own in group {
                    prop_assert_eq!(passes(own), passes(&group[0]));
                }
                for pass in 0..group[0].iter().map(|turn| turn.micro_batches.len()).sum() {
                    let at = |own: &Vec<Turn>| {
                        let mut batches = own.iter().flat_map(|turn| &turn.micro_batches);
                        batches.nth(pass).is_some_and(|items| !items.is_empty())
                    };
                    let busy = group.iter().filter(|own| at(own)).count();
                    prop_assert!(busy >= 1 && (!take_turns || busy == 1), "{} are busy", busy);
                }
            }
            let mut seen: Vec<usize> = all
                .iter().flatten().flat_map(|turn| turn.micro_batches.concat()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
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
