//! Whoever waits for long work hears that it moves.
//!
//! What reads, writes or computes in a loop says so with [`moved`]; whoever runs that work listens
//! with [`heard_by`]. A word comes from the loop's own turns and from nothing else: where work
//! stands still, nobody is told that it moves.

use std::cell::RefCell;

type Listener = Box<dyn FnMut(u64)>;

thread_local! {
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// Runs `work`, and calls `listener` on this thread with what [`moved`] meanwhile. A listener from
/// before hears nothing until the work is done.
pub fn heard_by<T>(listener: impl FnMut(u64) + 'static, work: impl FnOnce() -> T) -> T {
    let before = LISTENER.replace(Some(Box::new(listener)));
    let done = work();
    LISTENER.set(before);
    done
}

/// So many units of work are done; 0 where the work only is not at a standstill. Costs nothing
/// where nobody listens.
pub fn moved(units: u64) {
    // Taken out meanwhile, so that a listener may itself do work.
    if let Some(mut listener) = LISTENER.take() {
        listener(units);
        LISTENER.set(Some(listener));
    }
}

/// [`moved`] of no units, for C++ to call.
pub(crate) extern "C" fn still_moving() {
    moved(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn the_innermost_listener_hears_and_the_one_before_hears_again() {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let listener = |name: &'static str| {
            let heard = heard.clone();
            move |units| heard.borrow_mut().push((name, units))
        };
        moved(1);
        heard_by(listener("outer"), || {
            moved(2);
            heard_by(listener("inner"), || moved(3));
            moved(4);
        });
        moved(5);
        assert_eq!(*heard.borrow(), [("outer", 2), ("inner", 3), ("outer", 4)]);
    }
}
