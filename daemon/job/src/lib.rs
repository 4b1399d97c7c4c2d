//! The job file (`job.toml`) and the daemon's configuration (`r1d.toml`): types, validation that
//! names the key, the plan.
//!
//! | module | what it holds |
//! |---|---|
//! | [`file`] | tables of settings: what keys they have; any table checked, read and written |
//! | [`job`], [`stage`], [`reward`], [`eval`] | the typed job |
//! | [`limits`], [`size`] | what a job may ask for at most, alone and together |
//! | [`validate`] | pairs of settings that cannot work together, each with its fix |
//! | [`write`](mod@write) | a job as `job.toml` again, every default filled in |
//! | [`fingerprint`] | what a stage's outcome depends on |
//! | [`plan`], [`model_shape`] | tokens per step, memory by actor, warnings |
//! | [`daemon`] | `r1d.toml` |
//! | [`reference`] | `explain`, the reference page and the JSON schema |
//!
//! This crate reads no file: it is handed the job file as text, and the daemon checks whether the
//! paths in it exist.

pub mod daemon;
pub mod error;
pub mod eval;
mod fields;
pub mod file;
pub mod fingerprint;
pub mod job;
mod job_keys;
pub mod limits;
pub mod model_shape;
pub mod plan;
pub mod reference;
pub mod reward;
pub mod size;
pub mod stage;
pub mod validate;
pub mod write;

pub use daemon::DaemonConfig;
pub use error::JobError;
pub use eval::{Eval, Metric};
pub use job::{Checkpoint, DataSource, Job, Model, Sampler, TemplateSource, Weights};
pub use model_shape::{ModelShape, RoutingShape};
pub use reward::{AskedModel, Limits, ModelRef, OnAbstain, OnFault, Plugin, Reward};
pub use stage::{
    Dpo, Grpo, Length, Origin, Ppo, Pretrain, RejectionSampling, RewardLoss, RewardModel, Rollouts,
    Schedule, Select, Sft, Stage, StageKind, Tokenize,
};
