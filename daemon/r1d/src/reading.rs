//! The reading of a job's files on behalf of a client: what it is at, and whether anybody still
//! wants to know.

use r1d_proto::control::Activity;
use r1d_rewards::Abandoned;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by whoever reads and whoever waits for it.
#[derive(Clone)]
pub(crate) struct Reading(Arc<ReadingState>);

struct ReadingState {
    at: Mutex<Activity>,
    unwanted: Abandoned,
}

/// Nobody waits for what was being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client that asked for it has left")]
pub(crate) struct Unwanted;

impl Default for Reading {
    fn default() -> Self {
        Reading(Arc::new(ReadingState {
            at: Mutex::new(activity("waiting for its turn", 0, 1)),
            unwanted: Abandoned::default(),
        }))
    }
}

fn activity(doing: &str, done: u64, total: u64) -> Activity {
    Activity {
        doing: doing.into(),
        done,
        total,
        unit: "parts".into(),
    }
}

impl Reading {
    /// Says what is done now, `done` of `total` parts being behind it. An error where nobody wants
    /// the rest.
    pub(crate) fn at(&self, doing: &str, done: usize, total: usize) -> Result<(), Unwanted> {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner) =
            activity(doing, done as u64, total as u64);
        if self.0.unwanted.is_set() {
            Err(Unwanted)
        } else {
            Ok(())
        }
    }

    pub(crate) fn now(&self) -> Activity {
        self.0
            .at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// For what a part does that takes long by itself: loading a plugin.
    pub(crate) fn abandoned(&self) -> Abandoned {
        self.0.unwanted.clone()
    }

    /// The reading ends at its next part when what is returned is dropped.
    pub(crate) fn until_dropped(&self) -> Wanted {
        Wanted(self.clone())
    }
}

/// Held by whoever waits for a reading that is of use to nobody else.
pub(crate) struct Wanted(Reading);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.0.unwanted.set();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_ends_when_nobody_waits_for_it() {
        let reading = Reading::default();
        let wanted = reading.until_dropped();
        assert_eq!(reading.at("data set `train`", 1, 3), Ok(()));
        assert_eq!(reading.now(), activity("data set `train`", 1, 3));
        drop(wanted);
        assert_eq!(reading.at("data set `test`", 2, 3), Err(Unwanted));
    }
}
