//! The stages of a job, and their settings in the form that a worker takes.
//!
//! | module | what it holds |
//! |---|---|
//! | [`pretrain`], [`sft`], [`dpo`], [`reward_model`], [`grpo`], [`ppo`], [`rejection_sampling`], [`eval`] | a kind each: its keys, sizes and checks |
//! | [`rows`], [`rollouts`], [`replay`], [`correction`], [`training`], [`tokenize`] | keys that several kinds have |
//! | [`settings`] | what any kind is asked |
//! | [`kind`] | the kinds, and the table of each |
//! | [`origin`], [`length`] | where a stage starts, and how long it runs |
//! | [`table`] | tables `[[stage]]` |

pub(crate) mod correction;
pub(crate) mod dpo;
pub(crate) mod eval;
pub(crate) mod grpo;
pub(crate) mod kind;
pub(crate) mod length;
pub(crate) mod origin;
pub(crate) mod ppo;
pub(crate) mod pretrain;
pub(crate) mod rejection_sampling;
pub(crate) mod replay;
pub(crate) mod reward_model;
pub(crate) mod rollouts;
pub(crate) mod rows;
pub(crate) mod settings;
pub(crate) mod sft;
mod table;
pub(crate) mod tokenize;
pub(crate) mod training;

pub use correction::Correction;
pub use dpo::Dpo;
pub use grpo::Grpo;
pub use kind::StageKind;
pub use length::Length;
pub use origin::Origin;
pub use ppo::Ppo;
pub use pretrain::Pretrain;
pub use rejection_sampling::{RejectionSampling, Select};
pub use replay::Replay;
pub use reward_model::{RewardLoss, RewardModel};
pub use rollouts::{Change, Rollouts};
pub use rows::RowBatch;
pub use sft::Sft;
pub use tokenize::Tokenize;
pub use training::{Adapters, Prediction, Router, Training};

use crate::eval::Eval;
use crate::template::TemplateSource;
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::hyperparameters::{
    GradientCheckpointing, Lora, Optimiser, RouterTraining, Sampling,
};
use settings::{Longest, StageSettings};

/// A stage: a part of a job with one way of training, sampling or evaluating.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Stage {
    /// Name in other stages, metrics and directories; unique in the job.
    #[key(
        takes = Name,
        required = "give the stage a name of its own",
        meaning = "What other stages, metrics and directories call the stage."
    )]
    pub name: String,
    /// What the stage does, with the settings of that alone.
    #[key(
        tag,
        required = "kind = \"pretrain\", \"sft\", \"distill\", \"grpo\", \"ppo\", \"dpo\", \
                    \"rejection-sampling\", \"reward-model\" or \"eval\"",
        meaning = "What the stage does: \"pretrain\" (next token on packed text), \"sft\" \
                   (completions), \"distill\" (completions of a teacher, for another model), \
                   \"grpo\" (group-relative policy optimisation), \"ppo\" (proximal policy \
                   optimisation with a value model), \"dpo\" (direct preference optimisation), \
                   \"rejection-sampling\" (the good ones of many completions become a data set), \
                   \"reward-model\" (a scalar head learns preferences), \"eval\" (one evaluation)."
    )]
    pub kind: StageKind,
    /// Name of the further model that it trains or samples; `None`: the job's own model.
    #[key(
        unset = "[model]",
        meaning = "The model that the stage trains or samples: the NAME of a table [models.NAME]."
    )]
    pub model: Option<String>,
    /// The weights that it starts from.
    #[key(
        unset = "the nearest stage before that trains a policy of the same model, else \"base\"",
        or = Origin::Base,
        meaning = "Where the weights come from: the name of a stage before of the same model, or \
                   \"base\", the model's own weights."
    )]
    pub from: Origin,
    /// Name of a [`crate::DataSource`], or of an earlier rejection-sampling stage, whose kept
    /// completions are the data ([`crate::Job::source`]).
    #[key(
        required = "name a table [data.NAME]",
        meaning = "The data set: the NAME of a table [data.NAME], or the name of a \
                   rejection-sampling stage before, whose kept completions it is then."
    )]
    pub data: String,
    /// How long it runs.
    #[key(part)]
    pub length: Length,
    /// Further data sets, whose rows are appended; only in stages that read whole rows.
    #[key(
        default = [],
        or = Vec::new(),
        when = !self.more_data.is_empty() || self.names_more_data(),
        meaning = "Further data sets by name, whose rows are appended to those of `data` and \
                   shuffled with them where that one is."
    )]
    pub more_data: Vec<String>,
}

impl Stage {
    /// Whether further data is written where there is none. In dpo and reward-model stages it is
    /// not: such a stage is known for reuse as it was before it was written at all.
    fn names_more_data(&self) -> bool {
        !matches!(self.kind, StageKind::Dpo(_) | StageKind::RewardModel(_))
    }

    fn settings(&self) -> &dyn StageSettings {
        self.kind.settings()
    }

    /// The adapters that are trained in the weights' place; `None` if the weights themselves are.
    pub fn adapters(&self) -> Option<Lora> {
        self.settings().adapters()?.lora()
    }

    /// Balance of the router in mixture-of-experts models; all 0 for kinds without these keys.
    pub fn router(&self) -> RouterTraining {
        let router = self.settings().router().copied();
        router.unwrap_or_default().training()
    }

    /// λ of multi-token prediction; 0 if the stage trains no prediction module.
    pub fn mtp_loss_weight(&self) -> f64 {
        self.settings().mtp_loss_weight()
    }

    /// Whether completions are decoded with the prediction module's drafts.
    pub fn speculative_decoding(&self) -> bool {
        self.settings().speculative_decoding()
    }

    /// Tokens that micro-batches are packed to; 0 if the stage trains nothing.
    pub fn max_tokens_per_device(&self) -> u32 {
        self.training()
            .map_or(0, |training| training.max_tokens_per_device)
    }

    /// How updates save memory; `None` if a whole pass is differentiated at once.
    pub fn gradient_checkpointing(&self) -> Option<GradientCheckpointing> {
        self.training()?.checkpointing()
    }

    /// Whether the model is opened and written with its multi-token prediction module.
    pub fn opens_prediction(&self) -> bool {
        self.mtp_loss_weight() > 0.0 || self.speculative_decoding()
    }

    /// The key that asks for the prediction module, with its value.
    pub(crate) fn prediction_key(&self) -> Option<String> {
        match self.mtp_loss_weight() {
            weight if weight > 0.0 => Some(format!("mtp_loss_weight = {weight}")),
            _ => self
                .speculative_decoding()
                .then(|| "speculative_decoding = true".into()),
        }
    }

    /// The kind's name, as `kind` in a job file.
    pub fn kind_name(&self) -> &'static str {
        self.settings().word()
    }

    /// Number of rows (packed sequences, for `pretrain`) that one step takes.
    pub fn rows_per_step(&self) -> u64 {
        self.settings().rows_per_step()
    }

    /// Number of rows that step `step` (from 0) takes of a data set of `rows`. The last step of a
    /// rejection-sampling stage that counts epochs takes only what is left of them, so that no
    /// prompt has more completions than the others.
    pub fn rows_of_step(&self, step: u64, rows: u64) -> u64 {
        let per_step = self.rows_per_step();
        match (self.rejection_sampling(), self.length) {
            (Some(_), Length::Epochs(epochs)) => {
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
        self.settings().updates_per_step()
    }

    /// Most tokens that one step samples or trains on. `prompt_max` is in tokens.
    pub fn tokens_per_step(&self, prompt_max: u32) -> u64 {
        self.settings().tokens_per_step(prompt_max)
    }

    /// What bounds the length of its sequences.
    pub(crate) fn longest(&self) -> Longest {
        self.settings().longest()
    }

    /// How its weights are trained; `None`: it trains nothing.
    pub fn training(&self) -> Option<&Training> {
        self.settings().training()
    }

    /// Whether it changes the weights. A stage that does not has no checkpoints either.
    pub fn trains(&self) -> bool {
        self.training().is_some()
    }

    /// AdamW and its schedule over `steps` steps; `None` if the stage trains nothing.
    pub fn optimiser(&self, steps: u64) -> Option<Optimiser> {
        let updates = steps.saturating_mul(self.updates_per_step());
        Some(self.training()?.optimiser(updates))
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

    /// The evaluation of an `eval` stage; `None` for other kinds.
    pub fn evaluation(&self) -> Option<&Eval> {
        match &self.kind {
            StageKind::Eval(eval) => Some(eval),
            _ => None,
        }
    }

    /// What the stage's own steps sample; `None` if they sample nothing.
    pub fn rollouts(&self) -> Option<&Rollouts> {
        self.settings().rollouts()
    }

    /// What its trainer takes over from the sampler; `None` if it does not learn from samples.
    pub fn replay(&self) -> Option<&Replay> {
        self.settings().replay()
    }

    /// Sampling settings of step `step` (from 0); `None` if its steps sample nothing.
    pub fn sampling(&self, step: u64, stop_ids: Vec<u32>, seed: u64) -> Option<Sampling> {
        let sampling = self.rollouts()?.sampling(step, stop_ids, seed);
        Some(Sampling {
            keep_sampling_mask: self
                .replay()
                .is_some_and(|replay| replay.keep_sampling_mask),
            ..sampling
        })
    }

    /// Whether a frozen copy of the stage's first weights is kept beside the policy.
    pub fn needs_reference(&self) -> bool {
        self.settings().needs_reference()
    }

    /// How prompts are rendered, whatever their data set says; `None`: as it says.
    pub fn template(&self) -> Option<&TemplateSource> {
        self.settings().template()
    }

    /// The columns of its data that it reads, by their keys.
    pub(crate) fn columns(&self) -> &'static [&'static str] {
        self.settings().columns()
    }

    /// Whether its rows are pairs of a preferred and a rejected completion.
    pub fn reads_pairs(&self) -> bool {
        self.columns().contains(&"chosen")
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
