//! What a job will do, before it does it.

use crate::ids::JobId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a job will do, before it does it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The job file's `name`.
    pub name: String,
    /// The model's source, and its architecture.
    pub model: String,
    /// Number of the model's parameters; `None` if it is not known.
    pub parameters: Option<u64>,
    /// How the job is spread over devices; absent if it takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<PlanLayout>,
    /// The job's stages in their order.
    pub stages: Vec<PlanStage>,
    /// What looks like a mistake in the job file, but may be meant.
    pub warnings: Vec<String>,
    /// What all stages together leave on disk at most, by directory: the daemon's state directory,
    /// and `checkpoint.to` if the job has it. Stages that are taken over leave nothing but `final`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<PlanDisk>,
    /// The job file with every default filled in.
    pub resolved: String,
}

/// How a job is spread over devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLayout {
    /// Copies of the model, or of each shard of its experts.
    pub data: u32,
    /// Shards of the experts; the job takes `data × expert` devices.
    pub expert: u32,
    /// What copies of the same weights share: `none`, `optimizer` or `parameters`.
    pub shard: String,
    /// Whether any number of devices gives the same bits.
    pub layout_independent: bool,
}

/// What a job leaves in a directory at most, and what is free there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanDisk {
    /// The directory.
    pub directory: PathBuf,
    /// Most bytes that the job leaves there.
    pub bytes: u64,
    /// Bytes that are free there; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
}

/// What a stage will do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanStage {
    /// The stage's name, unique in its job.
    pub name: String,
    /// The stage's kind: `sft`, `grpo`, …
    pub kind: String,
    /// The name in `[models]` of the model that the stage trains; absent for the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The weights that it starts from: `base`, or the name of a stage.
    pub from: String,
    /// Names of its data sets, joined by ` + `.
    pub data: String,
    /// Rows of its data; 0 until the stage that makes them is finished.
    pub rows: u64,
    /// Steps of the stage; 0 if the number depends on rows that are not there yet.
    pub steps: u64,
    /// Most tokens that one step samples or trains on, without further rounds of dynamic sampling;
    /// 0 for an `eval` stage.
    pub tokens_per_step: u64,
    /// Names of its rewards.
    pub rewards: Vec<String>,
    /// The earlier job whose finished stage would be taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<JobId>,
    /// Bytes that the stage takes on its device, or on each if the job has a
    /// [layout](Plan::layout), by holder: `policy`, `reference`, `optimiser`, `gradients`,
    /// `update`, `value model`, `reward models`, `judges`, `sampler`.
    pub memory: BTreeMap<String, u64>,
    /// Most of these bytes at a time: on a GPU an update has the memory of the sampler's cache, so
    /// the larger of the two counts.
    #[serde(default)]
    pub memory_peak: u64,
    /// Most bytes that the stage takes of the host's memory beside the device's, by holder:
    /// `snapshot`, `optimiser`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_memory: BTreeMap<String, u64>,
    /// The evaluations that are made while the stage is at work. Of their completions nothing stays
    /// on disk but the results.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evals: Vec<PlanEval>,
    /// Most bytes that the stage leaves on disk, by what they are: `checkpoints`, `rollouts`,
    /// `journal`, `data set`, `final`. What grows with a number of steps that is not known yet is
    /// left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disk: BTreeMap<String, u64>,
}

/// An evaluation that is made while a stage is at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEval {
    /// Name of its data set.
    pub data: String,
    /// How often it is made, that before the job's first step included; 0 if that depends on a
    /// number of steps that is not known yet.
    pub times: u64,
    /// Completions that are sampled each time.
    pub completions: u64,
    /// Most tokens of prompts and completions, of all times together.
    pub tokens: u64,
}
