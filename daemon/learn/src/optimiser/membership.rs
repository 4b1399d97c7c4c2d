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

use super::zone_share::ZoneShare;
use super::{Optimiser, Verdict};
use crate::LearnError;
use crate::arena::{Arena, Block, Elements, Part, Table, Zone};
use crate::gang::{Among, Gang};
use r1d_collectives::sum::TreeSum;
use r1d_torch::work;
use std::mem;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// A rank's share of the updates, and the gradients of an update so far.
pub(super) struct Membership {
    gang: Gang,
    common: ZoneShare,
    of_experts: ZoneShare,
    /// The gradients of the leaves so far of what every rank has alike, float32 `[elements]` each.
    leaves: TreeSum,
    /// Those of this rank's experts, by the rank of the expert group that the leaves are of; one
    /// sum if a leaf has tokens of all of them.
    leaves_of_experts: Vec<TreeSum>,
    /// The parameters that a leaf had a gradient of.
    reached: Vec<bool>,
}

impl Membership {
    pub(super) fn new(gang: Gang, table: &Table) -> Membership {
        let (from, end) = (table.experts_from, table.elements);
        let sources = match gang.leaves() {
            Some(_) => gang.shards(),
            None => 1,
        };
        Membership {
            common: ZoneShare::new(&gang, Among::All, table, Zone::Common, from),
            of_experts: ZoneShare::new(&gang, Among::DataGroup, table, Zone::Experts, end),
            leaves: TreeSum::default(),
            leaves_of_experts: (0..sources).map(|_| TreeSum::default()).collect(),
            reached: vec![false; table.places.len()],
            gang,
        }
    }

    /// The elements of the arenas whose states this rank has.
    pub(super) fn elements(&self) -> Elements {
        Elements {
            common: self.common.elements(),
            of_experts: self.of_experts.elements(),
        }
    }

    /// The blocks that this rank updates.
    pub(super) fn own_blocks(&self) -> Vec<Block> {
        [self.common.own_blocks(), self.of_experts.own_blocks()].concat()
    }

    /// Whether all that this rank has beside its experts is the first rank's too.
    pub(super) fn repeats_the_first(&self) -> bool {
        !self.gang.is_sharded() && self.gang.rank() > 0
    }

    /// Forgets the gradients of an update.
    pub(super) fn clear(&mut self) {
        self.leaves = TreeSum::default();
        self.leaves_of_experts.fill_with(TreeSum::default);
        self.reached.fill(false);
    }

    /// Adds the gradients of a leaf, whose tokens the rank `of` of the expert group has.
    fn push(&mut self, of: usize, gradients: Option<Arena>) -> Result<(), LearnError> {
        let (common, of_experts) = match gradients.map(Arena::into_zones) {
            Some([common, of_experts]) => (Some(common), Some(of_experts)),
            None => (None, None),
        };
        if of == self.gang.shard() {
            self.leaves.push(common)?;
        }
        let source = of.min(self.leaves_of_experts.len() - 1);
        self.leaves_of_experts[source].push(of_experts)?;
        Ok(())
    }

    /// Sums the gradients of all leaves and ranks, and returns those of this rank's elements.
    fn reduce(&mut self, table: &Table) -> Result<Arena, LearnError> {
        let or_zeros = |sum: Option<Tensor>, elements: Range<i64>| match sum {
            Some(sum) => Ok(sum),
            None => Tensor::f_zeros([elements.end - elements.start], (Kind::Float, Device::Cpu)),
        };
        let all = table.all();
        let common = or_zeros(mem::take(&mut self.leaves).finish()?, all.common)?;
        let common = self.common.reduce(&self.gang, &common)?;
        // The ranks of an expert group have consecutive leaves.
        let mut of_experts = TreeSum::default();
        for source in &mut self.leaves_of_experts {
            of_experts.push(mem::take(source).finish()?)?;
        }
        let of_experts = or_zeros(of_experts.finish()?, all.of_experts)?;
        let of_experts = self.of_experts.reduce(&self.gang, &of_experts)?;
        Ok(Arena::from_zones([common, of_experts], self.elements()))
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

    /// Puts the square sums of this rank's experts and those of the ranks with the others into the
    /// order that one rank has them in: place by place, expert by expert.
    fn of_all_experts(&self, table: &Table, own: &[f64]) -> Result<Vec<f64>, LearnError> {
        if self.gang.shards() == 1 || own.is_empty() {
            return Ok(own.to_vec());
        }
        let own = Tensor::f_from_slice(own)?.f_unsqueeze(0)?;
        let all = self
            .gang
            .all_gather_among(Among::ExpertGroup, "norm of experts", &own)?;
        let blocks = &self.of_experts.blocks;
        let of_place = |place: usize| blocks.iter().filter(move |own| own.parts[0].place == place);
        let (mut sums, mut at) = (Vec::new(), 0);
        for place in 0..table.places.len() {
            let count = of_place(place).count() as i64;
            let of_shards = all.rows.f_narrow(1, at, count)?;
            sums.extend(Vec::<f64>::try_from(of_shards.f_reshape([-1])?)?);
            at += count;
        }
        Ok(sums)
    }
}

impl Optimiser {
    /// Ends a leaf: its gradients are no longer added to. It is called for leaves without
    /// micro-batches too. Its tokens are those of the rank `of` of the expert group. Without a gang
    /// it does nothing.
    pub fn end_leaf(&mut self, of: usize) -> Result<(), LearnError> {
        let Some(own) = &mut self.membership else {
            return Ok(());
        };
        let gradients = self.gradients.take();
        tch::no_grad(|| own.push(of, gradients))?;
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
        self.gradients = Some(tch::no_grad(|| own.reduce(&self.table))?);
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
        let sums = |share: &ZoneShare| {
            let terms = share.own_blocks().iter().map(square_sum);
            share.gathered(&own.gang, &terms.collect::<Result<Vec<_>, LearnError>>()?)
        };
        let common = sums(&own.common)?;
        let of_experts = own.of_all_experts(&self.table, &sums(&own.of_experts)?)?;
        let sum: f64 = common.iter().chain(&of_experts).sum();
        Ok(Tensor::from(sum.sqrt()))
    }

    /// Steps the blocks of this rank.
    pub(super) fn update_own_blocks(
        &self,
        own: &Membership,
        learning_rate: f64,
        verdict: &Verdict,
    ) -> Result<(), LearnError> {
        for block in &own.own_blocks() {
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
            for share in [&own.common, &own.of_experts] {
                for kind in &kinds {
                    self.gather_weights_of(&own.gang, share, *kind)?;
                }
            }
            Ok(())
        })
    }

    /// Gets the weights of one dtype of a zone.
    fn gather_weights_of(
        &self,
        gang: &Gang,
        share: &ZoneShare,
        kind: Kind,
    ) -> Result<(), LearnError> {
        if share.blocks.is_empty() {
            return Ok(());
        }
        let views = |blocks: &[Block]| -> Result<Vec<Tensor>, LearnError> {
            let parts = blocks.iter().flat_map(|block| &block.parts);
            let weights = parts.map(|part| (part, &self.parameters[part.place].tensor));
            weights
                .filter(|(_, weight)| weight.kind() == kind)
                .map(|(part, weight)| part.of_place(weight))
                .collect()
        };
        let flat = match &views(share.own_blocks())?[..] {
            [] => Tensor::f_zeros([0], (kind, Device::Cpu))?,
            views => Tensor::f_cat(views, 0)?,
        };
        let all = gang.all_gather_among(share.among, "weights", &flat)?.rows;
        let mut at = 0;
        for mut view in views(&share.blocks)? {
            let length = view.size1()?;
            view.f_copy_(&all.f_narrow(0, at, length)?)?;
            at += length;
            work::moved(0);
        }
        Ok(())
    }
}
