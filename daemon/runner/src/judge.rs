//! From verdicts to a reward: the weighted sum of the scores, with the job's settings for faults
//! and abstentions.

use crate::message::End;
use crate::plan::DeclaredScores;
use r1d_job::{OnAbstain, OnFault, Reward};
use r1d_proto::verdict::{Outcome, Verdict};

/// A reward of a stage and what its plugin declared.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// The reward's settings in the job.
    pub reward: &'a Reward,
    /// The range of its scores, and how it judges.
    pub facts: DeclaredScores,
}

/// Pairs the rewards of a stage or evaluation with what their plugins declared. A reward without a
/// declaration (which the plan refuses) counts as one with a minimum of 0.
pub fn rules<'a>(rewards: &'a [Reward], facts: &[DeclaredScores]) -> Vec<Rule<'a>> {
    rewards
        .iter()
        .enumerate()
        .map(|(i, reward)| Rule {
            reward,
            facts: facts.get(i).copied().unwrap_or_default(),
        })
        .collect()
}

fn value(rule: &Rule, outcome: &Outcome) -> Option<f32> {
    match outcome {
        Outcome::Score { value, .. } => Some(*value),
        Outcome::Abstain { .. } => match rule.reward.on_abstain {
            OnAbstain::Score(score) => Some(score as f32),
            OnAbstain::DropSample | OnAbstain::DropGroup => None,
        },
        Outcome::Trap { .. } | Outcome::OutOfFuel => match rule.reward.on_fault {
            OnFault::Min => Some(rule.facts.min),
            OnFault::Score(score) => Some(score as f32),
            OnFault::DropSample => None,
        },
        Outcome::OutOfTime => None,
    }
}

/// Fills in each verdict's `value` and returns their weighted sum, or `None` if a verdict takes the
/// sample out of training (or no reward judges the row's domain). A sample that ran out of time is
/// never trained on: it ends the job with an error that names the plugin (`RWD-2`).
pub fn judge(rules: &[Rule], verdicts: &mut [Verdict]) -> Result<Option<f32>, End> {
    let mut sum = None;
    let mut dropped = false;
    for verdict in verdicts {
        let rule = rules
            .iter()
            .find(|rule| rule.reward.name == verdict.plugin)
            .ok_or_else(|| End::Failed {
                error: format!(
                    "a verdict of reward `{}`, which the stage does not have",
                    verdict.plugin
                ),
            })?;
        if verdict.outcome == Outcome::OutOfTime {
            let error = format!(
                "reward `{}` ran out of wall-clock time again and again: its plugin hangs or the \
                 machine is overloaded; lower limits.fuel so that the plugin's own work stops it, \
                 or use another plugin",
                verdict.plugin
            );
            return Err(End::Failed { error });
        }
        verdict.value = value(rule, &verdict.outcome);
        match verdict.value {
            Some(value) => *sum.get_or_insert(0.0) += rule.reward.weight * value as f64,
            None => dropped = true,
        }
    }
    Ok(sum.filter(|_| !dropped).map(|sum: f64| sum as f32))
}

/// Describes a reward that float32 cannot hold, and which of its parts is the largest. `None` for a
/// reward that is finite.
pub fn beyond_float32(rules: &[Rule], verdicts: &[Verdict], reward: Option<f32>) -> Option<String> {
    let reward = reward.filter(|reward| !reward.is_finite())?;
    let parts = verdicts.iter().filter_map(|verdict| {
        let rule = rules
            .iter()
            .find(|rule| rule.reward.name == verdict.plugin)?;
        Some((&rule.reward.name, rule.reward.weight, verdict.value?))
    });
    let largest = parts.max_by(|(_, a, x), (_, b, y)| {
        (a * f64::from(*x))
            .abs()
            .total_cmp(&(b * f64::from(*y)).abs())
    });
    let of = largest.map_or(String::new(), |(name, weight, value)| {
        format!(": reward `{name}` gives {value} × weight = {weight}")
    });
    Some(format!(
        "the reward of a completion is {reward}, which nothing can learn from{of}; lower the \
         weight, or the plugin's scores"
    ))
}

/// Whether a verdict takes the whole group out of training.
pub fn drops_group(rules: &[Rule], verdicts: &[Verdict]) -> bool {
    verdicts.iter().any(|verdict| {
        matches!(verdict.outcome, Outcome::Abstain { .. })
            && rules.iter().any(|r| {
                r.reward.name == verdict.plugin && r.reward.on_abstain == OnAbstain::DropGroup
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(plugin: &str, outcome: Outcome) -> Verdict {
        let (module_sha256, config_sha256) = ("m".into(), "c".into());
        Verdict {
            plugin: plugin.into(),
            module_sha256,
            config_sha256,
            outcome,
            value: None,
            fuel: 1,
        }
    }

    fn score(value: f32) -> Outcome {
        Outcome::Score {
            value,
            parts: vec![],
        }
    }

    fn reward(name: &str, weight: f64, on_abstain: OnAbstain, on_fault: OnFault) -> Reward {
        Reward {
            weight,
            on_abstain,
            on_fault,
            ..Reward::of_plugin(name)
        }
    }

    fn judged(
        rewards: &[Reward],
        outcomes: &[Outcome],
    ) -> (Result<Option<f32>, End>, Vec<Option<f32>>) {
        let facts = vec![
            DeclaredScores {
                min: -2.0,
                max: 1.0,
                ..DeclaredScores::default()
            };
            rewards.len()
        ];
        let mut verdicts: Vec<_> = rewards
            .iter()
            .zip(outcomes)
            .map(|(r, o)| verdict(&r.name, o.clone()))
            .collect();
        let reward = judge(&rules(rewards, &facts), &mut verdicts);
        (reward, verdicts.into_iter().map(|v| v.value).collect())
    }

    #[test]
    fn a_reward_is_the_weighted_sum_of_scores() {
        let two = [
            reward("a", 1.0, OnAbstain::DropSample, OnFault::Min),
            reward("b", 0.5, OnAbstain::DropSample, OnFault::Min),
        ];
        assert_eq!(
            judged(&two, &[score(1.0), score(0.5)]),
            (Ok(Some(1.25)), vec![Some(1.0), Some(0.5)])
        );
        // A row of a domain that only the first reward judges.
        assert_eq!(judged(&two[..1], &[score(1.0)]).0, Ok(Some(1.0)));
        assert_eq!(judged(&[], &[]).0, Ok(None));
    }

    #[test]
    fn a_fault_gives_the_declared_minimum_unless_the_job_says_otherwise() {
        for fault in [
            Outcome::OutOfFuel,
            Outcome::Trap {
                reason: "unreachable".into(),
            },
        ] {
            let of = |on_fault| {
                judged(
                    &[reward("a", 2.0, OnAbstain::DropSample, on_fault)],
                    std::slice::from_ref(&fault),
                )
                .0
            };
            assert_eq!(of(OnFault::Min), Ok(Some(-4.0)));
            assert_eq!(of(OnFault::Score(-1.0)), Ok(Some(-2.0)));
            assert_eq!(of(OnFault::DropSample), Ok(None));
        }
    }

    #[test]
    fn an_abstention_masks_and_is_never_zero() {
        let abstain = Outcome::Abstain {
            reason: "no reference".into(),
        };
        let of = |on_abstain| {
            let rewards = [
                reward("a", 1.0, on_abstain, OnFault::Min),
                reward("b", 1.0, OnAbstain::DropSample, OnFault::Min),
            ];
            let verdicts = [verdict("a", abstain.clone()), verdict("b", score(1.0))];
            let facts = [DeclaredScores::default(); 2];
            (
                judged(&rewards, &[abstain.clone(), score(1.0)]).0,
                drops_group(&rules(&rewards, &facts), &verdicts),
            )
        };
        assert_eq!(of(OnAbstain::DropSample), (Ok(None), false));
        assert_eq!(of(OnAbstain::DropGroup), (Ok(None), true));
        assert_eq!(of(OnAbstain::Score(0.25)), (Ok(Some(1.25)), false));
    }

    #[test]
    fn out_of_time_ends_the_job_and_names_the_plugin() {
        let ended = judged(
            &[reward("slow", 1.0, OnAbstain::DropSample, OnFault::Min)],
            &[Outcome::OutOfTime],
        )
        .0;
        assert!(matches!(ended, Err(End::Failed { error }) if error.contains("`slow`")));
    }
}
