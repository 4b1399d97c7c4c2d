//! The tables of a report: the cost of each stage, the evaluations after it, and verdicts that are
//! not scores.

use super::gather::{Run, Stage};
use crate::format::{number, percent, thousands};
use r1d_proto::control::content::Sample;
use r1d_proto::control::job::{EvalExample, EvalResult, StageStatus};
use std::collections::BTreeMap;

/// The cost of a stage.
#[derive(Debug, PartialEq)]
pub(super) struct Cost {
    pub name: String,
    pub kind: String,
    pub step: u64,
    pub tokens: Option<u64>,
    /// Wall-clock time, including evaluations and checkpoints.
    pub seconds: f64,
    /// Share of the seconds of all stages, 0 to 1.
    pub share: f64,
}

pub(super) fn costs(run: &Run) -> Vec<Cost> {
    let all: f64 = run.stages.iter().map(|stage| stage.status.seconds).sum();
    let cost = |stage: &Stage| Cost {
        name: stage.status.name.clone(),
        kind: stage.status.kind.clone(),
        step: stage.status.step,
        tokens: tokens(stage),
        seconds: stage.status.seconds,
        share: if all > 0.0 {
            stage.status.seconds / all
        } else {
            0.0
        },
    };
    run.stages.iter().map(cost).collect()
}

/// The steps done and all steps of a stage; a dash for an evaluation, which has none.
pub(super) fn steps(stage: &StageStatus) -> String {
    match stage.kind.as_str() {
        "eval" => "–".into(),
        _ => format!("{} / {}", thousands(stage.step), thousands(stage.steps)),
    }
}

/// Tokens that a stage sampled or trained on.
pub(super) fn tokens(stage: &Stage) -> Option<u64> {
    stage
        .last("num_tokens")
        .filter(|tokens| tokens.is_finite())
        .map(|tokens| tokens as u64)
}

pub(super) fn all_tokens(run: &Run) -> u64 {
    run.stages
        .iter()
        .filter_map(tokens)
        .fold(0, u64::saturating_add)
}

/// Seconds from the job's start to its end, or to the report.
pub(super) fn wall_seconds(run: &Run) -> Option<f64> {
    let started = run.status.started_at?;
    Some(
        run.status
            .ended_at
            .unwrap_or(run.reported_at)
            .saturating_sub(started) as f64,
    )
}

/// A value of an evaluation, with its 95 % confidence interval if the evaluation gives one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Value {
    pub mean: f64,
    pub interval: Option<(f64, f64)>,
}

impl Value {
    pub(super) fn shown(self, metric: &str) -> String {
        eval_metric(metric, self.mean)
            + &self
                .interval_shown(metric)
                .map_or_else(String::new, |interval| format!(" {interval}"))
    }

    /// The interval, formatted in the unit of the value.
    pub(super) fn interval_shown(self, metric: &str) -> Option<String> {
        let end = |end: f64| eval_metric(metric, end).trim_end_matches(" %").to_owned();
        self.interval
            .map(|(low, high)| format!("[{}, {}]", end(low), end(high)))
    }
}

/// All results of evaluations: a row for each place where weights were evaluated, a column for each
/// data set and metric.
#[derive(Debug)]
pub(super) struct Evaluations<'a> {
    /// Data set and metric of each column.
    pub columns: Vec<(&'a str, &'a str)>,
    pub rows: Vec<EvaluationRow<'a>>,
}

#[derive(Debug)]
pub(super) struct EvaluationRow<'a> {
    /// The stage after which the weights were evaluated; `None` means before training.
    pub stage: Option<&'a str>,
    pub step: u64,
    pub values: BTreeMap<(&'a str, &'a str), Value>,
}

/// Whether a metric is a share of the answers.
pub(super) fn is_share(metric: &str) -> bool {
    ["accuracy", "pass@", "avg@", "cons@"]
        .iter()
        .any(|start| metric.starts_with(start))
}

/// Formats a metric of an evaluation; shares become percentages.
pub(super) fn eval_metric(metric: &str, value: f64) -> String {
    if is_share(metric) || metric == "completions/clipped_ratio" {
        percent(value)
    } else {
        number(value)
    }
}

/// Suffixes of the two metrics that are the ends of a metric's interval.
const INTERVAL: [&str; 2] = ["_ci_low", "_ci_high"];

/// The last evaluation of each stage and data set; earlier ones of a stage are its curve.
pub(super) fn evaluations(run: &Run) -> Evaluations<'_> {
    let mut rows: Vec<EvaluationRow<'_>> = Vec::new();
    for eval in &run.status.evals {
        let stage = eval.stage.as_deref();
        let row = match rows.iter_mut().find(|row| row.stage == stage) {
            Some(row) => row,
            None => {
                rows.push(EvaluationRow {
                    stage,
                    step: eval.step,
                    values: BTreeMap::new(),
                });
                let Some(row) = rows.last_mut() else { continue };
                row
            }
        };
        row.step = row.step.max(eval.step);
        row.values
            .extend(values(eval).map(|(name, value)| ((eval.data.as_str(), name), value)));
    }
    let mut columns: Vec<(&str, &str)> = Vec::new();
    for column in rows.iter().flat_map(|row| row.values.keys()) {
        if !columns.contains(column) {
            columns.push(*column);
        }
    }
    columns.sort_by_key(|(data, metric)| (*data, rank(metric), *metric));
    Evaluations { columns, rows }
}

/// The row of the weights that a stage started from. A stage that trains nothing has no row of its
/// own: its weights are those that it started from.
pub(super) fn origin(run: &Run, rows: &[EvaluationRow<'_>], stage: &Stage) -> Option<usize> {
    let mut from = stage.from.as_str();
    for _ in 0..=run.stages.len() {
        if let Some(row) = rows.iter().position(|row| row.stage == Some(from)) {
            return Some(row);
        }
        match run.stages.iter().find(|stage| stage.status.name == from) {
            Some(origin) => from = &origin.from,
            // The evaluation before training is of the job's own model.
            None if from == "base" => return rows.iter().position(|row| row.stage.is_none()),
            None => return None,
        }
    }
    None
}

/// The metrics of an evaluation that describe the model, not the machine.
pub(super) fn values(eval: &EvalResult) -> impl Iterator<Item = (&str, Value)> {
    let end = |name: &str, end: &str| {
        eval.metrics
            .get(&format!("{name}{end}"))
            .copied()
            .filter(|end| end.is_finite())
    };
    let said = eval.metrics.iter().filter(|(name, _)| is_said(name));
    said.map(move |(name, mean)| {
        (
            name.as_str(),
            Value {
                mean: *mean,
                interval: end(name, INTERVAL[0]).zip(end(name, INTERVAL[1])),
            },
        )
    })
}

fn is_said(name: &str) -> bool {
    let of_machine = ["timing_s/", "perf/", "verdict/"]
        .iter()
        .any(|start| name.starts_with(start));
    let detail = name == "rows"
        || INTERVAL.iter().any(|end| name.ends_with(end))
        || (name.starts_with("rewards/") && name.ends_with("/std"))
        || (name.starts_with("completions/")
            && !matches!(
                name,
                "completions/mean_length" | "completions/clipped_ratio"
            ));
    !of_machine && !detail
}

/// The order of metrics: correct answers first, then rewards, then lengths, then the rest.
fn rank(metric: &str) -> u8 {
    match metric {
        metric if is_share(metric) => 0,
        metric if metric.starts_with("rewards/") => 1,
        metric if metric.starts_with("completions/") => 2,
        _ => 3,
    }
}

/// A metric's name for people.
pub(super) fn plain(metric: &str) -> String {
    match metric {
        "completions/mean_length" => "mean length (tokens)".into(),
        "completions/clipped_ratio" => "cut off".into(),
        metric => match metric
            .strip_prefix("rewards/")
            .and_then(|name| name.strip_suffix("/mean"))
        {
            Some(reward) => reward.into(),
            None => metric.into(),
        },
    }
}

pub(super) fn place(stage: Option<&str>) -> String {
    stage.map_or_else(
        || "before training".into(),
        |stage| format!("after {stage}"),
    )
}

/// The stages in which something other than scores came of judging, each with the count of every
/// kind of end.
pub(super) fn verdicts(run: &Run) -> Vec<(String, Vec<u64>)> {
    let count = |points: Option<&Vec<(u64, f64)>>| {
        let sum: f64 = points
            .into_iter()
            .flatten()
            .map(|(_, value)| *value)
            .filter(|value| value.is_finite())
            .sum();
        sum as u64
    };
    let of_stage = |stage: &Stage| {
        let counts: Vec<u64> = VERDICTS
            .iter()
            .map(|name| count(stage.curves.get(&format!("verdict/{name}"))))
            .collect();
        (stage.status.name.clone(), counts)
    };
    let odd = |(_, counts): &(String, Vec<u64>)| counts.iter().skip(1).any(|count| *count > 0);
    run.stages.iter().map(of_stage).filter(odd).collect()
}

/// The kinds of ends, in the order of the counts of [`verdicts`].
pub(super) const VERDICTS: [&str; 5] = ["score", "abstain", "trap", "out_of_fuel", "out_of_time"];

/// First and last value of a curve, each the mean of a tenth of the points.
pub(super) fn ends(points: &[(u64, f64)]) -> Option<(f64, f64)> {
    let finite: Vec<f64> = points
        .iter()
        .map(|(_, value)| *value)
        .filter(|value| value.is_finite())
        .collect();
    let tenth = finite.len().div_ceil(10);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (finite.len() > 1).then(|| {
        (
            mean(&finite[..tenth]),
            mean(&finite[finite.len() - tenth..]),
        )
    })
}

/// The best, the median and the worst of samples that are sorted best reward first, each with its
/// label.
pub(super) fn picked(stage: &Stage) -> Vec<(&'static str, &Sample)> {
    let rewarded: Vec<_> = stage
        .samples
        .iter()
        .filter(|sample| sample.reward.is_some())
        .collect();
    let pool = if rewarded.is_empty() {
        stage.samples.iter().collect()
    } else {
        rewarded
    };
    let places = [
        ("best", 0),
        ("median", pool.len().saturating_sub(1) / 2),
        ("worst", pool.len().saturating_sub(1)),
    ];
    let mut picked: Vec<(&'static str, &Sample)> = Vec::new();
    for (what, at) in places {
        if let Some(sample) = pool.get(at)
            && !picked
                .iter()
                .any(|(_, other)| std::ptr::eq(*other, *sample))
        {
            picked.push((what, sample));
        }
    }
    picked
}

/// Formats a number; a missing one becomes a dash.
pub(super) fn or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), number)
}

/// An evaluation's place and the example that it shows.
pub(super) type NamedExample<'a> = (String, &'a EvalExample);

/// The examples by data set: that of the last evaluation of each stage.
pub(super) fn examples(run: &Run) -> Vec<(&str, Vec<NamedExample<'_>>)> {
    let mut by_data: Vec<(&str, Vec<NamedExample<'_>>)> = Vec::new();
    for eval in &run.status.evals {
        let Some(example) = &eval.example else {
            continue;
        };
        let shown = (place(eval.stage.as_deref()), example);
        let index = by_data
            .iter()
            .position(|(data, _)| *data == eval.data)
            .unwrap_or_else(|| {
                by_data.push((&eval.data, Vec::new()));
                by_data.len() - 1
            });
        if let Some((_, places)) = by_data.get_mut(index) {
            match places.iter_mut().find(|(place, _)| *place == shown.0) {
                Some(earlier) => *earlier = shown,
                None => places.push(shown),
            }
        }
    }
    by_data
}
