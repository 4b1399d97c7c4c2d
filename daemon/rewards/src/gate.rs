//! A gate that lets a bounded number of threads through at a time (`LIM-1`).

use crate::abandoned::Abandoned;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Interval at which a waiting thread looks whether its work is abandoned.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct Gate {
    free: Mutex<u32>,
    changed: Condvar,
}

/// A place behind the gate; dropping it lets the next thread in.
pub(crate) struct Pass<'a>(&'a Gate);

impl Gate {
    pub(crate) fn new(places: u32) -> Gate {
        Gate {
            free: Mutex::new(places),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub(crate) fn enter(&self) -> Pass<'_> {
        let mut free = self.lock();
        while *free == 0 {
            free = self
                .changed
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Pass(self)
    }

    /// Waits for a place, of which `waits` hears; `None` if the work is abandoned first.
    pub(crate) fn enter_telling(
        &self,
        abandoned: &Abandoned,
        waits: impl FnOnce(),
    ) -> Option<Pass<'_>> {
        if *self.lock() == 0 {
            waits();
        }
        self.enter_unless(abandoned)
    }

    /// Waits for a place; `None` if the work is abandoned first.
    pub(crate) fn enter_unless(&self, abandoned: &Abandoned) -> Option<Pass<'_>> {
        let mut free = self.lock();
        while *free == 0 && !abandoned.is_set() {
            free = self
                .changed
                .wait_timeout(free, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if abandoned.is_set() {
            return None;
        }
        *free -= 1;
        Some(Pass(self))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.0.lock() += 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_waits_in_vain_leaves_when_it_is_abandoned() {
        let (gate, abandoned) = (Gate::new(1), Abandoned::default());
        let held = gate.enter();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter_unless(&abandoned).is_none());
            abandoned.set();
            assert!(waiting.join().unwrap());
        });
        drop(held);
        assert!(gate.enter_unless(&Abandoned::default()).is_some());
    }
}
