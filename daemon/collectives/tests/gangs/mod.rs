//! Gangs of threads for tests: each rank's part runs on a thread of its own.

use r1d_collectives::open::{Member, Transport, open};
use r1d_collectives::rendezvous::{Rendezvous, Shared};
use r1d_collectives::{Call, ProcessGroup, in_process};
use r1d_proto::world::SystemClock;
use std::sync::Arc;
use std::time::Duration;

/// A deadline that no test reaches.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// How the threads' bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The backend of one process.
    Memory,
    /// Gloo over the loopback interface.
    Gloo,
}

/// A call with a deadline that no test reaches.
pub(crate) fn call(name: &str) -> Call<'_> {
    Call::new(name, LONG)
}

/// Runs `rank` on each rank of a gang, and returns what each returned, in the order of ranks.
pub(crate) fn run<T: Send>(
    over: Over,
    size: usize,
    rank: impl Fn(&mut ProcessGroup) -> T + Sync,
) -> Vec<T> {
    let rendezvous: Arc<dyn Rendezvous> = Arc::new(Shared::default());
    let mut ready = match over {
        Over::Memory => in_process::gang("test", size),
        Over::Gloo => Vec::new(),
    }
    .into_iter();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|number| {
                let (ready, rank) = (ready.next(), &rank);
                let rendezvous = Arc::clone(&rendezvous);
                scope.spawn(move || {
                    let mut group = ready.unwrap_or_else(|| gloo(number, size, rendezvous));
                    rank(&mut group)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// A rank of a Gloo group over the loopback interface.
pub(crate) fn gloo(rank: usize, size: usize, rendezvous: Arc<dyn Rendezvous>) -> ProcessGroup {
    let own = Member {
        rank,
        size,
        build: "test".to_owned(),
    };
    let transport = Transport::Gloo {
        host: "127.0.0.1".to_owned(),
    };
    let clock = SystemClock::shared();
    open("test", &own, &transport, rendezvous, clock, LONG).unwrap()
}
