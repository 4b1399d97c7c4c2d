//! The evaluations that are made while a stage is at work.

use super::facts::InputFacts;
use crate::eval::Eval;
use crate::job::Job;
use crate::stage::Stage;
use r1d_proto::control::plan::PlanEval;

/// The evaluations of stage `index`, in the order of [`Job::evaluations`]: an `eval` stage's own,
/// and those of `[[eval]]` that come up before, inside and behind it. They are the most that there
/// can be: one that asks a model which does not exist yet is left out when the stage runs.
pub(super) fn of_stage(job: &Job, index: usize, stage: &Stage, seen: &InputFacts) -> Vec<PlanEval> {
    let steps = stage.steps(seen.rows(stage));
    let planned = |(number, eval): (usize, &Eval)| {
        let times = times(job, index, stage, (number, eval), steps)?;
        let rows = eval.rows(seen.eval_rows.get(number).copied().unwrap_or(0));
        let completions = rows.saturating_mul(eval.num_generations.into());
        let prompt = u64::from(seen.eval_prompt_max(job.model_of(stage)));
        let longest = prompt + u64::from(eval.max_completion_length);
        Some(PlanEval {
            data: eval.data.clone(),
            times,
            completions,
            tokens: completions.saturating_mul(longest).saturating_mul(times),
        })
    };
    job.evaluations().enumerate().filter_map(planned).collect()
}

/// How often evaluation `number` is made while the stage is at work: 0 if that depends on a number
/// of steps that is not known yet, `None` if it is not made there.
fn times(
    job: &Job,
    index: usize,
    stage: &Stage,
    (number, eval): (usize, &Eval),
    steps: u64,
) -> Option<u64> {
    if job.evaluation_of(stage) == Some(number) {
        return Some(1);
    }
    if number >= job.evals.len() {
        return None;
    }
    let at_start = u64::from(eval.at_start && job.first_of_own_model() == Some(index));
    let behind_steps = stage.trains() && stage.reward_model().is_none();
    match (behind_steps, steps) {
        (false, _) => (at_start > 0).then_some(at_start),
        (true, 0) => Some(0),
        (true, steps) => {
            let inside = eval.every_in(&stage.name);
            let inside = inside.map_or(0, |every| (steps - 1) / every);
            Some(at_start + inside + 1)
        }
    }
}
