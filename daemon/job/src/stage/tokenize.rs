//! How a prompt and its completion become ids.

use crate::file::setting::by_words;
use serde::{Deserialize, Serialize};

/// How a prompt and its completion become ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenize {
    /// Both are one text, cut where the prompt's own tokens end.
    Together,
    /// Each is tokenised by itself, as a sampler does.
    Apart,
}

by_words!(Tokenize);

/// What `r1ctl explain` says of the key.
pub(super) const MEANING: &str = "\
    \"together\": prompt and completion are one text, tokenised together and cut where the \
    prompt's own tokens end, as TRL does; \"apart\": each by itself, as a sampler makes them, so \
    that no token spans the border (a SentencePiece tokenizer may put a space before the \
    completion then).";
