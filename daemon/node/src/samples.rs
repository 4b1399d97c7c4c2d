//! Prompts, completions and verdicts of a committed step, from its Parquet file.

use crate::job_log;
use crate::removal::RESULTS_ALONE_STAY;
use crate::traces::stages_begun;
use r1d_data::template::date_of;
use r1d_ledger::JobRecord;
use r1d_proto::control::SampleSort;
use r1d_proto::control::content::{LogLine, Sample};
use r1d_proto::rollout::FinishReason;
use r1d_store::rollouts::{RolloutFile, Summary, View};
use r1d_store::{Disk, JobLayout, StoreError};
use std::cmp::{Ordering, Reverse};

/// Why there are no samples to show.
#[derive(Debug, thiserror::Error)]
pub enum SamplesError {
    /// The job has no such stage, or has not begun it.
    #[error("job `{job}` has no stage {stage:?}; it has {known}")]
    NoStage {
        /// The job.
        job: String,
        /// The stage.
        stage: String,
        /// What there is, in words.
        known: String,
    },
    /// All rollouts of the job went when it was pruned.
    #[error(
        "job `{job}` has no samples any more: on {day}, `r1ctl prune` or [retention]: {message}"
    )]
    Removed {
        /// The job.
        job: String,
        /// The day, in UTC.
        day: String,
        /// The line of the job's log that tells what went, and why.
        message: String,
    },
    /// Nothing was sampled in this step, or it is not committed.
    #[error("stage {stage:?} of job `{job}` has no samples of step {step}: {known}")]
    NoStep {
        /// The job.
        job: String,
        /// The stage.
        stage: String,
        /// The step, from 1.
        step: u64,
        /// What there is, in words.
        known: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Data(#[from] StoreError),
}

/// Reads the samples of a stage and step (from 1), or of the newest ones. Empty if none of it is
/// committed. Blocks.
pub(crate) fn read(
    record: &JobRecord,
    outputs: &JobLayout,
    stage: Option<String>,
    step: Option<u64>,
    sort: SampleSort,
    limit: u32,
) -> Result<Vec<Sample>, SamplesError> {
    let stages: Vec<&str> = record
        .progress
        .stages
        .iter()
        .map(|stage| stage.name.as_str())
        .collect();
    // If the ledger is an older copy, there are files of steps that it does not know.
    let committed = |stage: &str| {
        record
            .progress
            .stages
            .iter()
            .find(|known| known.name == stage)
            .map_or(0, |known| known.step)
    };
    let newest = |stage: &str| {
        let last = last_step(outputs, stage, committed(stage))?;
        Some((stage.to_owned(), last))
    };
    let place = match stage {
        Some(stage) if !stages.contains(&stage.as_str()) => {
            return Err(SamplesError::NoStage {
                job: record.job().to_string(),
                stage,
                known: stages_begun(record),
            });
        }
        Some(stage) => step
            .map(|step| (stage.clone(), step))
            .or_else(|| newest(&stage)),
        None => stages
            .iter()
            .rev()
            .find_map(|stage| newest(stage))
            .map(|(stage, last)| (stage, step.unwrap_or(last))),
    };
    let Some((stage, step)) = place else {
        return removed(record, outputs).map_or(Ok(Vec::new()), Err);
    };
    let path = outputs.rollouts(&stage, step);
    if step > committed(&stage) || !path.exists() {
        if let Some(removed) = removed(record, outputs) {
            return Err(removed);
        }
        let known = match last_step(outputs, &stage, committed(&stage)) {
            Some(last) => format!("its steps 1 to {last} have some"),
            None => "it has none yet, or never samples".into(),
        };
        return Err(SamplesError::NoStep {
            job: record.job().to_string(),
            stage,
            step,
            known,
        });
    }
    of_step(outputs, &stage, step, sort, limit)
}

/// The error of a job whose rollouts were removed with its checkpoints, which is among the last
/// lines of its log.
fn removed(record: &JobRecord, outputs: &JobLayout) -> Option<SamplesError> {
    let lines = job_log::last(&outputs.log()).ok()?;
    let is_it = |line: &LogLine| line.message.starts_with(RESULTS_ALONE_STAY);
    let line = lines.into_iter().rfind(is_it)?;
    Some(SamplesError::Removed {
        job: record.job().to_string(),
        day: date_of(line.at_ms / 1000)?,
        message: line.message,
    })
}

/// Reads the samples of a stage's newest committed step, best reward first, from a job's directory
/// alone. Blocks.
pub fn newest(outputs: &JobLayout, stage: &str, limit: u32) -> Result<Vec<Sample>, SamplesError> {
    match last_step(outputs, stage, u64::MAX) {
        Some(step) => of_step(outputs, stage, step, SampleSort::Reward, limit),
        None => Ok(Vec::new()),
    }
}

/// The newest step (from 1) of a stage, up to `committed`, that left rollouts.
fn last_step(layout: &JobLayout, stage: &str, committed: u64) -> Option<u64> {
    let steps = layout.rollout_steps(&Disk, stage).ok()?;
    steps.into_iter().rfind(|step| *step <= committed)
}

fn of_step(
    outputs: &JobLayout,
    stage: &str,
    step: u64,
    sort: SampleSort,
    limit: u32,
) -> Result<Vec<Sample>, SamplesError> {
    let file = RolloutFile::open(&outputs.rollouts(stage, step))?;
    let mut ranked: Vec<(usize, Summary)> = file.summaries()?.into_iter().enumerate().collect();
    ranked.sort_by(|(_, a), (_, b)| order(sort, a, b));
    let places = ranked.iter().map(|(place, _)| *place);
    let places: Vec<usize> = places.take(limit as usize).collect();
    let views = file.views_at(&places)?;
    Ok(views
        .into_iter()
        .map(|view| sample(stage, step, view))
        .collect())
}

fn order(sort: SampleSort, a: &Summary, b: &Summary) -> Ordering {
    let reward = |row: &Summary| row.reward.unwrap_or(f32::NEG_INFINITY);
    let place = |row: &Summary| (row.prompt, row.sample);
    match sort {
        SampleSort::Order => Ordering::Equal,
        SampleSort::Reward => reward(b).total_cmp(&reward(a)),
        SampleSort::Length => Reverse(a.tokens).cmp(&Reverse(b.tokens)),
    }
    .then(place(a).cmp(&place(b)))
}

fn sample(stage: &str, step: u64, view: View) -> Sample {
    Sample {
        stage: stage.into(),
        step,
        prompt_index: view.key.prompt,
        sample_index: view.key.sample,
        row: view.row,
        prompt: view.prompt,
        completion: view.completion,
        reference: view.reference,
        tokens: view.tokens,
        finish: match view.finish {
            FinishReason::Stop => "stop".into(),
            FinishReason::Length => "length".into(),
        },
        reward: view.reward,
        advantage: view.advantage,
        verdicts: view.verdicts,
    }
}
