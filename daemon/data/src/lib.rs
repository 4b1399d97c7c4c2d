//! Data sets, the tokenizer, prompt templates: from rows on disk to token ids, and from rollouts back to files that people read.
//!
//! | module | what it holds |
//! |---|---|
//! | [`dataset`] | JSONL and Parquet rows through a job's column mapping |
//! | [`tokenizer`] | Hugging Face tokenizers: ids, special tokens, the fit with a model's vocabulary |
//! | [`template`] | a row's prompt as the model reads it |
//! | [`prompts`] | prompts of a data set, tokenised once (token in, token out) |
//! | [`supervision`] | batches of `pretrain` and `sft` |
//! | [`preferences`] | batches of `dpo` and `reward-model` |
//! | [`shuffle`] | which rows a step takes |
//! | [`rollouts`] | scored rollouts as Parquet |
//! | [`storage`] | files that appear whole or not at all |
//!
//! Everything here is a function of files and a seed: no clock, no randomness of its own.

pub mod dataset;
pub mod error;
pub mod preferences;
pub mod prompts;
pub mod questions;
pub mod rollouts;
pub mod shuffle;
pub mod storage;
pub mod supervision;
pub mod template;
pub mod tokenizer;

pub use dataset::{DataSet, Message, Row, files};
pub use error::DataError;
pub use preferences::{Preferences, Preferred};
pub use prompts::{Prompt, Prompts};
pub use questions::Questions;
pub use shuffle::rows_of_step;
pub use supervision::Supervision;
pub use template::Template;
pub use tokenizer::{ReadBack, Tokenizer};
