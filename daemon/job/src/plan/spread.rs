//! What one device of a job's layout has of a model.

use crate::job::Job;
use r1d_proto::worker::Shard;

/// The shares of a model that one device has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    ranks: u64,
    expert: u64,
    shard: Shard,
}

impl Spread {
    pub(super) fn of(job: &Job) -> Spread {
        Spread {
            ranks: job.parallel.devices(),
            expert: job.parallel.expert().into(),
            shard: job.parallel.shard,
        }
    }

    /// Returns how many of `all` weights, `experts` of them of routed experts, one device keeps:
    /// one shard of the experts, and everything else.
    pub(super) fn weights(self, all: u64, experts: u64) -> u64 {
        match self.shard {
            Shard::Parameters => all.div_ceil(self.ranks),
            Shard::None | Shard::Optimizer => {
                all.saturating_sub(experts) + experts.div_ceil(self.expert)
            }
        }
    }

    /// Returns how many of `all` trained values, `experts` of them of routed experts, have their
    /// optimiser states on one device: copies of the same weights share them, if at all, evenly.
    pub(super) fn optimiser(self, all: u64, experts: u64) -> u64 {
        match self.shard {
            Shard::None => self.weights(all, experts),
            Shard::Optimizer | Shard::Parameters => all.div_ceil(self.ranks),
        }
    }
}
