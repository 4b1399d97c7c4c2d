//! Model architectures, their Hugging Face checkpoints in and out, and parity with transformers.

pub mod checkpoint;
mod causal_lm;
mod error;
mod logprobs;
mod packed;

pub use causal_lm::{Cache, CausalLm, Config, Summary};
pub use error::{ModelError, Result};
pub use logprobs::token_logprobs;
pub use packed::{Forward, Output, Packed};
