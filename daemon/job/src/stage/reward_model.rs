//! `kind = "reward-model"`: a scalar head learns preferences.

use super::rows::RowBatch;
use super::settings::StageSettings;
use super::training::{Router, Training};
use crate::error::JobError;
use crate::file::Fields;
use crate::file::setting::by_words;
use r1d_job_macros::{Keys, Read, Write};
use serde::{Deserialize, Serialize};

/// The kind's name.
pub(super) const WORD: &str = "reward-model";

pub(super) const MEANING: &str = "\
    a scalar head over the trunk of `from` learns from preferences (DeepSeek-R1, Methods). It is \
    no policy: rewards ask it by the stage's name (`model` of [[stage.reward]]), transformers \
    loads it as …ForSequenceClassification with one label, and later stages do not start from it. \
    A text is prompt, completion, end-of-sequence id; the last token's hidden state is scored.";

/// Training of a reward model: a scalar head over a language model's trunk learns what people
/// prefer, or what is safe.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
#[settings(check = check)]
pub struct RewardModel {
    /// The loss, which decides what a row is.
    #[key(
        default = "pairwise",
        meaning = "\"pairwise\": Bradley–Terry on `chosen` and `rejected` (R1's helpfulness); \
                   \"pointwise\": logistic on `completion` and `label` (R1's safety)."
    )]
    pub loss: RewardLoss,
    /// The rows of a step.
    #[key(
        part,
        batch_size(meaning = "Rows of one update. R1 used 256."),
        max_length(
            meaning = "Prompt and completion together; longer texts are cut there, and counted in \
                       the log. R1 used 8,192."
        )
    )]
    pub rows: RowBatch,
    /// Weight of the term that holds the scores of pairs around 0; 0: none.
    #[key(
        takes = amount(),
        default = 0.0,
        when = self.loss == RewardLoss::Pairwise,
        meaning = "With loss = \"pairwise\": weight of the squared sum of a pair's scores, which \
                   holds them around 0 (Eisenstein et al. 2023 recommend 0.01)."
    )]
    pub center_rewards_coefficient: f64,
    /// Name of a [`crate::DataSource`] of held-out rows, which the finished model is evaluated on.
    #[key(
        unset = "nobody asks how well it tells good from bad",
        meaning = "Held-out rows, a NAME of [data.NAME]: the finished model's accuracy on them is \
                   recorded, and a warning where it does not separate."
    )]
    pub eval_data: Option<String>,
    /// How the weights are trained.
    #[key(part, learning_rate(default = 1e-5))]
    pub training: Training,
    /// Balance of the router.
    #[key(part)]
    pub router: Router,
}

/// Loss of a reward model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardLoss {
    /// Bradley–Terry on pairs.
    Pairwise,
    /// Logistic loss on single texts and their labels.
    Pointwise,
}

by_words!(RewardLoss);

impl RewardModel {
    fn check(&self, from: &Fields<'_>) -> Result<(), JobError> {
        if self.loss == RewardLoss::Pairwise || self.center_rewards_coefficient == 0.0 {
            return Ok(());
        }
        let problem = "center_rewards_coefficient holds the scores of pairs around 0, and loss = \
                       \"pointwise\" has labels for that";
        Err(from.unsound(problem, "leave it out"))
    }
}

impl StageSettings for RewardModel {
    fn word(&self) -> &'static str {
        WORD
    }

    fn columns(&self) -> &'static [&'static str] {
        match self.loss {
            RewardLoss::Pairwise => &["prompt", "chosen", "rejected"],
            RewardLoss::Pointwise => &["prompt", "completion", "label"],
        }
    }

    fn other_rows(&self) -> Option<&'static str> {
        Some("pairs or labels")
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

    fn tokens_per_step(&self, _prompt_max: u32) -> u64 {
        match self.loss {
            RewardLoss::Pairwise => 2 * self.rows.tokens(),
            RewardLoss::Pointwise => self.rows.tokens(),
        }
    }
}
