//! Numbers of an evaluation, computed from which completions are correct and from their answers.

/// One completion of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Graded {
    /// Whether the first reward's score reaches `correct_at`.
    pub correct: bool,
    /// The completion's final answer.
    pub answer: String,
}

/// Unbiased estimate of the probability that at least one of `k` completions is correct, when
/// `correct` of `n` are: `1 − C(n−c, k) / C(n, k)` (Chen et al. 2021, eq. 1). `None` if `n` is less
/// than `k`.
pub fn pass_at_k(n: usize, correct: usize, k: usize) -> Option<f64> {
    if k == 0 || n < k || correct > n {
        return None;
    }
    if n - correct < k {
        return Some(1.0);
    }
    Some(
        1.0 - (n - correct + 1..=n)
            .map(|i| 1.0 - k as f64 / i as f64)
            .product::<f64>(),
    )
}

/// Mean correctness of the first `k` completions. `None` if there are fewer.
pub fn avg_at_k(graded: &[Graded], k: usize) -> Option<f64> {
    let first = graded.get(..k).filter(|first| !first.is_empty())?;
    Some(first.iter().filter(|g| g.correct).count() as f64 / k as f64)
}

/// Whether the most frequent answer of `k` completions is correct, averaged over the blocks of `k`;
/// among equally frequent answers, the first counts. `None` if there are fewer than `k`.
pub fn cons_at_k(graded: &[Graded], k: usize) -> Option<f64> {
    if k == 0 || graded.len() < k {
        return None;
    }
    let votes: Vec<bool> = graded.chunks_exact(k).map(majority_is_correct).collect();
    Some(votes.iter().filter(|v| **v).count() as f64 / votes.len() as f64)
}

fn majority_is_correct(block: &[Graded]) -> bool {
    let votes = |answer: &str| block.iter().filter(|g| g.answer == answer).count();
    let mut winner: Option<(&Graded, usize)> = None;
    for graded in block {
        let count = votes(&graded.answer);
        if winner.is_none_or(|(_, most)| count > most) {
            winner = Some((graded, count));
        }
    }
    // Rewards may judge two equal answers differently (because of their format, for one): the
    // answer is right if any completion with it is correct.
    winner.is_some_and(|(winner, _)| block.iter().any(|g| g.answer == winner.answer && g.correct))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graded(answers: &[(&str, bool)]) -> Vec<Graded> {
        answers
            .iter()
            .map(|(answer, correct)| Graded {
                correct: *correct,
                answer: answer.to_string(),
            })
            .collect()
    }

    #[test]
    fn pass_at_1_is_the_mean_and_pass_at_k_counts_subsets() {
        assert_eq!(pass_at_k(4, 1, 1), Some(0.25));
        // Of the 6 pairs of {right, wrong, wrong, wrong}, 3 hold the right one.
        assert!((pass_at_k(4, 1, 2).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(pass_at_k(4, 3, 2), Some(1.0));
        assert_eq!(pass_at_k(4, 0, 4), Some(0.0));
        assert_eq!(pass_at_k(2, 1, 3), None);
    }

    #[test]
    fn the_average_is_of_the_first_k() {
        let all = graded(&[("4", true), ("7", false), ("4", true), ("4", true)]);
        assert_eq!(
            [1, 2, 4].map(|k| avg_at_k(&all, k)),
            [Some(1.0), Some(0.5), Some(0.75)]
        );
        assert_eq!([avg_at_k(&all, 5), avg_at_k(&all, 0)], [None, None]);
    }

    #[test]
    fn the_majority_decides_and_the_first_wins_a_tie() {
        assert_eq!(
            cons_at_k(
                &graded(&[("7", false), ("4", true), ("4", true), ("9", false)]),
                4
            ),
            Some(1.0)
        );
        assert_eq!(
            cons_at_k(
                &graded(&[("7", false), ("4", true), ("7", false), ("4", true)]),
                4
            ),
            Some(0.0)
        );
        assert_eq!(
            cons_at_k(
                &graded(&[("4", true), ("7", false), ("7", false), ("4", true)]),
                2
            ),
            Some(0.5)
        );
        assert_eq!(cons_at_k(&graded(&[("4", true)]), 2), None);
    }
}
