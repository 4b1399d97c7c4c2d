//! A step's metrics by TRL's names. They depend only on its records, so a resumed step has the same
//! ones.

use crate::advantages::{given, has_variance, mean, std};
use r1d_proto::hyperparameters::ScaleRewards;
use r1d_proto::rollout::{FinishReason, ScoredRollout};
use r1d_proto::verdict::{Outcome, Verdict};
use r1d_proto::worker::Metrics;
use std::collections::{BTreeMap, BTreeSet};

/// Whether a metric depends on the wall clock. Only such metrics may differ between two runs of one
/// job.
pub fn is_timing(name: &str) -> bool {
    name == "step_time" || name.starts_with("timing_s/") || name.starts_with("perf/")
}

/// Metric with the time at which the step was committed, in seconds since the Unix epoch:
/// TensorBoard's wall time.
pub const COMMITTED_AT: &str = "timing_s/committed_at";

/// Adds a step's time, and its speed: `perf/throughput`, prompt and completion tokens a second of
/// the whole step.
pub fn step_time(metrics: &mut Metrics, tokens: u64, seconds: f64) {
    metrics.insert("step_time".into(), seconds);
    if seconds > 0.0 {
        metrics.insert("perf/throughput".into(), tokens as f64 / seconds);
    }
}

/// Rewards by group, in the order of the prompts.
pub fn rewards_by_group(records: &[ScoredRollout]) -> Vec<Vec<Option<f32>>> {
    let mut groups: BTreeMap<u32, Vec<Option<f32>>> = BTreeMap::new();
    for record in records {
        groups
            .entry(record.rollout.key.prompt)
            .or_default()
            .push(record.reward);
    }
    groups.into_values().collect()
}

/// Metrics of all completions that a step sampled, including those that dynamic sampling left out.
/// As in TRL, `reward_std` is over all rewards of the step; if rewards are scaled by the batch's
/// deviation, `frac_reward_zero_std` tells whether that deviation is 0.
pub fn of_rollouts(records: &[ScoredRollout], scale: ScaleRewards) -> Metrics {
    let mut metrics = of_completions(records);
    let groups = rewards_by_group(records);
    let rewards: Vec<f64> = groups.iter().flat_map(|group| given(group)).collect();
    let constant = match scale {
        ScaleRewards::Batch => f64::from(std(&rewards) == 0.0),
        ScaleRewards::Group | ScaleRewards::None => {
            let constant = groups
                .iter()
                .filter(|group| !given(group).is_empty() && !has_variance(group))
                .count();
            constant as f64 / groups.len().max(1) as f64
        }
    };
    metrics.insert("frac_reward_zero_std".into(), constant);
    metrics.insert("groups/trained".into(), groups_with_advantage(records));
    metrics
}

/// Metrics of a step of rejection sampling. `acceptance_rate` is the kept share of all completions,
/// `groups/kept` the number of prompts that have one.
pub fn of_selection(records: &[ScoredRollout]) -> Metrics {
    let mut metrics = of_completions(records);
    let kept = records.iter().filter(|r| r.advantage.is_some()).count() as f64;
    metrics.insert("acceptance_rate".into(), kept / records.len().max(1) as f64);
    metrics.insert("samples/kept".into(), kept);
    metrics.insert("groups/kept".into(), groups_with_advantage(records));
    metrics
}

fn groups_with_advantage(records: &[ScoredRollout]) -> f64 {
    let prompts = records
        .iter()
        .filter(|r| r.advantage.is_some())
        .map(|r| r.rollout.key.prompt);
    prompts.collect::<BTreeSet<_>>().len() as f64
}

fn of_completions(records: &[ScoredRollout]) -> Metrics {
    let mut metrics = Metrics::new();
    let groups = rewards_by_group(records);
    let rewards: Vec<f64> = groups.iter().flat_map(|group| given(group)).collect();
    // Without scored completions the mean is left out, rather than 0.
    if !rewards.is_empty() {
        metrics.insert("reward".into(), mean(&rewards));
        metrics.insert("reward_std".into(), std(&rewards));
    }
    metrics.insert(
        "samples/masked".into(),
        records.iter().filter(|r| r.reward.is_none()).count() as f64,
    );
    metrics.insert("groups/sampled".into(), groups.len() as f64);
    lengths(
        &mut metrics,
        records
            .iter()
            .map(|r| (r.rollout.completion_ids.len(), r.rollout.finish)),
    );
    verdicts(&mut metrics, records.iter().flat_map(|r| &r.verdicts));
    metrics
}

/// Adds `completions/*`: mean, smallest and largest length in tokens of all completions and of
/// those that ended by themselves, and the share that was cut off.
pub fn lengths(metrics: &mut Metrics, completions: impl Iterator<Item = (usize, FinishReason)>) {
    let (mut all, mut ended) = (Vec::new(), Vec::new());
    for (length, finish) in completions {
        all.push(length as f64);
        if finish == FinishReason::Stop {
            ended.push(length as f64);
        }
    }
    let extreme = |values: &[f64], pick: fn(f64, f64) -> f64| {
        values.iter().copied().reduce(pick).unwrap_or(0.0)
    };
    metrics.insert("completions/mean_length".into(), mean(&all));
    metrics.insert("completions/min_length".into(), extreme(&all, f64::min));
    metrics.insert("completions/max_length".into(), extreme(&all, f64::max));
    metrics.insert("completions/mean_terminated_length".into(), mean(&ended));
    metrics.insert(
        "completions/min_terminated_length".into(),
        extreme(&ended, f64::min),
    );
    metrics.insert(
        "completions/max_terminated_length".into(),
        extreme(&ended, f64::max),
    );
    metrics.insert(
        "completions/clipped_ratio".into(),
        (all.len() - ended.len()) as f64 / all.len().max(1) as f64,
    );
}

/// Adds `rewards/{name}/{mean,std}` of the values that entered the reward, and counts of every way
/// in which judging ended (`RWD-2`).
pub fn verdicts<'a>(metrics: &mut Metrics, verdicts: impl Iterator<Item = &'a Verdict>) {
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut counts = [
        ("score", 0u64),
        ("abstain", 0),
        ("trap", 0),
        ("out_of_fuel", 0),
        ("out_of_time", 0),
    ];
    for verdict in verdicts {
        values
            .entry(&verdict.plugin)
            .or_default()
            .extend(verdict.value.map(f64::from));
        let outcome = match verdict.outcome {
            Outcome::Score { .. } => 0,
            Outcome::Abstain { .. } => 1,
            Outcome::Trap { .. } => 2,
            Outcome::OutOfFuel => 3,
            Outcome::OutOfTime => 4,
        };
        counts[outcome].1 += 1;
    }
    for (name, values) in values.into_iter().filter(|(_, values)| !values.is_empty()) {
        metrics.insert(format!("rewards/{name}/mean"), mean(&values));
        metrics.insert(format!("rewards/{name}/std"), std(&values));
    }
    metrics.extend(counts.map(|(name, count)| (format!("verdict/{name}"), count as f64)));
}

/// Number of different reasons that are counted (`LIM-1`).
const REASONS_MAX: usize = 1000;

/// Counts completions that have no reward, and why; printed as a warning with the most frequent
/// reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unscored {
    completions: u64,
    unscored: u64,
    reasons: BTreeMap<String, u64>,
}

impl Unscored {
    /// Counts a completion, with its reward and verdicts.
    pub fn add(&mut self, reward: Option<f32>, verdicts: &[Verdict]) {
        self.completions += 1;
        if reward.is_some() {
            return;
        }
        self.unscored += 1;
        for verdict in verdicts {
            if let Outcome::Abstain { reason } = &verdict.outcome {
                let told = format!("reward `{}`: {reason}", verdict.plugin);
                if self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&told) {
                    *self.reasons.entry(told).or_default() += 1;
                }
            }
        }
    }

    /// Whether at least one completion has no reward.
    pub fn is_any(&self) -> bool {
        self.unscored > 0
    }

    /// Whether there are completions and none of them has a reward.
    pub fn is_all(&self) -> bool {
        self.completions > 0 && self.unscored == self.completions
    }
}

impl std::fmt::Display for Unscored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} completions have no reward",
            self.unscored, self.completions
        )?;
        match self.reasons.iter().max_by_key(|(_, count)| **count) {
            Some((reason, count)) => write!(f, " (of {count} the reason is {reason})"),
            None => Ok(()),
        }
    }
}

/// Number of prompt and completion tokens of a step.
pub fn tokens_of_rollouts(records: &[ScoredRollout]) -> u64 {
    records
        .iter()
        .map(|r| (r.rollout.prompt_ids.len() + r.rollout.completion_ids.len()) as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::ids::SampleKey;
    use r1d_proto::rollout::Rollout;

    #[test]
    fn a_steps_speed_depends_on_the_clock_and_is_known_as_such() {
        let mut metrics = Metrics::new();
        step_time(&mut metrics, 300, 1.5);
        assert_eq!(metrics["perf/throughput"], 200.0);
        assert!(metrics.keys().all(|name| is_timing(name)));
        let mut metrics = Metrics::new();
        step_time(&mut metrics, 300, 0.0);
        assert!(!metrics.contains_key("perf/throughput"));
    }

    #[test]
    fn what_has_no_reward_says_why() {
        let abstained = |reason: &str| Verdict {
            plugin: "correctness".into(),
            module_sha256: String::new(),
            config_sha256: String::new(),
            outcome: Outcome::Abstain {
                reason: reason.into(),
            },
            value: None,
            fuel: 1,
        };
        let mut unscored = Unscored::default();
        assert!(!unscored.is_all() && !unscored.is_any());
        for reason in ["no reference", "no verdict", "no verdict"] {
            unscored.add(None, &[abstained(reason)]);
        }
        assert!(unscored.is_all());
        unscored.add(Some(1.0), &[]);
        assert!(unscored.is_any() && !unscored.is_all());
        let told = "3 of 4 completions have no reward (of 2 the reason is reward `correctness`: \
                    no verdict)";
        assert_eq!(unscored.to_string(), told);
        // No mean of nothing.
        let metrics = of_selection(&records(&[&[None, None]]));
        assert!(
            !metrics.contains_key("reward") && metrics["samples/masked"] == 2.0,
            "{metrics:?}"
        );
    }

    fn records(groups: &[&[Option<f32>]]) -> Vec<ScoredRollout> {
        let record = |prompt: u32, sample: u32, reward| {
            let key = SampleKey {
                stage: 0,
                step: 0,
                prompt,
                sample,
            };
            let (prompt_ids, completion_ids, behaviour_logprobs) = (vec![1], vec![2], vec![0.0]);
            let finish = FinishReason::Stop;
            let rollout = Rollout {
                key,
                row: 0,
                prompt_ids,
                completion_ids,
                behaviour_logprobs,
                experts: vec![],
                kept_ids: Default::default(),
                policy_version: 0,
                finish,
            };
            ScoredRollout {
                rollout,
                verdicts: vec![],
                reward,
                advantage: reward,
            }
        };
        let of_group = |(prompt, group): (u32, &&[Option<f32>])| {
            (0..)
                .zip(group.iter())
                .map(|(sample, reward)| record(prompt, sample, *reward))
                .collect::<Vec<_>>()
        };
        (0..).zip(groups).flat_map(of_group).collect()
    }

    /// What TRL 1.16 logs for the same rewards: `nanstd` of all of them with ddof 1, and the share
    /// of groups without variance, or, where the batch's deviation scales, whether that one is 0.
    #[test]
    fn deviations_are_trls() {
        let apart: &[&[Option<f32>]] = &[&[Some(1.0), Some(1.0)], &[Some(0.0), Some(0.0)]];
        let of = |groups, scale| {
            let metrics = of_rollouts(&records(groups), scale);
            (metrics["reward_std"], metrics["frac_reward_zero_std"])
        };
        let (deviation, constant) = of(apart, ScaleRewards::Group);
        assert!(
            (deviation - 0.577_350_269_189_625_8).abs() < 1e-12,
            "{deviation}"
        );
        assert_eq!(constant, 1.0);
        assert_eq!(of(apart, ScaleRewards::Batch).1, 0.0);
        assert_eq!(
            of(
                &[&[Some(1.0), Some(1.0)], &[None, None]],
                ScaleRewards::Group
            )
            .1,
            0.5,
            "a group without rewards is not constant"
        );
        assert_eq!(of(&[&[Some(1.0), Some(1.0)]], ScaleRewards::Batch).1, 1.0);
    }
}
