//! The job file (`job.toml`) and the daemon's configuration (`r1d.toml`): types, validation that
//! names the key, the plan.
//!
//! | module | what it holds |
//! |---|---|
//! | [`file`] | tables of settings: what keys they have; any table checked, read and written |
//! | [`job`], [`model`], [`data`], [`stage`], [`reward`], [`eval`], [`sampler`], [`parallel`], [`checkpoint`] | the job: structs whose fields are the settings |
//! | [`parse`] | from a text to a sound job |
//! | [`complete`] | defaults that depend on other tables |
//! | [`layout`] | defaults that depend on the models and the node |
//! | [`validate`] | settings that cannot work together, each with its fix |
//! | [`limits`], [`size`] | what a job may ask for at most, alone and together |
//! | [`fingerprint`] | what a stage's outcome depends on |
//! | [`plan`], [`model_shape`] | tokens per step, memory by actor, warnings |
//! | [`daemon`] | `r1d.toml` |
//! | [`reference`] | `explain`, the reference page and the JSON schema |
//!
//! This crate reads no file: it is handed the job file as text, and the daemon checks whether the
//! paths in it exist.

#![warn(clippy::too_many_lines)]

pub mod checkpoint;
mod complete;
pub mod daemon;
pub mod data;
pub mod error;
pub mod eval;
pub mod file;
pub mod fingerprint;
pub mod job;
pub mod layout;
pub mod limits;
pub mod model;
pub mod model_shape;
pub mod parallel;
mod parse;
pub mod plan;
pub mod reference;
pub mod reward;
pub mod sampler;
mod sampling;
pub mod size;
pub mod stage;
pub mod template;
pub mod validate;

pub use checkpoint::Checkpoint;
pub use daemon::DaemonConfig;
pub use data::DataSource;
pub use error::JobError;
pub use eval::{Eval, Metric};
pub use job::Job;
pub use model::{Model, Weights};
pub use model_shape::{LinearLayers, ModelShape, RoutingShape};
pub use parallel::Parallel;
pub use reward::{AskedModel, Limits, ModelRef, OnAbstain, OnFault, Plugin, Reward};
pub use sampler::Sampler;
pub use stage::{
    Dpo, Grpo, Length, Origin, Ppo, Pretrain, RejectionSampling, RewardLoss, RewardModel, Rollouts,
    RowBatch, Select, Sft, Stage, StageKind, Tokenize, Training,
};
pub use template::TemplateSource;
