//! Looks at a group's calls from another thread. A call that takes long waits for somebody, and who
//! that is can be said long before the deadline ends it: ranks that have waited for a while leave
//! word at the [rendezvous], and who leaves none is waited for.
//!
//! [rendezvous]: crate::rendezvous

use crate::call::Signature;
use crate::flight::ranks_of;
use crate::rendezvous::{Below, Rendezvous, RendezvousError};
use r1d_proto::world::SharedClock;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The call that a group is in, as other threads see it.
#[derive(Clone, Default)]
pub(crate) struct Current(Arc<Mutex<Option<Under>>>);

#[derive(Clone)]
struct Under {
    signature: Signature,
    began: Duration,
}

impl Current {
    pub(crate) fn begin(&self, signature: Signature, began: Duration) {
        self.set(Some(Under { signature, began }));
    }

    pub(crate) fn end(&self) {
        self.set(None);
    }

    fn set(&self, under: Option<Under>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = under;
    }

    fn get(&self) -> Option<Under> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Looks at the calls of one group.
pub struct Watch {
    pub(crate) current: Current,
    pub(crate) rendezvous: Arc<Below>,
    pub(crate) clock: SharedClock,
    pub(crate) rank: usize,
    pub(crate) size: usize,
    /// The call in which this rank has left word.
    pub(crate) told: Option<u64>,
}

/// A call in which this rank waits for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The call.
    pub signature: Signature,
    /// The ranks that are not known to wait in it too.
    pub ranks: Vec<usize>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting { signature, ranks } = self;
        write!(f, "waiting for {} in {signature}", ranks_of(ranks))
    }
}

impl Watch {
    /// Looks at the call under way. If it has taken so `long`, this rank leaves word of that; a
    /// later look says for whom it waits, if for anybody: all that came in time have left word
    /// then, when looks are not rarer than that.
    pub fn look(&mut self, long: Duration) -> Result<Option<Waiting>, RendezvousError> {
        let Some(Under { signature, began }) = self.current.get() else {
            return Ok(None);
        };
        if self.clock.now().saturating_sub(began) < long {
            return Ok(None);
        }
        let number = signature.sequence;
        let key = |rank: usize| format!("waits/{number}/{rank}");
        if self.told.replace(number) != Some(number) {
            self.rendezvous.set(&key(self.rank), b"")?;
            return Ok(None);
        }
        let mut ranks = Vec::new();
        for rank in (0..self.size).filter(|rank| *rank != self.rank) {
            if !self.rendezvous.has(&key(rank))? {
                ranks.push(rank);
            }
        }
        Ok((!ranks.is_empty()).then_some(Waiting { signature, ranks }))
    }
}
