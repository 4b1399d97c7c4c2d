//! The orders of epochs that will be wanted soon, as they wait for the thread that makes them.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Orders that wait to be made (`LIM-1`). One more is made when its first rows are asked for.
const WAITING_MAX: usize = 64;

/// All that the order of an epoch depends on: a salt for what is ordered, the seed, the stage, the
/// epoch and the number of rows.
pub(crate) type OrderKey = [u64; 5];

/// The orders that are to be made ahead.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    keys: VecDeque<OrderKey>,
    /// Whether there is a thread that makes them.
    at_work: bool,
}

impl Ahead {
    /// Adds an order; returns whether a thread has to be started for it.
    pub(crate) fn add(&self, key: OrderKey) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.keys.len() >= WAITING_MAX || waiting.keys.contains(&key) {
            return false;
        }
        waiting.keys.push_back(key);
        !std::mem::replace(&mut waiting.at_work, true)
    }

    /// The next order to make. Its thread ends if there is none.
    pub(crate) fn next(&self) -> Option<OrderKey> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = waiting.keys.pop_front();
        waiting.at_work = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_has_a_limit() {
        let ahead = Ahead::default();
        assert!(ahead.add([0; 5]), "a thread is started for the first");
        assert!((1..1000).all(|key| !ahead.add([key; 5])));
        assert_eq!(std::iter::from_fn(|| ahead.next()).count(), WAITING_MAX);
        assert!(ahead.add([0; 5]));
    }
}
