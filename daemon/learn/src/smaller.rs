//! What is done where memory runs out in the middle of a step: that part of it is computed once
//! more, in micro-batches of half as many tokens, to which later steps keep.
//!
//! An update is made whole or not at all, so it can begin again as long as it was not made. Its
//! numbers are the same but for rounding. A step that another worker redoes with more memory to
//! spare may so differ in its last bits: the one exception to `STEP-2`.

use crate::LearnError;
use crate::trainer::Trainer;
use r1d_torch::memory;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use tch::{Device, TchError};

impl Trainer {
    /// Computes `part` of a step; once more in smaller micro-batches if memory runs out. `part`
    /// must leave nothing behind when it fails, but for gradients.
    pub(crate) fn smaller_once<T>(
        &mut self,
        device: Device,
        mut part: impl FnMut(&mut Trainer) -> Result<T, LearnError>,
    ) -> Result<T, LearnError> {
        let updates = self.updates;
        match caught(|| part(self)) {
            Err(error) if self.halves_after(&error, updates, device)? => caught(|| part(self)),
            ended => ended,
        }
    }

    /// Halves micro-batches for good if `error` says that memory ran out, and no update was made
    /// since there were `updates`. Returns whether it did.
    pub(crate) fn halves_after(
        &mut self,
        error: &LearnError,
        updates: u64,
        device: Device,
    ) -> Result<bool, LearnError> {
        // Passes before the first update have micro-batches of unknown size.
        let largest = Some(self.largest).filter(|&tokens| tokens > 0);
        let tokens = self.budget.min(largest.unwrap_or(self.budget)) / 2;
        // The micro-batches of a gang are no rank's own.
        let is_own = self.gang.is_none();
        if !is_own || !error.ran_out_of_memory() || self.updates != updates || tokens == 0 {
            return Ok(false);
        }
        tracing::warn!(
            "memory ran out ({error}): micro-batches have {tokens} tokens at most from here on; \
             set max_tokens_per_device to that, and no step is computed twice"
        );
        self.budget = tokens;
        self.optimiser.clear_gradients()?;
        memory::release_cached(device)?;
        Ok(true)
    }
}

/// Runs `part`, and makes an error of a panic for lack of memory: tch drops an operation's scalar
/// before it looks whether the operation failed, and panics there.
pub(crate) fn caught<T>(part: impl FnOnce() -> Result<T, LearnError>) -> Result<T, LearnError> {
    match catch_unwind(AssertUnwindSafe(part)) {
        Ok(ended) => ended,
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(words) if memory::ran_out(words) => {
                // What follows is C++'s backtrace.
                let words = words.split("\\n").next().unwrap_or_default();
                Err(TchError::Torch(words.to_owned()).into())
            }
            _ => resume_unwind(panic),
        },
    }
}
