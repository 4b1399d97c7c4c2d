//! `[parallel] data, expert`: the ranks of a gang, the groups that they form, and who owns which
//! expert.
//!
//! `data × expert` ranks, one for each device. Every rank trains on tokens of its own. What all
//! tokens go through (attention, embeddings, dense layers) is on every rank. The routed experts are
//! cut into `expert` shards, and each shard is on `data` ranks:
//!
//! ```text
//!                 shard 0   shard 1   shard 2   shard 3        data = 2, expert = 4
//!               ┌─────────┬─────────┬─────────┬─────────┐
//!   replica 0   │ rank 0  │ rank 1  │ rank 2  │ rank 3  │  ←  an expert group: has every expert
//!   replica 1   │ rank 4  │ rank 5  │ rank 6  │ rank 7  │     once, and exchanges tokens
//!               └─────────┴─────────┴─────────┴─────────┘
//!                    ↑ a shard's data group: the ranks that sum the gradients of its experts
//! ```
//!
//! Ranks of an expert group are neighbours, as they exchange the most: they are on one node where
//! it has that many devices. Gradients of what is on every rank are summed over all ranks; they are
//! never averaged, as each token carries its final weight in the loss.

use std::ops::Range;

/// Ranks that a layout may have.
pub const RANKS_MAX: usize = 4096;

/// A layout that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A factor of the layout is 0.
    #[error("`{key}` is 0: it is at least 1")]
    Zero {
        /// The factor's key in `[parallel]`.
        key: &'static str,
    },
    /// The layout has more ranks than there may be.
    #[error("data = {data} × expert = {expert} ranks: at most {RANKS_MAX}")]
    TooManyRanks {
        /// Copies of each expert.
        data: usize,
        /// Shards of the experts.
        expert: usize,
    },
    /// The layout does not use the devices that there are.
    #[error(
        "data = {data} × expert = {expert} needs {} devices, and the job has {devices}: \
         change `data` or `expert` so that their product is {devices}",
        data * expert
    )]
    Devices {
        /// Copies of each expert.
        data: usize,
        /// Shards of the experts.
        expert: usize,
        /// Devices of the job.
        devices: usize,
    },
    /// The model's experts cannot be cut into so many shards.
    #[error(
        "{experts} experts do not divide into expert = {expert} shards: `expert` is one of {}",
        listed(.experts)
    )]
    Experts {
        /// Routed experts of a layer.
        experts: usize,
        /// Shards of the experts.
        expert: usize,
    },
    /// The model has no experts.
    #[error("expert = {expert}, but the model has no experts: use `data`")]
    Dense {
        /// Shards of the experts.
        expert: usize,
    },
}

/// The divisors of a number, as a list to read.
fn listed(experts: &usize) -> String {
    let divisors = (1..=*experts).filter(|d| experts.is_multiple_of(*d));
    let divisors: Vec<String> = divisors.map(|d| d.to_string()).collect();
    divisors.join(", ")
}

/// The ranks of a gang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    data: usize,
    expert: usize,
}

impl Layout {
    /// A job on one device.
    pub const ONE: Layout = Layout { data: 1, expert: 1 };

    /// The layout with `data` copies of each of `expert` shards of the experts.
    pub fn new(data: usize, expert: usize) -> Result<Layout, LayoutError> {
        for (key, factor) in [("data", data), ("expert", expert)] {
            if factor == 0 {
                return Err(LayoutError::Zero { key });
            }
        }
        match data.checked_mul(expert) {
            Some(ranks) if ranks <= RANKS_MAX => Ok(Layout { data, expert }),
            _ => Err(LayoutError::TooManyRanks { data, expert }),
        }
    }

    /// The layout that uses `devices` devices of a model with `experts` routed experts in a layer
    /// (0: a dense model), if the job says nothing: as many shards as devices and experts allow, so
    /// that the experts take the least memory.
    pub fn for_devices(devices: usize, experts: usize) -> Result<Layout, LayoutError> {
        let divides = |shards: &usize| devices.is_multiple_of(*shards);
        let expert = match experts {
            0 => 1,
            _ => (1..=devices)
                .rev()
                .filter(divides)
                .find(|shards| experts.is_multiple_of(*shards))
                .unwrap_or(1),
        };
        Layout::new(devices / expert, expert)
    }

    /// Refuses a model that the layout does not fit. `experts` are the routed experts of a layer, 0
    /// in a dense model.
    pub fn fits_model(self, experts: usize) -> Result<(), LayoutError> {
        let expert = self.expert;
        match experts {
            _ if expert == 1 => Ok(()),
            0 => Err(LayoutError::Dense { expert }),
            _ if experts.is_multiple_of(expert) => Ok(()),
            _ => Err(LayoutError::Experts { experts, expert }),
        }
    }

    /// Refuses a number of devices that is not the number of ranks.
    pub fn fits_devices(self, devices: usize) -> Result<(), LayoutError> {
        if self.ranks() == devices {
            return Ok(());
        }
        let Layout { data, expert } = self;
        Err(LayoutError::Devices {
            data,
            expert,
            devices,
        })
    }

    /// Copies of each expert.
    pub fn data(self) -> usize {
        self.data
    }

    /// Shards of the experts.
    pub fn expert(self) -> usize {
        self.expert
    }

    /// Ranks of the gang, one for each device.
    pub fn ranks(self) -> usize {
        self.data * self.expert
    }

    /// The shard of the experts that a rank has.
    pub fn shard(self, rank: usize) -> usize {
        rank % self.expert
    }

    /// The number of the expert group that a rank is in.
    pub fn replica(self, rank: usize) -> usize {
        rank / self.expert
    }

    /// The ranks of an expert group, which have every expert once. A rank's place in it is its
    /// shard.
    pub fn expert_group(self, replica: usize) -> Range<usize> {
        replica * self.expert..(replica + 1) * self.expert
    }

    /// The ranks that have a shard's experts. A rank's place among them is its replica.
    pub fn data_group(self, shard: usize) -> impl Iterator<Item = usize> {
        (0..self.data).map(move |replica| replica * self.expert + shard)
    }

    /// The experts of a shard, of the `experts` of a layer that [`Layout::fits_model`] took.
    pub fn experts_of(self, shard: usize, experts: usize) -> Range<usize> {
        let each = experts / self.expert;
        shard * each..(shard + 1) * each
    }

    /// The rank of a replica that has an expert, of the `experts` of a layer that
    /// [`Layout::fits_model`] took.
    pub fn owner(self, replica: usize, expert: usize, experts: usize) -> usize {
        replica * self.expert + expert * self.expert / experts
    }
}
