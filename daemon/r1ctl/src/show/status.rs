//! `r1ctl status`: one job.

use crate::format::{duration, eval_metric, thousands, time_of_s, watched_evals, watched_metrics};
use crate::table::{Column, left, right, table};
use crate::terminal::{Look, one_line, printable};
use r1d_proto::control::job::{Activity, EvalResult, JobStatus, Pause, RankStatus, StageStatus};
use std::collections::BTreeMap;

/// Metrics of a step with the time that ranks were in collectives while they sampled and trained.
const EXCHANGES: [&str; 2] = ["timing_s/sampling_exchange", "timing_s/exchange"];

pub(crate) fn status(job: &JobStatus, look: Look) -> String {
    let mut text = format!(
        "{}  {}  {}\n",
        look.bold(&job.job.0),
        one_line(&job.name),
        look.standing(job.state, job.pausing)
    );
    for (name, value) in facts(job) {
        text += &format!("{:11}{value}\n", name);
    }
    if let Some(error) = &job.error {
        text += &format!("{:11}{}\n", "error", look.red(&printable(error)));
    }
    if !job.stages.is_empty() {
        text += &format!("\n{}", stages(&job.stages, look));
    }
    if !job.ranks.is_empty() {
        text += &format!("\n{}", ranks(job, look));
    }
    if !job.evals.is_empty() {
        text += &format!("\n{}", evals(&job.evals, look));
    }
    text
}

fn facts(job: &JobStatus) -> Vec<(&'static str, String)> {
    let mut facts = vec![("priority", job.priority.to_string())];
    facts.extend(job.owner.as_ref().map(|owner| ("owner", one_line(owner))));
    facts.push(("submitted", time_of_s(job.submitted_at)));
    facts.extend(
        job.pause
            .as_ref()
            .map(|pause| ("paused", paused(job, pause))),
    );
    facts.extend(
        job.queue_position
            .map(|place| ("queue", format!("place {place}"))),
    );
    facts.extend(job.started_at.map(|at| ("started", time_of_s(at))));
    facts.extend(job.ended_at.map(|at| ("ended", time_of_s(at))));
    facts.extend(job.activity.as_ref().map(|now| ("now", activity(now))));
    facts.extend(job.eta_s.map(|eta| ("eta", duration(eta))));
    if job.restarts > 0 {
        facts.push(("restarts", job.restarts.to_string()));
    }
    facts.push(("directory", job.directory.display().to_string()));
    facts.extend(
        job.model
            .as_ref()
            .map(|model| ("model", model.display().to_string())),
    );
    facts
}

/// Who has paused the job, since when, and what to do.
fn paused(job: &JobStatus, pause: &Pause) -> String {
    let by = pause
        .by
        .as_deref()
        .map_or_else(String::new, |by| format!("by {}, ", one_line(by)));
    format!(
        "{by}{}; r1ctl resume {} lets it go on",
        time_of_s(pause.at),
        job.job
    )
}

pub(crate) fn activity(now: &Activity) -> String {
    let doing = one_line(&now.doing);
    if now.total == 0 {
        return doing;
    }
    format!(
        "{doing} {}/{} {}",
        thousands(now.done),
        thousands(now.total),
        one_line(&now.unit)
    )
}

/// Inserts a third column that names the model of each row's stage, if the job has several models;
/// returns its cells.
pub(super) fn model_column<'a>(
    columns: &mut Vec<Column>,
    models: impl Iterator<Item = &'a Option<String>>,
) -> Vec<Option<String>> {
    let models: Vec<_> = models.collect();
    if models.iter().all(|model| model.is_none()) {
        return vec![None; models.len()];
    }
    columns.insert(2, left("MODEL"));
    models
        .into_iter()
        .map(|model| Some(model.as_deref().map_or_else(|| "-".into(), one_line)))
        .collect()
}

fn stages(stages: &[StageStatus], look: Look) -> String {
    let mut columns = vec![
        left("STAGE"),
        left("KIND"),
        left("STATE"),
        right("STEP"),
        right("DURABLE"),
        right("TIME"),
        left("LAST STEP"),
    ];
    let models = model_column(&mut columns, stages.iter().map(|stage| &stage.model));
    let row = |(stage, model): (&StageStatus, Option<String>)| {
        let metrics: Vec<String> = watched_metrics(&stage.metrics)
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let mut row = vec![
            one_line(&stage.name),
            one_line(&stage.kind),
            match &stage.reused_from {
                Some(job) => format!("{} (reused from {job})", look.state(stage.state)),
                None => look.state(stage.state),
            },
            // An evaluation has no steps.
            if stage.kind == "eval" {
                "-".into()
            } else {
                format!("{}/{}", thousands(stage.step), thousands(stage.steps))
            },
            thousands(stage.durable_step),
            duration(stage.seconds),
            metrics.join(", "),
        ];
        row.splice(2..2, model);
        row
    };
    table(look, &columns, stages.iter().zip(models).map(row).collect())
}

/// What each rank does, and the share of the last step in which they exchanged numbers.
fn ranks(job: &JobStatus, look: Look) -> String {
    let columns = [
        right("RANK"),
        left("DEVICE"),
        right("DATA"),
        right("EXPERT"),
        left("STATE"),
    ];
    let row = |rank: &RankStatus| {
        vec![
            rank.rank.to_string(),
            one_line(&rank.device),
            rank.data.to_string(),
            rank.expert.to_string(),
            one_line(&rank.state),
        ]
    };
    let text = table(look, &columns, job.ranks.iter().map(row).collect());
    let at_work = job.stages.iter().rfind(|stage| !stage.metrics.is_empty());
    let share = at_work.and_then(|stage| exchange_share(&stage.metrics));
    let Some(share) = share else {
        return text;
    };
    let told = format!("{:.0} % of the last step is exchange", 100.0 * share);
    format!("{text}{}\n", look.dim(&told))
}

/// The share of a step in which ranks were in collectives; `None` if it is not known.
fn exchange_share(metrics: &BTreeMap<String, f64>) -> Option<f64> {
    let step = metrics.get("step_time").filter(|seconds| **seconds > 0.0)?;
    let times = EXCHANGES.iter().filter_map(|name| metrics.get(*name));
    let exchanged = times.copied().reduce(|all, seconds| all + seconds)?;
    Some((exchanged / step).clamp(0.0, 1.0))
}

fn evals(evals: &[EvalResult], look: Look) -> String {
    let row = |eval: &EvalResult| {
        let metrics: Vec<String> = watched_evals(&eval.metrics)
            .map(|(name, _)| format!("{name} {}", eval_metric(&eval.metrics, name)))
            .collect();
        let stage = eval
            .stage
            .as_deref()
            .map_or_else(|| "before training".into(), one_line);
        vec![
            stage,
            thousands(eval.step),
            one_line(&eval.data),
            metrics.join(", "),
        ]
    };
    table(
        look,
        &[
            left("EVALUATED IN"),
            right("STEP"),
            left("DATA"),
            left("RESULT"),
        ],
        evals.iter().map(row).collect(),
    )
}
