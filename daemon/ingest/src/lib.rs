//! Token sets: what a job's stages read, made once of files, a template and a tokenizer, and kept
//! on the disk under the hash of all that it depends on. Jobs share a set, a restart opens it, and
//! the rows of a step are read from it when the step needs them: none is kept in memory.
//!
//! | module | what it holds |
//! |---|---|
//! | [`file`] | the file of a set: written, checked, read |
//! | [`key`] | the hash that names it |
//! | [`folder`] | sets that are there, made, shared and removed |
//! | [`request`], [`make`] | what a set is made of; what its makers share |
//! | `parallel` | work on rows, several at a time |
//! | [`child`] | the process without rights that makes it |
//! | [`rows`] | the rows of a data set |
//! | [`prompts`] | prompts, tokenised (token in, token out) |
//! | [`supervision`], `documents` | batches of `pretrain` and `sft` |
//! | [`preferences`] | batches of `dpo` and `reward-model` |
//! | [`order`], `ahead` | which rows a step takes; orders made before they are wanted |
//! | `permutation` | the order of an epoch, and the file that holds a long one |
//!
//! The batch of a step is a function of files and a seed: no clock, no randomness of its own.

#![warn(clippy::too_many_lines)]

mod ahead;
pub mod child;
mod documents;
pub mod file;
pub mod folder;
pub mod key;
pub mod make;
pub mod order;
mod parallel;
mod permutation;
pub mod preferences;
pub mod prompts;
pub mod request;
pub mod rows;
pub mod supervision;

pub use child::{IDLE_MAX, Maker, serve_child};
pub use file::{SetError, TokenSet};
pub use folder::{Contents, GetError, TokenSets};
pub use key::Key;
pub use make::{Done, MakeError, MakeStatus};
pub use order::{Order, Orders, StepError};
pub use permutation::{InThisProcess, MakesOrders};
pub use preferences::{Preferences, Preferred};
pub use prompts::{Lengths, Prompt, Prompts};
pub use request::{Rendering, Request, RowsRef, TaughtRef};
pub use rows::Rows;
pub use supervision::Supervision;
