//! What each rank of a gang does, as far as it has said, and which rank is at fault where a gang
//! fails.

use crate::worker::WorkerReply;
use r1d_proto::worker::{Body, Event, WorkerRequest};
use r1d_proto::world::SharedClock;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What begins the report of a rank that waits for others in a collective.
const WAITING_FOR: &str = "waiting for ";
/// What a rank does before its first word.
const STARTING: &str = "starting";
/// What a rank does that is asked nothing.
const IDLE: &str = "idle";
/// What a rank does that has answered, while others have not.
const WAITING_FOR_OTHERS: &str = "done, waiting for other ranks";

/// The ranks of a gang in its newest attempt. Clones share them.
#[derive(Clone)]
pub(crate) struct LiveRanks {
    state: Arc<Mutex<RanksState>>,
    clock: SharedClock,
}

struct RanksState {
    ranks: Vec<LiveRank>,
    /// The rank that failed last.
    failed: Option<usize>,
}

/// A rank as it was last heard of.
#[derive(Clone)]
struct LiveRank {
    doing: String,
    /// Since when the rank has said nothing of what it is to do; `None` if it has nothing to do.
    silent_since: Option<Duration>,
    /// Whether its last word was that it waits for other ranks.
    waits: bool,
}

impl LiveRanks {
    /// A gang of `size` ranks that does nothing yet.
    pub(crate) fn new(size: usize, clock: SharedClock) -> LiveRanks {
        let idle = LiveRank {
            doing: IDLE.into(),
            silent_since: None,
            waits: false,
        };
        let state = RanksState {
            ranks: vec![idle; size],
            failed: None,
        };
        LiveRanks {
            state: Arc::new(Mutex::new(state)),
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, RanksState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, rank: usize, doing: String, silent_since: Option<Duration>) {
        if let Some(of) = self.lock().ranks.get_mut(rank) {
            *of = LiveRank {
                doing,
                silent_since,
                waits: false,
            };
        }
    }

    /// The number of ranks.
    pub(crate) fn size(&self) -> usize {
        self.lock().ranks.len()
    }

    /// A new attempt begins, in which no rank has failed.
    pub(crate) fn begin(&self) {
        self.lock().failed = None;
        for rank in 0..self.size() {
            self.set(rank, STARTING.into(), Some(self.clock.now()));
        }
    }

    /// A rank is handed its part of a request.
    pub(crate) fn asked(&self, rank: usize, request: &WorkerRequest) {
        self.set(rank, word(request).into(), Some(self.clock.now()));
    }

    /// Takes note of what a rank has said.
    pub(crate) fn said(&self, rank: usize, reply: &WorkerReply) {
        let body = match reply {
            WorkerReply::Message(message) => &message.body,
            WorkerReply::Lost { .. } | WorkerReply::Unusable { .. } => {
                return self.set(rank, "ended".into(), None);
            }
        };
        match body {
            Body::Event(Event::Started { .. }) | Body::Done(_) => self.set(rank, IDLE.into(), None),
            Body::Failed(_) => self.set(rank, "failed".into(), None),
            Body::Event(Event::Progress {
                doing,
                done,
                total,
                unit,
            }) => self.goes_on(rank, Some(far(doing, *done, *total, unit))),
            Body::Event(_) => self.goes_on(rank, None),
            Body::Checkpoint(_) | Body::Rendezvous(_) => {}
        }
    }

    /// A rank is further with its request. One that waits for others is as silent as it was.
    fn goes_on(&self, rank: usize, doing: Option<String>) {
        let (now, mut state) = (self.clock.now(), self.lock());
        let Some(of) = state.ranks.get_mut(rank) else {
            return;
        };
        of.doing = doing.unwrap_or_else(|| of.doing.clone());
        of.waits = of.doing.starts_with(WAITING_FOR);
        if !of.waits {
            of.silent_since = Some(now);
        }
    }

    /// A rank has failed.
    pub(crate) fn failed(&self, rank: usize) {
        self.lock().failed = Some(rank);
    }

    /// The gang was silent for too long. Unless a rank is known to have failed, the one that has
    /// said nothing for the longest time is at fault; one that waits for others only if all do.
    /// Returns that rank.
    pub(crate) fn was_silent(&self) -> Option<usize> {
        let mut state = self.lock();
        if state.failed.is_none() {
            let ranks = state.ranks.iter().enumerate();
            let silent = ranks.filter_map(|(rank, of)| Some((of.waits, of.silent_since?, rank)));
            state.failed = silent.min().map(|(_, _, rank)| rank);
        }
        state.failed
    }

    /// The rank that failed last; rank 0 if none did.
    pub(crate) fn at_fault(&self) -> usize {
        self.lock().failed.unwrap_or(0)
    }

    /// What each rank does, in words.
    pub(crate) fn doing(&self) -> Vec<String> {
        let state = self.lock();
        let at_work = state.ranks.iter().any(|rank| rank.silent_since.is_some());
        let doing = |rank: &LiveRank| match &*rank.doing {
            IDLE if at_work => WAITING_FOR_OTHERS.into(),
            doing => doing.to_owned(),
        };
        state.ranks.iter().map(doing).collect()
    }
}

/// How far a rank is, in words.
fn far(doing: &str, done: u64, total: u64, unit: &str) -> String {
    if total == 0 {
        doing.to_owned()
    } else {
        format!("{doing} {done}/{total} {unit}")
    }
}

/// What a rank does for a request, before it says so itself.
fn word(request: &WorkerRequest) -> &'static str {
    match request {
        WorkerRequest::Open(_) => "loading",
        WorkerRequest::Generate(_) => "sampling",
        WorkerRequest::Train(_)
        | WorkerRequest::Supervise(_)
        | WorkerRequest::TrainReward(_)
        | WorkerRequest::TrainDpo(_)
        | WorkerRequest::TrainPpo(_)
        | WorkerRequest::SyncReference => "training",
        WorkerRequest::Save { .. } => "checkpointing",
        WorkerRequest::Restore { .. } => "restoring",
        WorkerRequest::Export { .. } => "exporting",
        WorkerRequest::Score { .. } => "scoring",
        WorkerRequest::Answer(_) => "judging",
        WorkerRequest::Close | WorkerRequest::More(_) | WorkerRequest::Rendezvous(_) => IDLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::worker::{FromWorker, Reply};
    use r1d_proto::world::Clock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock by which every look at it takes a second.
    #[derive(Default)]
    struct Looks(AtomicU64);

    impl Clock for Looks {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
        }

        fn unix(&self) -> Duration {
            self.now()
        }
    }

    fn ranks(size: usize) -> LiveRanks {
        LiveRanks::new(size, Arc::new(Looks::default()))
    }

    fn says(ranks: &LiveRanks, rank: usize, body: Body) {
        let message = FromWorker { id: 1, body };
        ranks.said(rank, &WorkerReply::Message(message));
    }

    fn progress(doing: &str, done: u64, total: u64) -> Body {
        Body::Event(Event::Progress {
            doing: doing.into(),
            done,
            total,
            unit: "tokens".into(),
        })
    }

    fn started() -> Body {
        Body::Event(Event::Started {
            protocol: 0,
            version: String::new(),
            device: String::new(),
            pid: 1,
        })
    }

    #[test]
    fn each_rank_shows_what_it_does() {
        let ranks = ranks(3);
        ranks.begin();
        assert_eq!(ranks.doing(), [STARTING; 3]);
        says(&ranks, 1, started());
        assert_eq!(ranks.doing()[1], WAITING_FOR_OTHERS);
        for rank in 0..3 {
            says(&ranks, rank, started());
        }
        assert_eq!(ranks.doing(), [IDLE; 3]);
        for rank in 0..3 {
            ranks.asked(rank, &WorkerRequest::SyncReference);
        }
        says(&ranks, 0, progress("training", 3, 8));
        says(&ranks, 1, progress("waiting for rank 0 in sum 7", 0, 0));
        says(&ranks, 2, Body::Done(Reply::ReferenceSynced));
        let shown = [
            "training 3/8 tokens",
            "waiting for rank 0 in sum 7",
            WAITING_FOR_OTHERS,
        ];
        assert_eq!(ranks.doing(), shown);
    }

    /// The device of the rank that says nothing is doubted, and not rank 0's.
    #[test]
    fn the_rank_that_is_silent_the_longest_is_at_fault() {
        // None has failed, and none is to do anything.
        let idle = ranks(3);
        assert_eq!((idle.was_silent(), idle.at_fault()), (None, 0));
        // One does not start.
        let starting = ranks(3);
        starting.begin();
        says(&starting, 0, started());
        says(&starting, 2, started());
        assert_eq!(starting.was_silent(), Some(1));
        // One stops; the others wait for it, and say so.
        let working = ranks(3);
        for rank in 0..3 {
            working.asked(rank, &WorkerRequest::SyncReference);
        }
        for rank in [2, 0, 1] {
            says(&working, rank, progress("training", 1, 8));
        }
        says(&working, 0, progress("waiting for rank 1 in sum 7", 0, 0));
        says(&working, 2, progress("waiting for rank 1 in sum 7", 0, 0));
        assert_eq!((working.was_silent(), working.at_fault()), (Some(1), 1));
        // What is known counts for more than what is likely, until the next attempt.
        working.failed(2);
        assert_eq!((working.was_silent(), working.at_fault()), (Some(2), 2));
        working.begin();
        assert_eq!(working.at_fault(), 0);
    }
}
