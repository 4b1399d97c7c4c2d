//! An evaluation: what is sampled from held-out data, when, and which metrics are computed from it.

use crate::error::JobError;
use crate::file::setting::{read_by_serde, write_by_serde};
use crate::file::{Fields, Kind, Setting};
use crate::limits::{PROMPT_MAX_COMPLETIONS, SEQUENCE_MAX_TOKENS, TEMPERATURE_MAX};
use crate::sampling::check_temperature;
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::hyperparameters::Sampling;
use std::fmt;
use toml::Value;

/// Completion length, in tokens, of an evaluation in a job without stages that sample.
const MAX_COMPLETION_LENGTH: u32 = 512;

/// An evaluation. It runs on the weights that the job starts from (`at_start`), every `every_steps`
/// steps of the stages in `stages`, and after each stage; an `eval` stage, which has no keys of
/// when it runs, runs it once.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
#[settings(
    path = "eval",
    meaning = "An evaluation: completions sampled from held-out prompts, scored."
)]
pub struct Eval {
    /// Name of a [`crate::DataSource`].
    #[key(required = "name a table [data.NAME]", meaning = "The data set.")]
    pub data: String,
    /// Steps between evaluations inside a stage; 0: only at the start and after each stage.
    #[key(
        takes = steps(0),
        default = 0,
        or = 0,
        unit = "steps",
        meaning = "Steps between evaluations inside a stage; 0: only at the job's start and after \
                   each stage."
    )]
    pub every_steps: u64,
    /// Names of the stages inside which `every_steps` counts; empty: all.
    #[key(
        default = [],
        or = Vec::new(),
        meaning = "Stages inside which `every_steps` counts; empty: all."
    )]
    pub stages: Vec<String>,
    /// Whether it also runs on the weights that the job starts from.
    #[key(
        default = true,
        or = false,
        meaning = "Also of the weights that the job starts from."
    )]
    pub at_start: bool,
    /// Completions sampled of each row.
    #[key(
        takes = count(1, PROMPT_MAX_COMPLETIONS),
        default = 1,
        unit = "completions",
        meaning = "Completions of each prompt."
    )]
    pub num_generations: u32,
    /// Sampling temperature; 0 takes the likeliest token each time.
    #[key(
        takes = number(0.0, TEMPERATURE_MAX),
        default = 0.6,
        meaning = "Of sampling; 0: the likeliest token each time. R1 evaluated at 0.6."
    )]
    pub temperature: f64,
    /// Probability that nucleus sampling keeps; 1: off.
    #[key(
        takes = number_above(0.0, 1.0),
        default = 0.95,
        meaning = "Nucleus sampling; 1: off. R1 evaluated at 0.95."
    )]
    pub top_p: f64,
    /// Number of likeliest ids that are kept; 0: off.
    #[key(default = 0, meaning = "Only the k likeliest ids; 0: off.")]
    pub top_k: u32,
    /// Length in tokens at which a completion is cut off.
    #[key(
        takes = count(1, SEQUENCE_MAX_TOKENS),
        unset = "the longest of the stages' that sample, else 512",
        or = MAX_COMPLETION_LENGTH,
        unit = "tokens",
        meaning = "A completion that is this long is cut off."
    )]
    pub max_completion_length: u32,
    /// Number of rows that are evaluated, from the beginning of the data set; 0: all.
    #[key(
        takes = steps(0),
        default = 0,
        unit = "rows",
        meaning = "Only the first rows of the data set; 0: all."
    )]
    pub max_rows: u64,
    /// Numbers that are reported.
    #[key(
        default = ["pass@1"],
        meaning = "pass@k: the chance that one of k completions is correct (pass@1: mean \
                   correctness); avg@k: mean correctness of the first k; cons@k: whether the \
                   answer that most of k completions give is correct. Each is a mean over rows, \
                   with a 95 % confidence interval (`pass@1_ci_low`, `pass@1_ci_high`); so are \
                   the rewards' mean scores, `rewards/NAME/mean`."
    )]
    pub metrics: Vec<Metric>,
    /// Names of rewards of the stages, or of plugins. The first decides what is correct.
    #[key(
        default = ["accuracy"],
        meaning = "What scores: names of the stages' rewards (with their configuration), or of \
                   plugins. The first says what is correct."
    )]
    pub rewards: Vec<String>,
    /// A completion is correct when the first reward's score is at least this.
    #[key(default = 1.0)]
    pub correct_at: f64,
}

/// A number that an evaluation reports, as a mean over its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Unbiased probability that one of k completions is correct (Chen et al. 2021, eq. 1); pass@1
    /// is the mean correctness.
    Pass(u32),
    /// Mean correctness of the first k completions.
    Avg(u32),
    /// Whether the most frequent answer of k completions is correct.
    Cons(u32),
}

impl Metric {
    /// Parses `pass@4`, `avg@4` or `cons@16`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Metric> {
        let (name, k) = text.split_once('@')?;
        let k: u32 = k.parse().ok().filter(|k| *k > 0)?;
        match name {
            "pass" => Some(Metric::Pass(k)),
            "avg" => Some(Metric::Avg(k)),
            "cons" => Some(Metric::Cons(k)),
            _ => None,
        }
    }

    /// The k of `pass@k`, `avg@k` or `cons@k`: the completions of a row that it needs.
    pub fn k(self) -> u32 {
        match self {
            Metric::Pass(k) | Metric::Avg(k) | Metric::Cons(k) => k,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Pass(k) => write!(f, "pass@{k}"),
            Metric::Avg(k) => write!(f, "avg@{k}"),
            Metric::Cons(k) => write!(f, "cons@{k}"),
        }
    }
}

impl Setting for Vec<Metric> {
    fn kind() -> Kind {
        Kind::Texts
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
        let texts: Vec<String> = read_by_serde(value, from, key)?;
        let metric = |text: String| {
            Metric::parse(&text).ok_or_else(|| {
                from.unsound(
                    format!("`{key}` names {text:?}, which is not a metric"),
                    "write pass@k, avg@k or cons@k, where k is a number, as in \"pass@8\"",
                )
            })
        };
        texts.into_iter().map(metric).collect()
    }

    fn to_value(&self) -> Option<Value> {
        write_by_serde(self.iter().map(Metric::to_string).collect::<Vec<_>>())
    }
}

impl Eval {
    /// Steps between evaluations inside a stage; `None` if there are none.
    pub(crate) fn every_in(&self, stage: &str) -> Option<u64> {
        let counts = self.stages.is_empty() || self.stages.iter().any(|s| s == stage);
        (self.every_steps > 0 && counts).then_some(self.every_steps)
    }

    /// Whether it runs after `step` committed steps of a stage. The evaluation at a stage's end is
    /// not counted here: the caller knows where the end is.
    pub fn due(&self, stage: &str, step: u64) -> bool {
        let is_due = |every| step > 0 && step.is_multiple_of(every);
        self.every_in(stage).is_some_and(is_due)
    }

    /// Number of rows that are evaluated of a data set of `rows`.
    pub fn rows(&self, rows: u64) -> u64 {
        if self.max_rows == 0 {
            rows
        } else {
            rows.min(self.max_rows)
        }
    }

    /// Sampling settings of its completions; they never keep a sampling mask.
    pub fn sampling(&self, stop_ids: Vec<u32>, seed: u64) -> Sampling {
        Sampling {
            temperature: self.temperature as f32,
            top_p: self.top_p as f32,
            top_k: self.top_k,
            keep_sampling_mask: false,
            max_completion_length: self.max_completion_length,
            stop_ids,
            seed,
        }
    }

    /// Checks the settings that do not depend on the rest of the job.
    pub(crate) fn check_sampling(&self, place: &str) -> Result<(), JobError> {
        check_temperature(self.temperature, place)?;
        let completions = self.num_generations;
        if self.temperature == 0.0 && completions > 1 {
            return Err(JobError::unsound(
                place,
                "temperature = 0 gives the same completion each time",
                "set num_generations = 1, or temperature = 0.6",
            ));
        }
        if let Some(metric) = self.metrics.iter().find(|metric| metric.k() > completions) {
            return Err(JobError::unsound(
                place,
                format!("{metric} needs more completions than num_generations = {completions}"),
                format!("set num_generations = {}, or ask for less", metric.k()),
            ));
        }
        if self.metrics.is_empty() || self.rewards.is_empty() {
            return Err(JobError::unsound(
                place,
                "without `metrics` and `rewards` there is nothing to report",
                "leave both out for pass@1 by accuracy",
            ));
        }
        let is_double = |(i, metric)| self.metrics.iter().take(i).any(|other| other == metric);
        if self.metrics.iter().enumerate().any(is_double) {
            let problem = "a metric is named twice";
            return Err(JobError::unsound(place, problem, "name it once"));
        }
        Ok(())
    }
}
