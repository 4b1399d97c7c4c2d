//! Model architectures, their Hugging Face checkpoints in and out, and parity with transformers.
//!
//! [`r1d_shape`] describes the parts of an architecture; this crate builds it from pieces that have
//! the field's names ([`mla`], [`gqa`], [`router`], [`moe`], [`rope`], [`rms_norm`], [`swiglu`]).
//! [`CausalLm`] puts embedding and head around the blocks and runs them in three ways:
//!
//! | pass | tokens | attention |
//! |---|---|---|
//! | [`CausalLm::forward`] | whole sequences, packed `[T, D]` without padding | on a padded `[B, H, L, L]` view |
//! | [`CausalLm::prefill`] | the same, and leaves what later tokens need in a [`Cache`] | the same |
//! | [`CausalLm::decode`] | one token per slot | over the cache; MLA in its latent space |
//!
//! [`SequenceClassifier`] is the same trunk under a scalar head: reward models and value models.
//!
//! In batch-invariant mode ([`Forward::invariant`]) a row's bits depend on its own sequence only,
//! and the three ways give the same bits.

mod adapters;
mod attention;
mod blockwise;
mod cache;
mod causal_lm;
pub mod checkpoint;
mod decoder;
mod dispatch;
mod error;
mod expert_group;
mod forward;
mod fused;
mod gqa;
mod init;
mod invariance;
mod logprobs;
mod lora;
mod matmul;
mod merged;
mod mla;
mod moe;
mod packed;
mod packed_weights;
mod parts;
mod predict;
mod prediction;
mod rms_norm;
mod rope;
mod rounded;
mod router;
mod sampling_passes;
mod sequence_classifier;
mod swiglu;
mod tile;
mod weights;

pub use adapters::LoraSpec;
pub use blockwise::Blockwise;
pub use cache::{Cache, Places, SlotSet};
pub use causal_lm::{CausalLm, Opening};
pub use error::{Fault, ModelError, Result};
pub use expert_group::{ExpertGroup, is_of_experts};
pub use logprobs::{kept_logprobs, token_logprobs};
pub use lora::ADAPTER_CONFIG_FILE;
pub use merged::MergedWeights;
pub use packed::{AuxLoss, Forward, Output, Packed};
pub use packed_weights::PackedWeights;
pub use parts::{
    AttentionParts, DenseParts, ExpertParts, FeedForwardParts, GroupedParts, LatentParts,
    LayerParts, ModelParts, Norm, QueryParts,
};
pub use r1d_shape::{AttentionSizes, Config, RouterRule, Scoring, Summary};
pub use rounded::{RoundedMatrix, RoundedWeights};
pub use sequence_classifier::SequenceClassifier;
