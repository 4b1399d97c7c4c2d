//! A rendezvous as a worker sees it: its calls travel over the channel that the worker has to its
//! daemon.

use crate::table::number_of;
use crate::{Rendezvous, RendezvousError};
use r1d_proto::rendezvous::{Ask, RendezvousAnswer, RendezvousCall};
use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much longer than the call itself its answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

type Outcome = Result<Vec<u8>, RendezvousError>;

/// A rendezvous at the other end of a channel.
pub struct Carried {
    /// Sends a call on its way; `false` where nobody takes it.
    send: Box<dyn Fn(RendezvousCall) -> bool + Send + Sync>,
    calls: Mutex<Calls>,
}

/// The calls that wait for their answers.
#[derive(Default)]
struct Calls {
    last: u64,
    waiting: BTreeMap<u64, SyncSender<Outcome>>,
}

impl Carried {
    /// A rendezvous whose calls `send` sends on their way; it may block, and is called from any
    /// thread.
    pub fn new(send: impl Fn(RendezvousCall) -> bool + Send + Sync + 'static) -> Carried {
        Carried {
            send: Box::new(send),
            calls: Mutex::default(),
        }
    }

    /// Takes an answer. One that nobody waits for any more is dropped.
    pub fn answered(&self, RendezvousAnswer { number, result }: RendezvousAnswer) {
        if let Some(call) = self.calls().waiting.remove(&number) {
            // Its caller may have given up in this moment.
            let _ = call.try_send(result);
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, key: &str, ask: Ask, within: Duration) -> Outcome {
        let (caller, answer) = sync_channel(1);
        let number = {
            let mut calls = self.calls();
            calls.last += 1;
            let number = calls.last;
            calls.waiting.insert(number, caller);
            number
        };
        let key = key.to_owned();
        let unreachable = |what: &str| Err(RendezvousError::Unreachable(what.to_owned()));
        let outcome = if (self.send)(RendezvousCall { number, key, ask }) {
            let patience = within.saturating_add(ANSWER_MAX);
            let answer = answer.recv_timeout(patience);
            answer.unwrap_or_else(|_| unreachable("the daemon does not answer"))
        } else {
            unreachable("the daemon is gone")
        };
        self.calls().waiting.remove(&number);
        outcome
    }
}

impl Rendezvous for Carried {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), RendezvousError> {
        let set = self.call(key, Ask::Set(value.to_vec()), Duration::ZERO);
        set.map(drop)
    }

    fn get(&self, key: &str, within: Duration) -> Result<Vec<u8>, RendezvousError> {
        self.call(key, Ask::Get { within }, within)
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, RendezvousError> {
        let sum = self.call(key, Ask::Add(amount), Duration::ZERO)?;
        let no_number = || RendezvousError::NoNumber {
            key: key.to_owned(),
        };
        number_of(&sum).ok_or_else(no_number)
    }
}
