//! Data sets, the tokenizer, prompt templates: from rows on disk to texts and token ids.
//!
//! | module | what it holds |
//! |---|---|
//! | [`dataset`] | rows of JSON and Parquet files through a job's column mapping |
//! | [`row`] | one row, by what its columns mean |
//! | [`lines`], [`table`] | rows of JSON files, rows of Parquet files |
//! | [`columns`] | what the job file calls a row's columns |
//! | [`json`], [`python`] | values as they are written, values as Python shows them |
//! | [`message`] | messages of a conversation, with every key that they have |
//! | [`absent`] | files that a job names and that do not exist |
//! | [`naming`] | what a wrong file really is, for error messages |
//! | [`tokenizer`] | Hugging Face tokenizers: ids, special tokens, the fit with a model's vocabulary |
//! | `words`, `cuts`, `word_pattern`, `word_memory` | texts encoded word by word, quickly: which words a text has; how they are found and remembered |
//! | [`template`], [`jinja`], `concat` | a row's prompt as the model reads it; templates as transformers renders them |
//! | [`rendered`] | a prompt and its completion, as a template wrote them |
//!
//! Everything here is a function of files: no clock, no randomness.

#![warn(clippy::too_many_lines)]

pub mod absent;
pub mod columns;
mod concat;
mod cuts;
pub mod dataset;
pub mod error;
pub mod jinja;
pub mod json;
pub mod lines;
pub mod message;
pub mod naming;
pub mod python;
pub mod questions;
pub mod rendered;
pub mod row;
pub mod table;
pub mod template;
pub mod tokenizer;
mod word_memory;
mod word_pattern;
mod words;

pub use absent::{absent, is_absent};
pub use dataset::{DataSet, files, is_pattern, matches, row_error};
pub use error::DataError;
pub use json::Json;
pub use message::{Message, Spoken};
pub use questions::Questions;
pub use rendered::Rendered;
pub use row::Row;
pub use template::{Telling, Template};
pub use tokenizer::{ReadBack, Tokenizer};
