//! `kind = "eval"`: one evaluation of the weights that a stage before has left.

use super::settings::{Longest, StageSettings};
use crate::eval::Eval;

/// The kind's name.
pub(super) const WORD: &str = "eval";

pub(super) const MEANING: &str = "\
    one evaluation of the weights that come `from` a stage, which are passed on as they are. The \
    defaults are R1's protocol.";

impl StageSettings for Eval {
    fn word(&self) -> &'static str {
        WORD
    }

    fn columns(&self) -> &'static [&'static str] {
        &["prompt"]
    }

    fn longest(&self) -> Longest {
        Longest::Completion(self.max_completion_length)
    }
}
