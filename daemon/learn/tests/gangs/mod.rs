//! Gangs of threads: each rank trains on a thread of its own.
#![allow(dead_code, reason = "each test binary uses its part")]

use r1d_collectives::exchange::SharedGroup;
use r1d_collectives::open::{Member, Transport, open};
use r1d_collectives::rendezvous::{Rendezvous, Shared};
use r1d_collectives::{ProcessGroup, in_process};
use r1d_learn::gang::{Gang, GangSettings, Groups, Sharding};
use r1d_parallel::Layout;
use r1d_proto::world::SystemClock;
use std::sync::Arc;
use std::time::Duration;

/// A deadline that no test reaches.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn settings(sharding: Sharding, leaves: Option<usize>) -> GangSettings {
    GangSettings {
        sharding,
        leaves,
        within: LONG,
    }
}

/// The place in its gang of the rank that this group is of.
pub(crate) fn place(group: ProcessGroup, settings: GangSettings) -> Gang {
    let layout = Layout::new(group.size(), 1).unwrap();
    Gang::new(
        layout,
        Groups::without_shards(SharedGroup::new(group)),
        settings,
    )
    .unwrap()
}

/// Runs `rank` on each rank of a layout, whose groups are connected in memory.
pub(crate) fn run_layout<T: Send>(
    layout: Layout,
    settings: GangSettings,
    rank: impl Fn(Gang) -> T + Sync,
) -> Vec<T> {
    let ranks = layout.ranks();
    let mut all = in_process::gang("all", ranks).into_iter();
    let mut experts: Vec<_> = (0..layout.data())
        .flat_map(|_| in_process::gang("experts", layout.expert()))
        .collect();
    let of_shard = |_| in_process::gang("copies", layout.data()).into_iter();
    let mut copies: Vec<_> = (0..layout.expert()).map(of_shard).collect();
    let groups = (0..ranks).map(|rank| {
        let parts = [
            all.next().unwrap(),
            experts.remove(0),
            copies[layout.shard(rank)].next().unwrap(),
        ];
        let [all, expert, data] = parts.map(SharedGroup::new);
        Groups { all, expert, data }
    });
    let groups: Vec<Groups> = groups.collect();
    std::thread::scope(|scope| {
        let rank = &rank;
        let threads: Vec<_> = groups
            .into_iter()
            .map(|groups| {
                scope.spawn(move || {
                    r1d_torch::runtime::set_threads(1).unwrap();
                    rank(Gang::new(layout, groups, settings).unwrap())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Runs `rank` on each of `ranks` ranks that are connected in memory, and returns what each
/// returned, in the order of ranks.
pub(crate) fn run<T: Send>(
    ranks: usize,
    settings: GangSettings,
    rank: impl Fn(Gang) -> T + Sync,
) -> Vec<T> {
    let groups = in_process::gang("test", ranks).into_iter();
    on_threads(groups.map(|group| move || group), settings, rank)
}

/// The same over Gloo and the loopback interface.
pub(crate) fn run_over_gloo<T: Send>(
    ranks: usize,
    settings: GangSettings,
    rank: impl Fn(Gang) -> T + Sync,
) -> Vec<T> {
    let rendezvous: Arc<dyn Rendezvous> = Arc::new(Shared::default());
    let connect = |number| {
        let rendezvous = Arc::clone(&rendezvous);
        move || {
            let own = Member {
                rank: number,
                size: ranks,
                build: "test".to_owned(),
            };
            let transport = Transport::Gloo {
                host: "127.0.0.1".to_owned(),
            };
            let clock = SystemClock::shared();
            open("test", &own, &transport, rendezvous, clock, LONG).unwrap()
        }
    };
    on_threads((0..ranks).map(connect), settings, rank)
}

fn on_threads<T: Send>(
    groups: impl Iterator<Item = impl FnOnce() -> ProcessGroup + Send>,
    settings: GangSettings,
    rank: impl Fn(Gang) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let rank = &rank;
        let threads: Vec<_> = groups
            .map(|group| {
                scope.spawn(move || {
                    // A rank's kernels have one thread, whichever layout it is of.
                    r1d_torch::runtime::set_threads(1).unwrap();
                    rank(place(group(), settings))
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}
