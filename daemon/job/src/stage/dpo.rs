//! `kind = "dpo"`: direct preference optimisation.

use super::rows::RowBatch;
use super::settings::StageSettings;
use super::tokenize::{self, Tokenize};
use super::training::{Router, Training};
use crate::error::JobError;
use crate::file::setting::by_words;
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::hyperparameters::{DpoLossType, DpoObjective};

by_words!(DpoLossType);

/// The kind's name.
pub(super) const WORD: &str = "dpo";

pub(super) const MEANING: &str = "\
    direct preference optimisation (Rafailov et al. 2023) of a policy on pairs, held to a frozen \
    copy of the stage's first weights.";

/// Direct preference optimisation.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Dpo {
    /// The pairs of a step; the length limit is that of a prompt with either completion.
    #[key(
        part,
        batch_size(unit = "pairs", meaning = "Pairs of one update."),
        max_length(
            meaning = "Prompt and completion together; longer ones are cut there, and counted in \
                       the log."
        )
    )]
    pub rows: RowBatch,
    /// How a prompt and its completions are tokenised.
    #[key(default = "together", meaning = tokenize::MEANING)]
    pub tokenize: Tokenize,
    /// The loss of the pairs.
    #[key(
        default = "sigmoid",
        meaning = "\"sigmoid\": Bradley–Terry; \"robust\": unbiased where a share \
                   `label_smoothing` of the labels is flipped; \"ipo\": squared distance of mean \
                   log-ratios to 1 / (2 beta)."
    )]
    pub loss_type: DpoLossType,
    /// How strongly the policy is held to the reference; tau of IPO.
    #[key(takes = positive(), default = 0.1)]
    pub beta: f64,
    /// Share of the labels that are taken to be flipped; not for "ipo".
    #[key(
        takes = number(0.0, 0.499_999),
        default = 0.0,
        meaning = "Share of the labels that are taken to be flipped; not for \"ipo\"."
    )]
    pub label_smoothing: f64,
    /// How the weights are trained.
    #[key(part, learning_rate(default = 1e-6))]
    pub training: Training,
    /// Balance of the router.
    #[key(part)]
    pub router: Router,
}

impl Dpo {
    /// The objective in the form that a worker takes.
    pub fn objective(&self) -> DpoObjective {
        DpoObjective {
            loss_type: self.loss_type,
            beta: self.beta,
            label_smoothing: self.label_smoothing,
        }
    }
}

impl StageSettings for Dpo {
    fn word(&self) -> &'static str {
        WORD
    }

    fn columns(&self) -> &'static [&'static str] {
        &["prompt", "chosen", "rejected"]
    }

    fn other_rows(&self) -> Option<&'static str> {
        Some("pairs")
    }

    fn rows(&self) -> Option<&RowBatch> {
        Some(&self.rows)
    }

    fn training(&self) -> Option<&Training> {
        Some(&self.training)
    }

    fn router(&self) -> Option<&Router> {
        Some(&self.router)
    }

    fn needs_reference(&self) -> bool {
        true
    }

    fn tokens_per_step(&self, _prompt_max: u32) -> u64 {
        2 * self.rows.tokens()
    }

    fn check(&self, place: &str) -> Result<(), JobError> {
        if self.loss_type != DpoLossType::Ipo || self.label_smoothing == 0.0 {
            return Ok(());
        }
        let problem = format!(
            "label_smoothing = {} with loss_type = \"ipo\", which has none",
            self.label_smoothing
        );
        let fix = "leave it out, or set loss_type = \"robust\"";
        Err(JobError::unsound(place, problem, fix))
    }
}
