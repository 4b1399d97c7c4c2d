//! Why a job's inputs cannot be opened.

use crate::datasets::DataSetError;
use crate::job_sets::SetsError;
use crate::reading::Unwanted;
use r1d_data::DataError;
use r1d_job::JobError;
use r1d_proto::remedy::is_the_machines;
use r1d_rewards::RewardError;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Sets(#[from] SetsError),
    #[error("model: cannot read {}: {source}", path.display())]
    Model {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("model {}: {problem}", path.display())]
    Weights { path: PathBuf, problem: String },
    #[error("model {}: {problem}", path.display())]
    Config { path: PathBuf, problem: String },
    #[error("reward `{name}`: {source}")]
    Reward { name: String, source: RewardError },
    #[error(
        "reward `{name}`: its plugin asks a model, and nothing says which: no reward-model stage \
         of this job is called {plugin:?}: set `model` to a stage that comes before, a table \
         [models.NAME], or the path (with a slash) of a Hugging Face directory"
    )]
    AsksWhom { name: String, plugin: String },
    #[error(
        "reward `{name}`: `model` = {model:?}, and its plugin {plugin} asks nobody: leave `model` \
         out, or name a plugin that asks a model"
    )]
    AsksNobody {
        name: String,
        model: String,
        plugin: String,
    },
    #[error("{0}")]
    OtherKind(String),
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    #[error(
        "[[stage]] {stage:?}, [[stage.reward]] {reward:?}: no row of data.{data} is of the domain \
         {domain:?}, so it would judge none: its rows are of {known}"
    )]
    Domain {
        stage: String,
        reward: String,
        data: String,
        domain: String,
        known: String,
    },
    #[error("data.{name} is not in the job")]
    NoData { name: String },
    #[error("model {model} is not in the job")]
    NoModel { model: usize },
    #[error(transparent)]
    Unwanted(#[from] Unwanted),
}

impl LoadError {
    /// Whether the machine or the daemon's disk is at fault, not what the job names: another try
    /// may succeed.
    pub(crate) fn is_the_machines(&self) -> bool {
        match self {
            LoadError::Sets(error) if error.is_the_machines() => true,
            LoadError::Reward {
                source: RewardError::Lost { .. },
                ..
            } => true,
            error => is_the_machines(error),
        }
    }
}
