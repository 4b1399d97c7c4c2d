//! How r1d learns: objectives, packing, optimiser and schedules, and the trainer that puts them
//! together. Functions of tensors; no actors, no files.
//!
//! | module | what it holds |
//! |---|---|
//! | [`objective`] | the GRPO family of losses, a function of per-token log-probabilities |
//! | `correction` | weights that correct the sampler's deviation from the trainer |
//! | [`preference`] | losses of reward models and of DPO |
//! | [`estimate`], [`value`] | PPO's advantages and returns, plain arithmetic; its value loss |
//! | [`minibatch`] | the random split of a rollout batch |
//! | [`packing`] | sequences into micro-batches by token budget |
//! | [`batch`] | sequences as the tensors of a packed forward pass |
//! | [`head`] | log-probabilities in chunks, never all the logits |
//! | `fused_head` | the same by r1d's own kernels on a GPU |
//! | [`sampling_mask`] | the ids that sampling left of each token's vocabulary, which log-probabilities are over |
//! | [`arena`] | flat memory for what is kept of each parameter |
//! | [`optimiser`] | AdamW over the model's parameters, on their device or the host, with exact state |
//! | [`schedule`] | the learning rate of each update |
//! | [`router`] | balance of the experts |
//! | [`gang`] | [`Gang`]: the trainers of the ranks of a gang, which make the same updates together |
//! | `division` | which rank computes which items of a step |
//! | `tally` | numbers for the metrics, folded over micro-batches and ranks |
//! | [`trainer`] | [`Trainer`]: `train` (in `grpo`), `supervise`, `train_reward`, `train_dpo`, `train_ppo` |
//! | `smaller` | smaller micro-batches where memory ran out |
//! | [`reward`] | how well a reward model separates |
//!
//! A minibatch's loss and gradients do not depend on how it is cut into micro-batches and chunks,
//! except for rounding: every token has its final weight from the start.

#![warn(clippy::too_many_lines)]

pub mod arena;
pub mod batch;
mod correction;
mod division;
mod dpo;
mod error;
pub mod estimate;
mod fused_head;
pub mod gang;
mod grpo;
pub mod head;
mod last_token;
mod metrics;
pub mod minibatch;
pub mod objective;
pub mod optimiser;
pub mod packing;
mod ppo;
pub mod preference;
pub mod reward;
pub mod router;
pub mod sampling_mask;
pub mod schedule;
mod sequences;
mod smaller;
mod supervise;
mod tally;
pub mod trainer;
pub mod value;

pub use error::LearnError;
pub use gang::Gang;
pub use ppo::Critic;
pub use trainer::Trainer;
