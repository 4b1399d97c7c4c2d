//! Which of a job's many metrics people are shown; `-o json`, `metrics.jsonl` and TensorBoard have
//! all of them.

use crate::format::{number, percent};
use crate::terminal::one_line;
use std::collections::BTreeMap;

type Metrics = BTreeMap<String, f64>;

/// What a training step is watched by: name, and the metric of it that is there first. Speed is of
/// the whole step, or where only sampling is measured, of that.
const WATCHED: [(&str, &[&str]); 5] = [
    ("reward", &["reward"]),
    ("kl", &["kl"]),
    ("length", &["completions/mean_length"]),
    ("tokens/s", &["perf/throughput", "perf/sampling_throughput"]),
    ("loss", &["loss"]),
];

/// Metrics of an evaluation that say how good the answers are, all of them shares.
const CORRECTNESS: [&str; 3] = ["pass@", "cons@", "accuracy"];

/// A step's metrics for people: short name and value, those that are there.
pub fn of_step(metrics: &Metrics) -> Vec<(&'static str, String)> {
    let found = |names: &[&str]| names.iter().find_map(|name| metrics.get(*name));
    WATCHED.iter().filter_map(|(short, names)| Some((*short, number(*found(names)?)))).collect()
}

/// An evaluation's metrics for people: how many answers are correct, where nothing tells that the
/// mean of each reward, and how long answers are.
pub fn of_eval(metrics: &Metrics) -> Vec<(String, String)> {
    let is_correctness = |name: &str| CORRECTNESS.iter().any(|start| name.starts_with(start));
    let is_reward = |name: &str| name.starts_with("rewards/") && name.ends_with("/mean");
    let correctness = metrics.iter().filter(|(name, _)| is_correctness(name));
    let mut shown: Vec<(String, String)> =
        correctness.map(|(name, share)| (one_line(name), percent(*share))).collect();
    if shown.is_empty() {
        shown.extend(metrics.iter().filter(|(name, _)| is_reward(name))
            .map(|(name, mean)| (one_line(name), number(*mean))));
    }
    shown.extend(metrics.get("completions/mean_length")
        .map(|length| ("length".into(), number(*length))));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(pairs: &[(&str, f64)]) -> Metrics {
        pairs.iter().map(|(name, value)| (name.to_string(), *value)).collect()
    }

    #[test]
    fn a_step_shows_its_learning_signal_and_speed_and_nothing_else() {
        let step = metrics(&[("kl", 0.01), ("loss", 2.0), ("perf/sampling_throughput", 500.0), (
            "timing_s/update", 3.0)]);
        assert_eq!(of_step(&step), [("kl", "0.0100".to_string()), ("tokens/s", "500.0".into()), (
            "loss",
            "2.000".into())]);
        let faster = metrics(&[("perf/sampling_throughput", 500.0), ("perf/throughput", 400.0)]);
        assert_eq!(of_step(&faster), [("tokens/s", "400.0".to_string())]);
    }

    #[test]
    fn an_evaluation_shows_correctness_before_rewards() {
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        let mut eval = metrics(&[
            ("rewards/format/mean", 0.5),
            ("rewards/format/std", 0.1),
            ("verdict/trap", 0.0),
            ("completions/mean_length", 61.5),
        ]);
        assert_eq!(of_eval(&eval), [pair("rewards/format/mean", "0.500"), pair("length", "61.50")]);
        eval.extend(metrics(&[("pass@1", 0.3125), ("cons@4", 0.5)]));
        assert_eq!(of_eval(&eval), [pair("cons@4", "50.0 %"), pair("pass@1", "31.2 %"), pair(
            "length",
            "61.50")]);
    }
}
