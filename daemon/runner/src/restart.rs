//! Whether a job that lost its worker is taken up again, and when.

use std::time::Duration;

/// Attempts in a row that may end without a newly committed step (`LIM-1`).
pub const FRUITLESS_ATTEMPTS_MAX: u32 = 5;
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The attempts at a job since it last got a step further.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    progress: Option<Progress>,
    causes: Vec<String>,
}

/// What is durable of a job, to tell whether an attempt brought it further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress {
    pub stages_finished: u64,
    pub steps: u64,
    pub evals: u64,
    pub checkpoints: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retrying {
    /// Try again after this long.
    Retry {
        after: Duration,
    },
    GiveUp {
        error: String,
    },
}

impl Attempts {
    /// An attempt was abandoned for `cause`, with so much of the job durable.
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
        let after = BACKOFF_FIRST
            .saturating_mul(1 << (count - 1).min(16))
            .min(BACKOFF_MAX);
        Retrying::Retry { after }
    }

    /// Attempts since the job last got further.
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
        assert_eq!(waits.len() as u32 + 1, FRUITLESS_ATTEMPTS_MAX);
        assert!(waits.is_sorted() && waits[0] < waits[3], "{waits:?}");
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
