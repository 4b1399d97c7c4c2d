//! `kind = "pretrain"`: next-token training on packed text.

use super::rows::RowBatch;
use super::settings::StageSettings;
use super::training::{Prediction, Router, Training};
use r1d_job_macros::{Keys, Read, Write};

/// The kind's name.
pub(super) const WORD: &str = "pretrain";

pub(super) const MEANING: &str = "\
    next-token training on text, packed into sequences of one length.";

/// Next-token training on packed text.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Pretrain {
    /// The packed sequences of a step.
    #[key(
        part,
        batch_size(unit = "sequences", meaning = "Packed sequences of one update."),
        max_length(
            meaning = "Tokens of a packed sequence; documents run into each other with the \
                       end-of-sequence id between them."
        )
    )]
    pub rows: RowBatch,
    /// How the weights are trained.
    #[key(part, learning_rate(default = 3e-4))]
    pub training: Training,
    /// Balance of the router.
    #[key(
        part,
        bias_update_speed(default = 0.001),
        aux_loss_alpha(default = 0.0001)
    )]
    pub router: Router,
    /// Training of the prediction module.
    #[key(part)]
    pub prediction: Prediction,
}

impl StageSettings for Pretrain {
    fn word(&self) -> &'static str {
        WORD
    }

    fn columns(&self) -> &'static [&'static str] {
        &["text"]
    }

    fn other_rows(&self) -> Option<&'static str> {
        Some("text")
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

    fn mtp_loss_weight(&self) -> f64 {
        self.prediction.mtp_loss_weight
    }
}
