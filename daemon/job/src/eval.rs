//! An evaluation: what is sampled from held-out data, when, and which numbers come of it.

use crate::error::JobError;
use crate::fields::Fields;
use crate::stage::Stage;
use r1d_proto::hyperparameters::Sampling;
use std::fmt;

/// Runs on the weights that the job starts from (`at_start`), every `every_steps` steps of the
/// stages in `stages`, and after each stage; as a stage of its own, once.
#[derive(Clone, Debug, PartialEq)]
pub struct Eval {
    /// Name of a [`crate::DataSource`].
    pub data: String,
    /// 0: only at the start and after each stage.
    pub every_steps: u64,
    pub at_start: bool,
    /// Stages inside which `every_steps` counts; empty: all.
    pub stages: Vec<String>,
    pub num_generations: u32,
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: u32,
    pub max_completion_length: u32,
    /// The first rows of the data set; 0: all.
    pub max_rows: u64,
    pub metrics: Vec<Metric>,
    /// Names of the stages' rewards, or of plugins. The first says what is correct.
    pub rewards: Vec<String>,
    /// A completion is correct when the first reward's score is at least this.
    pub correct_at: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Unbiased probability that one of k completions is correct (Chen et al. 2021, eq. 1); pass@1
    /// is the mean correctness.
    Pass(u32),
    /// Mean correctness of the first k completions.
    Avg(u32),
    /// Whether the answer that most of k completions give is correct.
    Cons(u32),
}

impl Metric {
    /// `pass@4`, `avg@4`, `cons@16`.
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

/// Completion length of an evaluation in a job without stages that sample.
const MAX_COMPLETION_LENGTH: u32 = 512;

impl Eval {
    /// Of `[[eval]]`, or of a stage, which has none of the keys that say when. `stages`: the job's
    /// so far.
    pub(crate) fn read(eval: &Fields<'_>, stages: &[Stage]) -> Result<Eval, JobError> {
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

    /// Whether it runs after `step` committed steps of a stage (the end of a stage is the caller's
    /// to know).
    pub fn due(&self, stage: &str, step: u64) -> bool {
        self.every_steps > 0
            && step > 0
            && step.is_multiple_of(self.every_steps)
            && (self.stages.is_empty() || self.stages.iter().any(|s| s == stage))
    }

    /// Rows that it takes of a data set of `rows`.
    pub fn rows(&self, rows: u64) -> u64 {
        if self.max_rows == 0 {
            rows
        } else {
            rows.min(self.max_rows)
        }
    }

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
