//! The worker's gang: the ranks meet when they open their first model, and stay together as long as
//! the processes live. A gang that has lost a rank is never mended: the daemon starts another one.

use crate::failure::{invalid, of_learning};
use crate::outbox::Outbox;
use crate::source::Placement;
use r1d_collectives::exchange::SharedGroup;
use r1d_collectives::open::{Member, OpenError, Transport, open};
use r1d_collectives::{Traffic, in_process};
use r1d_learn::gang::{GangSettings, Groups, Sharding};
use r1d_parallel::Layout;
use r1d_parallel::micro_batches::LEAVES;
use r1d_proto::worker::{self, Failure, FailureKind, Metrics, Open, Place, Shard};
use r1d_torch::runtime;
use std::convert::Infallible;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tch::Device;

/// Longest wait of a rank for the others. They are asked to open together, when all have started.
const MEET_MAX: Duration = Duration::from_secs(60);
/// A call that takes so long is told of, with the ranks that it waits for.
const LONG_CALL: Duration = Duration::from_secs(3);
/// Time between two looks at the call under way.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The interface on which the ranks of a node reach each other.
const HOST: &str = "127.0.0.1";
/// The process group of all ranks.
const ALL: &str = "all";

/// The ranks of a gang, as one of them sees them.
pub(crate) struct Gang {
    place: Place,
    groups: Groups,
}

/// Meets the other ranks, unless they have met before. Returns the gang of the trainers of a stage
/// that is opened with this place.
pub(crate) fn meet(
    gang: &mut Option<Gang>,
    place: Place,
    placement: &Placement,
) -> Result<r1d_learn::Gang, Failure> {
    match gang {
        Some(gang) if is_same(gang.place, place) => gang.of_trainers(place),
        Some(_) => Err(invalid("a worker has one place in one gang")),
        None => {
            let groups = groups(place, placement)?;
            gang.insert(Gang { place, groups }).of_trainers(place)
        }
    }
}

/// Whether two places are the same rank of the same gang; how it works together may differ from
/// stage to stage.
fn is_same(a: Place, b: Place) -> bool {
    let identity = |place: Place| (place.rank, place.data, place.expert, place.transport);
    identity(a) == identity(b)
}

/// The rank's process groups. Every rank opens its groups in the same order.
fn groups(place: Place, placement: &Placement) -> Result<Groups, Failure> {
    let layout = layout(place)?;
    let (rank, ranks) = (place.rank as usize, layout.ranks());
    let all = SharedGroup::new(group(ALL, rank, ranks, place, placement)?);
    if layout.expert() == 1 {
        return Ok(Groups::without_shards(all));
    }
    let (shard, replica) = (layout.shard(rank), layout.replica(rank));
    let expert = match layout.data() {
        1 => all.clone(),
        _ => {
            let name = format!("expert-{replica}");
            SharedGroup::new(group(&name, shard, layout.expert(), place, placement)?)
        }
    };
    let name = format!("data-{shard}");
    let data = SharedGroup::new(group(&name, replica, layout.data(), place, placement)?);
    Ok(Groups { all, expert, data })
}

fn layout(place: Place) -> Result<Layout, Failure> {
    let layout = Layout::new(place.data as usize, place.expert as usize);
    layout.map_err(|error| invalid(error.to_string()))
}

/// One process group, of which this is the rank `rank`.
fn group(
    name: &str,
    rank: usize,
    size: usize,
    place: Place,
    placement: &Placement,
) -> Result<r1d_collectives::ProcessGroup, Failure> {
    if size == 1 {
        return Ok(in_process::alone(name));
    }
    let release = env!("CARGO_PKG_VERSION");
    let own = Member {
        rank,
        size,
        build: format!("{release} with libtorch {}", runtime::version()),
    };
    let transport = match place.transport {
        worker::Transport::Gloo => Transport::Gloo { host: HOST.into() },
        worker::Transport::Nccl => Transport::Nccl {
            host: HOST.into(),
            device: placement.device,
        },
        worker::Transport::Quic => Transport::Quic { host: HOST.into() },
    };
    let (rendezvous, clock) = (placement.rendezvous.clone(), placement.clock.clone());
    open(name, &own, &transport, rendezvous, clock, MEET_MAX).map_err(of_gang)
}

impl Gang {
    /// The number of ranks.
    pub(crate) fn ranks(&self) -> u32 {
        self.place.ranks()
    }

    /// What this rank's calls have come to so far.
    fn traffic(&self) -> Traffic {
        self.groups.traffic()
    }

    /// The gang of the trainers of a stage.
    fn of_trainers(&self, place: Place) -> Result<r1d_learn::Gang, Failure> {
        let layout = layout(place)?;
        let settings = GangSettings {
            sharding: sharding(place.shard)?,
            leaves: place.layout_independent.then_some(LEAVES),
            within: Duration::from_millis(place.within_ms),
        };
        r1d_learn::Gang::new(layout, self.groups.clone(), settings).map_err(of_learning)
    }
}

/// The calls of a rank while it carries out a request; nothing without other ranks.
pub(crate) struct Exchange(Option<(Traffic, Watching)>);

impl Exchange {
    /// Begins to measure, and to tell of calls that wait for other ranks.
    pub(crate) fn begin(gang: Option<&Gang>, outbox: &Outbox) -> Exchange {
        let gang = gang.filter(|gang| gang.ranks() > 1);
        Exchange(gang.map(|gang| (gang.traffic(), Watching::begin(gang, outbox))))
    }

    /// Reports the time in calls since then as `timing_s/NAME`, and the bytes that this rank has
    /// sent as `perf/NAME_bytes`.
    pub(crate) fn report(self, gang: Option<&Gang>, name: &str, metrics: &mut Metrics) {
        let Some(((before, watching), gang)) = self.0.zip(gang) else {
            return;
        };
        drop(watching);
        let own = gang.traffic().since(before);
        metrics.insert(format!("timing_s/{name}"), own.time.as_secs_f64());
        metrics.insert(format!("perf/{name}_bytes"), own.sent_bytes as f64);
    }
}

/// A thread that tells for whom a call waits, until it is dropped.
struct Watching {
    /// Its drop ends the thread.
    ends: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    fn begin(gang: &Gang, outbox: &Outbox) -> Watching {
        let (ends, is_over) = mpsc::channel();
        let (mut watches, outbox) = (gang.groups.watches(), outbox.clone());
        let look = move || {
            while is_over.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                for watch in &mut watches {
                    match watch.look(LONG_CALL) {
                        Ok(Some(waiting)) => outbox.waits(&waiting.to_string()),
                        Ok(None) => {}
                        // The daemon is gone, and this process with it.
                        Err(_) => return,
                    }
                }
            }
        };
        let thread = Builder::new().name("calls".into()).spawn(look);
        Watching {
            ends: Some(ends),
            thread: match thread {
                Ok(thread) => Some(thread),
                Err(error) => {
                    tracing::warn!("nobody tells for whom calls wait: {error}");
                    None
                }
            },
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.ends = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say of its own end.
            let _ = thread.join();
        }
    }
}

fn sharding(shard: Shard) -> Result<Sharding, Failure> {
    match shard {
        Shard::None => Ok(Sharding::Nothing),
        Shard::Optimizer => Ok(Sharding::Optimizer),
        Shard::Parameters => Err(invalid(
            "[parallel] shard = \"parameters\" is not built into this worker: set it to \
             \"optimizer\" or \"none\"",
        )),
    }
}

/// Refuses what ranks cannot do together yet.
pub(crate) fn check_built_in(request: &Open, place: Place, device: Device) -> Result<(), Failure> {
    let Place { data, expert, .. } = place;
    let ranks = place.ranks();
    if expert > 1 && request.speculative_decoding {
        return Err(invalid(
            "drafts of experts on several devices are not built into this worker: set \
             speculative_decoding = false, or [parallel] expert = 1",
        ));
    }
    sharding(place.shard)?;
    let is_independent = place.layout_independent;
    if is_independent && !(ranks.is_power_of_two() && ranks as usize <= LEAVES) {
        return Err(invalid(format!(
            "[parallel] layout_independent = true is for 1, 2, 4 or 8 devices, not {ranks}: \
             change data = {data}, or set it to false"
        )));
    }
    if request.optimiser.is_some() && device != Device::Cpu && (ranks > 1 || is_independent) {
        return Err(invalid(
            "gangs that train on GPUs are not built into this worker: leave [parallel] out of the \
             job file, or use CPU devices",
        ));
    }
    Ok(())
}

fn of_gang(error: OpenError) -> Failure {
    let kind = match error {
        OpenError::NotAGpu { .. } | OpenError::NoNccl { .. } | OpenError::Unlike { .. } => {
            FailureKind::Invalid
        }
        _ => FailureKind::Internal,
    };
    Failure::new(kind, &error.to_string())
}
