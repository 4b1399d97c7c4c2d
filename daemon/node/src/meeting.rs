//! Serves the rendezvous of a gang: the calls of its workers come over their channels, and so do
//! the answers.

use crate::tasks;
use r1d_proto::rendezvous::{Ask, RendezvousCall};
use r1d_proto::worker::{ToWorker, WorkerRequest};
use r1d_proto::world::SharedClock;
use r1d_rendezvous::{CALLS_MAX, Missed, Served, ToRank, WAIT_MAX};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Answers that may wait to be written to a worker (`LIM-1`): one for each call that may wait, and
/// as many for calls that are answered at once.
pub(crate) const ANSWERS_MAX: usize = 2 * CALLS_MAX;

/// The rendezvous of one gang in one epoch. Clones share it; it ends with the last.
#[derive(Clone)]
pub(crate) struct Meeting {
    meeting: Arc<Mutex<Met>>,
    clock: SharedClock,
}

#[derive(Default)]
struct Met {
    served: Served,
    /// The ways of the answers to the ranks.
    ranks: BTreeMap<usize, mpsc::Sender<ToWorker>>,
}

/// A worker's place at its gang's rendezvous.
#[derive(Clone)]
pub(crate) struct Seat {
    pub meeting: Meeting,
    pub rank: usize,
}

/// A worker calls, and does not read the answers.
#[derive(Debug, thiserror::Error)]
#[error("rank {rank} has not taken {ANSWERS_MAX} answers of the rendezvous")]
pub(crate) struct Unread {
    rank: usize,
}

impl Meeting {
    /// A rendezvous on which nothing was done yet.
    pub(crate) fn new(clock: SharedClock) -> Meeting {
        Meeting {
            meeting: Arc::default(),
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Met> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What ranks wait for, the longest wait first.
    pub(crate) fn missed(&self) -> Vec<Missed> {
        self.lock().served.missed().collect()
    }
}

impl Met {
    /// Ends the waits whose time is over at `now`.
    fn expire(&mut self, now: Duration) {
        let over = self.served.expired(now);
        // Who does not read its answers is found at its next call.
        let _ = self.answer(over);
    }

    /// Sends answers on their way.
    fn answer(&mut self, answers: Vec<ToRank>) -> Result<(), Unread> {
        let mut unread = Ok(());
        for ToRank { rank, answer } in answers {
            let request = WorkerRequest::Rendezvous(answer);
            let sent = self
                .ranks
                .get(&rank)
                .map(|rank| rank.try_send(ToWorker { id: 0, request }));
            // A rank that is gone needs none.
            if let Some(Err(mpsc::error::TrySendError::Full(_))) = sent {
                unread = Err(Unread { rank });
            }
        }
        unread
    }
}

impl Seat {
    /// Takes the seat: from now on answers to the rank go to `answers`.
    pub(crate) fn take(&self, answers: mpsc::Sender<ToWorker>) {
        self.meeting.lock().ranks.insert(self.rank, answers);
    }

    /// Carries out the rank's call.
    pub(crate) fn call(&self, call: RendezvousCall) -> Result<(), Unread> {
        let now = self.meeting.clock.now();
        if let Ask::Get { within } = call.ask
            && !within.is_zero()
        {
            let within = WAIT_MAX.min(within);
            // The wait does not keep the keys of an epoch that is over.
            let meeting = Arc::downgrade(&self.meeting.meeting);
            let until = now.saturating_add(within);
            tasks::spawn("rendezvous wait", async move {
                tokio::time::sleep(within).await;
                if let Some(meeting) = meeting.upgrade() {
                    let mut met = meeting.lock().unwrap_or_else(PoisonError::into_inner);
                    met.expire(until);
                }
            });
        }
        let mut met = self.meeting.lock();
        let answers = met.served.call(self.rank, call, now);
        met.answer(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::rendezvous::RendezvousAnswer;
    use r1d_proto::world::SystemClock;

    fn seat(meeting: &Meeting, rank: usize) -> (Seat, mpsc::Receiver<ToWorker>) {
        let meeting = meeting.clone();
        let (answers, heard) = mpsc::channel(ANSWERS_MAX);
        let seat = Seat { meeting, rank };
        seat.take(answers);
        (seat, heard)
    }

    fn call(number: u64, ask: Ask) -> RendezvousCall {
        let key = "all/member/1".to_owned();
        RendezvousCall { number, key, ask }
    }

    async fn heard(answers: &mut mpsc::Receiver<ToWorker>) -> RendezvousAnswer {
        match answers.recv().await.unwrap().request {
            WorkerRequest::Rendezvous(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// What one rank sets, the others get over their own channels; who waits in vain hears of it.
    #[actix::test]
    async fn ranks_meet_and_a_wait_in_vain_ends() {
        let meeting = Meeting::new(SystemClock::shared());
        let ((first, mut to_first), (second, mut to_second)) =
            (seat(&meeting, 0), seat(&meeting, 1));
        let within = Duration::from_millis(20);
        first.call(call(1, Ask::Get { within })).unwrap();
        assert_eq!(meeting.missed()[0].rank, 0);
        let answer = heard(&mut to_first).await;
        let error = answer.result.unwrap_err().to_string();
        assert_eq!(error, "nobody set `all/member/1` within 20ms");
        assert_eq!(meeting.missed(), []);
        let within = Duration::from_secs(60);
        first.call(call(2, Ask::Get { within })).unwrap();
        second.call(call(1, Ask::Set(b"here".to_vec()))).unwrap();
        assert_eq!(heard(&mut to_second).await.result.unwrap(), b"");
        let answer = heard(&mut to_first).await;
        assert_eq!(
            (answer.number, answer.result.unwrap()),
            (2, b"here".to_vec())
        );
    }

    /// A rank may wait for an hour; its epoch's keys take no memory for that long.
    #[actix::test]
    async fn the_keys_go_with_the_epoch() {
        let meeting = Meeting::new(SystemClock::shared());
        let (seat, _to_worker) = seat(&meeting, 0);
        let within = WAIT_MAX;
        seat.call(call(1, Ask::Get { within })).unwrap();
        let keys = Arc::downgrade(&meeting.meeting);
        drop((seat, meeting));
        assert!(keys.upgrade().is_none());
    }

    #[actix::test]
    async fn who_does_not_read_its_answers_fills_no_memory() {
        let (seat, _to_worker) = seat(&Meeting::new(SystemClock::shared()), 0);
        for number in 0..ANSWERS_MAX as u64 {
            seat.call(call(number, Ask::Set(vec![]))).unwrap();
        }
        let error = seat.call(call(0, Ask::Set(vec![]))).unwrap_err();
        assert!(error.to_string().starts_with("rank 0 has not taken"));
    }
}
