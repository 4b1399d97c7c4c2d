//! A rank's part in the updates of one zone of the arenas: its blocks, and the ranks that it sums
//! gradients with.

use crate::LearnError;
use crate::arena::{Block, Table, Zone};
use crate::gang::{Among, Gang};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// The part of a zone's updates that a rank makes.
pub(super) struct ZoneShare {
    /// The ranks that have the zone alike.
    pub(super) among: Among,
    /// The blocks of the zone, in the order of their elements.
    pub(super) blocks: Vec<Block>,
    /// The blocks that this rank updates.
    own: Range<usize>,
    /// The first element of each rank's share, and the end of the last one's.
    edges: Vec<i64>,
    is_sharded: bool,
    rank: usize,
}

impl ZoneShare {
    pub(super) fn new(gang: &Gang, among: Among, table: &Table, zone: Zone, end: i64) -> ZoneShare {
        let (rank, ranks) = gang.place(among);
        let blocks = table.shared_blocks(zone);
        let shares = table.shares(zone, ranks);
        let first = |share: &Range<usize>| blocks.get(share.start).map(|own| own.range.start);
        let starts = shares.iter().map(|share| first(share).unwrap_or(end));
        let edges = starts.chain([end]).collect();
        let is_sharded = gang.is_sharded();
        ZoneShare {
            among,
            own: if is_sharded {
                shares[rank].clone()
            } else {
                0..blocks.len()
            },
            blocks,
            edges,
            is_sharded,
            rank,
        }
    }

    /// The blocks that this rank updates.
    pub(super) fn own_blocks(&self) -> &[Block] {
        &self.blocks[self.own.clone()]
    }

    /// The elements whose states this rank has.
    pub(super) fn elements(&self) -> Range<i64> {
        match (self.is_sharded, &self.edges[..]) {
            (true, edges) => edges[self.rank]..edges[self.rank + 1],
            (false, [first, .., end]) => *first..*end,
            (false, _) => 0..0,
        }
    }

    /// Sums the gradients `[elements]` of the ranks, and returns those of this rank's elements.
    pub(super) fn reduce(&self, gang: &Gang, gradients: &Tensor) -> Result<Tensor, LearnError> {
        let name = match self.among {
            Among::DataGroup => "gradients of experts",
            _ => "gradients",
        };
        if gradients.numel() == 0 {
            return Ok(gradients.shallow_clone());
        }
        if !self.is_sharded {
            return gang.all_reduce(self.among, name, gradients);
        }
        let rows: Vec<i64> = self
            .edges
            .windows(2)
            .map(|edge| edge[1] - edge[0])
            .collect();
        gang.reduce_scatter(self.among, name, gradients, &rows)
    }

    /// The square sums of all blocks of the zone, float64, from those of this rank's.
    pub(super) fn gathered(&self, gang: &Gang, own: &[Tensor]) -> Result<Vec<f64>, LearnError> {
        let own = stacked(own)?;
        let all = if self.is_sharded && !self.blocks.is_empty() {
            gang.all_gather_among(self.among, "gradient norm", &own)?
                .rows
        } else {
            own
        };
        Ok(Vec::<f64>::try_from(all)?)
    }
}

/// Scalars as a vector, float64, be it empty.
fn stacked(scalars: &[Tensor]) -> Result<Tensor, LearnError> {
    Ok(match scalars {
        [] => Tensor::f_zeros([0], (Kind::Double, Device::Cpu))?,
        scalars => Tensor::f_stack(scalars, 0)?,
    })
}
