//! What a stage's kind decides of it: each kind says so in its own file.

use super::replay::Replay;
use super::rollouts::Rollouts;
use super::rows::RowBatch;
use super::training::{Adapters, Router, Training};
use crate::data::DataSource;
use crate::error::JobError;
use crate::file::Write;
use crate::template::TemplateSource;

/// The settings of a kind of stage, which answer what is asked of any kind. What a kind does not
/// answer itself is as most kinds have it.
pub(crate) trait StageSettings: Write {
    /// The kind's name, as `kind` in a job file.
    fn word(&self) -> &'static str;

    /// The columns of its data that it reads, by their keys.
    fn columns(&self) -> &'static [&'static str];

    /// What its rows are, if they are something else than prompts, with or without completions.
    fn other_rows(&self) -> Option<&'static str> {
        None
    }

    /// The rows that its steps learn from; `None` if it samples what it learns from, or learns
    /// nothing.
    fn rows(&self) -> Option<&RowBatch> {
        None
    }

    /// What its own steps sample; `None` if they sample nothing.
    fn rollouts(&self) -> Option<&Rollouts> {
        None
    }

    /// What its trainer takes over from the sampler; `None` if it does not learn from samples.
    fn replay(&self) -> Option<&Replay> {
        None
    }

    /// How its weights are trained; `None`: it trains nothing.
    fn training(&self) -> Option<&Training> {
        None
    }

    /// Balance of the router; `None` for kinds without these keys.
    fn router(&self) -> Option<&Router> {
        None
    }

    /// Adapters in the weights' place; `None` for kinds that cannot train any.
    fn adapters(&self) -> Option<&Adapters> {
        None
    }

    /// λ of multi-token prediction; 0: no prediction module is trained.
    fn mtp_loss_weight(&self) -> f64 {
        0.0
    }

    /// Whether completions are decoded with the prediction module's drafts.
    fn speculative_decoding(&self) -> bool {
        false
    }

    /// Whether a frozen copy of the stage's first weights is kept beside the policy.
    fn needs_reference(&self) -> bool {
        false
    }

    /// How prompts are rendered, whatever their data set says; `None`: as it says.
    fn template(&self) -> Option<&TemplateSource> {
        None
    }

    /// Number of optimiser updates that one step makes.
    fn updates_per_step(&self) -> u64 {
        u64::from(self.rows().is_some())
    }

    /// Number of rows (packed sequences, for `pretrain`) that one step takes.
    fn rows_per_step(&self) -> u64 {
        let learned = self.rows().map(|rows| rows.batch_size);
        let sampled = self.rollouts().map(|rollouts| rollouts.prompts_per_step);
        learned.or(sampled).unwrap_or(1).into()
    }

    /// Most tokens that one step samples or trains on. `prompt_max` is in tokens.
    fn tokens_per_step(&self, prompt_max: u32) -> u64 {
        let sampled = self.rollouts().map(|r| r.tokens_per_step(prompt_max));
        self.rows().map(RowBatch::tokens).or(sampled).unwrap_or(0)
    }

    /// What bounds the length of its sequences.
    fn longest(&self) -> Longest {
        let sampled = self.rollouts().map_or(0, Rollouts::longest_completion);
        self.rows().map_or(Longest::Completion(sampled), |rows| {
            Longest::Row(rows.max_length)
        })
    }

    /// Checks the settings that are the kind's own.
    fn check(&self, _place: &str) -> Result<(), JobError> {
        Ok(())
    }

    /// Checks what judges completions of prompts of `data`.
    fn check_rewards(&self, _data: &DataSource, _place: &str) -> Result<(), JobError> {
        Ok(())
    }
}

/// What bounds the length of a stage's sequences, in tokens.
#[derive(Clone, Copy)]
pub(crate) enum Longest {
    /// `max_length`, of a whole row.
    Row(u32),
    /// `max_completion_length`, of what comes behind a prompt.
    Completion(u32),
}

impl Longest {
    /// The key that says so, with its value.
    pub(crate) fn key(self) -> (&'static str, u32) {
        match self {
            Longest::Row(tokens) => ("max_length", tokens),
            Longest::Completion(tokens) => ("max_completion_length", tokens),
        }
    }

    /// Tokens of the longest sequence, where prompts have at most `prompt_max`.
    pub(crate) fn sequence(self, prompt_max: u32) -> u32 {
        match self {
            Longest::Row(tokens) => tokens,
            Longest::Completion(tokens) => prompt_max.saturating_add(tokens),
        }
    }
}
