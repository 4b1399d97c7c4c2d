//! What `r1d plugin` prints and `r1ctl plugin` shows: JSON documents, one type each.

use crate::verdict::Outcome;
use serde::{Deserialize, Serialize};

/// One line of `plugin score`: the verdict on one completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub verdict: VerdictKind,
    /// Null unless the verdict is `score`, as `parts`.
    pub score: Option<f32>,
    pub parts: Option<Vec<f32>>,
    pub reason: Option<String>,
    /// Exact and reproducible; a group's is shown in equal shares.
    pub fuel: u64,
    /// Milliseconds of the judging alone.
    pub ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    Score,
    Abstain,
    Trap,
    OutOfFuel,
    OutOfTime,
}

impl VerdictKind {
    pub fn of(outcome: &Outcome) -> VerdictKind {
        match outcome {
            Outcome::Score { .. } => VerdictKind::Score,
            Outcome::Abstain { .. } => VerdictKind::Abstain,
            Outcome::Trap { .. } => VerdictKind::Trap,
            Outcome::OutOfFuel => VerdictKind::OutOfFuel,
            Outcome::OutOfTime => VerdictKind::OutOfTime,
        }
    }

    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            VerdictKind::Score => "score",
            VerdictKind::Abstain => "abstain",
            VerdictKind::Trap => "trap",
            VerdictKind::OutOfFuel => "out_of_fuel",
            VerdictKind::OutOfTime => "out_of_time",
        }
    }
}

/// `plugin inspect`, and an entry of `plugin list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    /// What a job calls it: the file's name without `.wasm`.
    pub plugin: String,
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    /// Null when it is refused.
    pub about: Option<About>,
    /// Why it is refused.
    pub refused: Option<String>,
}

/// What a component says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub name: String,
    pub version: String,
    /// `reward`, `group-reward` or `judged-reward`.
    pub world: String,
    pub min: f32,
    pub max: f32,
    pub parts: Vec<String>,
    /// Golden cases that it brings.
    pub golden_cases: u64,
    /// Public keys whose signatures of the file are beside it and right, hex.
    pub signed_by: Vec<String>,
}

/// `plugin test`: golden cases through the sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    pub plugin: String,
    pub cases: u64,
    pub differing: Vec<Difference>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    pub case: String,
    pub difference: String,
}

/// `plugin check`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    pub plugin: String,
    pub passed: bool,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub check: String,
    pub passed: bool,
    /// What was seen.
    pub found: String,
}

/// `plugin bench`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Benched {
    pub plugin: String,
    /// To find, check and configure it, its code being cached, in milliseconds.
    pub load_ms: f64,
    pub inputs: Vec<BenchedInput>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchedInput {
    pub input: String,
    /// Completions of it that were judged, and bytes of one (the mean).
    pub completions: u64,
    pub bytes: u64,
    pub fuel_per_completion: u64,
    /// Per KiB of input.
    pub fuel_per_kb: u64,
    /// Of one thread.
    pub completions_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Verdicts other than a score.
    pub unscored: u64,
}

/// `plugin keygen` and `plugin sign`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signed {
    /// The file that was written.
    pub file: String,
    /// Ed25519, hex.
    pub public_key: String,
}

/// `rescore`: a run's completions under another plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rescored {
    /// The reward of the run that is compared with.
    pub reward: String,
    pub plugin: String,
    /// SHA-256 of the other plugin's component.
    pub sha256: String,
    pub completions: u64,
    pub agreeing: u64,
    /// How often the two verdicts met, most frequent first.
    pub pairs: Vec<ScorePair>,
    pub disagreements: Vec<Disagreement>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScorePair {
    pub recorded: String,
    pub rescored: String,
    pub completions: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disagreement {
    pub stage: u32,
    pub step: u64,
    pub prompt_index: u32,
    pub sample_index: u32,
    pub recorded: String,
    pub rescored: String,
    pub prompt: String,
    pub completion: String,
    pub reference: Option<String>,
}
