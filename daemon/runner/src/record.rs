//! What is durable of a job, as its state machine sees it: where an attempt starts from, kept up to
//! date as stores are confirmed.

use std::path::PathBuf;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The stages begun, in order.
    pub stages: Vec<StageRecord>,
    /// Evaluations done: stage, step, data set.
    pub evals: Vec<(Option<String>, u64, String)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageRecord {
    pub finished: bool,
    /// Steps committed.
    pub step: u64,
    /// Steps and directories, oldest first.
    pub checkpoints: Vec<(u64, PathBuf)>,
    /// `num_tokens` of the last committed step: tokens sampled or trained on so far.
    pub num_tokens: f64,
}

impl Record {
    /// The stage to work at: the first that is not finished; `None` when all `stages` are.
    pub fn stage_at_work(&self, stages: usize) -> Option<usize> {
        (0..stages).find(|i| !self.stages.get(*i).is_some_and(|s| s.finished))
    }

    /// Steps committed of a stage.
    pub fn committed(&self, stage: usize) -> u64 {
        self.stages.get(stage).map_or(0, |s| s.step)
    }

    pub fn newest_checkpoint(&self, stage: usize) -> Option<&(u64, PathBuf)> {
        self.stages.get(stage)?.checkpoints.last()
    }

    pub fn has_checkpoint(&self, stage: usize, step: u64) -> bool {
        self.stages
            .get(stage)
            .is_some_and(|s| s.checkpoints.iter().any(|(known, _)| *known == step))
    }

    pub fn has_eval(&self, stage: &Option<String>, step: u64, data: &str) -> bool {
        self.evals
            .iter()
            .any(|(s, at, name)| s == stage && *at == step && name == data)
    }
}
