//! Who waits for what: the chain that `r1ctl why` prints is read off the machine's state.

use r1d_proto::control;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    pub owner: String,
    pub waits_for: String,
    pub since: Duration,
    /// When whoever waits gives up; `None` where an inner wait's deadline decides.
    pub deadline: Option<Duration>,
}

/// The last words of those who work for an attempt one thing after the other.
#[derive(Clone, Copy, Debug)]
pub struct LastHeard {
    pub worker: Duration,
    /// The writer begins the next of its tasks. What waits behind others has not begun, and neither
    /// has its deadline.
    pub writer: Duration,
}

impl Wait {
    pub fn new(owner: impl Into<String>, waits_for: impl Into<String>, since: Duration) -> Wait {
        Wait {
            owner: owner.into(),
            waits_for: waits_for.into(),
            since,
            deadline: None,
        }
    }

    pub fn until(mut self, deadline: Duration) -> Wait {
        self.deadline = Some(deadline);
        self
    }

    /// Whoever is waited for says how far it is, and may be silent for `limit`: from its last word
    /// in this wait, the wait begins anew.
    pub fn silent(mut self, last_word: Duration, limit: Duration) -> Wait {
        self.since = self.since.max(last_word);
        let deadline = self.since + limit;
        self.until(deadline)
    }

    pub fn is_over(&self, now: Duration) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// As it travels to `r1ctl`: both times count from the moment that the wait began.
    pub fn shown(&self, now: Duration) -> control::Wait {
        control::Wait {
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
        // Who speaks now and then is given its time from each word on.
        let shown = Wait::new("job", "worker", second(100))
            .silent(second(500), second(60))
            .shown(second(559));
        assert_eq!((shown.since_s, shown.deadline_s), (59.0, Some(60.0)));
    }
}
