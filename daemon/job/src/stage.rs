//! The stages of a job, and their settings in the form that a worker takes.

mod read;

use crate::eval::Eval;
use crate::job::TemplateSource;
use crate::reward::Reward;
use r1d_proto::hyperparameters::{
    Baseline, DpoObjective, ImportanceSamplingLevel, Lora, LossType, LrSchedule, Objective,
    Optimiser, PpoObjective, RouterTraining, Sampling, ScaleRewards,
};
use serde::{Deserialize, Serialize};

/// A stage: a part of a job with one way of training, sampling or evaluating.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Name in other stages, metrics and directories; unique in the job.
    pub name: String,
    /// Name of the further model that it trains or samples; `None`: the job's own model.
    pub model: Option<String>,
    /// The weights that it starts from.
    pub from: Origin,
    /// Name of a [`crate::DataSource`], or of an earlier rejection-sampling stage, whose kept
    /// completions are the data ([`crate::Job::source`]).
    pub data: String,
    /// Further data sets, whose rows are appended; only in pretrain and sft stages.
    pub more_data: Vec<String>,
    /// How long it runs.
    pub length: Length,
    /// Settings of the optimiser; `None`: the stage trains nothing.
    pub schedule: Option<Schedule>,
    /// Balance of the router in mixture-of-experts models; all 0 for kinds without these keys.
    pub router: RouterTraining,
    /// λ of multi-token prediction; 0 if the stage trains no prediction module.
    pub mtp_loss_weight: f64,
    /// Whether completions are decoded with the prediction module's drafts; only in grpo stages.
    pub speculative_decoding: bool,
    /// Settings of adapters; `None` for kinds that cannot train any. See [`Stage::adapters`].
    pub lora: Option<Lora>,
    /// Tokens that micro-batches are packed to; 0 if the stage trains nothing.
    pub max_tokens_per_device: u32,
    /// What the stage does, with the settings of that alone.
    pub kind: StageKind,
}

/// Source of a stage's first weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The model's own weights.
    Base,
    /// The weights that an earlier stage ended with, by its name.
    Stage(String),
}

/// How long a stage runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Number of steps; 0 for a stage that only evaluates.
    Steps(u64),
    /// Passes over the data set; the last step is rounded up.
    Epochs(f64),
}

/// The kind of a stage with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum StageKind {
    /// Next-token training on packed text.
    Pretrain(Pretrain),
    /// Supervised fine-tuning: `kind` sft or distill.
    Sft(Sft),
    /// Group-relative policy optimisation.
    Grpo(Box<Grpo>),
    /// Sampling of a data set for later stages.
    RejectionSampling(Box<RejectionSampling>),
    /// Training of a reward model on preferences.
    RewardModel(RewardModel),
    /// Direct preference optimisation.
    Dpo(Dpo),
    /// Proximal policy optimisation.
    Ppo(Box<Ppo>),
    /// One evaluation of the stage's weights; such a stage has no steps.
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
    /// Length limit of a row in tokens; longer rows are cut there.
    pub max_length: u32,
    /// How rows are tokenised. `None`: together, except completions that a stage of the same model
    /// sampled.
    pub tokenize: Option<Tokenize>,
    /// How prompts reach the student of a distill stage, whose text it is not. `None`: as each data
    /// set says.
    pub template: Option<TemplateSource>,
}

/// How a prompt and its completion become ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenize {
    /// Both are one text, cut where the prompt's own tokens end.
    Together,
    /// Each is tokenised by itself, as a sampler does.
    Apart,
}

/// Training of a reward model: a scalar head over a language model's trunk learns what people
/// prefer, or what is safe.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardModel {
    /// Rows per update.
    pub batch_size: u32,
    /// Length limit of a text in tokens; longer texts are cut there.
    pub max_length: u32,
    /// The loss, which decides what a row is.
    pub loss: RewardLoss,
    /// Name of a [`crate::DataSource`] of held-out rows, which the finished model is evaluated on.
    pub eval_data: Option<String>,
}

/// Loss of a reward model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RewardLoss {
    /// Bradley–Terry on pairs.
    Pairwise {
        /// Weight of the term that holds the scores around 0; 0: none.
        center_rewards_coefficient: f64,
    },
    /// Logistic loss on single texts and their labels.
    Pointwise,
}

/// Direct preference optimisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Dpo {
    /// Pairs per update.
    pub batch_size: u32,
    /// Length limit in tokens of a prompt with either completion; longer ones are cut there.
    pub max_length: u32,
    /// How a prompt and its completions are tokenised.
    pub tokenize: Tokenize,
    /// The loss and its settings.
    pub objective: DpoObjective,
}

/// Proximal policy optimisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Ppo {
    /// What a step samples, and which rewards judge it.
    pub rollouts: Rollouts,
    /// Passes over a step's completions.
    pub num_ppo_epochs: u32,
    /// Minibatches, and so updates, per pass.
    pub num_mini_batches: u32,
    /// Clip range of the policy's ratio: 1 ± this.
    pub cliprange: f64,
    /// How far a value may move from the one before the step.
    pub cliprange_value: f64,
    /// Weight of the value loss.
    pub vf_coef: f64,
    /// Discount of each token, γ.
    pub gamma: f64,
    /// λ of generalised advantage estimation, 0 to 1.
    pub lam: f64,
    /// Weight of the k1 estimate of the KL divergence from the stage's first weights, in each
    /// token's reward; 0 keeps no reference.
    pub kl_coef: f64,
    /// Whether the trainer takes the experts that the sampler took.
    pub routing_replay: bool,
    /// Whether the reference takes the sampler's experts too.
    pub routing_replay_reference: bool,
    /// AdamW's learning rate of the value model.
    pub value_learning_rate: f64,
    /// Name of an earlier reward-model stage whose weights the value model starts from. `None`: the
    /// policy's trunk with a fresh head.
    pub value_model: Option<String>,
}

/// What a step samples, and which rewards judge it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollouts {
    /// Prompts, and so groups, per step.
    pub prompts_per_step: u32,
    /// Completions of each prompt.
    pub num_generations: u32,
    /// Length in tokens at which a completion is cut off, before any change; see
    /// [`Rollouts::max_completion_length`].
    pub max_completion_length: u32,
    /// Sampling temperature before any change; see [`Rollouts::temperature`].
    pub temperature: f64,
    /// Probability that nucleus sampling keeps; 1: off.
    pub top_p: f64,
    /// Number of likeliest ids that are kept; 0: off.
    pub top_k: u32,
    /// Whether the ids that top_p and top_k left are recorded, so that policies are compared over
    /// them. Always false in a stage that does not train on what it samples.
    pub keep_sampling_mask: bool,
    /// Changes of the settings on the way, in the order of steps.
    pub changes: Vec<Change>,
    /// Rewards that judge the completions.
    pub rewards: Vec<Reward>,
}

/// Settings that hold from the step after `after_step` on.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Number of steps of the stage before the change.
    pub after_step: u64,
    /// New sampling temperature; `None`: as before.
    pub temperature: Option<f64>,
    /// New length limit of completions, in tokens; `None`: as before.
    pub max_completion_length: Option<u32>,
}

/// Rejection sampling: completions are sampled and judged, and the good ones become the data set of
/// later stages. It trains nothing: the stage's weights are those that it samples from.
#[derive(Clone, Debug, PartialEq)]
pub struct RejectionSampling {
    /// What a step samples, and which rewards judge it.
    pub rollouts: Rollouts,
    /// Which completions of a prompt are good.
    pub select: Select,
    /// Number of completions kept of a prompt: the best by total reward, among equals those with
    /// the lowest sample number; 0: all that are good.
    pub keep: u32,
    /// Whether the job waits until somebody has reviewed the kept completions.
    pub review: bool,
}

/// Which completions of a prompt are good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Select {
    /// Those whose first reward's score is high enough.
    Correct {
        /// Lowest score that counts as correct.
        at: f64,
    },
    /// All of them, so that `keep` decides.
    BestOfN,
    /// The best of the group by total reward.
    TopP {
        /// Share of the group that is good, rounded up to whole completions.
        share: f64,
    },
}

/// Group-relative policy optimisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Grpo {
    /// What a step samples, and which rewards judge it.
    pub rollouts: Rollouts,
    /// Passes over a step's completions, μ.
    pub num_iterations: u32,
    /// Minibatches, and so updates, per pass over a step's completions.
    pub steps_per_generation: u32,
    /// How token terms are averaged.
    pub loss_type: LossType,
    /// Whether the ratio to the sampling policy is taken of tokens or of sequences.
    pub importance_sampling_level: ImportanceSamplingLevel,
    /// What a reward is compared with.
    pub baseline: Baseline,
    /// Which standard deviation advantages are divided by.
    pub scale_rewards: ScaleRewards,
    /// ε of the clip: ratios are clipped to [1 − ε, 1 + `epsilon_high`].
    pub epsilon: f64,
    /// Upper side of the clip; `epsilon` if the job file does not give it.
    pub epsilon_high: f64,
    /// Weight β of the k3 estimate of the KL divergence from the reference; 0 keeps no reference.
    pub beta: f64,
    /// Whether the KL estimate is weighted by the importance ratio (DeepSeek-V3.2 3.1).
    pub use_bias_correction_kl: bool,
    /// Mean log-ratio of sampler to policy above which a completion with a negative advantage does
    /// not train; `None`: every completion trains.
    pub off_policy_mask_threshold: Option<f64>,
    /// Steps between refreshes of the reference from the policy; 0: never.
    pub sync_ref_steps: u64,
    /// Whether completions that hit `max_completion_length` are left out of training.
    pub mask_truncated_completions: bool,
    /// Whether the trainer takes the experts that the sampler took.
    pub routing_replay: bool,
    /// Whether the reference takes the sampler's experts too.
    pub routing_replay_reference: bool,
    /// Whether groups of equal rewards are replaced by groups of other prompts (DAPO).
    pub dynamic_sampling: bool,
    /// Rounds of further prompts in a step with `dynamic_sampling`.
    pub max_resample_rounds: u32,
}

/// Settings of AdamW and its learning-rate schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// How the rate falls after the warm-up.
    pub lr_scheduler_type: LrSchedule,
    /// Updates over which the rate rises from 0.
    pub warmup_steps: u64,
    /// The rate at which linear and cosine schedules end, as a share of `learning_rate`.
    pub min_lr_ratio: f64,
    /// Decay of the first moment.
    pub adam_beta1: f64,
    /// Decay of the second moment.
    pub adam_beta2: f64,
    /// AdamW's ε.
    pub adam_epsilon: f64,
    /// Decoupled weight decay; not applied to norms, biases and the router's correction bias.
    pub weight_decay: f64,
    /// Global norm that gradients are clipped to; 0: no clipping.
    pub max_grad_norm: f64,
}

impl Stage {
    /// The adapters that are trained in the weights' place; `None` if the weights themselves are.
    pub fn adapters(&self) -> Option<&Lora> {
        self.lora.as_ref().filter(|lora| lora.r > 0)
    }

    /// Whether the model is opened and written with its multi-token prediction module.
    pub fn opens_prediction(&self) -> bool {
        self.mtp_loss_weight > 0.0 || self.speculative_decoding
    }

    /// The key that asks for the prediction module, with its value.
    pub(crate) fn prediction_key(&self) -> Option<String> {
        match self.mtp_loss_weight {
            weight if weight > 0.0 => Some(format!("mtp_loss_weight = {weight}")),
            _ => self
                .speculative_decoding
                .then(|| "speculative_decoding = true".into()),
        }
    }

    /// The kind's name, as `kind` in a job file.
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

    /// Number of rows (packed sequences, for `pretrain`) that one step takes.
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

    /// Number of rows that step `step` (from 0) takes of a data set of `rows`. The last step of a
    /// rejection-sampling stage that counts epochs takes only what is left of them, so that no
    /// prompt has more completions than the others.
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

    /// Number of steps over a data set of `rows` (packed sequences, for `pretrain`): at least 1. It
    /// is 0 for a stage that counts epochs while its rows are not known (`rows` is 0), and for a
    /// stage that only evaluates.
    pub fn steps(&self, rows: u64) -> u64 {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) if rows == 0 => 0,
            Length::Epochs(epochs) => ((epochs * rows as f64) / self.rows_per_step() as f64)
                .ceil()
                .max(1.0) as u64,
        }
    }

    /// Number of optimiser updates that one step makes.
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

    /// Whether it changes the weights. A stage that does not has no checkpoints either.
    pub fn trains(&self) -> bool {
        self.schedule.is_some()
    }

    /// AdamW and its schedule over `steps` steps; `None` if the stage trains nothing.
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

    /// The settings of a grpo stage; `None` for other kinds.
    pub fn grpo(&self) -> Option<&Grpo> {
        match &self.kind {
            StageKind::Grpo(grpo) => Some(grpo),
            _ => None,
        }
    }

    /// The settings of a rejection-sampling stage; `None` for other kinds.
    pub fn rejection_sampling(&self) -> Option<&RejectionSampling> {
        match &self.kind {
            StageKind::RejectionSampling(rejection) => Some(rejection),
            _ => None,
        }
    }

    /// Whether the job waits after it until somebody has reviewed its data set.
    pub fn is_reviewed(&self) -> bool {
        self.rejection_sampling()
            .is_some_and(|rejection| rejection.review)
    }

    /// The settings of a reward-model stage; `None` for other kinds.
    pub fn reward_model(&self) -> Option<&RewardModel> {
        match &self.kind {
            StageKind::RewardModel(reward_model) => Some(reward_model),
            _ => None,
        }
    }

    /// The settings of a ppo stage; `None` for other kinds.
    pub fn ppo(&self) -> Option<&Ppo> {
        match &self.kind {
            StageKind::Ppo(ppo) => Some(ppo),
            _ => None,
        }
    }

    /// What the stage's own steps sample; `None` if they sample nothing.
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

    /// The evaluation of an `eval` stage; `None` for other kinds.
    pub fn evaluation(&self) -> Option<&Eval> {
        match &self.kind {
            StageKind::Eval(eval) => Some(eval),
            _ => None,
        }
    }

    /// Whether a frozen copy of the stage's first weights is kept beside the policy.
    pub fn needs_reference(&self) -> bool {
        match &self.kind {
            StageKind::Grpo(grpo) => grpo.needs_reference(),
            StageKind::Ppo(ppo) => ppo.kl_coef > 0.0,
            StageKind::Dpo(_) => true,
            StageKind::Pretrain(_) | StageKind::Sft(_) | StageKind::RejectionSampling(_) => false,
            StageKind::RewardModel(_) | StageKind::Eval(_) => false,
        }
    }

    /// Whether its rows are pairs of a preferred and a rejected completion.
    pub fn reads_pairs(&self) -> bool {
        match &self.kind {
            StageKind::Dpo(_) => true,
            StageKind::RewardModel(reward_model) => reward_model.loss != RewardLoss::Pointwise,
            _ => false,
        }
    }

    /// Names of the data sets that it reads to train or sample.
    pub fn data_sets(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.data)
            .chain(&self.more_data)
            .map(String::as_str)
    }

    /// Name of the data set of held-out rows that its finished reward model is evaluated on.
    pub fn held_out(&self) -> Option<&str> {
        self.reward_model()?.eval_data.as_deref()
    }
}

impl Rollouts {
    /// Sampling settings of step `step` (from 0).
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
            routing_replay: self.routing_replay,
            routing_replay_reference: self.routing_replay_reference,
        }
    }
}

impl Grpo {
    /// Whether a frozen copy of the stage's first weights is kept.
    pub fn needs_reference(&self) -> bool {
        self.beta > 0.0
    }

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
