//! The stages of a job and what they tell a worker.

mod read;

use crate::eval::Eval;
use crate::job::TemplateSource;
use crate::reward::Reward;
use r1d_proto::hyperparameters::{
    Baseline, DpoObjective, ImportanceSamplingLevel, Lora, LossType, LrSchedule, Objective,
    Optimiser, PpoObjective, RouterTraining, Sampling, ScaleRewards,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub name: String,
    /// Which of the job's further models it trains or samples; `None`: the job's own.
    pub model: Option<String>,
    pub from: Origin,
    /// Name of a [`crate::DataSource`], or of a rejection-sampling stage before, whose kept
    /// completions are the data ([`crate::Job::source`]).
    pub data: String,
    /// Further data sets, whose rows are appended; of a pretrain or sft stage alone.
    pub more_data: Vec<String>,
    pub length: Length,
    /// `None`: the stage trains nothing.
    pub schedule: Option<Schedule>,
    pub router: RouterTraining,
    /// λ of multi-token prediction; 0 where the stage trains no prediction module.
    pub mtp_loss_weight: f64,
    /// Of a grpo stage: its completions are decoded with the prediction module's drafts.
    pub speculative_decoding: bool,
    /// Of a stage that may train adapters; see [`Stage::adapters`].
    pub lora: Option<Lora>,
    /// Micro-batches are packed to this many tokens; 0 where the stage trains nothing.
    pub max_tokens_per_device: u32,
    pub kind: StageKind,
}

/// Where a stage's weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The model's own weights.
    Base,
    /// A stage before, by name.
    Stage(String),
}

/// How long a stage runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    Steps(u64),
    /// Passes over the data set.
    Epochs(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum StageKind {
    Pretrain(Pretrain),
    Sft(Sft),
    Grpo(Box<Grpo>),
    RejectionSampling(Box<RejectionSampling>),
    RewardModel(RewardModel),
    Dpo(Dpo),
    Ppo(Box<Ppo>),
    /// One evaluation of the weights that the stage has; it has no steps.
    Eval(Box<Eval>),
}

/// Next-token training on packed text.
#[derive(Clone, Debug, PartialEq)]
pub struct Pretrain {
    /// Sequences per step.
    pub batch_size: u32,
    /// Tokens of a packed sequence.
    pub max_length: u32,
}

/// Training on completions.
#[derive(Clone, Debug, PartialEq)]
pub struct Sft {
    /// Rows per step.
    pub batch_size: u32,
    /// Tokens; longer rows are cut there.
    pub max_length: u32,
    /// `None`: together, but for what a stage of the same model sampled.
    pub tokenize: Option<Tokenize>,
    /// Of a distill stage: how prompts reach the student, whose text it is not. `None`: as each
    /// data set says.
    pub template: Option<TemplateSource>,
}

/// How a prompt and its completion become ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenize {
    /// As one text, cut where the prompt's own tokens end.
    Together,
    /// Each by itself, as a sampler makes them.
    Apart,
}

/// A scalar head over a language model's trunk learns what people prefer, or what is safe.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardModel {
    /// Rows per update.
    pub batch_size: u32,
    /// Tokens; longer texts are cut there.
    pub max_length: u32,
    pub loss: RewardLoss,
    /// Name of a [`crate::DataSource`] of held-out rows, which the finished model is asked about.
    pub eval_data: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RewardLoss {
    /// Bradley–Terry on pairs; `center_rewards_coefficient` holds the scores around 0.
    Pairwise { center_rewards_coefficient: f64 },
    /// Logistic on single texts and their labels.
    Pointwise,
}

/// Direct preference optimisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Dpo {
    /// Pairs per update.
    pub batch_size: u32,
    /// Tokens of a prompt with either completion; longer ones are cut there.
    pub max_length: u32,
    pub tokenize: Tokenize,
    pub objective: DpoObjective,
}

/// Proximal policy optimisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Ppo {
    pub rollouts: Rollouts,
    pub num_ppo_epochs: u32,
    pub num_mini_batches: u32,
    pub cliprange: f64,
    pub cliprange_value: f64,
    pub vf_coef: f64,
    pub gamma: f64,
    pub lam: f64,
    pub kl_coef: f64,
    pub routing_replay: bool,
    pub routing_replay_reference: bool,
    pub value_learning_rate: f64,
    /// A reward-model stage before, whose weights the value model starts from; else the policy's
    /// trunk with a fresh head.
    pub value_model: Option<String>,
}

/// What is sampled in a step, and who judges it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollouts {
    pub prompts_per_step: u32,
    pub num_generations: u32,
    pub max_completion_length: u32,
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: u32,
    /// What top_p and top_k leave is recorded, and what policies are compared over; never where a
    /// stage does not train on what it samples.
    pub keep_sampling_mask: bool,
    /// What changes on the way, in the order of steps.
    pub changes: Vec<Change>,
    pub rewards: Vec<Reward>,
}

/// Settings that hold from the step after `after_step` on.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub after_step: u64,
    pub temperature: Option<f64>,
    pub max_completion_length: Option<u32>,
}

/// Completions are sampled and judged, and the good ones become the data set of later stages.
/// Trains nothing: the stage's weights are those that it samples from.
#[derive(Clone, Debug, PartialEq)]
pub struct RejectionSampling {
    pub rollouts: Rollouts,
    pub select: Select,
    /// Completions kept of a prompt, the best by total reward, of equals those with the lowest
    /// sample number; 0: all.
    pub keep: u32,
    /// The job waits until somebody has looked at what is kept.
    pub review: bool,
}

/// Which completions of a prompt are good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Select {
    /// Those whose first reward scores at least `at`.
    Correct { at: f64 },
    /// All, so that `keep` decides.
    BestOfN,
    /// The best `share` of the group by total reward, rounded up.
    TopP { share: f64 },
}

/// Group-relative policy optimisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Grpo {
    pub rollouts: Rollouts,
    pub num_iterations: u32,
    /// Minibatches, and so updates, per pass over a step's completions.
    pub steps_per_generation: u32,
    pub loss_type: LossType,
    pub importance_sampling_level: ImportanceSamplingLevel,
    pub baseline: Baseline,
    pub scale_rewards: ScaleRewards,
    pub epsilon: f64,
    pub epsilon_high: f64,
    pub beta: f64,
    pub use_bias_correction_kl: bool,
    pub off_policy_mask_threshold: Option<f64>,
    /// Steps between refreshes of the reference from the policy; 0: never.
    pub sync_ref_steps: u64,
    pub mask_truncated_completions: bool,
    pub routing_replay: bool,
    pub routing_replay_reference: bool,
    pub dynamic_sampling: bool,
    pub max_resample_rounds: u32,
}

/// The optimiser's keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    pub learning_rate: f64,
    pub lr_scheduler_type: LrSchedule,
    /// Updates.
    pub warmup_steps: u64,
    pub min_lr_ratio: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
}

impl Stage {
    /// Adapters that are trained in the weights' place.
    pub fn adapters(&self) -> Option<&Lora> {
        self.lora.as_ref().filter(|lora| lora.r > 0)
    }

    /// Whether the model is opened with its multi-token prediction module, and written with it.
    pub fn opens_prediction(&self) -> bool {
        self.mtp_loss_weight > 0.0 || self.speculative_decoding
    }

    /// The key that asks for the module, with its value.
    pub(crate) fn prediction_key(&self) -> Option<String> {
        match self.mtp_loss_weight {
            weight if weight > 0.0 => Some(format!("mtp_loss_weight = {weight}")),
            _ => self
                .speculative_decoding
                .then(|| "speculative_decoding = true".into()),
        }
    }

    /// As `kind` in a job file.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            StageKind::Pretrain(_) => "pretrain",
            StageKind::Sft(Sft {
                template: Some(_), ..
            }) => "distill",
            StageKind::Sft(_) => "sft",
            StageKind::Grpo(_) => "grpo",
            StageKind::RejectionSampling(_) => "rejection-sampling",
            StageKind::RewardModel(_) => "reward-model",
            StageKind::Dpo(_) => "dpo",
            StageKind::Ppo(_) => "ppo",
            StageKind::Eval(_) => "eval",
        }
    }

    /// Rows (packed sequences, for `pretrain`) that one step takes.
    pub fn rows_per_step(&self) -> u64 {
        match &self.kind {
            StageKind::Pretrain(p) => p.batch_size as u64,
            StageKind::Sft(s) => s.batch_size as u64,
            StageKind::RewardModel(r) => r.batch_size as u64,
            StageKind::Dpo(d) => d.batch_size as u64,
            StageKind::Grpo(_) | StageKind::Ppo(_) | StageKind::RejectionSampling(_) => {
                self.rollouts().map_or(1, |r| r.prompts_per_step as u64)
            }
            StageKind::Eval(_) => 1,
        }
    }

    /// Rows that step `step` (from 0) takes of a data set of `rows`: fewer than others do in the
    /// last step of a rejection-sampling stage that is so many epochs long, so that no prompt has
    /// more completions than the others.
    pub fn rows_of_step(&self, step: u64, rows: u64) -> u64 {
        let per_step = self.rows_per_step();
        match (&self.kind, self.length) {
            (StageKind::RejectionSampling(_), Length::Epochs(epochs)) => {
                let all = (epochs * rows as f64).ceil() as u64;
                per_step.min(all.saturating_sub(step.saturating_mul(per_step)))
            }
            _ => per_step,
        }
    }

    /// Steps of the stage over a data set of `rows` (packed sequences, for `pretrain`). At least 1;
    /// 0 where it depends on the rows, and they are not known yet (`rows` is 0), and of a stage
    /// that only evaluates.
    pub fn steps(&self, rows: u64) -> u64 {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) if rows == 0 => 0,
            Length::Epochs(epochs) => ((epochs * rows as f64) / self.rows_per_step() as f64)
                .ceil()
                .max(1.0) as u64,
        }
    }

    /// Optimiser updates that one step makes.
    pub fn updates_per_step(&self) -> u64 {
        match &self.kind {
            StageKind::Grpo(g) => g.num_iterations as u64 * g.steps_per_generation as u64,
            StageKind::Ppo(p) => p.num_ppo_epochs as u64 * p.num_mini_batches as u64,
            StageKind::RejectionSampling(_) | StageKind::Eval(_) => 0,
            StageKind::Pretrain(_)
            | StageKind::Sft(_)
            | StageKind::RewardModel(_)
            | StageKind::Dpo(_) => 1,
        }
    }

    /// Whether it changes the weights. One that does not has no checkpoints either.
    pub fn trains(&self) -> bool {
        self.schedule.is_some()
    }

    /// AdamW and its schedule over `steps` steps; `None` where the stage trains nothing.
    pub fn optimiser(&self, steps: u64) -> Option<Optimiser> {
        let s = self.schedule.as_ref()?;
        Some(Optimiser {
            learning_rate: s.learning_rate,
            lr_scheduler_type: s.lr_scheduler_type,
            warmup_steps: s.warmup_steps,
            total_steps: steps.saturating_mul(self.updates_per_step()),
            min_lr_ratio: s.min_lr_ratio,
            adam_beta1: s.adam_beta1,
            adam_beta2: s.adam_beta2,
            adam_epsilon: s.adam_epsilon,
            weight_decay: s.weight_decay,
            max_grad_norm: s.max_grad_norm,
        })
    }

    pub fn grpo(&self) -> Option<&Grpo> {
        match &self.kind {
            StageKind::Grpo(grpo) => Some(grpo),
            _ => None,
        }
    }

    pub fn rejection_sampling(&self) -> Option<&RejectionSampling> {
        match &self.kind {
            StageKind::RejectionSampling(rejection) => Some(rejection),
            _ => None,
        }
    }

    /// Whether the job waits after it until somebody has looked at its data set.
    pub fn is_reviewed(&self) -> bool {
        self.rejection_sampling()
            .is_some_and(|rejection| rejection.review)
    }

    pub fn reward_model(&self) -> Option<&RewardModel> {
        match &self.kind {
            StageKind::RewardModel(reward_model) => Some(reward_model),
            _ => None,
        }
    }

    pub fn ppo(&self) -> Option<&Ppo> {
        match &self.kind {
            StageKind::Ppo(ppo) => Some(ppo),
            _ => None,
        }
    }

    /// What a stage that samples samples.
    pub fn rollouts(&self) -> Option<&Rollouts> {
        match &self.kind {
            StageKind::Grpo(grpo) => Some(&grpo.rollouts),
            StageKind::Ppo(ppo) => Some(&ppo.rollouts),
            StageKind::RejectionSampling(rejection) => Some(&rejection.rollouts),
            StageKind::Pretrain(_)
            | StageKind::Sft(_)
            | StageKind::RewardModel(_)
            | StageKind::Dpo(_)
            | StageKind::Eval(_) => None,
        }
    }

    /// What a stage of kind `eval` evaluates.
    pub fn evaluation(&self) -> Option<&Eval> {
        match &self.kind {
            StageKind::Eval(eval) => Some(eval),
            _ => None,
        }
    }

    /// A frozen copy of the stage's first weights is kept beside the policy.
    pub fn needs_reference(&self) -> bool {
        match &self.kind {
            StageKind::Grpo(grpo) => grpo.needs_reference(),
            StageKind::Ppo(ppo) => ppo.kl_coef > 0.0,
            StageKind::Dpo(_) => true,
            StageKind::Pretrain(_) | StageKind::Sft(_) | StageKind::RejectionSampling(_) => false,
            StageKind::RewardModel(_) | StageKind::Eval(_) => false,
        }
    }

    /// Its rows are pairs of a preferred and a rejected completion.
    pub fn reads_pairs(&self) -> bool {
        match &self.kind {
            StageKind::Dpo(_) => true,
            StageKind::RewardModel(reward_model) => reward_model.loss != RewardLoss::Pointwise,
            _ => false,
        }
    }

    /// The data sets that it reads to train or sample, by name.
    pub fn data_sets(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.data)
            .chain(&self.more_data)
            .map(String::as_str)
    }

    /// Held-out rows that a reward model is asked about.
    pub fn held_out(&self) -> Option<&str> {
        self.reward_model()?.eval_data.as_deref()
    }
}

impl Rollouts {
    /// How step `step` (from 0) samples.
    pub fn sampling(&self, step: u64, stop_ids: Vec<u32>, seed: u64) -> Sampling {
        Sampling {
            temperature: self.temperature(step) as f32,
            top_p: self.top_p as f32,
            top_k: self.top_k,
            keep_sampling_mask: self.keep_sampling_mask,
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

    pub fn temperature(&self, step: u64) -> f64 {
        self.changed(step, self.temperature, |change| change.temperature)
    }

    /// Tokens.
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
}

impl Ppo {
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
            routing_replay: self.routing_replay,
            routing_replay_reference: self.routing_replay_reference,
        }
    }
}

impl Grpo {
    /// A frozen copy of the stage's first weights is kept.
    pub fn needs_reference(&self) -> bool {
        self.beta > 0.0
    }

    pub fn objective(&self, step: u64) -> Objective {
        Objective {
            loss_type: self.loss_type,
            importance_sampling_level: self.importance_sampling_level,
            epsilon: self.epsilon,
            epsilon_high: self.epsilon_high,
            beta: self.beta,
            use_bias_correction_kl: self.use_bias_correction_kl,
            off_policy_mask_threshold: self.off_policy_mask_threshold,
            num_iterations: self.num_iterations,
            num_minibatches: self.steps_per_generation,
            mask_truncated_completions: self.mask_truncated_completions,
            max_completion_length: self.rollouts.max_completion_length(step),
            temperature: self.rollouts.temperature(step) as f32,
            routing_replay: self.routing_replay,
            routing_replay_reference: self.routing_replay_reference,
        }
    }
}
