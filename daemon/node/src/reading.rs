//! The reading of a job's files for a client: its progress, and whether a client still waits for
//! it.

use r1d_ingest::{Done, MakeStatus};
use r1d_proto::control::job::Activity;
use r1d_proto::world::SharedClock;
use r1d_rewards::{Abandoned, LoadListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A handle shared by the reader and those who wait for it.
#[derive(Clone)]
pub(crate) struct Reading(Arc<ReadingState>);

struct ReadingState {
    at: Mutex<At>,
    unwanted: Abandoned,
    clock: SharedClock,
}

/// What is read now.
struct At {
    /// The part of the job.
    part: Activity,
    detail: Detail,
    /// When who is at it is given up, if nothing is heard of it until then.
    deadline: Option<Duration>,
}

/// What is done for the part.
enum Detail {
    None,
    /// A token set is made.
    Set(SetAt),
    /// In words.
    Text(String),
}

impl At {
    fn new(part: Activity) -> At {
        At {
            part,
            detail: Detail::None,
            deadline: None,
        }
    }
}

/// How far a token set is.
struct SetAt {
    /// What happens to its rows: `reading`, `tokenising`.
    doing: &'static str,
    /// When it was heard of first, and the bytes that were done then.
    first: (Duration, u64),
    done: Done,
}

impl SetAt {
    /// What is done, how fast, and what that leaves to do.
    fn shown(&self, now: Duration) -> String {
        let Done {
            rows,
            bytes,
            bytes_total,
        } = self.done;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let (begun, before) = self.first;
        let elapsed = now.saturating_sub(begun).as_secs_f64();
        let pace = bytes.saturating_sub(before) as f64 / elapsed;
        let left = bytes_total.saturating_sub(bytes) as f64 / pace;
        let far = format!(
            "{} row {rows}, {:.1} of {:.1} MB",
            self.doing,
            mb(bytes),
            mb(bytes_total)
        );
        if !left.is_finite() {
            return far;
        }
        let left = match left.ceil() as u64 {
            left @ 0..=119 => format!("{left} s"),
            left => format!("{} min", left.div_ceil(60)),
        };
        format!("{far}, {:.1} MB/s, {left} left", pace / 1e6)
    }
}

/// The reading ends because no client waits for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client that asked for it has left")]
pub(crate) struct Unwanted;

fn activity(doing: &str, done: u64, total: u64) -> Activity {
    Activity {
        doing: doing.into(),
        done,
        total,
        unit: "parts".into(),
    }
}

impl Reading {
    /// A reading that has not begun.
    pub(crate) fn new(clock: SharedClock) -> Reading {
        Reading(Arc::new(ReadingState {
            at: Mutex::new(At::new(activity("waiting for its turn", 0, 1))),
            unwanted: Abandoned::default(),
            clock,
        }))
    }

    fn state(&self) -> MutexGuard<'_, At> {
        self.0.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports what is done now, when `done` of `total` parts are finished. An error means that the
    /// rest is not wanted.
    pub(crate) fn at(&self, doing: &str, done: usize, total: usize) -> Result<(), Unwanted> {
        *self.state() = At::new(activity(doing, done as u64, total as u64));
        self.wanted()
    }

    /// Reports what becomes of a token set of the present part; `doing` is what happens to its
    /// rows. An error means that the rest is not wanted.
    pub(crate) fn set(&self, doing: &'static str, status: MakeStatus<'_>) -> Result<(), Unwanted> {
        let (at, now) = (&mut *self.state(), self.0.clock.now());
        at.deadline = match status {
            MakeStatus::Waiting => None,
            MakeStatus::Working { left, .. } => left.map(|left| now + left),
            MakeStatus::Again { pause, .. } => Some(now + pause),
        };
        match (&mut at.detail, status) {
            (detail, MakeStatus::Again { cause, pause }) => {
                let s = pause.as_secs_f64();
                *detail = Detail::Text(format!("{doing} begins again in {s} s, because {cause}"));
            }
            (detail, MakeStatus::Waiting) => {
                *detail = Detail::Text(format!("{doing} begins when another reading ends"));
            }
            // Its maker has not begun.
            (detail, status) if status.done().rows == 0 => *detail = Detail::None,
            (Detail::Set(set), status)
                if set.doing == doing && set.done.bytes <= status.done().bytes =>
            {
                set.done = status.done();
            }
            (detail, status) => {
                let done = status.done();
                *detail = Detail::Set(SetAt {
                    doing,
                    first: (now, done.bytes),
                    done,
                });
            }
        }
        self.wanted()
    }

    /// Hears what the loading of a plugin is at.
    pub(crate) fn of_plugins(&self) -> LoadListener {
        let reading = self.clone();
        Arc::new(move |at| {
            let detail = at.map_or(Detail::None, |at| Detail::Text(at.doing.into()));
            let deadline = at.and_then(|at| Some(reading.0.clock.now() + at.left?));
            let state = &mut *reading.state();
            (state.detail, state.deadline) = (detail, deadline);
        })
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
        let at = &*self.state();
        let detail = match &at.detail {
            Detail::None => return at.part.clone(),
            Detail::Set(set) => set.shown(self.0.clock.now()),
            Detail::Text(text) => text.clone(),
        };
        Activity {
            doing: format!("{}: {detail}", at.part.doing),
            ..at.part.clone()
        }
    }

    /// When who is at it is given up, if nothing is heard of it until then.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.state().deadline
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
    use r1d_proto::world::Clock;
    use r1d_rewards::LoadAt;

    /// A clock that is set by hand, in milliseconds.
    #[derive(Default)]
    struct Hand(Mutex<u64>);

    impl Clock for Hand {
        fn now(&self) -> Duration {
            Duration::from_millis(*self.0.lock().unwrap())
        }

        fn unix(&self) -> Duration {
            self.now()
        }
    }

    #[test]
    fn a_reading_ends_when_nobody_waits_for_it() {
        let reading = Reading::new(Arc::new(Hand::default()));
        let wanted = reading.until_dropped();
        assert_eq!(reading.at("data set `train`", 1, 3), Ok(()));
        assert_eq!(reading.now(), activity("data set `train`", 1, 3));
        assert_eq!(reading.set("reading", MakeStatus::Waiting), Ok(()));
        let waits = "data set `train`: reading begins when another reading ends";
        assert_eq!(reading.now(), activity(waits, 1, 3));
        drop(wanted);
        assert_eq!(reading.set("reading", MakeStatus::Waiting), Err(Unwanted));
        assert_eq!(reading.at("data set `test`", 2, 3), Err(Unwanted));
    }

    #[test]
    fn a_set_is_shown_with_its_pace_and_the_time_left() {
        let clock = Arc::new(Hand::default());
        let reading = Reading::new(clock.clone());
        let shown = |at_ms: u64, doing: &'static str, rows: u64, bytes: u64| {
            *clock.0.lock().unwrap() = at_ms;
            let bytes_total = 2_000_000_000;
            let done = Done {
                rows,
                bytes,
                bytes_total,
            };
            let left = Some(Duration::from_secs(5));
            reading
                .set(doing, MakeStatus::Working { done, left })
                .unwrap();
            let deadline = Duration::from_millis(at_ms + 5000);
            assert_eq!(reading.deadline(), Some(deadline));
            reading.now().doing
        };
        reading.at("data set `train`", 1, 3).unwrap();
        assert_eq!(
            shown(5000, "reading", 1024, 2_000_000),
            "data set `train`: reading row 1024, 2.0 of 2000.0 MB"
        );
        assert_eq!(
            shown(6000, "reading", 2048, 4_000_000),
            "data set `train`: reading row 2048, 4.0 of 2000.0 MB, 2.0 MB/s, 17 min left"
        );
        assert_eq!(
            shown(7000, "reading", 500_000, 1_002_000_000),
            "data set `train`: reading row 500000, 1002.0 of 2000.0 MB, 500.0 MB/s, 2 s left"
        );
        assert_eq!(
            shown(8000, "tokenising", 1024, 2_000_000),
            "data set `train`: tokenising row 1024, 2.0 of 2000.0 MB",
            "another set has a pace of its own"
        );
        assert_eq!(
            shown(9000, "tokenising", 2048, 2_000_000),
            "data set `train`: tokenising row 2048, 2.0 of 2000.0 MB",
            "no pace, no time left"
        );
        let (cause, pause) = ("it was killed", Duration::from_millis(1500));
        reading
            .set("tokenising", MakeStatus::Again { cause, pause })
            .unwrap();
        assert_eq!(
            reading.now().doing,
            "data set `train`: tokenising begins again in 1.5 s, because it was killed"
        );
        assert_eq!(reading.deadline(), Some(Duration::from_millis(10_500)));
        reading.at("data set `test`", 2, 3).unwrap();
        assert_eq!(reading.now().doing, "data set `test`");
        assert_eq!(reading.deadline(), None);
    }

    #[test]
    fn a_plugin_that_is_loaded_is_named() {
        let reading = Reading::new(Arc::new(Hand::default()));
        reading.at("stage `a`", 1, 3).unwrap();
        let hear = reading.of_plugins();
        hear(Some(LoadAt {
            doing: "plugin b is being compiled",
            left: Some(Duration::from_secs(79)),
        }));
        assert_eq!(reading.now().doing, "stage `a`: plugin b is being compiled");
        assert_eq!(reading.deadline(), Some(Duration::from_secs(79)));
        hear(None);
        assert_eq!(reading.now().doing, "stage `a`");
        assert_eq!(reading.deadline(), None);
    }
}
