//! What a plan knows of the files that a job names.

use crate::model_shape::ModelShape;
use crate::stage::Stage;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the daemon learned from the files that a job names.
#[derive(Clone, Debug, Default)]
pub struct InputFacts {
    /// Number of rows (packed sequences, for `pretrain`) of each stage's data, by stage name. A
    /// stage whose data an earlier stage has yet to make has no entry.
    pub rows: BTreeMap<String, u64>,
    /// Longest prompt in tokens of each stage that samples, by stage name.
    pub prompt_max: BTreeMap<String, u32>,
    /// Longest prompt of the evaluations in tokens, for the tokenizer of each of
    /// [`crate::Job::models`].
    pub eval_prompt_max: Vec<u32>,
    /// Number of rows of the data set of each of [`crate::Job::evaluations`].
    pub eval_rows: Vec<u64>,
    /// Shapes of the models that rewards name by their directory.
    pub asked: BTreeMap<PathBuf, ModelShape>,
}

impl InputFacts {
    /// Number of rows of the stage's data; 0 while it is not known.
    pub(crate) fn rows(&self, stage: &Stage) -> u64 {
        self.rows.get(&stage.name).copied().unwrap_or(0)
    }

    /// Longest prompt of the evaluations of [`crate::Job::models`]' `model`, in tokens; 0 while it
    /// is not known.
    pub(crate) fn eval_prompt_max(&self, model: usize) -> u32 {
        self.eval_prompt_max.get(model).copied().unwrap_or(0)
    }

    /// Longest prompt of the stage in tokens; 0 while it is not known.
    pub(crate) fn prompt_max(&self, stage: &Stage) -> u32 {
        self.prompt_max.get(&stage.name).copied().unwrap_or(0)
    }
}
