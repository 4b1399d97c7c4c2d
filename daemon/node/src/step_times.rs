//! Estimates how long a job still takes, from the time that its steps took.

use crate::loaded_job::LoadedJob;
use r1d_proto::worker::Metrics;
use r1d_runner::pace::{StageWork, pace, time_left};
use r1d_runner::{Plan, Record};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Steps whose median is the pace: up to half of them may be outliers, and a lasting change shows
/// after half of them.
const RECENT_STEPS: usize = 15;

/// Seconds of the recent steps of each stage that this daemon saw.
#[derive(Debug, Default)]
pub(crate) struct StepTimes(BTreeMap<usize, VecDeque<f64>>);

fn median(seconds: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = seconds.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (
        sorted.get(sorted.len().saturating_sub(1) / 2)?,
        sorted.get(sorted.len() / 2)?,
    );
    Some((low + high) / 2.0)
}

impl StepTimes {
    pub(crate) fn step(&mut self, stage: usize, metrics: &Metrics) {
        let Some(seconds) = metrics
            .get("step_time")
            .copied()
            .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
        else {
            return;
        };
        let recent = self.0.entry(stage).or_default();
        if recent.len() >= RECENT_STEPS {
            recent.pop_front();
        }
        recent.push_back(seconds);
    }

    /// Seconds per step of a stage.
    fn seconds(&self, stage: usize) -> Option<f64> {
        median(self.0.get(&stage)?)
    }

    /// Seconds to the end of the last stage; `None` before the first step.
    pub(crate) fn time_left(
        &self,
        loaded_job: &LoadedJob,
        plan: &Plan,
        record: &Record,
    ) -> Option<f64> {
        let tokens = |index: usize| {
            let stage = loaded_job.job.stages.get(index)?;
            Some(stage.tokens_per_step(plan.stages.get(index)?.prompt_max))
        };
        let step_times: Vec<_> = (self.0.keys())
            .filter_map(|index| {
                let kind = loaded_job.job.stages.get(*index)?.kind_name().to_owned();
                Some((
                    kind,
                    pace(
                        Duration::from_secs_f64(self.seconds(*index)?),
                        1,
                        tokens(*index)?,
                    )?,
                ))
            })
            .collect();
        let first = record.stage_at_work(plan.job.stages.len())?;
        let left: Vec<_> = (first..plan.job.stages.len())
            .filter_map(|index| {
                let kind = loaded_job.job.stages.get(index)?.kind_name().to_owned();
                let steps_left = plan
                    .stages
                    .get(index)?
                    .steps
                    .saturating_sub(record.committed(index));
                Some(StageWork {
                    kind,
                    steps_left,
                    tokens_per_step: tokens(index)?,
                })
            })
            .collect();
        time_left(&left, &step_times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: &[f64]) -> Option<f64> {
        let mut step_times = StepTimes::default();
        seconds.iter().for_each(|seconds| {
            step_times.step(0, &Metrics::from([("step_time".into(), *seconds)]))
        });
        step_times.seconds(0)
    }

    /// One step that waits for the disk does not turn an ETA of 7 minutes into one of 2 hours.
    #[test]
    fn one_slow_step_changes_no_pace() {
        let steady = [2.0; 20];
        assert_eq!(after(&steady), Some(2.0));
        assert_eq!(after(&[&steady[..], &[600.0]].concat()), Some(2.0));
        assert_eq!(
            after(&[&steady[..], &[600.0], &steady[..3], &[900.0, 2.5]].concat()),
            Some(2.0)
        );
        // A lasting change is seen.
        assert_eq!(after(&[&steady[..], &[4.0; 8]].concat()), Some(4.0));
        assert_eq!(after(&[3.0]), Some(3.0));
        assert_eq!(after(&[3.0, 5.0]), Some(4.0));
        assert_eq!(
            after(&[f64::NAN, -1.0]),
            None,
            "a clock that jumped says nothing"
        );
    }
}
