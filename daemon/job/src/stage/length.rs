//! How long a stage runs.

use super::{eval, rejection_sampling};
use crate::error::JobError;
use crate::file::Fields;
use crate::file::together::Together;
use crate::limits::STAGE_MAX_EPOCHS;
use r1d_job_macros::{Keys, Read, Write};

/// How long a stage runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Number of steps; 0 for a stage that only evaluates.
    Steps(u64),
    /// Passes over the data set; the last step is rounded up.
    Epochs(f64),
}

/// The keys that say how long a stage runs.
#[derive(Keys, Read, Write)]
pub(crate) struct LengthKeys {
    #[key(
        takes = steps(1),
        unset = "none: give `steps` or `epochs`",
        unit = "steps",
        meaning = "How long the stage runs. A step of grpo is one batch of completions and the \
                   updates it makes; of rejection-sampling, one batch of completions; of sft and \
                   pretrain, one update."
    )]
    steps: Option<u64>,
    #[key(
        takes = number_above(0.0, STAGE_MAX_EPOCHS),
        unset = "none: give `steps` or `epochs`; a rejection-sampling stage with neither takes 1",
        unit = "epochs",
        meaning = "How long the stage runs, in passes over its data; the last step is rounded up."
    )]
    epochs: Option<f64>,
}

impl Together for Length {
    type Parts = LengthKeys;

    fn join(keys: LengthKeys, from: &Fields<'_>) -> Result<Length, JobError> {
        match (keys.steps, keys.epochs) {
            (Some(steps), None) => Ok(Length::Steps(steps)),
            (None, Some(epochs)) => Ok(Length::Epochs(epochs)),
            (Some(_), Some(_)) => Err(from.unsound(
                "`steps` and `epochs` both say how long it runs",
                "keep one of them",
            )),
            (None, None) => match from.read::<String>("kind")?.as_str() {
                rejection_sampling::WORD => Ok(Length::Epochs(1.0)),
                eval::WORD => Ok(Length::Steps(0)),
                _ => Err(from.unsound("nothing says how long it runs", "add `steps` or `epochs`")),
            },
        }
    }

    fn split(&self) -> LengthKeys {
        let (steps, epochs) = match *self {
            Length::Steps(steps) => (Some(steps), None),
            Length::Epochs(epochs) => (None, Some(epochs)),
        };
        LengthKeys { steps, epochs }
    }
}
