//! `kind = "sft"`: supervised fine-tuning; `kind = "distill"`: that of a student on what another
//! model wrote.

use super::rows::RowBatch;
use super::settings::StageSettings;
use super::tokenize::{self, Tokenize};
use super::training::{Adapters, Prediction, Router, Training};
use crate::template::TemplateSource;
use r1d_job_macros::{Keys, Read, Write};

/// The kind's name.
pub(super) const WORD: &str = "sft";

pub(super) const MEANING: &str = "\
    supervised fine-tuning; the loss is on the completion and the end-of-sequence id alone.";

/// Name of the kind that has a `template`.
pub(super) const DISTILL: &str = "distill";

pub(super) const DISTILL_MEANING: &str = "\
    sft of a student, whose `model` is another than the one that wrote the completions: their \
    text is tokenised by the student's own tokenizer, in its own chat template (DeepSeek-R1 2.4).";

/// Training on completions.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct Sft {
    /// How prompts reach the student of a distill stage, whose text it is not. `None`: as each data
    /// set says.
    #[key(
        default = "chat",
        meaning = "How prompts reach the student, whatever the data sets say: \"chat\" (the chat \
                   template beside its tokenizer), \"r1-zero\", \"plain\", or the path of a jinja \
                   file."
    )]
    pub template: Option<TemplateSource>,
    /// The rows of a step.
    #[key(part)]
    pub rows: RowBatch,
    /// How rows are tokenised. `None`: together, except completions that a stage of the same model
    /// sampled.
    #[key(
        unset = "\"together\"; \"apart\" for what a rejection-sampling stage of the same model \
                 kept, which are the ids that it sampled",
        meaning = tokenize::MEANING
    )]
    pub tokenize: Option<Tokenize>,
    /// How the weights are trained.
    #[key(part, learning_rate(default = 2e-5))]
    pub training: Training,
    /// Adapters in the weights' place.
    #[key(part)]
    pub adapters: Adapters,
    /// Balance of the router.
    #[key(part)]
    pub router: Router,
    /// Training of the prediction module.
    #[key(part)]
    pub prediction: Prediction,
}

impl StageSettings for Sft {
    fn word(&self) -> &'static str {
        if self.template.is_some() {
            DISTILL
        } else {
            WORD
        }
    }

    fn columns(&self) -> &'static [&'static str] {
        &["prompt", "completion"]
    }

    fn rows(&self) -> Option<&RowBatch> {
        Some(&self.rows)
    }

    fn training(&self) -> Option<&Training> {
        Some(&self.training)
    }

    fn adapters(&self) -> Option<&Adapters> {
        Some(&self.adapters)
    }

    fn router(&self) -> Option<&Router> {
        Some(&self.router)
    }

    fn mtp_loss_weight(&self) -> f64 {
        self.prediction.mtp_loss_weight
    }

    fn template(&self) -> Option<&TemplateSource> {
        self.template.as_ref()
    }
}
