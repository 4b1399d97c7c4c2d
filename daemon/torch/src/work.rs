//! Reports the progress of long work.
//!
//! A loop that reads, writes or computes calls [`moved`]; whoever runs that work listens with
//! [`heard_by`]. Only the loop's own turns report: if the work stands still, there are no reports.

use std::cell::RefCell;

type Listener = Box<dyn FnMut(u64)>;

thread_local! {
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// Runs `work`, and calls `listener` on this thread with every number of units that is [`moved`]
/// meanwhile. A previous listener gets no reports until the work is done.
pub fn heard_by<T>(listener: impl FnMut(u64) + 'static, work: impl FnOnce() -> T) -> T {
    let before = LISTENER.replace(Some(Box::new(listener)));
    let done = work();
    LISTENER.set(before);
    done
}

/// Reports that `units` of work are done; 0 means that the work goes on. It costs nothing if there
/// is no listener.
pub fn moved(units: u64) {
    // The listener is taken out meanwhile, so that it may itself do work.
    if let Some(mut listener) = LISTENER.take() {
        listener(units);
        LISTENER.set(Some(listener));
    }
}

/// Calls [`moved`] with no units, for C++.
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
