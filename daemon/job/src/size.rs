//! Refuses settings that are each allowed and together ask for more than the daemon can hold. The
//! error names the product.

use crate::error::JobError;
use crate::job::Job;
use crate::limits::{
    EVALUATION_MAX_COMPLETIONS, STAGE_MAX_STEPS, STEP_MAX_COMPLETIONS, STEP_MAX_TOKENS,
};
use crate::plan::InputFacts;
use crate::stage::Stage;

/// Checks what each step and each evaluation asks for, as far as `seen` is known: without it
/// prompts count no tokens, and data sets no rows.
pub fn check(job: &Job, seen: &InputFacts) -> Result<(), JobError> {
    job.stages
        .iter()
        .try_for_each(|stage| check_stage(stage, seen))?;
    for (eval, rows) in job.evaluations().zip(&seen.eval_rows) {
        let (rows, completions) = (eval.rows(*rows), u64::from(eval.num_generations));
        let all = rows.saturating_mul(completions);
        if all > EVALUATION_MAX_COMPLETIONS {
            return refuse(
                format!("the evaluation of data.{}", eval.data),
                format!(
                    "{rows} rows × num_generations = {completions} are {all} completions, at most \
                     {EVALUATION_MAX_COMPLETIONS} are possible"
                ),
                "lower `num_generations`, or set `max_rows`",
            );
        }
    }
    Ok(())
}

fn check_stage(stage: &Stage, seen: &InputFacts) -> Result<(), JobError> {
    let place = format!("[[stage]] {:?}", stage.name);
    if let Some(rollouts) = stage.rollouts() {
        let (prompts, each) = (
            u64::from(rollouts.prompts_per_step),
            u64::from(rollouts.num_generations),
        );
        let all = prompts * each;
        if all > STEP_MAX_COMPLETIONS {
            return refuse(
                place,
                format!(
                    "prompts_per_step = {prompts} × num_generations = {each} are {all} \
                     completions of one step, at most {STEP_MAX_COMPLETIONS} are possible"
                ),
                "lower one of them, and raise `steps`",
            );
        }
    }
    let prompt_max = seen.prompt_max.get(&stage.name).copied().unwrap_or(0);
    let tokens = stage.tokens_per_step(prompt_max);
    if tokens > STEP_MAX_TOKENS {
        let (rows, length) = match stage.rollouts() {
            Some(_) => (
                "prompts_per_step` or `num_generations",
                "max_completion_length",
            ),
            None => ("batch_size", "max_length"),
        };
        return refuse(
            place,
            format!("one step is up to {tokens} tokens, at most {STEP_MAX_TOKENS} are possible"),
            format!("lower `{rows}`, or `{length}`"),
        );
    }
    let rows = seen.rows.get(&stage.name).copied().unwrap_or(0);
    let steps = stage.steps(rows);
    if steps > STAGE_MAX_STEPS {
        let problem = format!(
            "its epochs over {rows} rows are {steps} steps, at most {STAGE_MAX_STEPS} are possible"
        );
        return refuse(place, problem, "lower `epochs`, or take more rows a step");
    }
    Ok(())
}

fn refuse(place: String, problem: String, fix: impl Into<String>) -> Result<(), JobError> {
    Err(JobError::Unsound {
        place,
        problem,
        fix: fix.into(),
    })
}
