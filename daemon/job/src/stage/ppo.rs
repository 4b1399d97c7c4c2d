//! `kind = "ppo"`: proximal policy optimisation.

use super::replay::Replay;
use super::rollouts::Rollouts;
use super::settings::StageSettings;
use super::training::{Router, Training};
use crate::data::DataSource;
use crate::error::JobError;
use crate::limits::{STEP_MAX_PASSES, STEP_MAX_ROWS};
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::hyperparameters::PpoObjective;

/// The kind's name.
pub(super) const WORD: &str = "ppo";

pub(super) const MEANING: &str = "\
    proximal policy optimisation (Schulman et al. 2017) with a value model, generalised advantage \
    estimation and the KL divergence in the reward.";

/// Proximal policy optimisation.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Ppo {
    /// What a step samples, and which rewards judge it.
    #[key(
        part,
        rewards(
            name = "reward",
            meaning = "What judges completions: the weighted sum of the scores is the reward of a \
                       completion's last token."
        )
    )]
    pub rollouts: Rollouts,
    /// Passes over a step's completions.
    #[key(takes = count(1, STEP_MAX_PASSES), default = 4, unit = "passes")]
    pub num_ppo_epochs: u32,
    /// Minibatches, and so updates, per pass.
    #[key(takes = count(1, STEP_MAX_ROWS), default = 1, unit = "updates")]
    pub num_mini_batches: u32,
    /// The policy's ratio is clipped to 1 ± this.
    #[key(takes = positive(), default = 0.2)]
    pub cliprange: f64,
    /// How far a value may move from the one before the step.
    #[key(takes = positive(), default = 0.2)]
    pub cliprange_value: f64,
    /// Weight of the value loss.
    #[key(takes = amount(), default = 0.1)]
    pub vf_coef: f64,
    /// Discount of each token.
    #[key(takes = share(), default = 1.0)]
    pub gamma: f64,
    /// λ of generalised advantage estimation, 0 to 1.
    #[key(
        takes = share(),
        default = 0.95,
        meaning = "Lambda of advantage estimation: 0 trusts the values alone, 1 the rewards alone \
                   (R1 found 1 near GRPO, 0.95 worse)."
    )]
    pub lam: f64,
    /// Weight of the k1 estimate of the KL divergence from the stage's first weights, in each
    /// token's reward; 0 keeps no reference.
    #[key(takes = amount(), default = 0.05)]
    pub kl_coef: f64,
    /// What the trainer takes over from the sampler.
    #[key(part)]
    pub replay: Replay,
    /// Name of an earlier reward-model stage whose weights the value model starts from. `None`: the
    /// policy's trunk with a fresh head.
    #[key(
        unset = "the policy's first weights with a fresh head",
        meaning = "A reward-model stage before, by name: the value model starts from its weights."
    )]
    pub value_model: Option<String>,
    /// AdamW's rate of the value model; its schedule is the policy's.
    #[key(
        takes = amount(),
        unset = "`learning_rate`",
        or = training.learning_rate
    )]
    pub value_learning_rate: f64,
    /// How the weights are trained.
    #[key(part, learning_rate(default = 1e-6))]
    pub training: Training,
    /// Balance of the router.
    #[key(part)]
    pub router: Router,
}

impl Ppo {
    /// The objective of step `step` (from 0), in the form that a worker takes.
    pub fn objective(&self, step: u64) -> PpoObjective {
        PpoObjective {
            num_ppo_epochs: self.num_ppo_epochs,
            num_mini_batches: self.num_mini_batches,
            cliprange: self.cliprange,
            cliprange_value: self.cliprange_value,
            vf_coef: self.vf_coef,
            gamma: self.gamma,
            lam: self.lam,
            kl_coef: self.kl_coef,
            temperature: self.rollouts.temperature(step) as f32,
            routing_replay: self.replay.routing_replay,
            routing_replay_reference: self.replay.routing_replay_reference,
        }
    }
}

impl StageSettings for Ppo {
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

    fn needs_reference(&self) -> bool {
        self.kl_coef > 0.0
    }

    fn updates_per_step(&self) -> u64 {
        u64::from(self.num_ppo_epochs) * u64::from(self.num_mini_batches)
    }

    fn check(&self, place: &str) -> Result<(), JobError> {
        let completions = self.rollouts.completions();
        let minibatches = u64::from(self.num_mini_batches);
        if !completions.is_multiple_of(minibatches) {
            let problem = format!(
                "prompts_per_step × num_generations = {completions} completions do not divide \
                 into num_mini_batches = {minibatches}"
            );
            return Err(JobError::unsound(place, problem, "change one of them"));
        }
        if self.rollouts.temperature == 0.0 {
            return Err(JobError::unsound(
                place,
                "temperature = 0: nothing new would ever be tried",
                "set temperature = 1.0",
            ));
        }
        Ok(())
    }

    fn check_rewards(&self, data: &DataSource, place: &str) -> Result<(), JobError> {
        self.rollouts.check_learned_from(WORD, data, place)
    }
}
