//! A reward of a stage: which plugin judges, and what its verdict does.

use crate::error::JobError;
use crate::fields::ResolvedTable;
use crate::file::absolute;
use crate::file::check::is_name;
use std::path::{Path, PathBuf};

/// Default of `max_answer_length`, in tokens.
pub const MAX_ANSWER_LENGTH: u32 = 1024;

/// A reward: a plugin with its settings and weight in a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Reward {
    /// Name in metrics and verdicts; unique in its stage.
    pub name: String,
    /// The plugin that scores completions.
    pub plugin: Plugin,
    /// Factor of its score in the sum of all rewards.
    pub weight: f64,
    /// Settings of the plugin in JSON: an object with sorted keys, the same bytes each time.
    pub config_json: String,
    /// What judging one completion may cost.
    pub limits: Limits,
    /// The model that the plugin asks, if it asks one. `None`: the reward-model stage with the
    /// plugin's name.
    pub model: Option<ModelRef>,
    /// Length limit in tokens of one answer of a generative model; the plugin may ask for less.
    pub max_answer_length: u32,
    /// Domains of the rows that it judges; empty: all rows.
    pub domains: Vec<String>,
    /// Number of steps of the stage before it begins to judge.
    pub after_step: u64,
    /// What an abstention does.
    pub on_abstain: OnAbstain,
    /// What a fault does.
    pub on_fault: OnFault,
    /// Score that a completion needs to be kept; a completion on which the plugin fails is not kept
    /// either. Only in a rejection-sampling stage.
    pub min_score: Option<f64>,
    /// SHA-256 that the component must have, 64 hex digits; `None`: any.
    pub sha256: Option<String>,
}

/// The component that a reward names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// A name: `<name>.wasm` in the first plugin directory that has it.
    Named(String),
    /// The path of a component.
    Path(PathBuf),
}

/// The model that a judged plugin asks, as the job file names it. Its own kind decides whether it
/// answers with numbers or text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// The name of an earlier stage or of a `[models.NAME]`.
    Named(String),
    /// A Hugging Face directory: a `…ForSequenceClassification`, or a causal language model.
    Directory(PathBuf),
}

/// The model that a judged plugin asks, once it is found; see [`crate::Job::asked`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskedModel {
    /// Index of a stage: its reward model, or the last weights of its policy.
    Stage(usize),
    /// Index into [`crate::Job::models`].
    Model(usize),
    /// A Hugging Face directory.
    Directory(PathBuf),
}

impl ModelRef {
    /// Parses a model's path or name: a path has a slash, anything else is a name.
    fn parse(text: &str, base_dir: &Path) -> ModelRef {
        if text.contains('/') {
            ModelRef::Directory(absolute(text, base_dir))
        } else {
            ModelRef::Named(text.into())
        }
    }
}

/// Writes the name or path as a job file has it.
impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelRef::Named(name) => f.write_str(name),
            ModelRef::Directory(path) => path.display().fmt(f),
        }
    }
}

/// Limits of a plugin's work on one completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// WASM fuel. `None`: 50,000,000 and 2,000 per byte of input, a hundred times that for an
    /// interpreted plugin.
    pub fuel: Option<u64>,
    /// MiB of linear memory. `None`: 64, and 512 for an interpreted plugin.
    pub memory_mb: Option<u32>,
    /// KiB that a plugin may hand to the host in one call.
    pub hostcall_kb: u32,
    /// Milliseconds of the wall-clock backstop. `None`: 2,000, and what the fuel takes on a very
    /// slow machine.
    pub wall_ms: Option<u64>,
}

/// What an abstention (for example on an unusable reference) does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnAbstain {
    /// The completion has no reward and does not train.
    DropSample,
    /// No completion of the group trains.
    DropGroup,
    /// The completion gets this score.
    Score(f64),
}

/// What a fault (a trap, or no fuel left) does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnFault {
    /// The completion gets the plugin's declared minimum.
    Min,
    /// The completion gets this score.
    Score(f64),
    /// The completion has no reward and does not train.
    DropSample,
}

impl Reward {
    /// A reward of this plugin with every setting at its default.
    pub fn of_plugin(name: &str) -> Reward {
        Reward {
            name: plugin_stem(name),
            plugin: Plugin::parse(name, Path::new("")),
            weight: 1.0,
            config_json: "{}".into(),
            limits: Limits {
                fuel: None,
                memory_mb: None,
                hostcall_kb: 17,
                wall_ms: None,
            },
            model: None,
            max_answer_length: MAX_ANSWER_LENGTH,
            domains: Vec::new(),
            after_step: 0,
            on_abstain: OnAbstain::DropSample,
            on_fault: OnFault::Min,
            min_score: None,
            sha256: None,
        }
    }

    pub(crate) fn read(reward: &ResolvedTable<'_>, base_dir: &Path) -> Result<Reward, JobError> {
        let plugin: String = reward.get("plugin")?;
        let limits = reward.table("limits", format!("{}, limits", reward.place))?;
        // A TOML table is sorted by key, so the JSON is the same bytes each time.
        let config: serde_json::Value = reward.get("config")?;
        let name = reward
            .optional("name")?
            .unwrap_or_else(|| plugin_stem(&plugin));
        if !is_name(&name) {
            return Err(reward.unsound(
                format!(
                    "{plugin:?} does not give the reward a name that metrics and files can have"
                ),
                "add `name`",
            ));
        }
        Ok(Reward {
            name,
            plugin: Plugin::parse(&plugin, base_dir),
            weight: reward.get("weight")?,
            config_json: config.to_string(),
            limits: Limits {
                fuel: limits.optional("fuel")?,
                memory_mb: limits.optional("memory_mb")?,
                hostcall_kb: limits.get("hostcall_kb")?,
                wall_ms: limits.optional("wall_ms")?,
            },
            model: reward
                .optional::<String>("model")?
                .map(|model| ModelRef::parse(&model, base_dir)),
            max_answer_length: reward.get("max_answer_length")?,
            domains: reward.get("domains")?,
            after_step: reward.get("after_step")?,
            on_abstain: reward.on_abstain("on_abstain")?,
            on_fault: reward.on_fault("on_fault")?,
            min_score: reward.optional("min_score")?,
            sha256: reward.optional("sha256")?,
        })
    }

    /// Whether it judges rows of this domain.
    pub fn judges(&self, domain: Option<&str>) -> bool {
        self.domains.is_empty() || domain.is_some_and(|d| self.domains.iter().any(|own| own == d))
    }
}

/// Writes the name or path as a job file has it.
impl std::fmt::Display for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plugin::Named(name) => f.write_str(name),
            Plugin::Path(path) => path.display().fmt(f),
        }
    }
}

impl Plugin {
    /// Parses a plugin's path or name: a path has a slash or ends in `.wasm`, anything else is a
    /// name.
    pub fn parse(text: &str, base_dir: &Path) -> Plugin {
        if text.contains('/') || text.ends_with(".wasm") {
            Plugin::Path(absolute(text, base_dir))
        } else {
            Plugin::Named(text.into())
        }
    }
}

/// The default name of a reward of this plugin: the file name without its extension.
pub fn plugin_stem(plugin: &str) -> String {
    let stem = Path::new(plugin)
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| plugin.into())
}
