//! How long a job still takes, from the time that its steps took.

use crate::materials::Materials;
use r1d_job::plan::tokens_per_step;
use r1d_proto::worker::Metrics;
use r1d_runner::pace::{Work, pace, time_left};
use r1d_runner::{Plan, Record};
use std::collections::BTreeMap;
use std::time::Duration;

/// Weight of the newest step in the moving average.
const NEWEST: f64 = 0.2;

/// Seconds per step of each stage: a moving average over the steps that this daemon saw.
#[derive(Debug, Default)]
pub struct Paces(BTreeMap<usize, f64>);

impl Paces {
    pub fn step(&mut self, stage: usize, metrics: &Metrics) {
        let Some(seconds) = metrics.get("step_time").copied() else { return };
        let average = self.0.entry(stage).or_insert(seconds);
        *average += NEWEST * (seconds - *average);
    }

    /// Seconds to the end of the last stage; `None` before the first step.
    pub fn time_left(&self, materials: &Materials, plan: &Plan, record: &Record) -> Option<f64> {
        let tokens = |index: usize| {
            let stage = materials.job.stages.get(index)?;
            Some(tokens_per_step(stage, plan.stages.get(index)?.prompt_max))
        };
        let paces: Vec<_> = (self.0.iter())
            .filter_map(|(index, seconds)| {
                let kind = materials.job.stages.get(*index)?.kind_name().to_owned();
                Some((kind, pace(Duration::from_secs_f64(*seconds), 1, tokens(*index)?)?))
            })
            .collect();
        let first = record.stage_at_work(plan.job.stages.len())?;
        let left: Vec<_> = (first..plan.job.stages.len())
            .filter_map(|index| {
                let kind = materials.job.stages.get(index)?.kind_name().to_owned();
                let steps_left = plan.stages.get(index)?.steps.saturating_sub(record.committed(index));
                Some(Work { kind, steps_left, tokens_per_step: tokens(index)? })
            })
            .collect();
        time_left(&left, &paces)
    }
}
