//! What is durable of a job, as its state machine sees it. An attempt starts from it, and it is
//! kept up to date as stores are confirmed.

use std::path::PathBuf;

/// What is durable of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The stages that have begun, in order.
    pub stages: Vec<StageRecord>,
    /// Finished evaluations: stage, step, data set. The stage is `None` for the weights that the
    /// job starts from.
    pub evals: Vec<(Option<String>, u64, String)>,
}

/// What is durable of a stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageRecord {
    /// Whether the stage has ended.
    pub finished: bool,
    /// Number of committed steps.
    pub step: u64,
    /// Its checkpoints as (steps, directory), oldest first.
    pub checkpoints: Vec<(u64, PathBuf)>,
    /// `num_tokens` of the last committed step: tokens sampled or trained on so far.
    pub num_tokens: f64,
}

impl Record {
    /// The stage to work at: the first of `stages` that is not finished; `None` when all are.
    pub fn stage_at_work(&self, stages: usize) -> Option<usize> {
        (0..stages).find(|i| !self.stages.get(*i).is_some_and(|s| s.finished))
    }

    /// Number of committed steps of a stage; 0 if it has not begun.
    pub fn committed(&self, stage: usize) -> u64 {
        self.stages.get(stage).map_or(0, |s| s.step)
    }

    /// The stage's last checkpoint, as (steps, directory).
    pub fn newest_checkpoint(&self, stage: usize) -> Option<&(u64, PathBuf)> {
        self.stages.get(stage)?.checkpoints.last()
    }

    /// Whether the stage has a checkpoint that holds `step` steps.
    pub fn has_checkpoint(&self, stage: usize, step: u64) -> bool {
        self.stages
            .get(stage)
            .is_some_and(|s| s.checkpoints.iter().any(|(known, _)| *known == step))
    }

    /// Whether the evaluation on `data` after `step` steps of `stage` is recorded.
    pub fn has_eval(&self, stage: &Option<String>, step: u64, data: &str) -> bool {
        self.evals
            .iter()
            .any(|(s, at, name)| s == stage && *at == step && name == data)
    }
}
