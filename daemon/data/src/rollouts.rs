//! Scored rollouts as Parquet, one file per step.

use crate::error::DataError;
use r1d_proto::rollout::ScoredRollout;
use std::path::Path;

/// A record and the text that people read.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutRow {
    pub scored: ScoredRollout,
    /// As the model read it.
    pub prompt: String,
    pub completion: String,
    pub reference: Option<String>,
}

/// Writes the rows of a step; the file appears whole or not at all.
pub fn write(path: &Path, rows: &[RolloutRow]) -> Result<(), DataError> {
    let _ = (path, rows);
    todo!()
}

pub fn read(path: &Path) -> Result<Vec<RolloutRow>, DataError> {
    let _ = path;
    todo!()
}
