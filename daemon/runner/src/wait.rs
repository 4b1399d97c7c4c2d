//! Who waits for what: `r1ctl why` prints the chain, which is read off the machine's state.

use r1d_proto::control;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A wait of one part of a job for another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// The part that waits, in words.
    pub owner: String,
    /// What it waits for, in words.
    pub waits_for: String,
    /// When the wait began, or when its last sign of life came.
    pub since: Duration,
    /// When the owner gives up; `None` if an inner wait's deadline decides.
    pub deadline: Option<Duration>,
    /// Whether it is the worker that is late then.
    pub is_workers: bool,
}

/// The last signs of life from the parts that do one thing after the other for an attempt.
#[derive(Clone, Copy, Debug)]
pub struct LastHeard {
    /// When the worker last sent a message, or was sent a request.
    pub worker: Duration,
    /// When the writer last began a task. A task that waits behind others has not begun, and
    /// neither has its deadline.
    pub writer: Duration,
}

impl Wait {
    /// A wait without a deadline.
    pub fn new(owner: impl Into<String>, waits_for: impl Into<String>, since: Duration) -> Wait {
        Wait {
            owner: owner.into(),
            waits_for: waits_for.into(),
            since,
            deadline: None,
            is_workers: false,
        }
    }

    /// Says that it is the worker that is waited for.
    pub fn of_worker(mut self) -> Wait {
        self.is_workers = true;
        self
    }

    /// Sets the deadline.
    pub fn until(mut self, deadline: Duration) -> Wait {
        self.deadline = Some(deadline);
        self
    }

    /// Sets a deadline that moves: the other side reports its progress, and may be silent for
    /// `limit`. The wait begins anew with its last report.
    pub fn silent(mut self, last_word: Duration, limit: Duration) -> Wait {
        self.since = self.since.max(last_word);
        let deadline = self.since + limit;
        self.until(deadline)
    }

    /// Sets such a deadline for the worker.
    pub fn worker_silent(self, last_word: Duration, limit: Duration) -> Wait {
        self.of_worker().silent(last_word, limit)
    }

    /// Whether the deadline has passed.
    pub fn is_over(&self, now: Duration) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// The wait in the form that `r1ctl` gets: both times count from the moment that the wait
    /// began.
    pub fn shown(&self, now: Duration) -> control::why::Wait {
        control::why::Wait {
            owner: self.owner.clone(),
            waits_for: self.waits_for.clone(),
            since_s: now.saturating_sub(self.since).as_secs_f64(),
            deadline_s: self
                .deadline
                .map(|deadline| deadline.saturating_sub(self.since).as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wait that has used up most of its time is within it until the last moment, and is shown
    /// so.
    #[test]
    fn a_wait_within_its_deadline_is_not_shown_as_late() {
        let second = Duration::from_secs;
        let wait = Wait::new("job", "ledger", second(100)).until(second(160));
        for now in [100, 129, 131, 159] {
            let shown = wait.shown(second(now));
            assert_eq!(
                (shown.since_s, shown.deadline_s),
                ((now - 100) as f64, Some(60.0))
            );
            assert!(!wait.is_over(second(now)));
        }
        assert!(wait.is_over(second(160)));
        let shown = wait.shown(second(161));
        assert!(shown.deadline_s.unwrap() < shown.since_s, "late");
        // A worker that reports now and then has its time from each report on.
        let shown = Wait::new("job", "worker", second(100))
            .silent(second(500), second(60))
            .shown(second(559));
        assert_eq!((shown.since_s, shown.deadline_s), (59.0, Some(60.0)));
    }
}
