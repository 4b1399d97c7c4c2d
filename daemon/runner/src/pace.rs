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
/// kind of stage; a kind that has not run yet is assumed to have the pace of the stage at work, the
/// first of `left`. `None` while that stage has no pace.
pub fn time_left(left: &[StageWork], paces: &[(String, f64)]) -> Option<f64> {
    let pace = |kind: &str| {
        paces
            .iter()
            .find(|(known, _)| known == kind)
            .map(|(_, pace)| *pace)
    };
    let own = pace(&left.first()?.kind)?;
    Some(
        left.iter()
            .map(|w| w.steps_left as f64 * w.tokens_per_step as f64 * pace(&w.kind).unwrap_or(own))
            .sum(),
    )
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
    fn sums_the_stages_at_their_own_pace_or_the_current_one() {
        let work = |kind: &str, steps_left, tokens_per_step| StageWork {
            kind: kind.into(),
            steps_left,
            tokens_per_step,
        };
        let left = [work("sft", 10, 100), work("grpo", 5, 1000)];
        let sft = pace(Duration::from_secs(20), 20, 100).unwrap();
        assert!((time_left(&left, &[("sft".into(), sft)]).unwrap() - (10.0 + 50.0)).abs() < 1e-9);
        assert!(
            (time_left(&left, &[("sft".into(), sft), ("grpo".into(), 0.1)]).unwrap() - 510.0).abs()
                < 1e-9
        );
        assert_eq!(time_left(&left, &[]), None);
        assert_eq!(time_left(&left[..0], &[]), None);
    }
}
