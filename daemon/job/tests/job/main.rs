//! What a user of job.toml and r1d.toml relies on.

mod daemon;
mod disk;
mod errors;
mod judges;
mod keys;
mod large_models;
mod layouts;
mod limits;
mod models;
mod parallel;
mod plan;
mod preferences;
mod reference;
mod rejection;
mod roundtrip;
mod shipped;

use r1d_job::{Job, JobError};
use std::path::Path;

/// A small job with every kind of stage.
pub const JOB: &str = r#"
name = "all-stages"

[model]
init = "tiny.json"
tokenizer = "tokenizer"

[data.corpus]
path = "corpus.jsonl"

[data.cold-start]
path = "cold-start.jsonl"

[data.train]
path = "train.parquet"
prompt = "question"
reference = "answer"
domain = "kind"

[[stage]]
name = "language"
kind = "pretrain"
data = "corpus"
steps = 100

[[stage]]
name = "cold-start"
kind = "sft"
data = "cold-start"
epochs = 2

[[stage]]
name = "reasoning"
kind = "grpo"
data = "train"
steps = 200

  [[stage.reward]]
  plugin = "accuracy"
  config = { kind = "math", strict = true, tolerance = 0.5, words = ["a", "b"] }

  [[stage.reward]]
  plugin = "plugins/brevity.wasm"

[[stage]]
name = "good"
kind = "rejection-sampling"
data = "train"

  [[stage.reward]]
  plugin = "accuracy"
  name = "right"

[[stage]]
name = "again"
kind = "sft"
from = "base"
data = "good"
epochs = 2

[[eval]]
data = "train"
"#;

pub(crate) fn parse(text: &str) -> Result<Job, JobError> {
    Job::parse(text, Path::new("/jobs"))
}

/// The error's text when `from` in [`JOB`] is replaced by `to`.
pub(crate) fn refusal(from: &str, to: &str) -> String {
    assert!(JOB.contains(from), "{from:?} is not in the job");
    parse(&JOB.replacen(from, to, 1))
        .expect_err("the job is wrong")
        .to_string()
}
