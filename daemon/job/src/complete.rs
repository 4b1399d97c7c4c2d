//! What a key that is left out is, where other tables of the job decide it.

use crate::error::JobError;
use crate::eval::Eval;
use crate::file::Fields;
use crate::job::Job;
use crate::stage::{Origin, Stage, StageKind};

/// Fills in what the tables of a job, read each by itself, leave to the others. `file` is the top
/// level that the job was read from.
pub(crate) fn complete(job: &mut Job, file: &Fields<'_>) -> Result<(), JobError> {
    for (index, table) in file.tables("stage").enumerate() {
        let Some((stage, before)) = job
            .stages
            .get_mut(..=index)
            .and_then(|stages| stages.split_last_mut())
        else {
            continue;
        };
        if !table.has("from") {
            stage.from = nearest(stage, before);
        }
        if let StageKind::Eval(eval) = &mut stage.kind {
            complete_eval(eval, &table, before);
        }
    }
    for (eval, table) in job.evals.iter_mut().zip(file.tables("eval")) {
        complete_eval(eval, &table, &job.stages);
    }
    complete_data(job)
}

/// The last stage before that trains a policy of the same model, else the model's own weights.
fn nearest(stage: &Stage, before: &[Stage]) -> Origin {
    let trains_policy = |other: &&Stage| {
        other.trains() && other.reward_model().is_none() && other.model == stage.model
    };
    let nearest = before.iter().rfind(trains_policy);
    nearest.map_or(Origin::Base, |other| Origin::Stage(other.name.clone()))
}

/// Completions of an evaluation are as long as those of the stages that sample.
fn complete_eval(eval: &mut Eval, table: &Fields<'_>, stages: &[Stage]) {
    if table.has("max_completion_length") {
        return;
    }
    let sampled = stages.iter().filter_map(Stage::rollouts);
    let longest = sampled.map(|rollouts| rollouts.max_completion_length).max();
    eval.max_completion_length = longest.unwrap_or(eval.max_completion_length);
}

/// Names the columns that stages and evaluations read of each data set.
fn complete_data(job: &mut Job) -> Result<(), JobError> {
    for (name, data) in &mut job.data {
        let reads = |stage: &&Stage| {
            let mut read = stage.data_sets().chain(stage.held_out());
            read.any(|read| read == name)
        };
        let readers: Vec<&Stage> = job.stages.iter().filter(reads).collect();
        let cuts = |kind: &&str| readers.iter().any(|stage| stage.kind_name() == *kind);
        if let Some(kind) = ["dpo", "reward-model"].into_iter().find(cuts)
            && data.max_prompt_length.is_some()
        {
            return Err(JobError::unsound(
                format!("[data.{name}]"),
                format!(
                    "`max_prompt_length` leaves out no row of a {kind} stage, which cuts its \
                     texts at its own `max_length`"
                ),
                "leave it out, or give the stage a data set of its own",
            ));
        }
        let mut columns: Vec<&str> = readers
            .iter()
            .flat_map(|stage| stage.columns())
            .copied()
            .collect();
        if job.evals.iter().any(|eval| eval.data == *name) {
            columns.push("prompt");
        }
        data.name_columns(&columns);
    }
    Ok(())
}
