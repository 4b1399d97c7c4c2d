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

impl Wait {
    pub fn new(owner: impl Into<String>, waits_for: impl Into<String>, since: Duration) -> Wait {
        Wait { owner: owner.into(), waits_for: waits_for.into(), since, deadline: None }
    }

    pub fn until(mut self, deadline: Duration) -> Wait {
        self.deadline = Some(deadline);
        self
    }

    pub fn is_over(&self, now: Duration) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// As it travels to `r1ctl`: seconds before and after `now`.
    pub fn shown(&self, now: Duration) -> control::Wait {
        control::Wait {
            owner: self.owner.clone(),
            waits_for: self.waits_for.clone(),
            since_s: now.saturating_sub(self.since).as_secs_f64(),
            deadline_s: self.deadline.map(|deadline| deadline.saturating_sub(now).as_secs_f64()),
        }
    }
}
