//! Names of jobs and samples.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest id of a job, in bytes.
pub const JOB_ID_MAX_BYTES: usize = 64;

/// A job's name for its whole life: lower-case letters and digits, unique in a state directory.
/// Users may type any unambiguous prefix of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place of a sample in its job: the counter that sampling randomness is a function of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SampleKey {
    /// Index of the stage in the job file, from 0.
    pub stage: u32,
    /// Policy update that the sample is drawn for, from 0.
    pub step: u64,
    /// Index of the prompt (the group) within the step, from 0.
    pub prompt: u32,
    /// Index of the completion within its group, from 0.
    pub sample: u32,
}
