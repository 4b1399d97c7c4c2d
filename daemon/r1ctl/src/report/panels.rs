//! Which curves a stage has, and in which order: chosen by the metrics that it reports, so a new
//! kind of stage needs no change here.

use super::chart::{Panel, Series};
use super::gather::{Run, Stage};
use super::words::{shares, within};
use std::collections::BTreeMap;

/// A possible panel: its title, unit, and the metrics drawn in it.
struct Wanted {
    title: &'static str,
    unit: &'static str,
    /// Names of metrics; a `*` stands for any text.
    metrics: &'static [&'static str],
    /// Whether noise is smoothed.
    smooth: bool,
}

const fn wanted(
    title: &'static str,
    unit: &'static str,
    metrics: &'static [&'static str],
) -> Wanted {
    Wanted {
        title,
        unit,
        metrics,
        smooth: true,
    }
}

const WANTED: &[Wanted] = &[
    wanted(
        "Reward",
        "",
        &["reward", "objective/scores", "objective/rlhf_reward"],
    ),
    wanted("Reward, standard deviation", "", &["reward_std"]),
    wanted("Mean of each reward", "", &["rewards/*/mean"]),
    wanted(
        "Preference accuracy",
        "share of pairs",
        &["rewards/accuracies", "accuracy"],
    ),
    wanted(
        "Scores of pairs",
        "",
        &["rewards/chosen", "rewards/rejected", "rewards/margins"],
    ),
    wanted("Loss", "", &["loss", "loss/policy_avg", "loss/value_avg"]),
    wanted("Token accuracy", "share", &["mean_token_accuracy"]),
    wanted("KL to the reference", "nats", &["kl", "objective/kl"]),
    wanted(
        "Entropy",
        "nats per token",
        &["entropy", "policy/entropy_avg"],
    ),
    wanted(
        "Completion length",
        "tokens",
        &[
            "completions/mean_length",
            "completions/mean_terminated_length",
        ],
    ),
    wanted(
        "Cut off at the limit",
        "share",
        &["completions/clipped_ratio"],
    ),
    wanted("Acceptance rate", "share", &["acceptance_rate"]),
    wanted("Rows kept", "per step", &["samples/kept"]),
    wanted(
        "Groups of equal rewards",
        "share",
        &["frac_reward_zero_std"],
    ),
    wanted(
        "Clipped",
        "share of tokens",
        &[
            "clip_ratio/region_mean",
            "policy/clipfrac_avg",
            "val/clipfrac_avg",
        ],
    ),
    wanted(
        "Value model: explained variance",
        "",
        &["val/explained_variance"],
    ),
    wanted("Drafts accepted", "share", &["perf/draft_acceptance_rate"]),
    wanted("Gradient norm", "", &["grad_norm", "val/grad_norm"]),
    Wanted {
        title: "Learning rate",
        unit: "",
        metrics: &["learning_rate"],
        smooth: false,
    },
    wanted("Time of a step", "s", &["step_time"]),
    wanted(
        "Speed",
        "tokens/s",
        &["perf/throughput", "perf/sampling_throughput"],
    ),
];

/// Most curves in a panel; more cannot be told apart.
pub(super) const SERIES_MAX: usize = 8;

/// The panels of a stage's metrics, and of its evaluations if there are several.
pub(super) fn of_stage(run: &Run, stage: &Stage) -> Vec<Panel> {
    let mut panels: Vec<Panel> = WANTED
        .iter()
        .filter_map(|wanted| of_metrics(stage, wanted))
        .collect();
    for (data, evals) in within(run, stage) {
        let mut points: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for eval in evals {
            for (name, value) in shares(eval) {
                points
                    .entry(name)
                    .or_default()
                    .push((eval.step as f64, value));
            }
        }
        let series = points
            .into_iter()
            .map(|(name, points)| Series::new(name, points, false));
        panels.push(Panel {
            title: format!("Held-out: {data}"),
            unit: "share".into(),
            series: series.take(SERIES_MAX).collect(),
        });
    }
    panels
}

fn of_metrics(stage: &Stage, wanted: &Wanted) -> Option<Panel> {
    let named = wanted.metrics.iter().flat_map(|pattern| {
        stage
            .curves
            .iter()
            .filter(|(name, _)| matches(pattern, name))
    });
    let series = named.map(|(name, points)| {
        Series::new(
            name,
            points
                .iter()
                .map(|(step, value)| (*step as f64, *value))
                .collect(),
            wanted.smooth,
        )
    });
    let series: Vec<Series> = series
        .filter(|series| !series.points.is_empty())
        .take(SERIES_MAX)
        .collect();
    (!series.is_empty()).then(|| Panel {
        title: wanted.title.into(),
        unit: wanted.unit.into(),
        series,
    })
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() > start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}
