//! Decides from a model's config.json, without a tensor, whether and how it can be run. No other
//! crate decides this.
//!
//! config.json → [`Config`], checked as a whole → its [`Blueprint`] → names and shapes of all
//! tensors ([`Config::tensors`]) and counts ([`Config::summary`]); and whether a directory's files
//! have these tensors ([`WeightFiles`]). An architecture is one file that reads its fields
//! ([`deepseek_v3`], [`qwen2`]), registered in [`architecture`]. Control plane and worker both use
//! this crate, so that both refuse the same models in the same words.

#![warn(clippy::too_many_lines)]

mod activations;
pub mod architecture;
mod blueprint;
mod config;
mod deepseek_v2;
mod deepseek_v3;
mod error;
mod fields;
pub mod fp8;
mod gqa;
mod llama;
mod mistral;
mod mla;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
mod router;
mod safetensors;
mod shards;
mod summary;
mod tensors;
mod values;
mod weights;
mod weights_error;

pub use activations::Activations;
pub use blueprint::{AttentionSizes, Blueprint, ExpertSizes, FeedForwardSizes};
pub use config::Config;
pub use error::{ShapeError, contradiction};
pub use gqa::GqaSizes;
pub use mla::MlaSizes;
pub use rope::RopeSpec;
pub use router::{RouterRule, Scoring};
pub use safetensors::{SafetensorsFile, StoredTensor};
pub use shards::{INDEX_FILE, SINGLE_FILE, weight_files};
pub use summary::Summary;
pub use tensors::{EMBEDDING, HEAD, SCORE, TensorShape};
pub use weights::{Head, WeightFiles};
pub use weights_error::WeightsError;
