//! JSON documents that `r1d plugin` prints and `r1ctl plugin` shows, one type each.

use crate::verdict::Outcome;
use serde::{Deserialize, Serialize};

/// One line of `plugin score`: the verdict on one completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The kind of verdict.
    pub verdict: VerdictKind,
    /// The score; null unless the verdict is `score`.
    pub score: Option<f32>,
    /// Parts of the score; null unless the verdict is `score`.
    pub parts: Option<Vec<f32>>,
    /// The plugin's reason, or why there is no score.
    pub reason: Option<String>,
    /// Fuel that judging took, exact and reproducible; a group's is shown in equal shares.
    pub fuel: u64,
    /// Wall-clock milliseconds of judging, without waiting.
    pub ms: f64,
}

/// Kinds of [`Outcome`], without what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// [`Outcome::Score`].
    Score,
    /// [`Outcome::Abstain`].
    Abstain,
    /// [`Outcome::Trap`].
    Trap,
    /// [`Outcome::OutOfFuel`].
    OutOfFuel,
    /// [`Outcome::OutOfTime`].
    OutOfTime,
}

impl VerdictKind {
    /// The kind of an outcome.
    pub fn of(outcome: &Outcome) -> VerdictKind {
        match outcome {
            Outcome::Score { .. } => VerdictKind::Score,
            Outcome::Abstain { .. } => VerdictKind::Abstain,
            Outcome::Trap { .. } => VerdictKind::Trap,
            Outcome::OutOfFuel => VerdictKind::OutOfFuel,
            Outcome::OutOfTime => VerdictKind::OutOfTime,
        }
    }

    /// The kind's name in JSON.
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

/// What `plugin inspect` prints, and an entry of `plugin list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    /// The name that a job file calls it by: the file's name without `.wasm`.
    pub plugin: String,
    /// The component's absolute path.
    pub file: String,
    /// The component's size.
    pub bytes: u64,
    /// SHA-256 of the component, hex.
    pub sha256: String,
    /// What it declares; null when it is refused.
    pub about: Option<About>,
    /// Why it is refused; null when it is not.
    pub refused: Option<String>,
}

/// What a component declares of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The name that it gives itself.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `reward`, `group-reward` or `judged-reward`.
    pub world: String,
    /// Its lowest score.
    pub min: f32,
    /// Its highest score.
    pub max: f32,
    /// Names of the parts of a score.
    pub parts: Vec<String>,
    /// Number of golden cases in the component.
    pub golden_cases: u64,
    /// Public keys, hex, of which a valid signature of the file lies beside it.
    pub signed_by: Vec<String>,
}

/// What `plugin test` prints: golden cases through the sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// The plugin's name.
    pub plugin: String,
    /// Number of cases.
    pub cases: u64,
    /// Cases whose verdict is not the expected one.
    pub differing: Vec<Difference>,
}

/// A golden case whose verdict is not the expected one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The case's name.
    pub case: String,
    /// What was expected, and what came.
    pub difference: String,
}

/// What `plugin check` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// The plugin's name.
    pub plugin: String,
    /// Whether all checks passed.
    pub passed: bool,
    /// The checks in the order in which they ran.
    pub checks: Vec<Check>,
}

/// One check of a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked: `size`, `range`, …
    pub check: String,
    /// Whether it is as it has to be.
    pub passed: bool,
    /// What the check found, in words.
    pub found: String,
}

/// What `plugin bench` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Benched {
    /// The plugin's name.
    pub plugin: String,
    /// Milliseconds to find, check and configure the plugin when its compiled code is cached.
    pub load_ms: f64,
    /// The inputs, each measured alone.
    pub inputs: Vec<BenchedInput>,
}

/// What one input of a bench costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchedInput {
    /// The input's name, or the path of a file of cases.
    pub input: String,
    /// Number of completions that were judged.
    pub completions: u64,
    /// Mean size of a completion, its prompt included.
    pub bytes: u64,
    /// Mean fuel that a completion took.
    pub fuel_per_completion: u64,
    /// Mean fuel per KiB of input.
    pub fuel_per_kb: u64,
    /// Completions that one thread judges in a second.
    pub completions_per_s: f64,
    /// Median milliseconds of judging one completion.
    pub p50_ms: f64,
    /// Milliseconds of the 99th percentile.
    pub p99_ms: f64,
    /// Number of verdicts other than a score.
    pub unscored: u64,
}

/// What `plugin keygen` and `plugin sign` print.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signed {
    /// The file that was written.
    pub file: String,
    /// The Ed25519 public key, hex.
    pub public_key: String,
}

/// What `rescore` prints: a run's completions under another plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rescored {
    /// Name of the run's reward that the plugin is compared with.
    pub reward: String,
    /// The other plugin's name.
    pub plugin: String,
    /// SHA-256 of the other plugin's component.
    pub sha256: String,
    /// Number of completions that were judged again.
    pub completions: u64,
    /// How many of them got the recorded verdict: the same score, or the same kind of other
    /// verdict.
    pub agreeing: u64,
    /// How often the two verdicts met, most frequent first.
    pub pairs: Vec<ScorePair>,
    /// The first completions with another verdict than the recorded one, up to the request's limit.
    pub disagreements: Vec<Disagreement>,
}

/// Two verdicts on the same completion, and how often they met.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScorePair {
    /// The run's verdict: `score 1`, `trap`, …
    pub recorded: String,
    /// The other plugin's verdict.
    pub rescored: String,
    /// How many completions got these two.
    pub completions: u64,
}

/// A completion with another verdict than the recorded one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disagreement {
    /// Index of the stage in the job file, from 0.
    pub stage: u32,
    /// The step, from 1.
    pub step: u64,
    /// Index of the prompt within the step, from 0.
    pub prompt_index: u32,
    /// Index of the completion within its group, from 0.
    pub sample_index: u32,
    /// The run's verdict.
    pub recorded: String,
    /// The other plugin's verdict.
    pub rescored: String,
    /// The prompt, as the model read it.
    pub prompt: String,
    /// The completion's text.
    pub completion: String,
    /// The row's reference, if it has one.
    pub reference: Option<String>,
}
