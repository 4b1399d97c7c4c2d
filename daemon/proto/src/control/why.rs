//! What a job waits for.

use super::job::State;
use crate::ids::JobId;
use serde::{Deserialize, Serialize};

/// The chain of waits, outermost first: each line names who waits for what, since when, and until
/// when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The job's id.
    pub job: JobId,
    /// The job's state.
    pub state: State,
    /// Whether it still has its device, for the step in flight, although it is paused; absent
    /// unless so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pausing: bool,
    /// The waits; empty if the job has ended.
    pub waits: Vec<Wait>,
    /// Why the job failed; absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// Who waits: `job`, or the part of it that is at work, in words.
    pub owner: String,
    /// What it waits for, in words.
    pub waits_for: String,
    /// Seconds since the wait began.
    pub since_s: f64,
    /// Seconds from the begin of the wait to its deadline; `None`: it may take any time.
    pub deadline_s: Option<f64>,
}
