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
use r1d_collectives::in_process;
use r1d_collectives::watch::Watch;
use r1d_collectives::{Call, Received, Traffic, sum};
use r1d_model::ExpertGroup;
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

/// The process groups of a rank.
#[derive(Clone)]
pub struct Groups {
    /// All ranks of the gang.
    pub all: SharedGroup,
    /// This rank's expert group: the ranks that have every expert once.
    pub expert: SharedGroup,
    /// This rank's data group: the ranks that have the same experts.
    pub data: SharedGroup,
}

/// One of the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Among {
    All,
    ExpertGroup,
    DataGroup,
}

impl Groups {
    /// The groups where every rank has all experts.
    pub fn without_shards(all: SharedGroup) -> Groups {
        Groups {
            expert: SharedGroup::new(in_process::alone("expert")),
            data: all.clone(),
            all,
        }
    }

    /// What the rank's calls have come to so far, in all groups.
    pub fn traffic(&self) -> Traffic {
        let of = |group: &SharedGroup| group.lock().traffic();
        let groups = self.distinct().into_iter().map(of);
        groups.fold(Traffic::default(), |sum, own| sum + own)
    }

    /// Looks at the rank's calls in all groups from another thread.
    pub fn watches(&self) -> Vec<Watch> {
        let of = |group: &SharedGroup| group.lock().watch();
        self.distinct().into_iter().map(of).collect()
    }

    fn distinct(&self) -> Vec<&SharedGroup> {
        let mut seen: Vec<&SharedGroup> = Vec::new();
        for group in [&self.all, &self.expert, &self.data] {
            if !seen.iter().any(|other| other.is(group)) {
                seen.push(group);
            }
        }
        seen
    }

    fn among(&self, among: Among) -> &SharedGroup {
        match among {
            Among::All => &self.all,
            Among::ExpertGroup => &self.expert,
            Among::DataGroup => &self.data,
        }
    }
}

/// A trainer's place in its gang. Its clones have the same process groups.
#[derive(Clone)]
pub struct Gang {
    groups: Groups,
    layout: Layout,
    rank: usize,
    settings: GangSettings,
}

impl Gang {
    /// The place of the rank of the `layout` that has these process groups.
    pub fn new(layout: Layout, groups: Groups, settings: GangSettings) -> Result<Gang, LearnError> {
        let place = |group: &SharedGroup| {
            let group = group.lock();
            (group.rank(), group.size())
        };
        let (rank, ranks) = place(&groups.all);
        let refused = |reason: String| Err(LearnError::Request(reason));
        let of_layout = [
            (layout.shard(rank), layout.expert()),
            (layout.replica(rank), layout.data()),
        ];
        if [&groups.expert, &groups.data].map(place) != of_layout {
            return refused(format!(
                "the process groups of rank {rank} are of another layout"
            ));
        }
        if let Err(error) = layout.fits_devices(ranks) {
            return refused(error.to_string());
        }
        if let Some(Err(error)) = settings.leaves.map(|leaves| run_of(rank, ranks, leaves)) {
            return refused(error.to_string());
        }
        Ok(Gang {
            groups,
            layout,
            rank,
            settings,
        })
    }

    /// This rank's number.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.layout.ranks()
    }

    /// The ranks that a model shares its experts with; `None` if each has all of them.
    pub fn expert_group(&self) -> Option<ExpertGroup> {
        let is_shared = self.layout.expert() > 1;
        is_shared.then(|| ExpertGroup::new(self.groups.expert.clone(), self.settings.within))
    }

    /// The number of shards of the experts.
    pub(crate) fn shards(&self) -> usize {
        self.layout.expert()
    }

    /// The number of this rank's shard of the experts.
    pub(crate) fn shard(&self) -> usize {
        self.layout.shard(self.rank)
    }

    /// Whether a trainer of this gang computes as one without a gang does.
    pub(crate) fn is_alone(&self) -> bool {
        self.ranks() == 1 && self.settings.leaves.is_none()
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
        self.all_gather_among(Among::All, name, rows)
    }

    /// The rows `[n, row…]` of the ranks of a group, in the order of its ranks.
    pub(crate) fn all_gather_among(
        &self,
        among: Among,
        name: &str,
        rows: &Tensor,
    ) -> Result<Received, LearnError> {
        let mut group = self.groups.among(among).lock();
        Ok(group.all_gather(self.call(name), rows)?)
    }

    /// The place in a group, and its size.
    pub(crate) fn place(&self, among: Among) -> (usize, usize) {
        let group = self.groups.among(among).lock();
        (group.rank(), group.size())
    }

    /// The sum over the ranks of a group of `tensor` `[Σ rows]`, of which rank r gets `rows[r]`
    /// elements.
    pub(crate) fn reduce_scatter(
        &self,
        among: Among,
        name: &str,
        tensor: &Tensor,
        rows: &[i64],
    ) -> Result<Tensor, LearnError> {
        let mut group = self.groups.among(among).lock();
        Ok(sum::reduce_scatter(
            &mut group,
            self.call(name),
            tensor,
            rows,
        )?)
    }

    /// The sum over the ranks of a group of a tensor.
    pub(crate) fn all_reduce(
        &self,
        among: Among,
        name: &str,
        tensor: &Tensor,
    ) -> Result<Tensor, LearnError> {
        let mut group = self.groups.among(among).lock();
        Ok(sum::all_reduce(&mut group, self.call(name), tensor)?)
    }

    fn call<'a>(&self, name: &'a str) -> Call<'a> {
        Call::new(name, self.settings.within)
    }
}
