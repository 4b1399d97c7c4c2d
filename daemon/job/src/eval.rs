//! An evaluation: what is sampled from held-out data, when, and which metrics are computed from it.

use crate::error::JobError;
use crate::fields::ResolvedTable;
use crate::stage::Stage;
use r1d_proto::hyperparameters::Sampling;
use std::fmt;

/// An evaluation. It runs on the weights that the job starts from (`at_start`), every `every_steps`
/// steps of the stages in `stages`, and after each stage; an `eval` stage runs it once.
#[derive(Clone, Debug, PartialEq)]
pub struct Eval {
    /// Name of a [`crate::DataSource`].
    pub data: String,
    /// Steps between evaluations inside a stage; 0: only at the start and after each stage.
    pub every_steps: u64,
    /// Whether it also runs on the weights that the job starts from.
    pub at_start: bool,
    /// Names of the stages inside which `every_steps` counts; empty: all.
    pub stages: Vec<String>,
    /// Completions sampled of each row.
    pub num_generations: u32,
    /// Sampling temperature; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Probability that nucleus sampling keeps; 1: off.
    pub top_p: f64,
    /// Number of likeliest ids that are kept; 0: off.
    pub top_k: u32,
    /// Length in tokens at which a completion is cut off.
    pub max_completion_length: u32,
    /// Number of rows that are evaluated, from the beginning of the data set; 0: all.
    pub max_rows: u64,
    /// Numbers that are reported.
    pub metrics: Vec<Metric>,
    /// Names of rewards of the stages, or of plugins. The first decides what is correct.
    pub rewards: Vec<String>,
    /// A completion is correct when the first reward's score is at least this.
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

/// Completion length, in tokens, of an evaluation in a job without stages that sample.
const MAX_COMPLETION_LENGTH: u32 = 512;

impl Eval {
    /// Reads an `[[eval]]` table, or an `eval` stage (which has no scheduling keys). `stages` are
    /// those read so far.
    pub(crate) fn read(eval: &ResolvedTable<'_>, stages: &[Stage]) -> Result<Eval, JobError> {
        let metrics = eval.get::<Vec<String>>("metrics")?.into_iter().map(|text| {
            Metric::parse(&text).ok_or_else(|| {
                eval.unsound(
                    format!("`metrics` names {text:?}, which is not a metric"),
                    "write pass@k, avg@k or cons@k, as in \"pass@1\"",
                )
            })
        });
        let longest = || {
            stages
                .iter()
                .filter_map(Stage::rollouts)
                .map(|rollouts| rollouts.max_completion_length)
                .max()
        };
        Ok(Eval {
            data: eval.get("data")?,
            every_steps: eval.optional("every_steps")?.unwrap_or(0),
            at_start: eval.optional("at_start")?.unwrap_or(false),
            stages: eval.optional("stages")?.unwrap_or_default(),
            num_generations: eval.get("num_generations")?,
            temperature: eval.get("temperature")?,
            top_p: eval.get("top_p")?,
            top_k: eval.get("top_k")?,
            max_completion_length: eval
                .optional("max_completion_length")?
                .or_else(longest)
                .unwrap_or(MAX_COMPLETION_LENGTH),
            max_rows: eval.get("max_rows")?,
            metrics: metrics.collect::<Result<_, _>>()?,
            rewards: eval.get("rewards")?,
            correct_at: eval.get("correct_at")?,
        })
    }

    /// Whether it runs after `step` committed steps of a stage. The evaluation at a stage's end is
    /// not counted here: the caller knows where the end is.
    pub fn due(&self, stage: &str, step: u64) -> bool {
        self.every_steps > 0
            && step > 0
            && step.is_multiple_of(self.every_steps)
            && (self.stages.is_empty() || self.stages.iter().any(|s| s == stage))
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
}
