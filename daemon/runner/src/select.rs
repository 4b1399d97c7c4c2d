//! Decides which completions rejection sampling keeps: a function of a prompt's completions and
//! verdicts alone.

use crate::gather::{Group, Judged, Sample};
use r1d_job::{RejectionSampling, Reward, Select};
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;

/// The advantage of a completion that is kept: data has no weight.
const KEPT: f32 = 1.0;
/// Tolerance of rounding up: 0.07 × 100 is a little more than 7 in float64, and means 7.
const ROUNDING: f64 = 1e-9;

/// Returns [`KEPT`] for each completion of the group that becomes data, `None` for the others.
/// `rewards` are the group's, `None` for a completion that an abstention or a fault takes out.
pub fn kept(
    rejection: &RejectionSampling,
    group: &Group,
    rewards: &[Option<f32>],
) -> Vec<Option<f32>> {
    let mut good: Vec<(usize, f32)> = Vec::new();
    for (index, (sample, reward)) in group.samples.iter().zip(rewards).enumerate() {
        if let (Sample::Scored(judged), Some(reward)) = (sample, reward)
            && is_good(rejection, judged)
        {
            good.push((index, *reward));
        }
    }
    // The sort is stable: among equals the first sampled comes first.
    good.sort_by(|a, b| b.1.total_cmp(&a.1));
    if let Select::TopP { share } = rejection.select {
        good.truncate((share * group.samples.len() as f64 - ROUNDING).ceil() as usize);
    }
    if rejection.keep > 0 {
        good.truncate(rejection.keep as usize);
    }
    let mut kept = vec![None; group.samples.len()];
    for (index, _) in good {
        if let Some(place) = kept.get_mut(index) {
            *place = Some(KEPT);
        }
    }
    kept
}

/// Whether a completion is good enough to keep. One that was cut off never is: it is no example of
/// how to end.
fn is_good(rejection: &RejectionSampling, judged: &Judged) -> bool {
    let rewards = &rejection.rollouts.rewards;
    let correct = match rejection.select {
        Select::Correct { at } => rewards
            .iter()
            .find_map(|reward| score(reward, judged))
            .is_some_and(|score| score >= Some(at as f32)),
        Select::BestOfN | Select::TopP { .. } => true,
    };
    // A reward that does not judge the row's domain is not asked.
    let passes = |reward: &Reward| match (reward.min_score, score(reward, judged)) {
        (Some(min), Some(score)) => score >= Some(min as f32),
        _ => true,
    };
    judged.rollout.finish == FinishReason::Stop && correct && rewards.iter().all(passes)
}

/// The score that a reward gives the completion, before weights. The outer `None`: it does not
/// judge it; the inner one: a fault. An abstention counts as the job's settings say. Scores are
/// compared as float32.
fn score(reward: &Reward, judged: &Judged) -> Option<Option<f32>> {
    let verdict = judged
        .verdicts
        .iter()
        .find(|verdict| verdict.plugin == reward.name)?;
    Some(match &verdict.outcome {
        Outcome::Score { value, .. } => Some(*value),
        Outcome::Abstain { .. } => verdict.value,
        Outcome::Trap { .. } | Outcome::OutOfFuel | Outcome::OutOfTime => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Prompt;
    use r1d_job::Job;
    use r1d_proto::ids::SampleKey;
    use r1d_proto::rollout::Rollout;
    use r1d_proto::sampling_mask::SamplingMask;
    use r1d_proto::verdict::Verdict;
    use std::path::Path;

    const FAULT: f32 = f32::NAN;

    fn rejection(keys: &str, reward_keys: &str) -> RejectionSampling {
        let text = format!(
            "name = \"x\"\n[model]\npath = \"m\"\n[data.d]\npath = \"d.jsonl\"\nreference = \
             \"a\"\n[[stage]]\nname = \"keep\"\nkind = \"rejection-sampling\"\ndata = \
             \"d\"\nnum_generations = 4\n{keys}\n[[stage.reward]]\nplugin = \
             \"accuracy\"\n[[stage.reward]]\nplugin = \"format\"\nweight = 0.5\n{reward_keys}"
        );
        Job::parse(&text, Path::new("/"))
            .unwrap()
            .stages
            .remove(0)
            .rejection_sampling()
            .unwrap()
            .clone()
    }

    /// A sample of each pair of scores, of `accuracy` and `format`; [`FAULT`] is a trap, which
    /// gives the minimum, 0.
    fn group(scores: &[(f32, f32)]) -> (Group, Vec<Option<f32>>) {
        let outcome = |value: f32| {
            if value.is_nan() {
                Outcome::Trap {
                    reason: "unreachable".into(),
                }
            } else {
                Outcome::Score {
                    value,
                    parts: vec![],
                }
            }
        };
        let value = |score: f32| if score.is_nan() { 0.0 } else { score };
        let verdict = |plugin: &str, score: f32| {
            let (module_sha256, config_sha256) = (String::new(), String::new());
            Verdict {
                plugin: plugin.into(),
                module_sha256,
                config_sha256,
                outcome: outcome(score),
                value: Some(value(score)),
                fuel: 1,
            }
        };
        let sample = |(number, (accuracy, format)): (u32, &(f32, f32))| {
            let key = SampleKey {
                stage: 0,
                step: 0,
                prompt: 0,
                sample: number,
            };
            let (prompt_ids, experts, kept_ids, finish) =
                (vec![1], vec![], SamplingMask::default(), FinishReason::Stop);
            let (completion_ids, behaviour_logprobs) = (vec![2, 0], vec![-0.5; 2]);
            let rollout = Rollout {
                key,
                row: 0,
                prompt_ids,
                completion_ids,
                behaviour_logprobs,
                experts,
                kept_ids,
                policy_version: 0,
                finish,
            };
            let verdicts = vec![verdict("accuracy", *accuracy), verdict("format", *format)];
            let reward = Some(value(*accuracy) + 0.5 * value(*format));
            Sample::Scored(Box::new(Judged {
                rollout,
                verdicts,
                reward,
                answer: String::new(),
            }))
        };
        let prompt = Prompt {
            row: 0,
            ids: vec![1],
            text: "1".into(),
            reference: None,
        };
        let samples = (0..).zip(scores).map(sample).collect();
        (
            Group { prompt, samples },
            scores
                .iter()
                .map(|(a, f)| Some(value(*a) + 0.5 * value(*f)))
                .collect(),
        )
    }

    fn numbers(
        rejection: &RejectionSampling,
        (group, rewards): (Group, Vec<Option<f32>>),
    ) -> Vec<usize> {
        let kept = kept(rejection, &group, &rewards);
        assert_eq!(kept.len(), rewards.len());
        (0..kept.len()).filter(|i| kept[*i] == Some(1.0)).collect()
    }

    #[test]
    fn the_correct_are_kept_or_the_best_of_them() {
        let scores = [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)];
        assert_eq!(numbers(&rejection("", ""), group(&scores)), [0, 2, 3]);
        assert_eq!(
            numbers(&rejection("keep = 1", ""), group(&scores)),
            [2],
            "the best, of equals the first"
        );
        assert_eq!(
            numbers(&rejection("correct_at = 0.0", ""), group(&scores)),
            [0, 1, 2, 3]
        );
        assert_eq!(
            numbers(&rejection("", ""), group(&[(0.5, 1.0), (FAULT, 1.0)])),
            [0; 0]
        );
    }

    #[test]
    fn the_best_are_kept_whether_correct_or_not() {
        let scores = [(0.0, 0.5), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)];
        assert_eq!(
            numbers(&rejection("select = \"best-of-n\"", ""), group(&scores)),
            [2]
        );
        assert_eq!(
            numbers(
                &rejection("select = \"best-of-n\"\nkeep = 2", ""),
                group(&scores)
            ),
            [1, 2]
        );
        assert_eq!(
            numbers(
                &rejection("select = \"top-p\"\nkeep_share = 0.6", ""),
                group(&scores)
            ),
            [0, 1, 2]
        );
        assert_eq!(
            numbers(
                &rejection("select = \"top-p\"\nkeep_share = 0.6\nkeep = 1", ""),
                group(&scores)
            ),
            [2]
        );
    }

    #[test]
    fn what_a_reward_finds_too_low_or_fails_on_is_dropped_first() {
        let scores = [(1.0, 0.5), (1.0, 0.9), (1.0, FAULT), (1.0, 1.0)];
        assert_eq!(
            numbers(
                &rejection("", "min_score = 0.9"),
                group(&[(1.0, 0.5), (1.0, 1.0)])
            ),
            [1]
        );
        assert_eq!(
            numbers(&rejection("", "min_score = 0.9"), group(&scores)),
            [1, 3]
        );
        assert_eq!(
            numbers(
                &rejection("select = \"best-of-n\"\nkeep = 4", "min_score = 0.0"),
                group(&scores)
            ),
            [0, 1, 3]
        );
    }

    #[test]
    fn what_was_cut_off_or_has_no_reward_is_never_kept() {
        let (mut of, mut rewards) = group(&[(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)]);
        rewards[0] = None;
        let Sample::Scored(judged) = &mut of.samples[2] else {
            panic!("it is scored")
        };
        judged.rollout.finish = FinishReason::Length;
        for keys in [
            "",
            "select = \"best-of-n\"\nkeep = 3",
            "select = \"top-p\"\nkeep_share = 1.0",
        ] {
            let kept = kept(&rejection(keys, ""), &of, &rewards);
            assert_eq!(kept, [None, Some(1.0), None], "{keys}");
        }
    }
}
