//! The summary: sentences that state the figures, and nothing else.

use super::figures::{
    Value, all_tokens, costs, ends, eval_metric, evaluations, is_share, origin, plain, values,
    verdicts, wall_seconds,
};
use super::gather::{Run, Stage};
use crate::format::{duration, number, percent, thousands};
use r1d_proto::control::job::{EvalResult, State};

/// A sentence, and what it is about.
pub(super) struct Sentence {
    pub about: String,
    pub said: String,
}

/// A sentence on the job, then one on each stage that has begun.
pub(super) fn summary(run: &Run) -> Vec<Sentence> {
    let mut sentences = vec![Sentence {
        about: "The job".into(),
        said: whole(run),
    }];
    for stage in &run.stages {
        let odd = verdicts(run)
            .into_iter()
            .find(|(name, _)| *name == stage.status.name)
            .map(|(_, counts)| {
                let odd: u64 = counts.iter().skip(1).sum();
                format!(
                    "{} of {} verdicts were no scores",
                    thousands(odd),
                    thousands(counts.iter().sum())
                )
            });
        let parts = [
            of_training(stage),
            of_nothing_learned(stage),
            of_data_set(stage),
            of_evaluations(run, stage),
            odd,
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if !parts.is_empty() {
            let about = format!(
                "{} ({}, from {}):",
                stage.status.name, stage.status.kind, stage.from
            );
            sentences.push(Sentence {
                about,
                said: parts.join("; ") + ".",
            });
        }
    }
    sentences
}

fn whole(run: &Run) -> String {
    let took = match (run.status.state, wall_seconds(run)) {
        (_, None) => "has not started".to_owned(),
        (State::Running, Some(seconds)) => format!("has been running for {}", duration(seconds)),
        (ended, Some(seconds)) => format!("{} after {}", ended.name(), duration(seconds)),
    };
    let finished = run
        .stages
        .iter()
        .filter(|stage| stage.status.state == State::Succeeded)
        .count();
    let mut said = format!(
        "{took}; {finished} of {} stages are finished, {} tokens were sampled or trained on",
        run.stages.len(),
        thousands(all_tokens(run))
    );
    if let Some(most) = costs(run)
        .into_iter()
        .max_by(|a, b| a.seconds.total_cmp(&b.seconds))
        .filter(|most| most.share > 0.0)
    {
        said += &format!(
            "; {} took {} of the stages' time",
            most.name,
            percent(most.share)
        );
    }
    if run.status.restarts > 0 {
        let times = if run.status.restarts == 1 {
            "once".into()
        } else {
            format!("{} times", run.status.restarts)
        };
        said += &format!("; it was taken up again {times}");
    }
    said + "."
}

/// A sentence on how a stage's training signal changed over its steps.
fn of_training(stage: &Stage) -> Option<String> {
    let named = ["reward", "objective/scores", "rewards/accuracies", "loss"].into_iter();
    // Rejection sampling learns nothing, whatever its rewards do.
    let (name, points) = named
        .filter(|_| stage.made.is_none())
        .find_map(|name| Some((name, stage.curves.get(name)?)))?;
    let (first, last) = ends(points)?;
    let over = format!("over {} steps", thousands(stage.status.step));
    let kl = stage
        .curves
        .get("kl")
        .or(stage.curves.get("objective/kl"))
        .and_then(|points| ends(points));
    let kl = kl.map(|(_, last)| format!(", KL to the reference {} at its end", number(last)));
    Some(format!(
        "{over} {name} went from {} to {}{}",
        number(first),
        number(last),
        kl.unwrap_or_default()
    ))
}

/// A sentence on why a stage that trained has learned nothing.
fn of_nothing_learned(stage: &Stage) -> Option<String> {
    let equal = stage
        .curves
        .get("frac_reward_zero_std")
        .is_some_and(|points| points.iter().all(|(_, share)| *share >= 1.0));
    if equal {
        return Some("in no group did the rewards differ, so nothing was learned from them".into());
    }
    let broken = |name: &&str| {
        stage
            .curves
            .get(*name)?
            .iter()
            .find(|(_, value)| !value.is_finite())
            .map(|(step, _)| *step)
    };
    let (name, step) = ["loss", "grad_norm", "reward"]
        .iter()
        .find_map(|name| Some((*name, broken(name)?)))?;
    Some(format!("{name} is not a number at step {step}"))
}

fn of_data_set(stage: &Stage) -> Option<String> {
    let made = stage.made.as_ref()?;
    let review = match (&made.before_review, made.reviewed) {
        (Some(_), _) => format!(", of which a review made {} rows", thousands(made.rows)),
        (None, true) => ", accepted by a review".into(),
        (None, false) => String::new(),
    };
    Some(format!(
        "{} of {} completions are its data set (acceptance rate {}), of {} of {} prompts{review}",
        thousands(
            made.before_review
                .as_ref()
                .map_or(made.rows, |(rows, _)| *rows)
        ),
        thousands(made.sampled),
        percent(made.acceptance_rate),
        thousands(made.prompts_with_rows),
        thousands(made.prompts)
    ))
}

/// A sentence on a stage's evaluations, compared with those of the weights that it started from:
/// always correct answers and lengths, other metrics if they changed.
fn of_evaluations(run: &Run, stage: &Stage) -> Option<String> {
    let found = evaluations(run);
    let row = found
        .rows
        .iter()
        .find(|row| row.stage == Some(stage.status.name.as_str()))?;
    let before = origin(run, &found.rows, stage).and_then(|at| found.rows.get(at));
    let mut by_data: Vec<(&str, Vec<String>)> = Vec::new();
    for column in &found.columns {
        let (data, metric) = *column;
        let Some(after) = row.values.get(column) else {
            continue;
        };
        let Some(said) = change(
            metric,
            before.and_then(|row| row.values.get(column)).copied(),
            *after,
        ) else {
            continue;
        };
        match by_data.last_mut().filter(|(last, _)| *last == data) {
            Some((_, changes)) => changes.push(said),
            None => by_data.push((data, vec![said])),
        }
    }
    let place = match before.map(|row| row.stage) {
        Some(Some(name)) => format!(", against {name},"),
        Some(None) => ", against the weights at the start,".into(),
        None => String::new(),
    };
    let of_data = by_data
        .into_iter()
        .map(|(data, changes)| format!("on {data}{place} {}", changes.join(", ")));
    let said: Vec<String> = of_data.collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Describes a change; `None` if there is nothing to report.
fn change(metric: &str, before: Option<Value>, after: Value) -> Option<String> {
    let name = plain(metric);
    let shown = |value: Value| eval_metric(metric, value.mean);
    let Some(before) = before else {
        return Some(format!("{name} {}", shown(after)));
    };
    if shown(before) == shown(after) {
        return is_share(metric).then(|| format!("{name} stays at {}", shown(after)));
    }
    let apart = match before.interval.zip(after.interval) {
        Some((a, b)) if a.1 < b.0 || b.1 < a.0 => ", the 95 % intervals are apart",
        Some(_) => ", the 95 % intervals overlap",
        None => "",
    };
    let points = if is_share(metric) {
        format!(
            " ({:+.1} points{apart})",
            (after.mean - before.mean) * 100.0
        )
    } else {
        String::new()
    };
    Some(format!(
        "{name} {} → {}{points}",
        shown(before),
        shown(after)
    ))
}

/// The evaluations within a stage by data set, in the order of steps: a curve, if there are
/// several.
pub(super) fn within<'a>(run: &'a Run, stage: &Stage) -> Vec<(&'a str, Vec<&'a EvalResult>)> {
    let mut by_data: Vec<(&str, Vec<&EvalResult>)> = Vec::new();
    for eval in run
        .status
        .evals
        .iter()
        .filter(|eval| eval.stage.as_deref() == Some(&stage.status.name))
    {
        match by_data.iter_mut().find(|(data, _)| *data == eval.data) {
            Some((_, evals)) => evals.push(eval),
            None => by_data.push((&eval.data, vec![eval])),
        }
    }
    by_data.retain(|(_, evals)| evals.len() > 1);
    by_data
}

/// The metrics by which an evaluation within a stage is drawn.
pub(super) fn shares(eval: &EvalResult) -> impl Iterator<Item = (&str, f64)> {
    values(eval)
        .filter(|(name, _)| is_share(name))
        .map(|(name, value)| (name, value.mean))
}
