//! Packs sequences into micro-batches by a token budget, without padding.

use crate::batch;
use r1d_proto::worker::TrainSequence;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Packs by best fit, longest first: each sequence joins the fullest micro-batch that still has
/// room, or opens a new one. A sequence longer than `budget` gets one to itself. Returns indices
/// into `lengths`, a function of the arguments only; the sequences of a micro-batch are sorted by
/// length, longest first, so most neighbours have similar lengths.
pub fn best_fit(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for index in order {
        let length = lengths[index];
        let found = open.range((length, 0)..).next().copied();
        let (room, bin) = found.unwrap_or_else(|| {
            bins.push(Vec::new());
            (budget.max(length), bins.len() - 1)
        });
        open.remove(&(room, bin));
        bins[bin].push(index);
        open.insert((room - length, bin));
    }
    bins
}

/// Packs `items` by [`best_fit`]; `length` is an item's.
pub fn best_fit_of(
    items: &[usize],
    length: &dyn Fn(usize) -> usize,
    budget: usize,
) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = items.iter().map(|&item| length(item)).collect();
    let bins = best_fit(&lengths, budget).into_iter();
    bins.map(|bin| bin.into_iter().map(|at| items[at]).collect())
        .collect()
}

/// Packs like [`best_fit`], for sequences of which some share a beginning that is computed once in
/// each micro-batch: they stay together as far as the budget allows. `shared[i]` is the name of the
/// beginning and its length; the whole sequence has `lengths[i]`, which is at least that.
///
/// The budget stands for memory. The beginning counts once, and a quarter for each further
/// sequence, whose attention reads it again.
///
/// Within a micro-batch the sequences of one beginning follow each other, longest first.
pub fn best_fit_shared<Name: Eq + Hash>(
    lengths: &[usize],
    shared: &[(Name, usize)],
    budget: usize,
) -> Vec<Vec<usize>> {
    let mut families: Vec<Vec<usize>> = Vec::new();
    let mut known = HashMap::new();
    for (index, (name, _)) in shared.iter().enumerate() {
        let family = *known.entry(name).or_insert_with(|| {
            families.push(Vec::new());
            families.len() - 1
        });
        families[family].push(index);
    }
    // Parts of families that fit the budget, and the cost of each.
    let mut parts: Vec<(Vec<usize>, usize)> = Vec::new();
    for mut family in families {
        family.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
        let mut part: Option<(Vec<usize>, usize)> = None;
        for index in family {
            let own = further(lengths[index], shared[index].1);
            match &mut part {
                Some((members, cost)) if *cost + own <= budget => {
                    members.push(index);
                    *cost += own;
                }
                _ => parts.extend(part.replace((vec![index], lengths[index]))),
            }
        }
        parts.extend(part);
    }
    let costs: Vec<usize> = parts.iter().map(|(_, cost)| *cost).collect();
    let together = |bin: Vec<usize>| {
        bin.into_iter()
            .flat_map(|part| parts[part].0.iter().copied())
            .collect()
    };
    best_fit(&costs, budget).into_iter().map(together).collect()
}

/// Packs the `chosen` sequences into micro-batches; if prompts are shared, the sequences of one
/// prompt stay together.
pub fn rollouts(
    sequences: &[TrainSequence],
    chosen: &[usize],
    shares_prompts: bool,
    budget: usize,
) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = chosen.iter().map(|&i| batch::fed(&sequences[i])).collect();
    let bins = if shares_prompts {
        let prompts: Vec<_> = chosen
            .iter()
            .map(|&i| &sequences[i].prompt_ids)
            .map(|ids| (ids, ids.len()))
            .collect();
        best_fit_shared(&lengths, &prompts, budget)
    } else {
        best_fit(&lengths, budget)
    };
    bins.into_iter()
        .map(|bin| bin.into_iter().map(|i| chosen[i]).collect())
        .collect()
}

fn further(length: usize, shared: usize) -> usize {
    length - shared + shared.div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sequence_once_within_budget_and_at_least_half_full(
            lengths in prop::collection::vec(1usize..200, 0..80),
            budget in 1usize..300,
        ) {
            let bins = best_fit(&lengths, budget);
            let mut seen: Vec<usize> = bins.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            let loads: Vec<usize> = bins.iter().map(|bin| bin.iter().map(|&i| lengths[i]).sum())
                .collect();
            for (bin, &load) in bins.iter().zip(&loads) {
                prop_assert!(!bin.is_empty());
                prop_assert!(load <= budget || bin.len() == 1, "{bin:?} holds {load} of {budget}");
                prop_assert!(bin.is_sorted_by_key(|&i| std::cmp::Reverse(lengths[i])));
            }
            // No two micro-batches could be merged.
            let mut least = loads.clone();
            least.sort_unstable();
            prop_assert!(least.len() < 2 || least[0] + least[1] > budget, "{loads:?} of {budget}");
            prop_assert_eq!(bins, best_fit(&lengths, budget));
        }
    }

    proptest! {
        #[test]
        fn families_share_their_beginning_within_budget(
            sequences in prop::collection::vec((0usize..8, 0usize..40), 0..60),
            budget in 1usize..300,
        ) {
            // A family's beginning has 5 tokens more than its number.
            let shared: Vec<(usize, usize)> = sequences.iter()
                .map(|&(family, _)| (family, family + 5)).collect();
            let lengths: Vec<usize> = sequences.iter().map(|&(family, own)| family + 5 + own)
                .collect();
            let bins = best_fit_shared(&lengths, &shared, budget);
            let mut seen: Vec<usize> = bins.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for bin in &bins {
                let mut cost = 0;
                for (place, &i) in bin.iter().enumerate() {
                    let follows = place > 0 && shared[bin[place - 1]] == shared[i];
                    cost += if follows { further(lengths[i], shared[i].1) } else { lengths[i] };
                }
                prop_assert!(cost <= budget || bin.len() == 1, "{bin:?} holds {cost} of {budget}");
            }
            prop_assert_eq!(bins, best_fit_shared(&lengths, &shared, budget));
        }
    }

    #[test]
    fn a_family_is_split_only_where_the_budget_ends() {
        let shared = [("a", 4), ("b", 4), ("a", 4), ("a", 4)];
        assert_eq!(best_fit_shared(&[6, 9, 8, 7], &shared, 100), [[2, 3, 0, 1]]);
        assert_eq!(
            best_fit_shared(&[6, 9, 8, 7], &shared, 12),
            vec![vec![2, 3], vec![1], vec![0]]
        );
    }

    #[test]
    fn fills_gaps_with_short_sequences() {
        assert_eq!(
            best_fit(&[3, 7, 5, 2, 5], 10),
            vec![vec![1, 0], vec![2, 4], vec![3]]
        );
        assert_eq!(best_fit(&[20, 1], 10), vec![vec![0], vec![1]]);
        assert!(best_fit(&[], 10).is_empty());
    }
}
