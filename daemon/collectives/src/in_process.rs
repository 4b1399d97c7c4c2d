//! Ranks that are threads of one process: a backend for tests of whatever stands on the groups, and
//! for a gang of one rank.

use crate::backend::{Backend, BackendError};
use crate::bytes;
use crate::flight::ranks_of;
use crate::process_group::ProcessGroup;
use crate::rendezvous::{Rendezvous, Shared};
use r1d_proto::world::SystemClock;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tch::Tensor;

/// The groups of a gang of this many threads, in the order of ranks.
pub fn gang(name: &str, size: usize) -> Vec<ProcessGroup> {
    let rendezvous: Arc<dyn Rendezvous> = Arc::new(Shared::default());
    let hub = Arc::new(Hub::new(size));
    (0..size)
        .map(|rank| group(name, rank, &hub, &rendezvous))
        .collect()
}

/// The group of a gang of one rank, which waits for nobody.
pub fn alone(name: &str) -> ProcessGroup {
    let rendezvous: Arc<dyn Rendezvous> = Arc::new(Shared::default());
    group(name, 0, &Arc::new(Hub::new(1)), &rendezvous)
}

fn group(
    name: &str,
    rank: usize,
    hub: &Arc<Hub>,
    rendezvous: &Arc<dyn Rendezvous>,
) -> ProcessGroup {
    let hub = Arc::clone(hub);
    let backend = Box::new(InProcess { rank, hub });
    let (rendezvous, clock) = (Arc::clone(rendezvous), SystemClock::shared());
    ProcessGroup::new(name, backend, rendezvous, clock)
}

/// One rank's end of a [`Hub`].
struct InProcess {
    rank: usize,
    hub: Arc<Hub>,
}

/// What the threads of a gang exchange in one call: each hands in a part for every rank, waits for
/// all, and takes its own.
struct Hub {
    state: Mutex<Exchange>,
    changed: Condvar,
}

struct Exchange {
    /// A rank's parts, by receiver; `None` until it comes.
    parts: Vec<Option<Vec<Vec<u8>>>>,
    /// Ranks that have taken theirs.
    taken: usize,
    /// Why nothing is exchanged any more.
    broken: Option<String>,
}

impl Hub {
    fn new(size: usize) -> Hub {
        Hub {
            state: Mutex::new(Exchange {
                parts: vec![None; size],
                taken: 0,
                broken: None,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`. A wait that ends otherwise breaks the hub for all.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, Exchange>,
        limit: Duration,
        ready: impl Fn(&Exchange) -> bool,
    ) -> Result<MutexGuard<'a, Exchange>, BackendError> {
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, limit, |s| s.broken.is_none() && !ready(s))
            .unwrap_or_else(PoisonError::into_inner);
        if state.broken.is_none() && !ready(&state) {
            let parts = state.parts.iter().enumerate();
            let late: Vec<usize> = parts.filter(|(_, p)| p.is_none()).map(|(r, _)| r).collect();
            state.broken = Some(format!("{} did not come", ranks_of(&late)));
            self.changed.notify_all();
        }
        match &state.broken {
            Some(why) => Err(BackendError(why.clone())),
            None => Ok(state),
        }
    }

    fn exchange(
        &self,
        rank: usize,
        parts: Vec<Vec<u8>>,
        limit: Duration,
    ) -> Result<Vec<Vec<u8>>, BackendError> {
        // All have to have taken what the last call brought.
        let mut state = self.wait(self.lock(), limit, |s| s.parts[rank].is_none())?;
        state.parts[rank] = Some(parts);
        self.changed.notify_all();
        let mut state = self.wait(state, limit, |s| s.parts.iter().all(Option::is_some))?;
        let own = state.parts.iter_mut().flatten();
        let own = own.map(|from| std::mem::take(&mut from[rank])).collect();
        state.taken += 1;
        if state.taken == state.parts.len() {
            state.taken = 0;
            state.parts.fill(None);
            self.changed.notify_all();
        }
        Ok(own)
    }
}

impl InProcess {
    /// Fills `output` with what the ranks have for this one, in their order.
    fn fill(
        &self,
        parts: Vec<Vec<u8>>,
        output: &mut Tensor,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let got = self.hub.exchange(self.rank, parts, limit)?.concat();
        if got.len() != output.numel() {
            let wanted = output.numel();
            return Err(BackendError(format!(
                "{} bytes came, not {wanted}",
                got.len()
            )));
        }
        output.f_copy_(&bytes::tensor(&got)?)?;
        Ok(())
    }
}

impl Backend for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.hub.lock().parts.len()
    }

    fn all_to_all(
        &mut self,
        input: &Tensor,
        sent: &[i64],
        output: &mut Tensor,
        _received: &[i64],
        limit: Duration,
    ) -> Result<(), BackendError> {
        let input = bytes::vector(input)?;
        let mut rest = input.as_slice();
        let mut parts = Vec::with_capacity(sent.len());
        for count in sent {
            let (part, behind) = rest
                .split_at_checked(*count as usize)
                .ok_or_else(|| BackendError("more is sent than there is".to_owned()))?;
            parts.push(part.to_vec());
            rest = behind;
        }
        self.fill(parts, output, limit)
    }

    fn all_gather(
        &mut self,
        input: &Tensor,
        output: &mut Tensor,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let parts = vec![bytes::vector(input)?; self.size()];
        self.fill(parts, output, limit)
    }

    fn broadcast(
        &mut self,
        bytes: &mut Tensor,
        root: usize,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let part = if self.rank == root {
            bytes::vector(bytes)?
        } else {
            Vec::new()
        };
        let parts = vec![part; self.size()];
        self.fill(parts, bytes, limit)
    }
}

impl Drop for InProcess {
    /// The others do not wait for a thread that has ended.
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        // Between two calls the others may still take what the last one brought.
        if state.parts[self.rank].is_none() || state.parts.iter().any(Option::is_none) {
            let why = format!("rank {} has ended", self.rank);
            state.broken.get_or_insert(why);
        }
        self.hub.changed.notify_all();
    }
}
