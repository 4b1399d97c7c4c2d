//! Data sets, the tokenizer, prompt templates: from rows on disk to token ids.
//!
//! | module | what it holds |
//! |---|---|
//! | [`dataset`] | rows of JSON and Parquet files through a job's column mapping |
//! | [`row`] | one row, by what its columns mean |
//! | [`lines`], [`table`] | rows of JSON files, rows of Parquet files |
//! | [`columns`] | what the job file calls a row's columns |
//! | [`json`], [`python`] | values as they are written, values as Python shows them |
//! | [`message`] | messages of a conversation, with every key that they have |
//! | [`naming`] | what a file is that is not what it should be |
//! | [`tokenizer`] | Hugging Face tokenizers: ids, special tokens, the fit with a model's vocabulary |
//! | [`template`], [`jinja`], `concat` | a row's prompt as the model reads it; templates as transformers renders them |
//! | [`rendered`] | a prompt and its completion, as a template wrote them |
//! | [`prompts`] | prompts of a data set, tokenised once (token in, token out) |
//! | [`supervision`] | batches of `pretrain` and `sft` |
//! | [`preferences`] | batches of `dpo` and `reward-model` |
//! | [`shuffle`] | which rows a step takes |
//!
//! Everything here is a function of files and a seed: no clock, no randomness of its own.

pub mod columns;
mod concat;
pub mod dataset;
pub mod error;
pub mod jinja;
pub mod json;
pub mod lines;
pub mod message;
pub mod naming;
pub mod preferences;
pub mod prompts;
pub mod python;
pub mod questions;
pub mod rendered;
pub mod row;
pub mod shuffle;
pub mod supervision;
pub mod table;
pub mod template;
pub mod tokenizer;

pub use dataset::{DataSet, files, is_pattern, matches};
pub use error::DataError;
pub use json::Json;
pub use message::{Message, Spoken};
pub use preferences::{Preferences, Preferred};
pub use prompts::{Lengths, Prompt, Prompts};
pub use questions::Questions;
pub use row::Row;
pub use shuffle::rows_of_step;
pub use supervision::Supervision;
pub use template::{Telling, Template};
pub use tokenizer::{ReadBack, Tokenizer};
