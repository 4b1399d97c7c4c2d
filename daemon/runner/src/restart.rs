//! Decides whether a job whose attempt failed is attempted again, and when.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Number of attempts in a row that may end without new progress (`LIM-1`).
pub const FRUITLESS_ATTEMPTS_MAX: u32 = 5;
const BACKOFF_FIRST: Duration = Duration::from_millis(500);

/// The attempts at a job since it last made progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    progress: Option<Progress>,
    causes: Vec<String>,
}

/// How much of a job is durable, to tell whether an attempt made progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Progress {
    /// Number of finished stages.
    pub stages_finished: u64,
    /// Number of committed steps, of all stages together.
    pub steps: u64,
    /// Number of recorded evaluations.
    pub evals: u64,
    /// Number of steps that the newest checkpoints hold, of all stages together.
    pub checkpoints: u64,
}

/// What to do after an abandoned attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retrying {
    /// Attempt the job again.
    Retry {
        /// Time to wait before the next attempt.
        after: Duration,
    },
    /// Let the job fail: too many attempts in a row made no progress.
    GiveUp {
        /// The last cause, and the number of attempts.
        error: String,
    },
}

impl Attempts {
    /// Notes that an attempt was abandoned for `cause` when `progress` was durable, and decides
    /// what to do.
    pub fn abandoned(&mut self, cause: String, progress: Progress) -> Retrying {
        if self.progress.is_some_and(|before| progress > before) {
            self.causes.clear();
        }
        self.progress = Some(progress);
        self.causes.push(cause.clone());
        let count = self.causes.len() as u32;
        if count >= FRUITLESS_ATTEMPTS_MAX {
            return Retrying::GiveUp {
                error: format!("{cause} ({count} attempts in a row got no further)"),
            };
        }
        // FRUITLESS_ATTEMPTS_MAX bounds the wait.
        let after = BACKOFF_FIRST.saturating_mul(1 << (count - 1));
        Retrying::Retry { after }
    }

    /// How much of the job was durable when the last attempt was abandoned; `None` if none was.
    pub fn progress(&self) -> Option<Progress> {
        self.progress
    }

    /// Number of attempts since the job last made progress.
    pub fn fruitless(&self) -> u32 {
        self.causes.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(steps: u64) -> Progress {
        Progress {
            stages_finished: 0,
            steps,
            evals: 0,
            checkpoints: 0,
        }
    }

    #[test]
    fn gives_up_after_attempts_that_got_no_further_and_names_the_last_cause() {
        let mut attempts = Attempts::default();
        let mut waits = Vec::new();
        let error = loop {
            match attempts.abandoned("killed by signal 9".into(), at(3)) {
                Retrying::Retry { after } => waits.push(after),
                Retrying::GiveUp { error } => break error,
            }
        };
        assert_eq!(waits, [500, 1000, 2000, 4000].map(Duration::from_millis));
        assert!(error.starts_with("killed by signal 9"));
    }

    #[test]
    fn a_committed_step_wipes_the_slate() {
        let mut attempts = Attempts::default();
        for step in 0..50 {
            assert!(
                matches!(
                    attempts.abandoned("crash".into(), at(step)),
                    Retrying::Retry { .. }
                ),
                "step {step}"
            );
        }
    }
}
