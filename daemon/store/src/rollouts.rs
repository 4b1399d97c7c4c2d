//! Scored rollouts as Parquet, one file per step, for `r1ctl samples`, `pyarrow` and `pandas`.
//!
//! A file has row groups and pages of bounded size, so that a few rows are read without the others
//! and texts without the numbers of each token.
//!
//! | column | type |
//! |---|---|
//! | `stage`, `prompt_index`, `sample_index` | uint32 |
//! | `step` (from 1, as in `metrics.jsonl`), `row`, `policy_version` | uint64 |
//! | `prompt`, `completion`, `finish` | string |
//! | `reference` | string or null |
//! | `reward`, `advantage` | float32 or null (the sample does not train) |
//! | `verdicts` | list of struct (`plugin`, `outcome`, `score`, `parts`, `reason`, `value`, `fuel`, `module_sha256`, `config_sha256`) |
//! | `tokens` | uint32, the number of completion ids; files of earlier releases lack it |
//! | `prompt_ids`, `completion_ids` | list of uint32 |
//! | `behaviour_logprobs` | list of float32, one per completion id |
//! | `experts` | list of uint16, as in [`Rollout::experts`] |
//! | `kept_ids` | list of uint32, as in [`SamplingMask`]; empty where no token's vocabulary was cut |

mod cells;
mod columns;
mod file;
mod view;
mod write;

pub use file::{RolloutFile, read};
pub use view::{Summary, View};
pub use write::write;

use r1d_proto::rollout::ScoredRollout;

/// A scored rollout with its texts.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutRow {
    /// The record itself.
    pub scored: ScoredRollout,
    /// The prompt as the model read it.
    pub prompt: String,
    /// The completion's text.
    pub completion: String,
    /// The right answer, if the row has one.
    pub reference: Option<String>,
}
