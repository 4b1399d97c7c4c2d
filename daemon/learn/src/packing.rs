//! Sequences into micro-batches by token budget, without padding.

use std::collections::BTreeSet;

/// Best fit, longest first: each sequence joins the fullest micro-batch that still has room, or opens a new one. A sequence longer
/// than `budget` gets one to itself. Returns indices into `lengths`, a function of the arguments alone; sequences of one
/// micro-batch come longest first, so most neighbours are of like length.
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
            let loads: Vec<usize> = bins.iter().map(|bin| bin.iter().map(|&i| lengths[i]).sum()).collect();
            for (bin, &load) in bins.iter().zip(&loads) {
                prop_assert!(!bin.is_empty());
                prop_assert!(load <= budget || bin.len() == 1, "{bin:?} holds {load} of {budget}");
                prop_assert!(bin.is_sorted_by_key(|&i| std::cmp::Reverse(lengths[i])));
            }
            // No two micro-batches could be one.
            let mut least = loads.clone();
            least.sort_unstable();
            prop_assert!(least.len() < 2 || least[0] + least[1] > budget, "{loads:?} of {budget}");
            prop_assert_eq!(bins, best_fit(&lengths, budget));
        }
    }

    #[test]
    fn fills_gaps_with_short_sequences() {
        assert_eq!(best_fit(&[3, 7, 5, 2, 5], 10), vec![vec![1, 0], vec![2, 4], vec![3]]);
        assert_eq!(best_fit(&[20, 1], 10), vec![vec![0], vec![1]]);
        assert!(best_fit(&[], 10).is_empty());
    }
}
