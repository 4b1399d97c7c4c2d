//! Records how long the parts of a request take, for the trace of a step.
//!
//! Code that computes names its parts with [`span`]; whoever runs it listens with [`recorded`]. On
//! a GPU a span is the time in which the work is queued, and only where something is waited for the
//! time that it takes.

use std::cell::RefCell;
use std::time::Duration;

/// Most spans of one request (`LIM-1`); later ones are only counted.
const SPANS_MAX: usize = 1024;

/// Shorter parts are not worth a line.
const SPAN_MIN: Duration = Duration::from_micros(20);

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The part's name.
    pub name: &'static str,
    /// When it began, since the request did.
    pub start: Duration,
    /// How long it took.
    pub duration: Duration,
}

/// The parts of a request, in the order in which they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// At most 1,024.
    pub spans: Vec<Span>,
    /// Number of further ones.
    pub left_out: u64,
    /// How long the whole request took.
    pub total: Duration,
}

struct Recorder {
    now: Box<dyn Fn() -> Duration>,
    began: Duration,
    spans: Spans,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Runs `work` and returns the spans of this thread meanwhile, by the clock `now`.
pub fn recorded<T>(now: impl Fn() -> Duration + 'static, work: impl FnOnce() -> T) -> (T, Spans) {
    let began = now();
    let recorder = Recorder {
        now: Box::new(now),
        began,
        spans: Spans::default(),
    };
    let before = RECORDER.replace(Some(recorder));
    let done = work();
    let spans = match RECORDER.replace(before) {
        Some(Recorder { now, spans, .. }) => Spans {
            total: now().saturating_sub(began),
            ..spans
        },
        None => Spans::default(),
    };
    (done, spans)
}

/// Runs a part of a request under a name. It costs nothing if nobody records.
pub fn span<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    let now = || RECORDER.with_borrow(|recorder| recorder.as_ref().map(|r| (r.now)()));
    let start = now();
    let done = work();
    if let (Some(start), Some(end)) = (start, now()) {
        RECORDER.with_borrow_mut(|recorder| {
            let Some(Recorder { began, spans, .. }) = recorder else {
                return;
            };
            if end.saturating_sub(start) < SPAN_MIN {
                return;
            }
            if spans.spans.len() == SPANS_MAX {
                spans.left_out += 1;
                return;
            }
            spans.spans.push(Span {
                name,
                start: start.saturating_sub(*began),
                duration: end.saturating_sub(start),
            });
        });
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn parts_are_recorded_up_to_a_limit_and_only_where_somebody_listens() {
        let time = Rc::new(Cell::new(5));
        let ticks = time.clone();
        let tick = move |by: u64| ticks.set(ticks.get() + by);
        let now = move || Duration::from_secs(time.get());
        span("nobody listens", || tick(1));
        let (value, spans) = recorded(now, || {
            tick(2);
            let value = span("outer", || {
                span("inner", || tick(3));
                7
            });
            span("nothing to do", || ());
            (1..SPANS_MAX).for_each(|_| span("many", || tick(1)));
            value
        });
        let total = 5 + SPANS_MAX as u64 - 1;
        assert_eq!((value, spans.total), (7, Duration::from_secs(total)));
        assert_eq!((spans.spans.len(), spans.left_out), (SPANS_MAX, 1));
        let seconds = |at: usize| {
            let Span {
                name,
                start,
                duration,
            } = spans.spans[at];
            (name, start.as_secs(), duration.as_secs())
        };
        assert_eq!([seconds(0), seconds(1)], [("inner", 2, 3), ("outer", 2, 3)]);
    }
}
