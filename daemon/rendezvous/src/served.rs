//! The rendezvous that a daemon has for the workers of one gang in one epoch. It ends with them, so
//! ranks of an earlier epoch do not meet those of a new one.

use crate::RendezvousError;
use crate::table::Table;
use r1d_proto::rendezvous::{Ask, RendezvousAnswer, RendezvousCall};
use std::time::Duration;

/// Calls of one rank that may wait for their answers at a time: it has a few threads that call.
pub const CALLS_MAX: usize = 64;
/// Longest wait for a key, whatever a rank asks for.
pub const WAIT_MAX: Duration = Duration::from_secs(3600);

/// A rendezvous as its daemon serves it: a pure state machine of calls and time.
#[derive(Default)]
pub struct Served {
    table: Table,
    waits: Vec<Waiting>,
}

/// A call that waits for its key.
struct Waiting {
    rank: usize,
    number: u64,
    key: String,
    since: Duration,
    within: Duration,
}

/// An answer, and the rank that it is for.
#[derive(Debug, PartialEq, Eq)]
pub struct ToRank {
    /// The rank that called.
    pub rank: usize,
    /// The answer.
    pub answer: RendezvousAnswer,
}

/// What a rank waits for at the rendezvous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The rank that waits.
    pub rank: usize,
    /// The key that nobody has set yet.
    pub key: String,
    /// When the wait began.
    pub since: Duration,
    /// When it ends.
    pub until: Duration,
}

impl Waiting {
    fn answer(self, result: Result<Vec<u8>, RendezvousError>) -> ToRank {
        let number = self.number;
        ToRank {
            rank: self.rank,
            answer: RendezvousAnswer { number, result },
        }
    }

    fn until(&self) -> Duration {
        self.since.saturating_add(self.within)
    }
}

impl Served {
    /// Takes a rank's call at `now`, and returns all answers that are due: its own, and those of
    /// calls that waited for what it set.
    pub fn call(&mut self, rank: usize, call: RendezvousCall, now: Duration) -> Vec<ToRank> {
        let RendezvousCall { number, key, ask } = call;
        let within = match &ask {
            Ask::Get { within } => WAIT_MAX.min(*within),
            Ask::Set(_) | Ask::Add(_) => Duration::ZERO,
        };
        let call = Waiting {
            rank,
            number,
            key,
            since: now,
            within,
        };
        let result = match ask {
            Ask::Set(value) => self.table.set(&call.key, value).map(|()| Vec::new()),
            Ask::Add(amount) => self
                .table
                .add(&call.key, amount)
                .map(|sum| sum.to_string().into_bytes()),
            Ask::Get { .. } => return self.get(call),
        };
        let key = call.key.clone();
        let mut answers = vec![call.answer(result)];
        answers.extend(self.met(&key));
        answers
    }

    /// Answers a call for a key, or lets it wait.
    fn get(&mut self, call: Waiting) -> Vec<ToRank> {
        if let Some(value) = self.table.get(&call.key) {
            let value = value.to_vec();
            return vec![call.answer(Ok(value))];
        }
        let waits = self.waits.iter().filter(|wait| wait.rank == call.rank);
        if waits.count() >= CALLS_MAX {
            let cause = format!("{CALLS_MAX} calls of rank {} wait already", call.rank);
            return vec![call.answer(Err(RendezvousError::Unreachable(cause)))];
        }
        if call.within.is_zero() {
            return vec![absent(call)];
        }
        self.waits.push(call);
        Vec::new()
    }

    /// The answers to the calls that waited for a key, if it is set.
    fn met(&mut self, key: &str) -> Vec<ToRank> {
        let Some(value) = self.table.get(key).map(<[u8]>::to_vec) else {
            return Vec::new();
        };
        let met = self.waits.extract_if(.., |wait| wait.key == key);
        met.map(|wait| wait.answer(Ok(value.clone()))).collect()
    }

    /// The answers to the calls whose time is over at `now`.
    pub fn expired(&mut self, now: Duration) -> Vec<ToRank> {
        let over = self.waits.extract_if(.., |wait| wait.until() <= now);
        over.map(absent).collect()
    }

    /// What ranks wait for, the longest wait first.
    pub fn missed(&self) -> impl Iterator<Item = Missed> {
        self.waits.iter().map(|wait| Missed {
            rank: wait.rank,
            key: wait.key.clone(),
            since: wait.since,
            until: wait.until(),
        })
    }
}

fn absent(call: Waiting) -> ToRank {
    let error = RendezvousError::Absent {
        key: call.key.clone(),
        within: call.within,
    };
    call.answer(Err(error))
}
