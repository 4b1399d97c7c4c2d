//! Limits how many clients of each kind the daemon serves at a time (`LIM-1`). Clients that send
//! nothing, that watch, or that need much to be read therefore do not take each other's places, nor
//! the place of a client that only wants to cancel a job.
//!
//! | kind | at a time | one more |
//! |---|---|---|
//! | connected, without a request yet | [`ARRIVING_MAX`] | takes the place of the oldest |
//! | an answer on its way | [`ANSWERS_MAX`] | takes the place of the oldest |
//! | watches, logs | [`STREAMS_MAX`] | is refused |
//! | plans, submissions, reads of samples and data sets, changes of jobs, removals, look-ups of users (of those who plan apart) | a few at work, not all of them one user's ([`Lane`]) | waits; beyond [`WAITING_MAX`] it is refused, and so is a user who has half of what others leave |

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

fn busy_with_yours(count: usize, what: &str) -> ControlError {
    ControlError {
        kind: ErrorKind::Busy,
        message: format!(
            "the daemon is at {count} {what} of yours already, and keeps the other places for \
             other users: try again in a moment"
        ),
    }
}

/// Work of one kind: a few clients are at work at a time, and a bounded number waits. The next turn
/// is of the user with the fewest at work, and no user has all of them: what is slow for one user
/// keeps others waiting for one turn at most, not for all that the user has sent.
#[derive(Clone)]
pub(crate) struct Lane(Arc<Inside>);

struct Inside {
    what: &'static str,
    at_work_max: usize,
    queue: Mutex<Queue>,
}

/// Who is in a lane.
#[derive(Default)]
struct Queue {
    /// Each user's share, by the user's id; without users who have nothing.
    users: BTreeMap<u32, Share>,
    /// Who waits for a turn, in the order of arrival, and where it is handed over.
    waiting: Vec<(u32, oneshot::Sender<Turn>)>,
}

/// What one user has of a lane.
#[derive(Debug, Default)]
struct Share {
    places: usize,
    at_work: usize,
}

impl Queue {
    /// Gives the user another place: at most half of those, rounded up, that others leave, so that
    /// whoever has none gets one as long as any is free. An error says how many are taken.
    fn enter(&mut self, user: u32, what: &str) -> Result<(), ControlError> {
        let taken: usize = self.users.values().map(|share| share.places).sum();
        if taken >= WAITING_MAX {
            return Err(busy(WAITING_MAX, what));
        }
        let own = self.users.get(&user).map_or(0, |share| share.places);
        let left = WAITING_MAX - (taken - own);
        if own >= left.div_ceil(2) {
            return Err(busy_with_yours(own, what));
        }
        self.users.entry(user).or_default().places += 1;
        Ok(())
    }

    /// Changes what the user has, who is forgotten with the last of it.
    fn give_up(&mut self, user: u32, change: impl FnOnce(&mut Share)) {
        if let Some(share) = self.users.get_mut(&user) {
            change(share);
            if share.places == 0 && share.at_work == 0 {
                self.users.remove(&user);
            }
        }
    }

    /// Whose turn is next, if there is one: who leaves the lane keeps no turn.
    fn next(&mut self, at_work_max: usize) -> Option<(u32, oneshot::Sender<Turn>)> {
        self.waiting.retain(|(_, hand_over)| !hand_over.is_closed());
        let at_work = |user: &u32| self.users.get(user).map_or(0, |share| share.at_work);
        if self
            .users
            .values()
            .map(|share| share.at_work)
            .sum::<usize>()
            >= at_work_max
        {
            return None;
        }
        let users_max = (at_work_max - 1).max(1);
        let (index, least) = (self.waiting.iter().enumerate())
            .map(|(index, (user, _))| (index, at_work(user)))
            .min_by_key(|(_, at_work)| *at_work)?;
        if least >= users_max {
            return None;
        }
        let (user, hand_over) = self.waiting.remove(index);
        self.users.entry(user).or_default().at_work += 1;
        Some((user, hand_over))
    }
}

impl Inside {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over the turns that are free.
    fn hand_over(self: &Arc<Self>) {
        // The queue is not locked where a turn is dropped because nobody waits for it any more.
        while let Some((user, hand_over)) = { self.queue().next(self.at_work_max) } {
            let inside = self.clone();
            let _unwanted = hand_over.send(Turn { inside, user });
        }
    }
}

/// A user's place in a lane, until it is dropped.
struct LanePlace {
    inside: Arc<Inside>,
    user: u32,
}

impl Drop for LanePlace {
    fn drop(&mut self) {
        let mut queue = self.inside.queue();
        queue.give_up(self.user, |share| share.places -= 1);
    }
}

/// A user's turn in a lane, until it is dropped.
struct Turn {
    inside: Arc<Inside>,
    user: u32,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let at_work = |share: &mut Share| share.at_work -= 1;
        self.inside.queue().give_up(self.user, at_work);
        self.inside.hand_over();
    }
}

/// A turn at the work, until it is dropped. The work itself holds it, because it goes on if the
/// client leaves.
pub(crate) struct Permit {
    _at_work: Turn,
    _place: LanePlace,
}

impl Lane {
    fn new(what: &'static str, at_work_max: usize) -> Lane {
        Lane(Arc::new(Inside {
            what,
            at_work_max,
            queue: Mutex::default(),
        }))
    }

    /// Waits for the user's turn, whose id this is; an error at once if too many wait, or too many
    /// of the user's. Dropping the future gives the place up.
    pub(crate) fn enter(
        &self,
        user: u32,
    ) -> Result<impl Future<Output = Result<Permit, ControlError>> + use<>, ControlError> {
        let inside = self.0.clone();
        let (hand_over, turn) = oneshot::channel();
        {
            let mut queue = inside.queue();
            queue.enter(user, inside.what)?;
            queue.waiting.push((user, hand_over));
        }
        inside.hand_over();
        let refused = busy(WAITING_MAX, inside.what);
        let place = LanePlace { inside, user };
        Ok(async move {
            let turn = turn.await.map_err(|_| refused)?;
            Ok(Permit {
                _at_work: turn,
                _place: place,
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
    use futures_util::future::LocalBoxFuture;
    use proptest::prelude::*;

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
        let first = room.enter(0).unwrap().now_or_never().unwrap().unwrap();
        let mut waiting: Vec<_> = (1..WAITING_MAX as u32)
            .map(|user| Box::pin(room.enter(user).unwrap()))
            .collect();
        assert!(waiting[0].as_mut().now_or_never().is_none());
        let refused = room.enter(WAITING_MAX as u32).err().unwrap();
        assert_eq!(refused.kind, ErrorKind::Busy);
        assert!(refused.message.contains("64 plans"), "{}", refused.message);
        // A client that no longer waits has no place.
        waiting.pop();
        assert!(room.enter(WAITING_MAX as u32).is_ok());
        drop(first);
        assert!(waiting[0].as_mut().now_or_never().is_some());
    }

    #[test]
    fn one_users_submissions_leave_places_to_others() {
        let room = Lane::new("submissions", 1);
        let enter = |user| room.enter(user);
        let mut own: Vec<_> = std::iter::from_fn(|| enter(7).ok()).collect();
        assert_eq!(own.len(), WAITING_MAX / 2);
        let refused = enter(7).err().unwrap();
        assert_eq!(refused.kind, ErrorKind::Busy);
        assert!(
            refused.message.contains("32 submissions of yours"),
            "{}",
            refused.message
        );
        let other = enter(8).unwrap();
        own.pop();
        drop(other);
        assert!(enter(7).is_ok(), "a place that was given up is free");
    }

    type Waiting = LocalBoxFuture<'static, Result<Permit, ControlError>>;

    /// Takes those whose turn it is out of those who wait.
    fn begun(waiting: &mut Vec<Waiting>) -> Vec<Permit> {
        let mut at_work = Vec::new();
        waiting.retain_mut(|turn| match turn.now_or_never() {
            Some(permit) => {
                at_work.push(permit.unwrap());
                false
            }
            None => true,
        });
        at_work
    }

    #[test]
    fn one_users_slow_work_leaves_a_turn_to_others() {
        let room = Lane::new("submissions", 4);
        let enter = |user| room.enter(user).unwrap().boxed_local();
        let mut slow: Vec<_> = (0..8).map(|_| enter(7)).collect();
        let mut at_work = begun(&mut slow);
        assert_eq!(at_work.len(), 3, "one user has all turns but one");
        let mut others: Vec<_> = [8, 8, 9].map(enter).into();
        let first = begun(&mut others);
        assert_eq!(first.len(), 1, "the turn that is left");
        // The next turn is of who has none, though others came before.
        drop(at_work.pop());
        let second = begun(&mut others);
        assert_eq!((second.len(), begun(&mut slow).len()), (1, 0));
        assert_eq!(
            others.len(),
            1,
            "user 9 is at work, and 8 waits for another turn"
        );
        // Whoever stops waiting keeps no turn.
        drop(others);
        drop(first);
        assert_eq!(begun(&mut slow).len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None,
            ..ProptestConfig::default() })]

        /// Whatever users do who come and leave: a lane is never over its limit, whoever has no
        /// place gets one as long as any is free, and nobody enters beyond half of what the others
        /// leave.
        #[test]
        fn who_has_no_place_gets_one_while_any_is_free(
            moves in proptest::collection::vec((0..6u32, 0..4u8), 0..400),
        ) {
            let room = Lane::new("plans", 2);
            let mut held: Vec<(u32, _)> = Vec::new();
            for (user, does) in moves {
                if does == 0 {
                    let place = held.iter().position(|(other, _)| *other == user);
                    place.map(|place| held.swap_remove(place));
                    continue;
                }
                let (taken, own) = (held.len(), held.iter().filter(|(of, _)| *of == user).count());
                let entered = room.enter(user);
                let may = taken < WAITING_MAX && 2 * own < WAITING_MAX - (taken - own);
                prop_assert_eq!(entered.is_ok(), may, "{} of {} are the user's", own, taken);
                prop_assert!(may || own > 0 || taken == WAITING_MAX);
                held.extend(entered.ok().map(|place| (user, place)));
                prop_assert!(held.len() <= WAITING_MAX);
            }
            held.clear();
            prop_assert!(room.0.queue().users.is_empty());
        }
    }
}
