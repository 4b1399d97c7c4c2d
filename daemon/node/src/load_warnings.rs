//! What of a job's inputs looks like a mistake, but may be meant.

use crate::loaded_job::{LoadedEval, LoadedStage};
use r1d_ingest::Rows;
use r1d_job::{Eval, Job, Stage};

/// Columns that are left out of `meta`, where a prompt or reward might look for them.
pub(crate) fn columns_left_out(data: &Rows) -> impl Iterator<Item = String> {
    data.left_out()
        .map(|column| format!("data.{}: {column}; it is left out", data.name()))
}

/// What the job's stages and evaluations leave out, or nobody judges.
pub(crate) fn of_job(job: &Job, stages: &[LoadedStage], evals: &[LoadedEval]) -> Vec<String> {
    let of_stages = (job.stages.iter().zip(stages)).flat_map(|(stage, data)| of_stage(stage, data));
    let of_evals = job.evaluations().zip(evals);
    let of_evals = of_evals.filter_map(|(eval, data)| of_eval(eval, data));
    of_stages.chain(of_evals).collect()
}

/// What a stage leaves out, or nobody judges.
fn of_stage(stage: &Stage, loaded_stage: &LoadedStage) -> Vec<String> {
    let place = format!("[[stage]] {:?}", stage.name);
    let left_out = |count: u64, data: &str| {
        format!(
            "{place} leaves out {count} rows of data.{data} whose prompt is longer than \
             max_prompt_length"
        )
    };
    let mut warnings = Vec::new();
    match loaded_stage {
        LoadedStage::Supervised(supervision) => {
            if supervision.truncated() > 0 {
                warnings.push(format!(
                    "{place} cuts {} of its {} rows at max_length",
                    supervision.truncated(),
                    supervision.len()
                ));
            }
            if supervision.left_out() > 0 {
                warnings.push(left_out(supervision.left_out(), &stage.data));
            }
            if supervision.merged() > 0 {
                let (merged, rows) = (supervision.merged(), supervision.len());
                warnings.push(format!(
                    "{place}: in {merged} of its {rows} rows the prompt's last tokens are other \
                     ones when the completion follows, and the loss begins there, as in TRL; \
                     tokenize = \"apart\" keeps the prompt as it is sampled from"
                ));
            }
        }
        LoadedStage::Preferred { rows, .. } if rows.truncated() > 0 => {
            warnings.push(format!(
                "{place} cuts texts of {} of its {} rows at max_length",
                rows.truncated(),
                rows.len()
            ));
        }
        LoadedStage::Preferred { .. }
        | LoadedStage::Evaluated { .. }
        | LoadedStage::PendingStage(_) => {}
        LoadedStage::Prompted(prompted) => {
            let judged = |domain: Option<&str>| {
                prompted
                    .judges
                    .iter()
                    .any(|judge| judge.reward.judges(domain))
            };
            let rows: u64 = prompted
                .prompts
                .domains()
                .filter(|(domain, _)| !judged(*domain))
                .map(|(_, rows)| rows)
                .sum();
            if rows > 0 {
                warnings.push(format!(
                    "{place}: no reward judges the domain of {rows} rows of data.{}: they never \
                     train",
                    stage.data
                ));
            }
            if prompted.prompts.left_out() > 0 {
                warnings.push(left_out(prompted.prompts.left_out(), &stage.data));
            }
        }
    }
    warnings
}

/// What an evaluation leaves out.
fn of_eval(eval: &Eval, loaded_stage: &LoadedEval) -> Option<String> {
    let left_out = loaded_stage.rows.len() - loaded_stage.rows().min(loaded_stage.rows.len());
    let place = format!("[[eval]] {:?}", eval.data);
    (left_out > 0).then(|| {
        format!("{place} leaves out {left_out} rows whose prompt is longer than max_prompt_length")
    })
}
