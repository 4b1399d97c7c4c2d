//! The gang that a trainer is part of: as many trainers as there are ranks, which make the same
//! updates of one model together.
//!
//! Each rank is given the whole batch of a step, and computes its own micro-batches of it
//! (`division`). Gradients are summed over the ranks, never averaged, because each token has its
//! final weight in the loss; numbers for the metrics are summed likewise, before anything is
//! divided by a count. So all ranks end with the same weights and metrics.
//!
//! Every rank makes every call in the same order, also a rank without micro-batches. Whether an
//! update is made at all depends on the batch alone, never on what a rank has of it.

use crate::LearnError;
use r1d_collectives::exchange::SharedGroup;
use r1d_collectives::{Call, Received, sum};
use r1d_parallel::Layout;
use r1d_parallel::micro_batches::run_of;
use std::time::Duration;
use tch::Tensor;

/// What ranks have of the optimiser's states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharding {
    /// Every rank has all of them, and makes the whole of each update.
    Nothing,
    /// Each rank has an even share of the blocks, updates these, and gets the others' new weights
    /// (ZeRO stage 1, Rajbhandari et al. 2020).
    Optimizer,
}

/// How the ranks of a gang work together. The settings are the same on all of them.
#[derive(Clone, Copy, Debug)]
pub struct GangSettings {
    /// What ranks have of the optimiser's states.
    pub sharding: Sharding,
    /// Layout-independent mode: the number of parts, 2^k, that a step's items are cut into, whose
    /// gradients are added along one tree. Weights and metrics then have the same bits on 1, 2, 4,
    /// … ranks that have equally many threads. `None`: ranks end at about the same time instead.
    pub leaves: Option<usize>,
    /// How long a rank waits for the others in a call. The slowest rank has to come to its next
    /// call within this time.
    pub within: Duration,
}

/// A trainer's place in its gang. Copies share the process group.
#[derive(Clone)]
pub struct Gang {
    all: SharedGroup,
    rank: usize,
    ranks: usize,
    settings: GangSettings,
}

impl Gang {
    /// The place of the rank that `all` is of, the process group of all ranks of the `layout`.
    pub fn new(
        layout: Layout,
        all: SharedGroup,
        settings: GangSettings,
    ) -> Result<Gang, LearnError> {
        let (rank, ranks) = {
            let group = all.lock();
            (group.rank(), group.size())
        };
        let refused = |reason: String| Err(LearnError::Request(reason));
        if layout.expert() != 1 {
            return refused(format!(
                "expert = {}: experts are not exchanged between ranks yet; use `data`",
                layout.expert()
            ));
        }
        if let Err(error) = layout.fits_devices(ranks) {
            return refused(error.to_string());
        }
        if let Some(Err(error)) = settings.leaves.map(|leaves| run_of(rank, ranks, leaves)) {
            return refused(error.to_string());
        }
        Ok(Gang {
            all,
            rank,
            ranks,
            settings,
        })
    }

    /// This rank's number.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Whether a trainer of this gang computes as one without a gang does.
    pub(crate) fn is_alone(&self) -> bool {
        self.ranks == 1 && self.settings.leaves.is_none()
    }

    /// The number of leaves in layout-independent mode.
    pub(crate) fn leaves(&self) -> Option<usize> {
        self.settings.leaves
    }

    /// Whether each rank has a share of the optimiser's states.
    pub(crate) fn is_sharded(&self) -> bool {
        self.settings.sharding == Sharding::Optimizer
    }

    /// The rows `[n, row…]` of all ranks, in the order of ranks.
    pub(crate) fn all_gather(&self, name: &str, rows: &Tensor) -> Result<Received, LearnError> {
        Ok(self.all.lock().all_gather(self.call(name), rows)?)
    }

    /// The sum over all ranks of `tensor` `[Σ rows]`, of which rank r gets `rows[r]` elements.
    pub(crate) fn reduce_scatter(
        &self,
        name: &str,
        tensor: &Tensor,
        rows: &[i64],
    ) -> Result<Tensor, LearnError> {
        let mut group = self.all.lock();
        Ok(sum::reduce_scatter(
            &mut group,
            self.call(name),
            tensor,
            rows,
        )?)
    }

    /// The sum over all ranks of a tensor.
    pub(crate) fn all_reduce(&self, name: &str, tensor: &Tensor) -> Result<Tensor, LearnError> {
        Ok(sum::all_reduce(
            &mut self.all.lock(),
            self.call(name),
            tensor,
        )?)
    }

    fn call<'a>(&self, name: &'a str) -> Call<'a> {
        Call::new(name, self.settings.within)
    }
}
