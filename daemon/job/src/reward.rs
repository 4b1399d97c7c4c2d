//! A reward of a stage: which plugin judges, and what becomes of its verdict.

use crate::check::is_name;
use crate::error::JobError;
use crate::fields::{Fields, absolute};
use std::path::{Path, PathBuf};

/// Default of `max_answer_length`, tokens.
pub const MAX_ANSWER_LENGTH: u32 = 1024;

#[derive(Clone, Debug, PartialEq)]
pub struct Reward {
    /// What metrics and verdicts call it; unique in its stage.
    pub name: String,
    pub plugin: Plugin,
    pub weight: f64,
    /// Handed to the plugin as JSON: an object with sorted keys, the same bytes each time.
    pub config_json: String,
    pub limits: Limits,
    /// Whom the plugin asks, where it is one that asks; `None`: the reward-model stage with the
    /// plugin's name.
    pub model: Option<ModelRef>,
    /// Tokens of one answer of a generative model, at most; the plugin may ask for less.
    pub max_answer_length: u32,
    /// Rows of these domains only; empty: all.
    pub domains: Vec<String>,
    /// It judges from the step after so many on.
    pub after_step: u64,
    pub on_abstain: OnAbstain,
    pub on_fault: OnFault,
    /// A completion that scores less, or on which the plugin fails, is not kept; of a
    /// rejection-sampling stage alone.
    pub min_score: Option<f64>,
    /// Pins the component: 64 hex digits.
    pub sha256: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Looked up in the plugin directories as `<name>.wasm`.
    Named(String),
    Path(PathBuf),
}

/// The model that a judged plugin asks, as the job file names it. Whether it gives numbers or text
/// follows from what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// What a stage before has trained, or a `[models.NAME]`.
    Named(String),
    /// A Hugging Face directory: a `…ForSequenceClassification`, or a causal language model.
    Directory(PathBuf),
}

/// The model that a judged plugin asks: [`crate::Job::asked`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskedModel {
    /// Index of a stage: a reward model, or a policy's last weights.
    Stage(usize),
    /// Index into [`crate::Job::models`].
    Model(usize),
    Directory(PathBuf),
}

impl ModelRef {
    /// A path has a slash; anything else is a name.
    fn parse(text: &str, base_dir: &Path) -> ModelRef {
        if text.contains('/') {
            ModelRef::Directory(absolute(text, base_dir))
        } else {
            ModelRef::Named(text.into())
        }
    }
}

/// As a job file has it.
impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelRef::Named(name) => f.write_str(name),
            ModelRef::Directory(path) => path.display().fmt(f),
        }
    }
}

/// Per completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// WASM fuel; `None`: 50,000,000 and 2,000 per byte of input, a hundred times that for an
    /// interpreted plugin.
    pub fuel: Option<u64>,
    /// MiB of linear memory; `None`: 64, and 512 for an interpreted plugin.
    pub memory_mb: Option<u32>,
    /// KiB that a plugin may hand to the host in one call.
    pub hostcall_kb: u32,
    /// Milliseconds of the wall-clock backstop; `None`: 2,000, and what the fuel takes on a very
    /// slow machine.
    pub wall_ms: Option<u64>,
}

/// What an abstention (an unusable reference) does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnAbstain {
    DropSample,
    DropGroup,
    Score(f64),
}

/// What a fault (trap, out of fuel) does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnFault {
    /// The plugin's declared minimum.
    Min,
    Score(f64),
    DropSample,
}

impl Reward {
    /// The plugin with every setting at its default.
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

    pub(crate) fn read(reward: &Fields<'_>, base_dir: &Path) -> Result<Reward, JobError> {
        let plugin: String = reward.get("plugin")?;
        let limits = reward.table("limits", format!("{}, limits", reward.place))?;
        // A toml table is sorted by key, so the JSON is the same bytes each time.
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

    /// Whether it judges a row of this domain.
    pub fn judges(&self, domain: Option<&str>) -> bool {
        self.domains.is_empty() || domain.is_some_and(|d| self.domains.iter().any(|own| own == d))
    }
}

/// As a job file has it: a name or a path.
impl std::fmt::Display for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plugin::Named(name) => f.write_str(name),
            Plugin::Path(path) => path.display().fmt(f),
        }
    }
}

impl Plugin {
    /// A path has a slash or ends in `.wasm`; anything else is a name.
    pub fn parse(text: &str, base_dir: &Path) -> Plugin {
        if text.contains('/') || text.ends_with(".wasm") {
            Plugin::Path(absolute(text, base_dir))
        } else {
            Plugin::Named(text.into())
        }
    }
}

/// The name that a reward takes from its plugin.
pub fn plugin_stem(plugin: &str) -> String {
    let stem = Path::new(plugin)
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| plugin.into())
}
