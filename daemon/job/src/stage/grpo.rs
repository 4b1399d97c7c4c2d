//! `kind = "grpo"`: group-relative policy optimisation.

use super::correction::Correction;
use super::replay::Replay;
use super::rollouts::Rollouts;
use super::settings::StageSettings;
use super::training::{Adapters, Router, Training};
use crate::data::DataSource;
use crate::error::JobError;
use crate::file::setting::by_words;
use crate::limits::{STEP_MAX_PASSES, STEP_MAX_ROUNDS, STEP_MAX_ROWS};
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::hyperparameters::{
    Baseline, ImportanceSamplingLevel, LossType, Objective, ScaleRewards,
};

by_words!(LossType, ImportanceSamplingLevel, Baseline, ScaleRewards);

/// The kind's name.
pub(super) const WORD: &str = "grpo";

pub(super) const MEANING: &str = "\
    group-relative policy optimisation (DeepSeekMath 4.1, DeepSeek-R1 2.1).";

/// Group-relative policy optimisation.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Grpo {
    /// What a step samples, and which rewards judge it.
    #[key(
        part,
        prompts_per_step(meaning = "Prompts, and so groups, of one step. R1 used 32 per update."),
        num_generations(
            default = 8,
            meaning = "Completions of each prompt: the group that advantages are relative to. At \
                       least 2, or 1 with baseline = \"batch\". R1 used 16."
        )
    )]
    pub rollouts: Rollouts,
    /// Passes over a step's completions, μ.
    #[key(
        takes = count(1, STEP_MAX_PASSES),
        default = 1,
        unit = "passes",
        meaning = "Passes over a step's completions (mu of GRPO)."
    )]
    pub num_iterations: u32,
    /// Minibatches, and so updates, per pass over a step's completions.
    #[key(
        takes = count(1, STEP_MAX_ROWS),
        default = 1,
        unit = "updates",
        meaning = "Minibatches, and so updates, per pass. R1 split 8,192 completions into 16."
    )]
    pub steps_per_generation: u32,
    /// How token terms are averaged.
    #[key(
        default = "dapo",
        meaning = "How token terms are averaged: \"grpo\" by sequence then over sequences (the \
                   papers of DeepSeek), \"dapo\" over all tokens of the batch, \"dr_grpo\" over \
                   sequences × `max_completion_length`."
    )]
    pub loss_type: LossType,
    /// Whether the ratio to the sampling policy is taken of tokens or of sequences.
    #[key(
        default = "token",
        meaning = "What the ratio to the sampling policy is taken of: each token, or the sequence \
                   (GSPO)."
    )]
    pub importance_sampling_level: ImportanceSamplingLevel,
    /// What a reward is compared with.
    #[key(
        default = "group",
        meaning = "What a reward is compared with: the mean of its group (\"group\": GRPO), of \
                   its group's others (\"leave-one-out\": RLOO, with scale_rewards = \"none\"), \
                   or of the step (\"batch\": REINFORCE++, with scale_rewards = \"batch\"; \
                   \"group\" with \"batch\" is its variant with a baseline)."
    )]
    pub baseline: Baseline,
    /// Which standard deviation advantages are divided by.
    #[key(
        default = "group",
        meaning = "Whose standard deviation advantages are divided by."
    )]
    pub scale_rewards: ScaleRewards,
    /// ε of the clip: ratios are clipped to [1 − ε, 1 + `epsilon_high`].
    #[key(
        takes = amount(),
        default = 0.2,
        meaning = "The ratio is clipped to [1 − epsilon, 1 + epsilon_high]. R1 used 10 for both."
    )]
    pub epsilon: f64,
    /// The upper side of the clip; DAPO used 0.28.
    #[key(takes = amount(), unset = "`epsilon`", or = epsilon)]
    pub epsilon_high: f64,
    /// Weight β of the k3 estimate of the KL divergence from the reference; 0 keeps no reference.
    #[key(
        takes = amount(),
        default = 0.0,
        meaning = "Weight of the k3 estimate of the KL divergence from the reference; 0 keeps no \
                   reference. R1 used 0.001."
    )]
    pub beta: f64,
    /// Whether the KL estimate is weighted by the importance ratio (DeepSeek-V3.2 3.1).
    #[key(
        default = true,
        meaning = "The KL estimate is weighted by the importance ratio, which makes it unbiased \
                   where a step makes several updates (DeepSeek-V3.2 3.1)."
    )]
    pub use_bias_correction_kl: bool,
    /// Mean log-ratio of sampler to policy above which a completion with a negative advantage does
    /// not train; `None`: every completion trains.
    #[key(
        unset = "every completion trains",
        meaning = "Completions with a negative advantage whose mean log-ratio of sampler to \
                   policy is above this do not train the policy (off-policy sequence masking, \
                   DeepSeek-V3.2 3.1)."
    )]
    pub off_policy_mask_threshold: Option<f64>,
    /// How the sampler's deviation from the trainer is corrected.
    #[key(part)]
    pub correction: Correction,
    /// Steps between refreshes of the reference from the policy; 0: never. R1 used 400 updates.
    #[key(takes = steps(0), default = 0, unit = "steps")]
    pub sync_ref_steps: u64,
    /// Whether completions that hit `max_completion_length` are left out of training.
    #[key(
        default = false,
        meaning = "Completions that hit `max_completion_length` do not train."
    )]
    pub mask_truncated_completions: bool,
    /// Whether groups of equal rewards are replaced by groups of other prompts (DAPO).
    #[key(
        default = false,
        meaning = "Groups whose rewards are all equal teach nothing: other prompts are sampled in \
                   their place (DAPO)."
    )]
    pub dynamic_sampling: bool,
    /// Rounds of further prompts in a step with `dynamic_sampling`.
    #[key(
        takes = count(1, STEP_MAX_ROUNDS),
        default = 4,
        unit = "rounds",
        meaning = "With `dynamic_sampling`: rounds of further prompts in a step; then the step \
                   trains on the groups it has."
    )]
    pub max_resample_rounds: u32,
    /// What the trainer takes over from the sampler.
    #[key(
        part,
        routing_replay(
            meaning = "The trainer takes the experts that the sampler took (Keep Routing, \
                       DeepSeek-V3.2 3.1). No effect on dense models."
        )
    )]
    pub replay: Replay,
    /// Whether completions are decoded with the prediction module's drafts.
    #[key(
        default = false,
        meaning = "Decode with drafts of the model's multi-token prediction module, which is kept \
                   and not trained: the same completions in fewer steps, as \
                   `perf/draft_acceptance_rate` tells."
    )]
    pub speculative_decoding: bool,
    /// How the weights are trained.
    #[key(part, learning_rate(default = 1e-6))]
    pub training: Training,
    /// Adapters in the weights' place.
    #[key(part)]
    pub adapters: Adapters,
    /// Balance of the router.
    #[key(part)]
    pub router: Router,
}

impl Grpo {
    /// The objective of step `step` (from 0), in the form that a worker takes.
    pub fn objective(&self, step: u64) -> Objective {
        Objective {
            loss_type: self.loss_type,
            importance_sampling_level: self.importance_sampling_level,
            epsilon: self.epsilon,
            epsilon_high: self.epsilon_high,
            beta: self.beta,
            use_bias_correction_kl: self.use_bias_correction_kl,
            off_policy_mask_threshold: self.off_policy_mask_threshold,
            importance_sampling_correction: self.correction.settings(),
            num_iterations: self.num_iterations,
            num_minibatches: self.steps_per_generation,
            mask_truncated_completions: self.mask_truncated_completions,
            max_completion_length: self.rollouts.max_completion_length(step),
            temperature: self.rollouts.temperature(step) as f32,
            routing_replay: self.replay.routing_replay,
            routing_replay_reference: self.replay.routing_replay_reference,
        }
    }

    /// Most rounds of further prompts in a step.
    pub(crate) fn further_rounds(&self) -> u64 {
        if self.dynamic_sampling {
            u64::from(self.max_resample_rounds)
        } else {
            0
        }
    }

    /// Checks that a step's completions are groups and divide into minibatches.
    fn check_groups(&self, place: &str) -> Result<(), JobError> {
        if self.rollouts.num_generations < 2 && self.baseline != Baseline::Batch {
            return Err(JobError::unsound(
                place,
                "num_generations = 1: a completion is judged relative to its group, and alone it \
                 has none",
                "set num_generations to 2 or more (R1 used 16), or baseline = \"batch\"",
            ));
        }
        if self.rollouts.temperature == 0.0 {
            return Err(JobError::unsound(
                place,
                "temperature = 0: all completions of a group would be the same",
                "set temperature = 1.0",
            ));
        }
        let completions = self.rollouts.completions();
        let minibatches = u64::from(self.steps_per_generation);
        if completions.is_multiple_of(minibatches) {
            return Ok(());
        }
        let mut fewer = (1..=minibatches).rev();
        let fits = fewer.find(|count| completions.is_multiple_of(*count));
        Err(JobError::unsound(
            place,
            format!(
                "prompts_per_step × num_generations = {completions} completions do not divide \
                 into steps_per_generation = {minibatches} minibatches"
            ),
            format!(
                "set steps_per_generation = {}, or change the others",
                fits.unwrap_or(1)
            ),
        ))
    }
}

impl StageSettings for Grpo {
    fn word(&self) -> &'static str {
        WORD
    }

    fn columns(&self) -> &'static [&'static str] {
        &["prompt"]
    }

    fn rollouts(&self) -> Option<&Rollouts> {
        Some(&self.rollouts)
    }

    fn replay(&self) -> Option<&Replay> {
        Some(&self.replay)
    }

    fn training(&self) -> Option<&Training> {
        Some(&self.training)
    }

    fn router(&self) -> Option<&Router> {
        Some(&self.router)
    }

    fn adapters(&self) -> Option<&Adapters> {
        Some(&self.adapters)
    }

    fn speculative_decoding(&self) -> bool {
        self.speculative_decoding
    }

    fn needs_reference(&self) -> bool {
        self.beta > 0.0
    }

    fn updates_per_step(&self) -> u64 {
        u64::from(self.num_iterations) * u64::from(self.steps_per_generation)
    }

    fn check(&self, place: &str) -> Result<(), JobError> {
        self.check_groups(place)?;
        self.correction.check(place)?;
        if self.epsilon_high < self.epsilon {
            let (low, high) = (self.epsilon, self.epsilon_high);
            return Err(JobError::unsound(
                place,
                format!("epsilon_high = {high} is below epsilon = {low}"),
                "set epsilon_high to epsilon or more, or leave it out",
            ));
        }
        if self.beta == 0.0 && self.sync_ref_steps > 0 {
            return Err(JobError::unsound(
                place,
                "sync_ref_steps refreshes a reference that beta = 0 does not keep",
                "set beta above 0 (R1 used 0.001), or leave `sync_ref_steps` out",
            ));
        }
        Ok(())
    }

    fn check_rewards(&self, data: &DataSource, place: &str) -> Result<(), JobError> {
        self.rollouts.check_learned_from(WORD, data, place)
    }
}
