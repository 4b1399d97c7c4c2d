//! The outcome of a reward plugin for one completion (`RWD-2`).

use serde::{Deserialize, Serialize};

/// The five ways in which judging a completion can end. Time in a queue never counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The plugin judged the completion.
    Score {
        /// The score, within the plugin's range.
        value: f32,
        /// Parts of the score, one per name that the plugin declares.
        parts: Vec<f32>,
    },
    /// The reference is unusable: the sample is masked, never scored 0.
    Abstain {
        /// The plugin's own words.
        reason: String,
    },
    /// The plugin trapped, reported an internal error, or broke its contract.
    Trap {
        /// What happened, in words.
        reason: String,
    },
    /// The call used up its limit of fuel, which grows with its input.
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
    /// How the judging ended.
    pub outcome: Outcome,
    /// The value that enters the reward: the score, or what `on_fault` / `on_abstain` put in its
    /// place; `None` drops the sample.
    pub value: Option<f32>,
    /// Fuel that the call used: an exact, reproducible cost.
    pub fuel: u64,
}
