//! An optimiser's part in the updates of a gang: gradients are summed over leaves and ranks, states
//! may be shared by fixed blocks (ZeRO, Rajbhandari et al. 2020), weights are gathered.
//!
//! ```text
//! leaf ─▶ sum ┐                       ┌─▶ own blocks ─▶ square sums ─▶ gathered ─▶ norm
//! leaf ─▶ sum ┴─▶ tree ─▶ reduced ────┤                                               │
//!                                     └─▶ AdamW ◀─────────────────────────────────────┘
//!                                            └─▶ weights of own blocks ─▶ gathered
//! ```
//!
//! Blocks do not depend on the number of ranks, and AdamW is called block by block, so that nothing
//! in it can depend on where a rank's part begins.

use super::{Optimiser, Verdict};
use crate::LearnError;
use crate::arena::{Arena, Block, Part, Table};
use crate::gang::Gang;
use r1d_collectives::sum::TreeSum;
use r1d_torch::work;
use std::mem;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// A rank's share of the updates, and the gradients of an update so far.
pub(super) struct Membership {
    gang: Gang,
    /// The blocks of all ranks, in the order of their elements.
    blocks: Vec<Block>,
    /// The blocks that this rank updates.
    own: Range<usize>,
    /// The first element of each rank's share, and the end of the last one's.
    edges: Vec<i64>,
    /// The gradients of the leaves so far, float32 `[elements]` each.
    leaves: TreeSum,
    /// The parameters that a leaf had a gradient of.
    reached: Vec<bool>,
}

impl Membership {
    pub(super) fn new(gang: Gang, table: &Table) -> Membership {
        let blocks = table.shared_blocks();
        let shares = table.shares(gang.ranks());
        let first = |share: &Range<usize>| blocks.get(share.start).map(|own| own.range.start);
        let end = table.elements;
        let starts = shares.iter().map(|share| first(share).unwrap_or(end));
        Membership {
            own: if gang.is_sharded() {
                shares[gang.rank()].clone()
            } else {
                0..blocks.len()
            },
            edges: starts.chain([end]).collect(),
            blocks,
            leaves: TreeSum::default(),
            reached: vec![false; table.places.len()],
            gang,
        }
    }

    /// The elements of the arenas whose states this rank has.
    pub(super) fn elements(&self) -> Range<i64> {
        match (self.gang.is_sharded(), self.edges.last()) {
            (true, _) => self.edges[self.gang.rank()]..self.edges[self.gang.rank() + 1],
            (false, end) => 0..end.copied().unwrap_or(0),
        }
    }

    /// The blocks that this rank updates.
    pub(super) fn own_blocks(&self) -> &[Block] {
        &self.blocks[self.own.clone()]
    }

    /// Forgets the gradients of an update.
    pub(super) fn clear(&mut self) {
        self.leaves = TreeSum::default();
        self.reached.fill(false);
    }

    /// Sums the gradients `[elements]` of all ranks, and returns those of this rank's elements.
    fn reduce(&self, gradients: &Tensor) -> Result<Arena, LearnError> {
        const NAME: &str = "gradients";
        let values = if self.gang.is_sharded() {
            let rows: Vec<i64> = self
                .edges
                .windows(2)
                .map(|edge| edge[1] - edge[0])
                .collect();
            self.gang.reduce_scatter(NAME, gradients, &rows)?
        } else {
            self.gang.all_reduce(NAME, gradients)?
        };
        Ok(Arena::from_values(values, self.elements().start))
    }

    /// The parameters that any rank has a gradient of.
    fn reached_anywhere(&self) -> Result<Vec<bool>, LearnError> {
        let own: Vec<u8> = self.reached.iter().map(|&reached| reached.into()).collect();
        let own = Tensor::f_from_slice(&own)?.f_unsqueeze(0)?;
        let all = self.gang.all_gather("parameters with gradients", &own)?;
        let anywhere = all.rows.f_amax([0i64], false)?;
        let anywhere = Vec::<u8>::try_from(anywhere)?.into_iter();
        Ok(anywhere.map(|reached| reached != 0).collect())
    }
}

impl Optimiser {
    /// Ends a leaf: its gradients are no longer added to. It is called for leaves without
    /// micro-batches too. Without a gang it does nothing.
    pub fn end_leaf(&mut self) -> Result<(), LearnError> {
        let Some(own) = &mut self.membership else {
            return Ok(());
        };
        let gradients = self.gradients.take().map(Arena::into_values);
        tch::no_grad(|| own.leaves.push(gradients))?;
        for (all, reached) in own.reached.iter_mut().zip(&mut self.reached) {
            *all |= mem::take(reached);
        }
        Ok(())
    }

    /// Sums the gradients of all leaves and ranks, behind the last leaf of an update. Without a
    /// gang it does nothing.
    pub fn exchange_gradients(&mut self) -> Result<(), LearnError> {
        let Some(own) = &mut self.membership else {
            return Ok(());
        };
        let sum = tch::no_grad(|| mem::take(&mut own.leaves).finish())?;
        let sum = match sum {
            Some(sum) => sum,
            None => Arena::zeros(&self.table, Kind::Float, Device::Cpu)?.into_values(),
        };
        self.gradients = Some(own.reduce(&sum)?);
        self.reached = own.reached_anywhere()?;
        Ok(())
    }

    /// [`Optimiser::gradient_norm`] in a gang: the root of the blocks' square sums in float64,
    /// added in the order of blocks.
    pub(super) fn norm_in_gang(&self, own: &Membership) -> Result<Tensor, LearnError> {
        let gradients = self.gradients.as_ref();
        let square_sum = |block: &Block| {
            let Some(gradients) = gradients else {
                return Ok(Tensor::f_zeros([], (Kind::Double, Device::Cpu))?);
            };
            work::moved(0);
            let wide = gradients.block(block)?.f_to_kind(Kind::Double)?;
            Ok(wide.f_square()?.f_sum(Kind::Double)?)
        };
        let sums = own.own_blocks().iter().map(square_sum);
        let mut sums = stacked(&sums.collect::<Result<Vec<_>, LearnError>>()?)?;
        if own.gang.is_sharded() {
            sums = own.gang.all_gather("gradient norm", &sums)?.rows;
        }
        let sum: f64 = Vec::<f64>::try_from(sums)?.iter().sum();
        Ok(Tensor::from(sum.sqrt()))
    }

    /// Steps the blocks of this rank.
    pub(super) fn update_own_blocks(
        &self,
        own: &Membership,
        learning_rate: f64,
        verdict: &Verdict,
    ) -> Result<(), LearnError> {
        for block in own.own_blocks() {
            let gradient = |part: &Part| {
                let sums = self.gradients.as_ref();
                let sums = sums.filter(|_| self.reached[part.place]);
                sums.map(|sums| part.of(&sums.block(block)?)).transpose()
            };
            self.step_block(block, &gradient, learning_rate, verdict)?;
        }
        Ok(())
    }

    /// Gets the weights of the other ranks' blocks, where each updates its own only.
    pub(super) fn gather_weights(&self) -> Result<(), LearnError> {
        let Some(own) = self.membership.as_ref().filter(|own| own.gang.is_sharded()) else {
            return Ok(());
        };
        let mut kinds: Vec<Kind> = Vec::new();
        for own in &self.parameters {
            if !kinds.contains(&own.tensor.kind()) {
                kinds.push(own.tensor.kind());
            }
        }
        tch::no_grad(|| {
            kinds
                .into_iter()
                .try_for_each(|kind| self.gather_weights_in(own, kind))
        })
    }

    /// Gets the weights of one dtype.
    fn gather_weights_in(&self, own: &Membership, kind: Kind) -> Result<(), LearnError> {
        let views = |blocks: &[Block]| -> Result<Vec<Tensor>, LearnError> {
            let parts = blocks.iter().flat_map(|block| &block.parts);
            let weights = parts.map(|part| (part, &self.parameters[part.place].tensor));
            weights
                .filter(|(_, weight)| weight.kind() == kind)
                .map(|(part, weight)| part.of_place(weight))
                .collect()
        };
        let flat = match &views(own.own_blocks())?[..] {
            [] => Tensor::f_zeros([0], (kind, Device::Cpu))?,
            views => Tensor::f_cat(views, 0)?,
        };
        let all = own.gang.all_gather("weights", &flat)?.rows;
        let mut at = 0;
        for mut view in views(&own.blocks)? {
            let length = view.size1()?;
            view.f_copy_(&all.f_narrow(0, at, length)?)?;
            at += length;
            work::moved(0);
        }
        Ok(())
    }
}

/// Scalars as a vector, float64, be it empty.
fn stacked(scalars: &[Tensor]) -> Result<Tensor, LearnError> {
    Ok(match scalars {
        [] => Tensor::f_zeros([0], (Kind::Double, Device::Cpu))?,
        scalars => Tensor::f_stack(scalars, 0)?,
    })
}
