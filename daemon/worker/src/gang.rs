//! The worker's gang: the ranks meet when they open their first model, and stay together as long as
//! the processes live. A gang that has lost a rank is never mended: the daemon starts another one.

use crate::failure::{invalid, of_learning};
use crate::source::Placement;
use r1d_collectives::exchange::SharedGroup;
use r1d_collectives::in_process;
use r1d_collectives::open::{Member, OpenError, Transport, open};
use r1d_learn::gang::{GangSettings, Sharding};
use r1d_parallel::Layout;
use r1d_parallel::micro_batches::LEAVES;
use r1d_proto::worker::{self, Failure, FailureKind, Open, Place, Shard};
use r1d_torch::runtime;
use std::time::Duration;
use tch::Device;

/// Longest wait of a rank for the others. They are asked to open together, when all have started.
const MEET_MAX: Duration = Duration::from_secs(60);
/// The interface on which the ranks of a node reach each other.
const HOST: &str = "127.0.0.1";
/// The process group of all ranks, which a stage's trainers share.
const ALL: &str = "all";

/// The ranks of a gang, as one of them sees them.
pub(crate) struct Gang {
    place: Place,
    all: SharedGroup,
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
            let all = SharedGroup::new(group(place, placement)?);
            gang.insert(Gang { place, all }).of_trainers(place)
        }
    }
}

/// Whether two places are the same rank of the same gang; how it works together may differ from
/// stage to stage.
fn is_same(a: Place, b: Place) -> bool {
    let identity = |place: Place| (place.rank, place.data, place.expert, place.transport);
    identity(a) == identity(b)
}

/// The process group of all ranks.
fn group(place: Place, placement: &Placement) -> Result<r1d_collectives::ProcessGroup, Failure> {
    if place.ranks() == 1 {
        return Ok(in_process::alone(ALL));
    }
    let release = env!("CARGO_PKG_VERSION");
    let own = Member {
        rank: place.rank as usize,
        size: place.ranks() as usize,
        build: format!("{release} with libtorch {}", runtime::version()),
    };
    let transport = match place.transport {
        worker::Transport::Gloo => Transport::Gloo { host: HOST.into() },
        worker::Transport::Nccl => Transport::Nccl,
    };
    let (rendezvous, clock) = (placement.rendezvous.clone(), placement.clock.clone());
    open(ALL, &own, &transport, rendezvous, clock, MEET_MAX).map_err(of_gang)
}

impl Gang {
    /// The number of ranks.
    pub(crate) fn ranks(&self) -> u32 {
        self.place.ranks()
    }

    /// The gang of the trainers of a stage.
    fn of_trainers(&self, place: Place) -> Result<r1d_learn::Gang, Failure> {
        let layout = Layout::new(place.data as usize, place.expert as usize);
        let layout = layout.map_err(|error| invalid(error.to_string()))?;
        let settings = GangSettings {
            sharding: sharding(place.shard)?,
            leaves: place.layout_independent.then_some(LEAVES),
            within: Duration::from_millis(place.within_ms),
        };
        r1d_learn::Gang::new(layout, self.all.clone(), settings).map_err(of_learning)
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
    if expert > 1 {
        return Err(invalid(format!(
            "experts on several devices ([parallel] expert = {expert}) are not built into this \
             worker: set expert = 1 and data = {ranks}"
        )));
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
        OpenError::NotBuiltIn { .. } | OpenError::Unlike { .. } => FailureKind::Invalid,
        _ => FailureKind::Internal,
    };
    Failure::new(kind, &error.to_string())
}
