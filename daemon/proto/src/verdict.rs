//! What a reward plugin said about one completion (`RWD-2`).

use serde::{Deserialize, Serialize};

/// The five ways in which judging a completion can end. Queueing is never part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Score {
        value: f32,
        parts: Vec<f32>,
    },
    /// The reference is unusable: the sample is masked, never scored 0.
    Abstain {
        reason: String,
    },
    /// The plugin trapped, reported an internal error, or broke its contract.
    Trap {
        reason: String,
    },
    OutOfFuel,
    /// The wall-clock backstop fired, after retries. It stops the job; it is never trained on.
    OutOfTime,
}

/// One reward's outcome for one completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The reward's name in the job.
    pub plugin: String,
    /// SHA-256 of the WASM component, hex.
    pub module_sha256: String,
    /// SHA-256 of the configuration JSON handed to the plugin, hex.
    pub config_sha256: String,
    pub outcome: Outcome,
    /// What enters the reward: the score, or what `on_fault` / `on_abstain` put in its place;
    /// `None` drops the sample.
    pub value: Option<f32>,
    /// Fuel that the call used: an exact, reproducible cost.
    pub fuel: u64,
}
