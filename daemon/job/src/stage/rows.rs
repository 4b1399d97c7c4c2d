//! What a step learns of its rows.

use crate::limits::{SEQUENCE_MAX_TOKENS, STEP_MAX_ROWS};
use r1d_job_macros::{Keys, Read, Write};

/// How many rows a step of a stage learns from, and how much of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Keys, Read, Write)]
pub struct RowBatch {
    /// Rows of one update.
    #[key(takes = count(1, STEP_MAX_ROWS), default = 8, unit = "rows")]
    pub batch_size: u32,
    /// Length limit of a sequence in tokens; longer ones are cut there.
    #[key(
        takes = count(2, SEQUENCE_MAX_TOKENS),
        default = 1024,
        unit = "tokens",
        meaning = "Prompt and completion together; longer rows are cut there, and counted in the \
                   log."
    )]
    pub max_length: u32,
}

impl RowBatch {
    /// Most tokens of one update, where a row is one sequence.
    pub(crate) fn tokens(&self) -> u64 {
        u64::from(self.batch_size) * u64::from(self.max_length)
    }
}
