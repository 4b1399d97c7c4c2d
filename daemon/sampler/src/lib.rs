//! Draws completions from a policy: continuous batching over slots or pages of the cache, sampling
//! by counter, behaviour log-probabilities and experts recorded.
//!
//! | module | what it holds |
//! |---|---|
//! | `request` | what a request must satisfy |
//! | `schedule` | which sample decodes in which slot: pure bookkeeping |
//! | `pages`, `paged_schedule` | the same where the cache is in pages, which rows take as they grow |
//! | `scheduler` | either of them |
//! | `paged` | rows that start in pages, are put back and come back |
//! | `prompts` | prefill, once per group |
//! | `draw` | temperature, top-k, top-p and the inverse CDF of one uniform per token |
//! | `sampling_mask` | the ids that top-k and top-p left, as bits |
//! | `speculate` | two tokens a step, where the model drafts one ahead |
//! | `captured` | decoding by CUDA kernels of r1d's own, where they apply |
//! | `row` | a completion while it decodes, and its record |
//! | `drawn` | what a step drew of every row |
//! | `sampler` | the loop |
//!
//! `ROLL-1`: in the batch-invariant mode a rollout is a function of (weights, seed, stage, step,
//! prompt, sample) alone, bit for bit, whatever the slots, the other groups and the order. Outside
//! it a request gives the same bits each time, but its rollouts depend on their company by
//! rounding; so does one on being put back, where the cache has too few pages for all.
//!
//! `ROLL-2`: the recorded log-probabilities are [`r1d_model::kept_logprobs`] of the decode path's
//! logits, the function that the trainer applies to its own forward pass: equal bits in the
//! batch-invariant mode, within 1e-5 in float32 otherwise. Where the request keeps the sampling
//! mask, both are over the ids that top-k and top-p left, which are recorded too.
//!
//! A completion needs no cache beyond its own prompt and ids: position, ids and uniforms are in
//! device tensors, and the host reads the drawn ids only every few steps, which is what a captured
//! graph of the step needs.

#![warn(clippy::too_many_lines)]

mod captured;
mod draw;
mod drawn;
mod error;
mod paged;
mod paged_schedule;
mod pages;
mod prompts;
mod request;
mod row;
mod sampler;
mod sampling_mask;
mod schedule;
mod scheduler;
mod speculate;

pub use error::{Result, SamplerError};
pub use sampler::Sampler;

// The tiny models of the tests, for those inside the crate.
#[cfg(test)]
extern crate self as r1d_sampler;
#[cfg(test)]
#[path = "../tests/tiny/mod.rs"]
mod tiny;
