//! A reward of a stage: which plugin judges, and what its verdict does.

mod asked;
mod limits;
mod outcome;
mod plugin;

pub use asked::{AskedModel, ModelRef};
pub use limits::Limits;
pub use outcome::{OnAbstain, OnFault};
pub use plugin::{Plugin, plugin_stem};

use crate::data::DataSource;
use crate::error::JobError;
use crate::file::plain::is_name;
use crate::file::{Fields, json};
use r1d_job_macros::{Keys, Read, Write};
use std::path::Path;

/// Default of `max_answer_length`, in tokens.
pub const MAX_ANSWER_LENGTH: u32 = 1024;

/// A reward: a plugin with its settings and weight in a job.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
#[settings(
    path = "stage.reward",
    meaning = "A WASM plugin that scores completions.",
    check = check
)]
pub struct Reward {
    /// The plugin that scores completions.
    #[key(
        required = "plugin = \"accuracy\", or the path of a component",
        meaning = "A name in the plugin directories, or a path (with a slash, or ending in .wasm)."
    )]
    pub plugin: Plugin,
    /// Name in metrics and verdicts; unique in its stage.
    #[key(
        takes = Name,
        unset = "the plugin's",
        or = plugin_stem(&table.read::<String>("plugin")?),
        meaning = "What metrics and verdicts call it; unique in its stage."
    )]
    pub name: String,
    /// Factor of its score in the sum of all rewards.
    #[key(
        default = 1.0,
        meaning = "Its score is multiplied by this before scores are added."
    )]
    pub weight: f64,
    /// Settings of the plugin in JSON: an object with sorted keys, the same bytes each time.
    #[key(name = "config", with = json, meaning = "Handed to the plugin as JSON.")]
    pub config_json: String,
    /// What judging one completion may cost.
    #[key(meaning = "What one completion may cost.")]
    pub limits: Limits,
    /// The model that the plugin asks, if it asks one. `None`: the reward-model stage with the
    /// plugin's name.
    #[key(
        unset = "the reward-model stage with the plugin's name",
        meaning = "Whom a plugin asks that asks a model: a stage before (a reward model, or a \
                   policy's last weights), the NAME of a table [models.NAME] with `path`, or the \
                   path (with a slash) of a Hugging Face directory. A reward model \
                   (…ForSequenceClassification with one label) answers with a number, as \
                   helpfulness and harmlessness ask for; any other writes an answer, as \
                   correctness asks for, greedily and in its own chat template. Completions are \
                   sent to it once a step's sampling is done."
    )]
    pub model: Option<ModelRef>,
    /// Length limit in tokens of one answer of a generative model; the plugin may ask for less.
    #[key(
        takes = integer(1, 1 << 20),
        default = 1024,
        unit = "tokens",
        meaning = "Of one answer of a model that writes, at most; the plugin may ask for less \
                   (correctness: its config's max_tokens, 512)."
    )]
    pub max_answer_length: u32,
    /// Domains of the rows that it judges; empty: all rows.
    #[key(
        default = [],
        meaning = "Only rows of these domains; empty: all rows."
    )]
    pub domains: Vec<String>,
    /// Number of steps of the stage before it begins to judge.
    #[key(
        takes = steps(0),
        default = 0,
        unit = "steps",
        meaning = "It judges from the step after so many on: R1 kept preference rewards for the \
                   last 400 of 1,700 steps. An evaluation uses it always."
    )]
    pub after_step: u64,
    /// What an abstention does.
    #[key(
        default = "drop-sample",
        meaning = "What an abstention (a reference that cannot be read) does."
    )]
    pub on_abstain: OnAbstain,
    /// What a fault does.
    #[key(
        default = "min",
        meaning = "What a fault (a trap, fuel used up) does: \"min\" gives the plugin's declared \
                   minimum, so that a policy gains nothing from hanging its judge."
    )]
    pub on_fault: OnFault,
    /// Score that a completion needs to be kept; a completion on which the plugin fails is not kept
    /// either. Only in a rejection-sampling stage.
    #[key(
        unset = "no score is too low",
        meaning = "In a rejection-sampling stage alone: a completion whose score is lower, or on \
                   which the plugin fails, is not kept (mixed languages, length, format)."
    )]
    pub min_score: Option<f64>,
    /// SHA-256 that the component must have, 64 hex digits; `None`: any.
    #[key(
        takes = Sha256,
        unset = "whatever component has the name",
        meaning = "Pins the component: another one is refused."
    )]
    pub sha256: Option<String>,
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

    fn check(&self, from: &Fields<'_>) -> Result<(), JobError> {
        if is_name(&self.name) {
            return Ok(());
        }
        let plugin: String = from.read("plugin")?;
        Err(from.unsound(
            format!("{plugin:?} does not give the reward a name that metrics and files can have"),
            "add `name`",
        ))
    }

    /// Refuses a shipped reward that would abstain on every row, because the data set has nothing
    /// to compare with.
    pub(crate) fn check_reference(&self, data: &DataSource, place: &str) -> Result<(), JobError> {
        let config: serde_json::Value = serde_json::from_str(&self.config_json).unwrap_or_default();
        let compares = match &self.plugin {
            Plugin::Named(name) if name == "accuracy" => true,
            Plugin::Named(name) if name == "correctness" => {
                config["needs_reference"] != serde_json::Value::Bool(false)
            }
            _ => false,
        };
        if !compares || data.reference.is_some() {
            return Ok(());
        }
        let problem = format!(
            "{} compares with a reference, and [data.{}] names no column for it",
            self.plugin, data.name
        );
        let fix = format!(
            "add `reference` to [data.{}]: the column that holds the answer",
            data.name
        );
        Err(JobError::unsound(place, problem, fix))
    }

    /// Whether it judges rows of this domain.
    pub fn judges(&self, domain: Option<&str>) -> bool {
        self.domains.is_empty() || domain.is_some_and(|d| self.domains.iter().any(|own| own == d))
    }
}
