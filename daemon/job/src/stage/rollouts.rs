//! What a stage samples, and which rewards judge it.

use crate::data::DataSource;
use crate::error::JobError;
use crate::limits::{PROMPT_MAX_COMPLETIONS, SEQUENCE_MAX_TOKENS, STEP_MAX_ROWS, TEMPERATURE_MAX};
use crate::reward::Reward;
use crate::sampling::check_temperature;
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::hyperparameters::Sampling;
use std::collections::HashSet;

/// What a step samples, and which rewards judge it.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Rollouts {
    /// Prompts, and so groups, per step.
    #[key(
        takes = count(1, STEP_MAX_ROWS),
        default = 32,
        unit = "prompts",
        meaning = "Prompts of one step."
    )]
    pub prompts_per_step: u32,
    /// Completions of each prompt.
    #[key(
        takes = count(1, PROMPT_MAX_COMPLETIONS),
        default = 1,
        unit = "completions"
    )]
    pub num_generations: u32,
    /// Length in tokens at which a completion is cut off, before any change; see
    /// [`Rollouts::max_completion_length`].
    #[key(
        takes = count(1, SEQUENCE_MAX_TOKENS),
        default = 512,
        unit = "tokens",
        meaning = "A completion that is this long is cut off."
    )]
    pub max_completion_length: u32,
    /// Sampling temperature before any change; see [`Rollouts::temperature`].
    #[key(
        takes = number(0.0, TEMPERATURE_MAX),
        default = 1.0,
        meaning = "Of sampling; log-probabilities in the objective are of logits / temperature."
    )]
    pub temperature: f64,
    /// Probability that nucleus sampling keeps; 1: off.
    #[key(
        takes = number_above(0.0, 1.0),
        default = 1.0,
        meaning = "Nucleus sampling; 1: off."
    )]
    pub top_p: f64,
    /// Number of likeliest ids that are kept; 0: off.
    #[key(default = 0, meaning = "Only the k likeliest ids; 0: off.")]
    pub top_k: u32,
    /// Changes of the settings on the way, in the order of steps.
    #[key(
        name = "schedule",
        default = [],
        meaning = "What changes on the way: each table holds from the step after its `after_step` \
                   on (R1-Zero went from 32,768 to 65,536 tokens after 8,200)."
    )]
    pub changes: Vec<Change>,
    /// Rewards that judge the completions.
    #[key(
        name = "reward",
        required = "add a [[stage.reward]] with plugin = \"accuracy\"",
        meaning = "What judges completions: the weighted sum of the scores is the reward."
    )]
    pub rewards: Vec<Reward>,
}

/// Settings that hold from the step after `after_step` on.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
#[settings(
    path = "stage.schedule",
    meaning = "Settings that hold from a step of the stage on, until a later table changes them \
               again."
)]
pub struct Change {
    /// Number of steps of the stage before the change.
    #[key(
        takes = steps(1),
        required = "say after which step",
        unit = "steps",
        meaning = "Steps before the change."
    )]
    pub after_step: u64,
    /// New sampling temperature; `None`: as before.
    #[key(
        takes = number_above(0.0, TEMPERATURE_MAX),
        unset = "as before",
        meaning = "Of sampling, and of the log-probabilities in the objective."
    )]
    pub temperature: Option<f64>,
    /// New length limit of completions, in tokens; `None`: as before.
    #[key(
        takes = count(1, SEQUENCE_MAX_TOKENS),
        unset = "as before",
        unit = "tokens",
        meaning = "A completion that is this long is cut off."
    )]
    pub max_completion_length: Option<u32>,
}

impl Rollouts {
    /// Sampling settings of step `step` (from 0), which keep no sampling mask.
    pub(crate) fn sampling(&self, step: u64, stop_ids: Vec<u32>, seed: u64) -> Sampling {
        Sampling {
            temperature: self.temperature(step) as f32,
            top_p: self.top_p as f32,
            top_k: self.top_k,
            keep_sampling_mask: false,
            max_completion_length: self.max_completion_length(step),
            stop_ids,
            seed,
        }
    }

    fn changed<T>(&self, step: u64, at_first: T, change: impl Fn(&Change) -> Option<T>) -> T {
        self.changes
            .iter()
            .rev()
            .filter(|c| c.after_step <= step)
            .find_map(change)
            .unwrap_or(at_first)
    }

    /// Sampling temperature of step `step` (from 0).
    pub fn temperature(&self, step: u64) -> f64 {
        self.changed(step, self.temperature, |change| change.temperature)
    }

    /// Length in tokens at which completions of step `step` (from 0) are cut off.
    pub fn max_completion_length(&self, step: u64) -> u32 {
        self.changed(step, self.max_completion_length, |change| {
            change.max_completion_length
        })
    }

    /// Tokens of the longest completion of any step.
    pub fn longest_completion(&self) -> u32 {
        let later = self
            .changes
            .iter()
            .filter_map(|change| change.max_completion_length);
        later.fold(self.max_completion_length, u32::max)
    }

    /// Completions of one step.
    pub(crate) fn completions(&self) -> u64 {
        u64::from(self.prompts_per_step) * u64::from(self.num_generations)
    }

    /// Most tokens that one step samples. `prompt_max` is in tokens.
    pub(crate) fn tokens_per_step(&self, prompt_max: u32) -> u64 {
        self.completions() * (u64::from(prompt_max) + u64::from(self.longest_completion()))
    }

    /// Whether no reward has a weight.
    pub(crate) fn is_weightless(&self) -> bool {
        self.rewards.iter().all(|reward| reward.weight == 0.0)
    }

    /// Checks rewards of completions that a policy learns from, in a stage of this kind.
    pub(crate) fn check_learned_from(
        &self,
        kind: &str,
        data: &DataSource,
        place: &str,
    ) -> Result<(), JobError> {
        let mut rewards = self.rewards.iter();
        if let Some(reward) = rewards.find(|reward| reward.min_score.is_some()) {
            return Err(JobError::unsound(
                format!("{place}, [[stage.reward]] {:?}", reward.name),
                format!(
                    "`min_score` says what a rejection-sampling stage keeps, and a {kind} stage \
                     keeps nothing"
                ),
                "leave it out: what scores little is learned from as well",
            ));
        }
        self.check_judged(data, place)?;
        if self.is_weightless() {
            return Err(JobError::unsound(
                place,
                "every reward has weight 0: there is nothing to learn",
                "give one a weight",
            ));
        }
        Ok(())
    }

    /// Checks everything that samples and judges.
    pub(crate) fn check_judged(&self, data: &DataSource, place: &str) -> Result<(), JobError> {
        check_temperature(self.temperature, place)?;
        if self.rewards.is_empty() {
            return Err(JobError::unsound(
                place,
                "nothing judges the completions",
                "add a [[stage.reward]] with plugin = \"accuracy\"",
            ));
        }
        let mut names = HashSet::new();
        for reward in &self.rewards {
            let place = format!("{place}, [[stage.reward]] {:?}", reward.name);
            if !names.insert(&reward.name) {
                return Err(JobError::unsound(
                    place,
                    "two rewards of the stage have this name",
                    "give one of them a `name` of its own",
                ));
            }
            if !reward.domains.is_empty() && data.domain.is_none() {
                return Err(JobError::unsound(
                    place,
                    "it judges rows by `domains`, and the data set names no column for them",
                    format!(
                        "add `domain` to [data.{}], or leave `domains` out",
                        data.name
                    ),
                ));
            }
            reward.check_reference(data, &place)?;
        }
        Ok(())
    }
}
