//! Advantages of whole completions: `A_i = (r_i − b_i) / (std(r) + ε)`. In GRPO b is the mean and
//! std the deviation of the group (DeepSeekMath 4.1.2, outcome supervision); RLOO takes the mean of
//! the group's others (Ahmadian et al. 2024, eq. 7) and divides by nothing; REINFORCE++ takes mean
//! and deviation of the step's rewards, its variant with a baseline the group's mean and the step's
//! deviation (Hu et al. 2025).
//!
//! The papers leave Bessel's correction and ε open. This module follows TRL and verl, which divide
//! by `std` with ddof 1. ε is 1e-6.

use r1d_proto::hyperparameters::{Baseline, ScaleRewards};

const EPSILON: f64 = 1e-6;

/// Mean of finite numbers; 0 if there are none.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        0.0
    } else {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

/// Standard deviation, ddof 1; 0 for fewer than two numbers.
pub fn std(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// The rewards of those completions of a group that have one.
pub fn given(group: &[Option<f32>]) -> Vec<f64> {
    group.iter().flatten().map(|r| *r as f64).collect()
}

/// Whether at least two rewards of the group differ, so that there is something to learn from it.
pub fn has_variance(group: &[Option<f32>]) -> bool {
    let mut given = group.iter().flatten();
    let first = given.next();
    given.any(|r| Some(r) != first)
}

/// Returns one advantage per reward. `groups` are the rewards of each group; a sample without a
/// reward gets no advantage, and does not count for its group's mean and deviation.
/// `ScaleRewards::Batch` divides by the deviation of all groups' rewards together (TRL's `batch`).
/// With `Baseline::LeaveOneOut`, the advantage of a completion that is alone in its group is 0.
pub fn advantages(
    groups: &[Vec<Option<f32>>],
    baseline: Baseline,
    scale: ScaleRewards,
) -> Vec<Vec<Option<f32>>> {
    let all: Vec<f64> = groups.iter().flat_map(|group| given(group)).collect();
    let (of_batch, mean_of_batch) = (std(&all), mean(&all));
    groups
        .iter()
        .map(|group| {
            let rewards = given(group);
            let (count, sum) = (rewards.len() as f64, rewards.iter().sum::<f64>());
            let baseline = |reward: f64| match baseline {
                Baseline::Group => mean(&rewards),
                Baseline::LeaveOneOut if rewards.len() > 1 => (sum - reward) / (count - 1.0),
                Baseline::LeaveOneOut => reward,
                Baseline::Batch => mean_of_batch,
            };
            let divisor = match scale {
                ScaleRewards::Group => std(&rewards) + EPSILON,
                ScaleRewards::Batch => of_batch + EPSILON,
                ScaleRewards::None => 1.0,
            };
            group
                .iter()
                .map(|reward| reward.map(|r| ((r as f64 - baseline(r as f64)) / divisor) as f32))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[Option<f32>], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let found = found.expect("a given reward has an advantage") as f64;
            assert!(
                (found - expected).abs() < tolerance,
                "{found} against {expected}"
            );
        }
    }

    fn of(rewards: &[f32], scale: ScaleRewards) -> Vec<Option<f32>> {
        advantages(
            &[rewards.iter().copied().map(Some).collect()],
            Baseline::Group,
            scale,
        )
        .remove(0)
    }

    /// RLOO: 4/3 of the distance from the mean, in groups of four. REINFORCE++: the step's mean and
    /// deviation, by hand.
    #[test]
    fn baselines_are_of_the_others_or_of_the_step() {
        let groups = [
            vec![Some(2.0), Some(0.5), Some(0.0), Some(1.0)],
            vec![Some(1.0), None],
            vec![Some(3.0)],
        ];
        let of = |baseline, scale| advantages(&groups, baseline, scale);
        let left_out = of(Baseline::LeaveOneOut, ScaleRewards::None);
        close(&left_out[0], &[1.5, -0.5, -7.0 / 6.0, 1.0 / 6.0], 1e-6);
        assert_eq!(
            (left_out[1][0], left_out[1][1], left_out[2][0]),
            (Some(0.0), None, Some(0.0)),
            "nobody to compare with"
        );
        // Six rewards: mean 1.25, squared distances 0.5625 + 0.5625 + 1.5625 + 0.0625 + 0.0625 +
        // 3.0625 = 5.875, over 5.
        let deviation = (5.875f64 / 5.0).sqrt() + 1e-6;
        let expected = [0.75, -0.75, -1.25, -0.25].map(|distance| distance / deviation);
        close(
            &of(Baseline::Batch, ScaleRewards::Batch)[0],
            &expected,
            1e-6,
        );
        close(
            &of(Baseline::Batch, ScaleRewards::Batch)[2],
            &[1.75 / deviation],
            1e-6,
        );
        close(&of(Baseline::Group, ScaleRewards::Batch)[2], &[0.0], 1e-6);
    }

    /// Rewards [2, 0.5, 0, 1] and [1, 0, 0, 1], float64 goldens of the design notes; ε moves them
    /// by less than 2e-6.
    #[test]
    fn match_the_goldens() {
        let golden = [
            1.3174650984805198,
            -0.43915503282683993,
            -1.02469507659596,
            0.14638501094227999,
        ];
        close(
            &of(&[2.0, 0.5, 0.0, 1.0], ScaleRewards::Group),
            &golden,
            2e-6,
        );
        close(
            &of(&[2.0, 0.5, 0.0, 1.0], ScaleRewards::None),
            &[1.125, -0.375, -0.875, 0.125],
            1e-7,
        );
        let c = 0.8660254037844387;
        close(
            &of(&[1.0, 0.0, 0.0, 1.0], ScaleRewards::Group),
            &[c, -c, -c, c],
            2e-6,
        );
    }

    /// numpy: `r = [[2, .5], [0, 1]]; (r - r.mean(1, keepdims=True)) / (r.std(ddof=1) + 1e-6)`.
    #[test]
    fn batch_scaling_divides_by_the_deviation_of_all_rewards() {
        let groups = vec![vec![Some(2.0), Some(0.5)], vec![Some(0.0), Some(1.0)]];
        let found: Vec<_> = advantages(&groups, Baseline::Group, ScaleRewards::Batch).concat();
        let s = 0.8539125638299665 + 1e-6;
        close(&found, &[0.75 / s, -0.75 / s, -0.5 / s, 0.5 / s], 1e-6);
    }

    #[test]
    fn equal_rewards_teach_nothing() {
        close(&of(&[0.3, 0.3, 0.3], ScaleRewards::Group), &[0.0; 3], 1e-7);
        assert!(!has_variance(&[Some(0.3), None, Some(0.3)]));
        assert!(!has_variance(&[None, None]));
        assert!(has_variance(&[None, Some(0.3), Some(0.4)]));
    }

    #[test]
    fn a_masked_sample_has_no_advantage_and_no_part_in_its_group() {
        let masked = advantages(
            &[vec![Some(1.0), None, Some(0.0)]],
            Baseline::Group,
            ScaleRewards::Group,
        )
        .remove(0);
        assert_eq!(masked[1], None);
        let whole = of(&[1.0, 0.0], ScaleRewards::Group);
        assert_eq!((masked[0], masked[2]), (whole[0], whole[1]));
        let alone = advantages(
            &[vec![Some(5.0), None]],
            Baseline::Group,
            ScaleRewards::Group,
        )
        .remove(0);
        assert_eq!(alone, vec![Some(0.0), None]);
    }
}
