//! Chooses the order in which a rollout batch is trained on.

use r1d_proto::world::counter_permutation;

/// Splits `count` sequences at random into `parts` minibatches whose sizes differ by at most one,
/// anew for each pass ("randomly split", R1 2.2.1; groups may be split across minibatches, because
/// their advantages are already computed). The result is a function of the key only. With one part
/// the order does not change. Parts that would be empty are left out.
pub fn split(seed: u64, step: u64, pass: u32, count: usize, parts: usize) -> Vec<Vec<usize>> {
    let order = if parts <= 1 {
        (0..count).collect()
    } else {
        counter_permutation(&[seed, step, pass as u64], count)
    };
    let parts = parts.clamp(1, count.max(1));
    (0..parts)
        .map(|part| order[part * count / parts..(part + 1) * count / parts].to_vec())
        .filter(|p| !p.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sequence_once_in_even_parts(seed: u64, step: u64, pass in 0u32..4,
            count in 0usize..200, parts in 1usize..20) {
            let minibatches = split(seed, step, pass, count, parts);
            let mut seen = minibatches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
            prop_assert_eq!(minibatches.len(), parts.min(count));
            let sizes: Vec<usize> = minibatches.iter().map(Vec::len).collect();
            if let (Some(least), Some(most)) = (sizes.iter().min(), sizes.iter().max()) {
                prop_assert!(most - least <= 1);
            }
        }
    }

    #[test]
    fn depends_on_step_and_pass() {
        let first = split(7, 3, 0, 64, 4);
        assert_eq!(first, split(7, 3, 0, 64, 4));
        assert_ne!(first, split(7, 4, 0, 64, 4));
        assert_ne!(first, split(7, 3, 1, 64, 4));
        assert_eq!(split(7, 3, 1, 3, 1), vec![vec![0, 1, 2]]);
    }
}
