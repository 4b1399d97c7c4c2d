//! Estimates the time left from the pace so far.

use std::time::Duration;

/// The work that is left of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageWork {
    /// Kind of the stage, as `kind` in a job file.
    pub kind: String,
    /// Steps that are not committed.
    pub steps_left: u64,
    /// Planned tokens of one step.
    pub tokens_per_step: u64,
}

/// Estimates the seconds to the end of the job. `paces` are measured seconds per planned token, by
/// kind of stage. `None` while a stage with steps left is of a kind that has no pace: what was
/// measured of another kind says nothing about it.
pub fn time_left(left: &[StageWork], paces: &[(String, f64)]) -> Option<f64> {
    let pace = |kind: &str| {
        paces
            .iter()
            .find(|(known, _)| known == kind)
            .map(|(_, pace)| *pace)
    };
    if left.is_empty() {
        return None;
    }
    let left = left.iter().filter(|work| work.steps_left > 0);
    left.map(|work| {
        let tokens = work.steps_left as f64 * work.tokens_per_step as f64;
        Some(tokens * pace(&work.kind)?)
    })
    .sum()
}

/// Seconds per planned token of `steps` steps that took `time`; `None` for no steps.
pub fn pace(time: Duration, steps: u64, tokens_per_step: u64) -> Option<f64> {
    (steps > 0 && tokens_per_step > 0)
        .then(|| time.as_secs_f64() / (steps as f64 * tokens_per_step as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_stages_at_their_own_pace_once_each_has_one() {
        let work = |kind: &str, steps_left, tokens_per_step| StageWork {
            kind: kind.into(),
            steps_left,
            tokens_per_step,
        };
        let left = [work("sft", 10, 100), work("grpo", 5, 1000)];
        let sft = pace(Duration::from_secs(20), 20, 100).unwrap();
        assert_eq!(
            time_left(&left, &[("sft".into(), sft)]),
            None,
            "nobody knows how fast the later stage is"
        );
        assert!(
            (time_left(&left, &[("sft".into(), sft), ("grpo".into(), 0.1)]).unwrap() - 510.0).abs()
                < 1e-9
        );
        assert_eq!(time_left(&left, &[]), None);
        assert_eq!(time_left(&left[..0], &[]), None);
    }
}
