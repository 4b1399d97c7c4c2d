//! The reading of a job's files for a client: its progress, and whether a client still waits for
//! it.

use r1d_proto::control::Activity;
use r1d_rewards::Abandoned;
use std::sync::{Arc, Mutex, PoisonError};

/// A handle shared by the reader and those who wait for it.
#[derive(Clone)]
pub(crate) struct Reading(Arc<ReadingState>);

struct ReadingState {
    /// What is done now, and the rows of it that are done.
    at: Mutex<(Activity, u64)>,
    unwanted: Abandoned,
}

/// The reading ends because no client waits for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client that asked for it has left")]
pub(crate) struct Unwanted;

impl Default for Reading {
    fn default() -> Self {
        Reading(Arc::new(ReadingState {
            at: Mutex::new((activity("waiting for its turn", 0, 1), 0)),
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
    /// Reports what is done now, when `done` of `total` parts are finished. An error means that the
    /// rest is not wanted.
    pub(crate) fn at(&self, doing: &str, done: usize, total: usize) -> Result<(), Unwanted> {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner) =
            (activity(doing, done as u64, total as u64), 0);
        self.wanted()
    }

    /// Reports how many rows of the present part are done. An error means that the rest is not
    /// wanted.
    pub(crate) fn rows(&self, rows: u64) -> Result<(), Unwanted> {
        self.0.at.lock().unwrap_or_else(PoisonError::into_inner).1 = rows;
        self.wanted()
    }

    /// An error means that the rest is not wanted.
    pub(crate) fn wanted(&self) -> Result<(), Unwanted> {
        if self.0.unwanted.is_set() {
            Err(Unwanted)
        } else {
            Ok(())
        }
    }

    pub(crate) fn now(&self) -> Activity {
        let at = self.0.at.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut now, rows) = at.clone();
        if rows > 0 {
            now.doing = format!("{}, row {rows}", now.doing);
        }
        now
    }

    /// The flag for a part that takes long by itself: loading a plugin.
    pub(crate) fn abandoned(&self) -> Abandoned {
        self.0.unwanted.clone()
    }

    /// Ends the reading at its next part: nobody waits for it any more.
    pub(crate) fn give_up(&self) {
        self.0.unwanted.set();
    }

    /// A guard whose drop ends the reading at its next part.
    pub(crate) fn until_dropped(&self) -> Wanted {
        Wanted(self.clone())
    }
}

/// Held by a client that is the only one to wait for a reading.
pub(crate) struct Wanted(Reading);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.give_up();
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
        assert_eq!(reading.rows(2048), Ok(()));
        assert_eq!(reading.now(), activity("data set `train`, row 2048", 1, 3));
        drop(wanted);
        assert_eq!(reading.rows(4096), Err(Unwanted));
        assert_eq!(reading.at("data set `test`", 2, 3), Err(Unwanted));
    }
}
