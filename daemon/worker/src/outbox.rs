//! Outgoing messages: events and answers, in order, for the one task that writes the socket.

use r1d_proto::rollout::Rollout;
use r1d_proto::trace::{Lane, Span};
use r1d_proto::worker::{Body, CheckpointReport, CheckpointState, Event, FromWorker, Spans};
use r1d_proto::world::SharedClock;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that may wait to be written (`LIM-1`). A full outbox holds the device back, so that
/// `r1d`'s pace bounds memory.
pub(crate) const OUTBOX_MAX_MESSAGES: usize = 256;
/// Sends the messages of one request.
#[derive(Clone)]
pub(crate) struct Outbox {
    id: u64,
    /// Stage and step of the checkpoint that it reports on; `None` for the request itself.
    checkpoint: Option<(u32, u64)>,
    messages: mpsc::Sender<FromWorker>,
    clock: SharedClock,
    /// Shortest time between two progress messages.
    interval: Duration,
}

impl Outbox {
    pub(crate) fn new(
        id: u64,
        messages: mpsc::Sender<FromWorker>,
        clock: SharedClock,
        interval: Duration,
    ) -> Outbox {
        Outbox {
            id,
            checkpoint: None,
            messages,
            clock,
            interval,
        }
    }

    /// The request's number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Reports on a checkpoint that is written beside the requests, and not on the request that
    /// began it.
    pub(crate) fn of_checkpoint(&self, stage: u32, step: u64) -> Outbox {
        Outbox {
            checkpoint: Some((stage, step)),
            ..self.clone()
        }
    }

    /// Sends a message from a thread; waits while the outbox is full. If the writer is gone the
    /// process is about to end, and the message is lost.
    fn send(&self, body: Body) {
        let id = self.id;
        let _ = self.messages.blocking_send(FromWorker { id, body });
    }

    pub(crate) fn completed(&self, rollout: Rollout) {
        self.send(Body::Event(Event::Completed(rollout)));
    }

    /// Reports on the checkpoint of [`of_checkpoint`](Self::of_checkpoint).
    pub(crate) fn checkpoint(&self, state: CheckpointState) {
        if let Some((stage, step)) = self.checkpoint {
            self.send(Body::Checkpoint(CheckpointReport { stage, step, state }));
        }
    }

    fn progress(&self, doing: &str, done: u64, total: u64, unit: &str) {
        match self.checkpoint {
            Some(_) => self.checkpoint(CheckpointState::Writing { done, total }),
            None => self.send(Body::Event(Event::Progress {
                doing: doing.into(),
                done,
                total,
                unit: unit.into(),
            })),
        }
    }

    /// Tells for whom the request waits.
    pub(crate) fn waits(&self, for_whom: &str) {
        self.progress(for_whom, 0, 0, "");
    }

    /// Runs a request's work on this thread and reports its progress: at once, then whenever
    /// something moves in it ([`r1d_torch::work`]) or it reports by itself ([`Report::at`]), at
    /// most once an interval. `total` counts `unit`s; 0 means that it is not known beforehand.
    pub(crate) fn during<T>(
        &self,
        doing: &'static str,
        unit: &'static str,
        total: u64,
        work: impl FnOnce(&Report) -> T,
    ) -> T {
        let far = Far {
            done: 0,
            total,
            counted: true,
            said: None,
        };
        let report = Report {
            outbox: self.clone(),
            doing,
            unit,
            far: Rc::new(Cell::new(far)),
        };
        report.say();
        let (heard, clock) = (report.clone(), self.clock.clone());
        let work = || r1d_torch::work::heard_by(move |units| heard.moved(units), || work(&report));
        let (done, spans) = r1d_torch::spans::recorded(move || clock.now(), work);
        self.spans(&spans);
        done
    }

    /// Tells how long the parts of the request took, if it has parts.
    fn spans(&self, recorded: &r1d_torch::spans::Spans) {
        if recorded.spans.is_empty() {
            return;
        }
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let span = |span: &r1d_torch::spans::Span| Span {
            lane: Lane::Device,
            name: span.name.into(),
            start_us: micros(span.start),
            duration_us: micros(span.duration),
        };
        self.send(Body::Event(Event::Spans(Spans {
            spans: recorded.spans.iter().map(span).collect(),
            left_out: recorded.left_out,
            total_us: micros(recorded.total),
        })));
    }
}

/// The progress of a request's work.
#[derive(Clone)]
pub(crate) struct Report {
    outbox: Outbox,
    doing: &'static str,
    unit: &'static str,
    far: Rc<Cell<Far>>,
}

#[derive(Clone, Copy)]
struct Far {
    done: u64,
    total: u64,
    /// Whether `done` is the sum of what moved; `false` once the work reports it by itself.
    counted: bool,
    said: Option<Duration>,
}

impl Report {
    pub(crate) fn at(&self, done: u64, total: u64) {
        self.far.set(Far {
            done,
            total,
            counted: false,
            ..self.far.get()
        });
        self.say();
    }

    fn moved(&self, units: u64) {
        let mut far = self.far.get();
        if far.counted {
            far.done += units;
            // There is more work than expected.
            far.total = if far.total == 0 {
                0
            } else {
                far.total.max(far.done)
            };
        }
        self.far.set(far);
        self.say();
    }

    fn say(&self) {
        let (far, now) = (self.far.get(), self.outbox.clock.now());
        if far
            .said
            .is_none_or(|at| now.saturating_sub(at) >= self.outbox.interval)
        {
            self.far.set(Far {
                said: Some(now),
                ..far
            });
            let Report { doing, unit, .. } = self;
            self.outbox.progress(doing, far.done, far.total, unit);
        }
    }
}
