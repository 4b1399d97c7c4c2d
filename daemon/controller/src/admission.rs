//! Limits how many clients of each kind the daemon serves at a time (`LIM-1`). Clients that send
//! nothing, that watch, or that need much to be read therefore do not take each other's places, nor
//! the place of a client that only wants to cancel a job.
//!
//! | kind | at a time | one more |
//! |---|---|---|
//! | connected, without a request yet | [`ARRIVING_MAX`] | takes the place of the oldest |
//! | an answer on its way | [`ANSWERS_MAX`] | takes the place of the oldest |
//! | watches, logs | [`STREAMS_MAX`] | is refused |
//! | plans, submissions, reads of samples and data sets, changes of jobs, removals, look-ups of users (of those who plan apart) | a few at work ([`Lane`]) | waits; beyond [`WAITING_MAX`] it is refused |

use r1d_proto::control::error::{ControlError, ErrorKind};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

const ARRIVING_MAX: usize = 128;
const ANSWERS_MAX: usize = 128;
const STREAMS_MAX: usize = 128;
/// Clients that one [`Lane`] takes, at work or waiting.
const WAITING_MAX: usize = 64;
/// Jobs that are read at a time to be planned.
const PLANS_MAX: usize = 2;
/// Jobs that are read at a time to be queued, or plugins to be reloaded.
const SUBMISSIONS_MAX: usize = 4;
/// Samples and data sets that are read at a time.
const LOOKS_MAX: usize = 8;
/// Jobs that are cancelled, paused, resumed or requeued at a time.
const CANCELS_MAX: usize = 64;
/// Removals that are decided at a time.
const REMOVALS_MAX: usize = 1;
/// Users that the system is asked about at a time.
const CALLERS_MAX: usize = 16;

#[derive(Clone)]
pub(crate) struct Admission {
    pub arriving: ConnectionPlaces,
    pub answers: ConnectionPlaces,
    pub plans: Lane,
    pub submissions: Lane,
    pub looks: Lane,
    pub cancels: Lane,
    pub removals: Lane,
    pub callers: Lane,
    /// Look-ups of those who plan: many plans keep nobody from cancelling or submitting a job.
    pub planners: Lane,
    /// Locked while the plugins' directories are read for a client; the others wait.
    pub plugins: Arc<tokio::sync::Mutex<()>>,
    streams: Arc<Semaphore>,
}

impl Default for Admission {
    fn default() -> Self {
        Admission {
            arriving: ConnectionPlaces::new(ARRIVING_MAX),
            answers: ConnectionPlaces::new(ANSWERS_MAX),
            plans: Lane::new("plans", PLANS_MAX),
            submissions: Lane::new("submissions and reloads", SUBMISSIONS_MAX),
            looks: Lane::new("looks into a job's files", LOOKS_MAX),
            cancels: Lane::new("cancellations", CANCELS_MAX),
            removals: Lane::new("removals", REMOVALS_MAX),
            callers: Lane::new("look-ups of users", CALLERS_MAX),
            planners: Lane::new("look-ups of users who plan", CALLERS_MAX),
            plugins: Arc::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }
}

impl Admission {
    /// Takes a place for a stream; dropping the permit releases it. An error if all are taken.
    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, ControlError> {
        self.streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| busy(STREAMS_MAX, "watches and logs"))
    }
}

fn busy(count: usize, what: &str) -> ControlError {
    ControlError {
        kind: ErrorKind::Busy,
        message: format!("the daemon is at {count} {what} already: try again in a moment"),
    }
}

/// Work of one kind: a few clients are at work at a time, and a bounded number waits.
#[derive(Clone)]
pub(crate) struct Lane {
    what: &'static str,
    inside: Arc<Semaphore>,
    at_work: Arc<Semaphore>,
}

/// A turn at the work, until it is dropped. The work itself holds it, because it goes on if the
/// client leaves.
pub(crate) struct Permit {
    _inside: OwnedSemaphorePermit,
    _at_work: OwnedSemaphorePermit,
}

impl Lane {
    fn new(what: &'static str, at_work: usize) -> Lane {
        Lane {
            what,
            inside: Arc::new(Semaphore::new(WAITING_MAX)),
            at_work: Arc::new(Semaphore::new(at_work)),
        }
    }

    /// Waits for a turn; an error at once if too many wait. Dropping the future gives the place up.
    pub(crate) fn enter(
        &self,
    ) -> Result<impl Future<Output = Result<Permit, ControlError>> + use<>, ControlError> {
        let refused = busy(WAITING_MAX, self.what);
        let inside = self
            .inside
            .clone()
            .try_acquire_owned()
            .map_err(|_| refused.clone())?;
        let at_work = self.at_work.clone();
        Ok(async move {
            let at_work = at_work.acquire_owned().await.map_err(|_| refused)?;
            Ok(Permit {
                _inside: inside,
                _at_work: at_work,
            })
        })
    }
}

/// Places of which the newest client always gets one: if all are taken, the oldest client is cut.
#[derive(Clone)]
pub(crate) struct ConnectionPlaces(Arc<Mutex<Taken>>);

struct Taken {
    limit: usize,
    count: u64,
    /// The clients' senders, the oldest place first.
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

pub(crate) struct ConnectionPlace {
    number: u64,
    places: ConnectionPlaces,
    cut: oneshot::Receiver<()>,
}

impl ConnectionPlaces {
    fn new(limit: usize) -> ConnectionPlaces {
        ConnectionPlaces(Arc::new(Mutex::new(Taken {
            limit,
            count: 0,
            by_age: BTreeMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> ConnectionPlace {
        let mut taken = self.lock();
        if taken.by_age.len() >= taken.limit {
            // Dropping the sender tells the oldest client's task to end.
            taken.by_age.pop_first();
        }
        let (keep, cut) = oneshot::channel();
        taken.count += 1;
        let number = taken.count;
        taken.by_age.insert(number, keep);
        ConnectionPlace {
            number,
            places: self.clone(),
            cut,
        }
    }
}

impl ConnectionPlace {
    /// Ends when a newer client has taken the place.
    pub(crate) async fn cut(&mut self) {
        let _ = (&mut self.cut).await;
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.places.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn the_newest_takes_the_place_of_the_oldest() {
        let places = ConnectionPlaces::new(2);
        let (mut first, mut second) = (places.take(), places.take());
        assert!(first.cut().now_or_never().is_none());
        let mut third = places.take();
        assert!(first.cut().now_or_never().is_some());
        drop(first);
        assert!(second.cut().now_or_never().is_none() && third.cut().now_or_never().is_none());
        drop(second);
        let _fourth = places.take();
        assert!(
            third.cut().now_or_never().is_none(),
            "a place that was given up is free"
        );
    }

    #[test]
    fn so_many_work_so_many_wait_and_the_rest_is_refused() {
        let room = Lane::new("plans", 1);
        let first = room.enter().unwrap().now_or_never().unwrap().unwrap();
        let mut waiting: Vec<_> = (1..WAITING_MAX)
            .map(|_| Box::pin(room.enter().unwrap()))
            .collect();
        assert!(waiting[0].as_mut().now_or_never().is_none());
        let refused = room.enter().err().unwrap();
        assert_eq!(refused.kind, ErrorKind::Busy);
        assert!(refused.message.contains("64 plans"), "{}", refused.message);
        // A client that no longer waits has no place.
        waiting.pop();
        assert!(room.enter().is_ok());
        drop(first);
        assert!(waiting[0].as_mut().now_or_never().is_some());
    }
}
