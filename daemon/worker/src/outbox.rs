//! The way out: events and answers, in order, to the one task that writes the socket.

use r1d_proto::rollout::Rollout;
use r1d_proto::worker::{Body, Event, FromWorker};
use r1d_proto::world::SharedClock;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that may wait to be written (`LIM-1`). A full outbox holds the device back, so `r1d`'s pace bounds memory.
pub const OUTBOX_MAX_MESSAGES: usize = 256;
/// Progress is sent at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Speaks for one request.
#[derive(Clone)]
pub struct Outbox {
    id: u64,
    messages: mpsc::Sender<FromWorker>,
    clock: SharedClock,
}

impl Outbox {
    pub fn new(id: u64, messages: mpsc::Sender<FromWorker>, clock: SharedClock) -> Outbox {
        Outbox { id, messages, clock }
    }

    /// From the device's thread: waits while the outbox is full. When the writer is gone the process is about to end, and so is the message.
    fn send(&self, event: Event) {
        let _ = self.messages.blocking_send(FromWorker { id: self.id, body: Body::Event(event) });
    }

    pub fn completed(&self, rollout: Rollout) {
        self.send(Event::Completed(rollout));
    }

    /// A reporter of progress in `unit`s; the first report is sent at once, later ones at most every [`PROGRESS_INTERVAL`].
    pub fn progress(&self, doing: &'static str, unit: &'static str) -> impl FnMut(u64, u64) + use<> {
        let outbox = self.clone();
        let mut sent: Option<Duration> = None;
        move |done, total| {
            let now = outbox.clock.now();
            if sent.is_none_or(|at| now.saturating_sub(at) >= PROGRESS_INTERVAL) {
                sent = Some(now);
                outbox.send(Event::Progress { doing: doing.into(), done, total, unit: unit.into() });
            }
        }
    }
}
