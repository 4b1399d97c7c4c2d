//! The kinds of stages: what a job file's `kind` names.

use super::dpo::{self, Dpo};
use super::eval;
use super::grpo::{self, Grpo};
use super::ppo::{self, Ppo};
use super::pretrain::{self, Pretrain};
use super::rejection_sampling::{self, RejectionSampling};
use super::reward_model::{self, RewardModel};
use super::settings::StageSettings;
use super::sft::{self, Sft};
use crate::error::JobError;
use crate::eval::Eval;
use crate::file::setting::read_by_serde;
use crate::file::{Fields, Key, Keys, Kind, Read, Setting, Table, Write};
use toml::Value;

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

impl StageKind {
    /// The settings of whichever kind it is.
    pub(crate) fn settings(&self) -> &dyn StageSettings {
        match self {
            StageKind::Pretrain(pretrain) => pretrain,
            StageKind::Sft(sft) => sft,
            StageKind::Grpo(grpo) => grpo.as_ref(),
            StageKind::RejectionSampling(rejection) => rejection.as_ref(),
            StageKind::RewardModel(reward_model) => reward_model,
            StageKind::Dpo(dpo) => dpo,
            StageKind::Ppo(ppo) => ppo.as_ref(),
            StageKind::Eval(eval) => eval.as_ref(),
        }
    }
}

/// The word of a kind. The other keys of the stage's table are read and written with it.
impl Setting for StageKind {
    fn kind() -> Kind {
        Kind::Text
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<StageKind, JobError> {
        let word: String = read_by_serde(value, from, key)?;
        Ok(match word.as_str() {
            pretrain::WORD => StageKind::Pretrain(Pretrain::read(from)?),
            sft::WORD | sft::DISTILL => StageKind::Sft(Sft::read(from)?),
            grpo::WORD => StageKind::Grpo(Box::new(Grpo::read(from)?)),
            ppo::WORD => StageKind::Ppo(Box::new(Ppo::read(from)?)),
            dpo::WORD => StageKind::Dpo(Dpo::read(from)?),
            rejection_sampling::WORD => {
                StageKind::RejectionSampling(Box::new(RejectionSampling::read(from)?))
            }
            reward_model::WORD => StageKind::RewardModel(RewardModel::read(from)?),
            // No other word gets past the check of the table.
            _ => StageKind::Eval(Box::new(Eval::read(from)?)),
        })
    }

    fn to_value(&self) -> Option<Value> {
        Some(self.settings().word().into())
    }
}

impl Write for StageKind {
    fn write(&self, to: &mut toml::Table) {
        self.settings().write(to);
    }
}

/// The table of each kind, by its word: the keys of any stage, then those of the kind.
pub(super) fn tables(of_any: &[Key]) -> [(&'static str, &'static Table); 9] {
    let table = |word, meaning, own, without: &[&str]| {
        let keys = keys(of_any, own, without);
        (word, table(word, meaning, keys))
    };
    // Prompts come from one data set.
    let sampling = &["more_data"][..];
    // It evaluates once, at its place among the stages.
    let scheduled = &[
        "steps",
        "epochs",
        "more_data",
        "every_steps",
        "stages",
        "at_start",
    ][..];
    [
        table(pretrain::WORD, pretrain::MEANING, Pretrain::keys(), &[]),
        table(sft::WORD, sft::MEANING, Sft::keys(), &["template"]),
        table(sft::DISTILL, sft::DISTILL_MEANING, Sft::keys(), &[]),
        table(grpo::WORD, grpo::MEANING, Grpo::keys(), sampling),
        table(ppo::WORD, ppo::MEANING, Ppo::keys(), sampling),
        table(dpo::WORD, dpo::MEANING, Dpo::keys(), &[]),
        table(
            rejection_sampling::WORD,
            rejection_sampling::MEANING,
            RejectionSampling::keys(),
            sampling,
        ),
        table(
            reward_model::WORD,
            reward_model::MEANING,
            RewardModel::keys(),
            &[],
        ),
        table(eval::WORD, eval::MEANING, Eval::keys(), scheduled),
    ]
}

/// The keys of any stage, and those of a kind that are not among them, without some.
fn keys(of_any: &[Key], own: Vec<Key>, without: &[&str]) -> Vec<Key> {
    let is_new = |key: &Key| of_any.iter().all(|any| any.name != key.name);
    let own = own.into_iter().filter(is_new);
    let all = of_any.iter().copied().chain(own);
    all.filter(|key| !without.contains(&key.name)).collect()
}

fn table(word: &str, meaning: &str, keys: Vec<Key>) -> &'static Table {
    let meaning = format!("kind = {word:?}: {meaning}");
    Box::leak(Box::new(Table::new("stage", meaning.leak(), keys)))
}
