//! The job file (`job.toml`) and the daemon's configuration (`r1d.toml`): types, validation that
//! names the key, the plan.
//!
//! | module | what it holds |
//! |---|---|
//! | [`keys`] | every key of both files, once: type, default, unit, meaning. What follows is driven by it |
//! | [`check`] | a document against the keys: unknown keys, wrong types, ranges; the defaults filled in |
//! | [`job`], [`stage`], [`reward`], [`eval`] | the typed job |
//! | [`limits`], [`size`] | what a job may ask for at most, alone and together |
//! | [`sound`] | pairs of settings that cannot work together, each with its fix |
//! | [`write`](mod@write) | a job as `job.toml` again, every default filled in |
//! | [`key`] | what a stage's outcome depends on |
//! | [`plan`], [`facts`] | tokens per step, memory by actor, warnings |
//! | [`daemon`] | `r1d.toml` |
//! | [`reference`] | `explain`, the reference page and the JSON schema |
//!
//! This crate reads no file but the one it is handed as text; whether the paths in it exist is the
//! daemon's to say.

pub mod check;
pub mod daemon;
pub mod error;
pub mod eval;
pub mod facts;
mod fields;
pub mod job;
pub mod key;
pub mod keys;
pub mod limits;
pub mod plan;
pub mod reference;
pub mod reward;
pub mod size;
pub mod sound;
pub mod stage;
pub mod write;

pub use daemon::DaemonConfig;
pub use error::JobError;
pub use eval::{Eval, Metric};
pub use facts::{ModelFacts, RoutingFacts};
pub use job::{Checkpoint, DataSource, Job, Model, Sampler, TemplateSource, Weights};
pub use reward::{Answering, Limits, OnAbstain, OnFault, Plugin, Respondent, Reward};
pub use stage::{
    Dpo, Grpo, Length, Origin, Ppo, Pretrain, RejectionSampling, RewardLoss, RewardModel, Rollouts,
    Schedule, Select, Sft, Stage, StageKind, Tokenize,
};
