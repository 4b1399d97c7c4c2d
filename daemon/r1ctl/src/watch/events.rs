//! Events of a job between two of its statuses, one plain line each.

use crate::format::{duration, eval_metric, thousands, watched_evals, watched_metrics};
use crate::terminal::one_line;
use r1d_proto::control::job::{EvalResult, JobStatus, StageStatus, State};

/// Describes the changes since the last status. Statuses come at most ten times a second, so a line
/// shows the latest of the steps since then.
pub(super) fn between(last: Option<&JobStatus>, now: &JobStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if last.is_none_or(|last| last.state != now.state || last.queue_position != now.queue_position)
        && !now.state.is_final()
    {
        let place = now
            .queue_position
            .map_or_else(String::new, |place| format!(", place {place}"));
        lines.push(format!(
            "job {} ({}) {}{place}",
            now.job,
            one_line(&now.name),
            now.state.name()
        ));
    }
    if last.map_or(0, |last| last.restarts) < now.restarts {
        lines.push(format!(
            "taken up again after a crash (restart {})",
            now.restarts
        ));
    }
    lines.extend(
        evals(last, now)
            .filter(|eval| eval.stage.is_none())
            .map(eval_line),
    );
    for (i, stage) in now.stages.iter().enumerate() {
        let before = last.and_then(|last| last.stages.get(i));
        lines.extend(stage_lines(before, stage, now.eta_s));
        lines.extend(
            evals(last, now)
                .filter(|eval| eval.stage.as_ref() == Some(&stage.name))
                .map(eval_line),
        );
        let has_ended =
            stage.state.is_final() && before.is_none_or(|before| before.state != stage.state);
        if has_ended && stage.reused_from.is_none() {
            lines.push(format!(
                "stage {} {} in {}",
                one_line(&stage.name),
                stage.state.name(),
                duration(stage.seconds)
            ));
        }
    }
    lines
}

/// The evaluations that are new: evaluations are only ever added.
fn evals<'a>(last: Option<&JobStatus>, now: &'a JobStatus) -> impl Iterator<Item = &'a EvalResult> {
    now.evals
        .iter()
        .skip(last.map_or(0, |last| last.evals.len()))
}

fn stage_lines(
    before: Option<&StageStatus>,
    stage: &StageStatus,
    eta_s: Option<f64>,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(job) = &stage.reused_from {
        // It was whole at once: nothing of it is done here.
        if before.is_none_or(|before| before.reused_from.is_none()) {
            lines.push(format!(
                "stage {} ({}) reused from job {}: {} steps",
                one_line(&stage.name),
                one_line(&stage.kind),
                one_line(&job.0),
                thousands(stage.steps)
            ));
        }
        return lines;
    }
    let waited = before.is_none_or(|before| before.state == State::Queued);
    if waited && stage.state != State::Queued {
        lines.push(format!(
            "stage {} ({}) began: {} steps",
            one_line(&stage.name),
            one_line(&stage.kind),
            thousands(stage.steps)
        ));
    }
    if stage.step > before.map_or(0, |before| before.step) {
        let mut line = format!("{} {}/{}", one_line(&stage.name), stage.step, stage.steps);
        for (name, value) in watched_metrics(&stage.metrics) {
            line += &format!("  {name} {value}");
        }
        if let Some(eta) = eta_s.filter(|_| stage.state == State::Running) {
            line += &format!("  eta {}", duration(eta));
        }
        lines.push(line);
    }
    lines
}

pub(super) fn eval_line(eval: &EvalResult) -> String {
    let at = match &eval.stage {
        Some(stage) => format!("{} {}", one_line(stage), eval.step),
        None => "before training".into(),
    };
    let metrics: Vec<String> = watched_evals(&eval.metrics)
        .map(|(name, _)| format!("{name} {}", eval_metric(&eval.metrics, name)))
        .collect();
    format!(
        "eval on {} ({at}): {}",
        one_line(&eval.data),
        metrics.join("  ")
    )
}
