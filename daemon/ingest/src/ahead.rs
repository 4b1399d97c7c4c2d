//! Makes the orders of epochs that will be wanted soon, on a thread of their own: a step then finds
//! its rows at once, however many there are.

use crate::order::{Order, OrderKey, Orders, ROWS, key};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Orders that wait to be made (`LIM-1`). One more is made when its first rows are asked for.
const WAITING_MAX: usize = 64;
/// Fewer rows are ordered in less than a millisecond.
const ROWS_MIN: u64 = 1 << 14;

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
    fn add(&self, key: OrderKey) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.keys.len() >= WAITING_MAX || waiting.keys.contains(&key) {
            return false;
        }
        waiting.keys.push_back(key);
        !std::mem::replace(&mut waiting.at_work, true)
    }

    /// The next order to make. Its thread ends if there is none.
    fn next(&self) -> Option<OrderKey> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = waiting.keys.pop_front();
        waiting.at_work = next.is_some();
        next
    }
}

impl Orders {
    /// Makes the order of the epoch that step `step` begins in, if that takes long, on another
    /// thread. [`Orders::rows_of_step`] gives the same rows without it, later.
    pub fn prepare(&self, order: Order, step: u64, rows_per_step: u64, len: u64) {
        if let Some(epoch) = step.saturating_mul(rows_per_step).checked_div(len)
            && order.shuffle
        {
            self.make_ahead(key(ROWS, order, epoch, len));
        }
    }

    pub(crate) fn make_ahead(&self, key: OrderKey) {
        let [.., len] = key;
        if len < ROWS_MIN || self.known(&key).is_some() || !self.ahead().add(key) {
            return;
        }
        let orders = self.clone();
        let thread = std::thread::Builder::new().name("orders".into());
        let started = thread.spawn(move || {
            while let Some(key) = orders.ahead().next() {
                // Who asks for its rows tries again, and gets the error.
                let _ = orders.of_key(key);
            }
        });
        if started.is_err() {
            // What waits is made when it is asked for.
            while self.ahead().next().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 20_000;

    fn order(seed: u64) -> Order {
        Order {
            seed,
            stage: 0,
            shuffle: true,
        }
    }

    /// Waits until the order is known, without asking for it.
    fn wait(orders: &Orders, key: &OrderKey) {
        for _ in 0..1 << 24 {
            if orders.known(key).is_some() {
                return;
            }
            std::thread::yield_now();
        }
        panic!("nobody makes the order");
    }

    #[test]
    fn what_will_be_wanted_is_made_before_it_is_asked_for() {
        let orders = Orders::new(&std::env::temp_dir());
        let of = |seed, epoch| key(ROWS, order(seed), epoch, LEN);
        orders.prepare(order(1), 2 * LEN / 10, 10, LEN);
        wait(&orders, &of(1, 2));
        // Towards the end of an epoch, and not before.
        orders.rows_of_step(order(2), LEN / 20, 10, LEN).unwrap();
        assert!(orders.ahead().next().is_none());
        assert!(orders.known(&of(2, 1)).is_none());
        orders
            .rows_of_step(order(2), LEN / 10 - 5, 10, LEN)
            .unwrap();
        wait(&orders, &of(2, 1));
        let ahead = orders.rows_of_step(order(2), LEN / 10, 10, LEN).unwrap();
        let anew = Orders::new(&std::env::temp_dir());
        assert_eq!(
            anew.rows_of_step(order(2), LEN / 10, 10, LEN).unwrap(),
            ahead
        );
    }

    #[test]
    fn what_waits_has_a_limit() {
        let ahead = Ahead::default();
        assert!(ahead.add([0; 5]), "a thread is started for the first");
        assert!((1..1000).all(|key| !ahead.add([key; 5])));
        assert_eq!(std::iter::from_fn(|| ahead.next()).count(), WAITING_MAX);
        assert!(ahead.add([0; 5]));
    }
}
