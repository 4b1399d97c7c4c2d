//! Flat memory for all parameters: a value that the optimiser keeps of each (a gradient, a master
//! weight, a moment) is one tensor, an [`Arena`], and each parameter has a place in it by the same
//! [`Table`].
//!
//! An arena is divided into fixed [`Block`]s, so that what goes through all of it (a copy to the
//! host, a sum over gradients) can go block by block, in the same order each time. In a gang a rank
//! may have an arena of its own blocks only; and the places of routed experts, of which ranks may
//! have different ones, are behind all others.

use crate::LearnError;
use r1d_model::is_of_experts;
use r1d_parallel::blocks::{self, blocks_of, share_out};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Places begin at multiples of this many elements, which whole vectors of every dtype divide.
const ALIGNMENT: i64 = 64;

/// A parameter's place in every arena.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The parameter's name.
    pub name: String,
    /// The parameter's shape.
    pub shape: Vec<i64>,
    /// Its first element in the arena.
    pub offset: i64,
    /// The number of its first element in the tensor of all ranks, of which this may be a share.
    pub first: i64,
    /// The number of elements of the tensor of all ranks.
    pub whole: i64,
}

impl Place {
    /// The number of the parameter's elements.
    pub fn elements(&self) -> i64 {
        self.shape.iter().product()
    }

    /// The zone that it is in: routed experts' matrices are stacked.
    pub fn zone(&self) -> Zone {
        if self.shape.len() == 3 && is_of_experts(&self.name) {
            Zone::Experts
        } else {
            Zone::Common
        }
    }

    /// Whether these are all elements of the tensor of all ranks.
    pub fn is_whole(&self, elements: &Range<i64>) -> bool {
        elements.end - elements.start == self.whole
    }
}

/// The places of all parameters, one behind the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The places in the order of the parameters.
    pub places: Vec<Place>,
    /// The number of elements of an arena, with the gaps between places.
    pub elements: i64,
    /// The element from which on the places are of experts, of which a rank may have a shard.
    pub experts_from: i64,
}

/// The elements of an arena that a rank has: some of those before the experts' places, and some of
/// these.
#[derive(Clone, Debug, PartialEq)]
pub struct Elements {
    /// Those of what every rank has alike.
    pub common: Range<i64>,
    /// Those of experts.
    pub of_experts: Range<i64>,
}

/// Which places of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Those that every rank has alike.
    Common,
    /// Those of experts.
    Experts,
}

/// A run of an arena: whole places, or a part of one that is larger than a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Its elements in the arena.
    pub range: Range<i64>,
    /// The parts of places in it.
    pub parts: Vec<Part>,
}

/// The part of a place that is in a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The index of the place in the table.
    pub place: usize,
    /// Its elements within the place.
    pub range: Range<i64>,
    /// Its first element within the block.
    pub at: i64,
}

impl Table {
    /// Gives each parameter, by name and shape, its place.
    pub fn new(parameters: impl IntoIterator<Item = (String, Vec<i64>)>) -> Table {
        let mut elements = 0;
        let place = |(name, shape): (String, Vec<i64>)| {
            let mut place = Place {
                name,
                shape,
                offset: elements,
                first: 0,
                whole: 0,
            };
            place.whole = place.elements();
            elements += aligned(place.elements());
            place
        };
        let places = parameters.into_iter().map(place).collect();
        Table {
            places,
            elements,
            experts_from: elements,
        }
    }

    /// Gives each parameter of a rank its place, those of experts behind all others. Of these the
    /// rank has the shard `shard` of `shards`.
    pub fn of_rank(
        parameters: impl IntoIterator<Item = (String, Vec<i64>)>,
        (shard, shards): (i64, i64),
    ) -> Table {
        let mut table = Table::new(parameters);
        let mut elements = 0;
        for zone in [Zone::Common, Zone::Experts] {
            if zone == Zone::Experts {
                table.experts_from = elements;
            }
            for place in &mut table.places {
                if place.zone() == zone {
                    place.offset = elements;
                    elements += aligned(place.elements());
                }
            }
        }
        for place in &mut table.places {
            if place.zone() == Zone::Experts {
                place.first = shard * place.elements();
                place.whole = shards * place.elements();
            }
        }
        table
    }

    /// All elements.
    pub fn all(&self) -> Elements {
        Elements {
            common: 0..self.experts_from,
            of_experts: self.experts_from..self.elements,
        }
    }

    /// Divides the table into blocks of at most `elements_max` elements, a multiple of 64: as many
    /// whole places as fit, and larger places in parts of their own.
    pub fn blocks(&self, elements_max: i64) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let elements_max = elements_max.max(ALIGNMENT);
        for (index, place) in self.places.iter().enumerate() {
            let elements = place.elements();
            for start in (0..elements).step_by(elements_max as usize) {
                let end = elements.min(start + elements_max);
                let part = |at| Part {
                    place: index,
                    range: start..end,
                    at,
                };
                let (from, to) = (place.offset + start, place.offset + end);
                match blocks.last_mut() {
                    Some(block) if to - block.range.start <= elements_max => {
                        block.parts.push(part(from - block.range.start));
                        block.range.end = to;
                    }
                    _ => blocks.push(Block {
                        range: from..to,
                        parts: vec![part(0)],
                    }),
                }
            }
        }
        blocks
    }

    /// The blocks of a zone that the ranks of a gang share: each is of one place, or of one expert,
    /// and they depend on nothing but the parameters' sizes.
    pub fn shared_blocks(&self, zone: Zone) -> Vec<Block> {
        let (units, cut) = self.cut(zone);
        let block = |of: blocks::Block| {
            let Stretch { place, start, .. } = units[of.tensor];
            let range = start + of.elements.start as i64..start + of.elements.end as i64;
            let offset = self.places[place].offset;
            Block {
                range: offset + range.start..offset + range.end,
                parts: vec![Part {
                    place,
                    range,
                    at: 0,
                }],
            }
        };
        cut.into_iter().map(block).collect()
    }

    /// Shares [`Self::shared_blocks`] out: the run of blocks of each rank.
    pub fn shares(&self, zone: Zone, ranks: usize) -> Vec<Range<usize>> {
        share_out(&self.cut(zone).1, ranks)
    }

    /// The elements of a place that are among these of the arena.
    pub fn within(&self, place: &Place, elements: &Elements) -> Range<i64> {
        let own = if place.offset < self.experts_from {
            &elements.common
        } else {
            &elements.of_experts
        };
        let at = |element: i64| (element - place.offset).clamp(0, place.elements());
        at(own.start)..at(own.end)
    }

    /// Cuts a zone into units that no block crosses, and these into blocks.
    fn cut(&self, zone: Zone) -> (Vec<Stretch>, Vec<blocks::Block>) {
        let of_zone = |(_, place): &(usize, &Place)| place.zone() == zone;
        let places = self.places.iter().enumerate().filter(of_zone);
        let units: Vec<Stretch> = places.flat_map(Stretch::of).collect();
        let lengths: Vec<usize> = units.iter().map(|unit| unit.elements as usize).collect();
        let cut = blocks_of(&lengths);
        (units, cut)
    }
}

/// What is in blocks of its own: a place, or one expert of it.
#[derive(Clone, Copy)]
struct Stretch {
    place: usize,
    /// Its first element within the place.
    start: i64,
    elements: i64,
}

impl Stretch {
    fn of((index, place): (usize, &Place)) -> impl Iterator<Item = Stretch> + use<> {
        let count = match place.zone() {
            Zone::Common => 1,
            Zone::Experts => place.shape[0],
        };
        let elements = place.elements() / count.max(1);
        (0..count).map(move |number| Stretch {
            place: index,
            start: number * elements,
            elements,
        })
    }
}

fn aligned(elements: i64) -> i64 {
    (elements + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
}

/// One value of every element of every parameter, or of those of a rank.
pub struct Arena {
    /// The values of each zone, `[elements]`.
    common: Tensor,
    of_experts: Tensor,
    elements: Elements,
}

impl Arena {
    /// Makes an arena of zeros.
    pub fn zeros(table: &Table, kind: Kind, device: Device) -> Result<Arena, LearnError> {
        Arena::zeros_of(table.all(), kind, device)
    }

    /// Makes these elements of an arena, zeros.
    pub fn zeros_of(elements: Elements, kind: Kind, device: Device) -> Result<Arena, LearnError> {
        let zeros = |range: &Range<i64>| {
            let length = range.end - range.start;
            Tensor::f_zeros([length], (kind, device))
        };
        Ok(Arena {
            common: zeros(&elements.common)?,
            of_experts: zeros(&elements.of_experts)?,
            elements,
        })
    }

    /// The arena of these values of these elements.
    pub(crate) fn from_zones([common, of_experts]: [Tensor; 2], elements: Elements) -> Arena {
        Arena {
            common,
            of_experts,
            elements,
        }
    }

    /// The values of the zones.
    pub(crate) fn into_zones(self) -> [Tensor; 2] {
        [self.common, self.of_experts]
    }

    /// The dtype of its elements.
    pub fn kind(&self) -> Kind {
        self.common.kind()
    }

    /// So many values from an element of the whole arena on, a view.
    fn narrow(&self, start: i64, length: i64) -> Result<Tensor, LearnError> {
        let Elements { common, of_experts } = &self.elements;
        let (zone, from) = if start >= of_experts.start {
            (&self.of_experts, of_experts.start)
        } else {
            (&self.common, common.start)
        };
        Ok(zone.f_narrow(0, start - from, length)?)
    }

    /// A parameter's values in its shape, a view.
    pub fn tensor(&self, place: &Place) -> Result<Tensor, LearnError> {
        self.part(place, &(0..place.elements()))
    }

    /// Some of a parameter's values, a flat view; all of them in its shape.
    pub fn part(&self, place: &Place, elements: &Range<i64>) -> Result<Tensor, LearnError> {
        let length = elements.end - elements.start;
        let flat = match length {
            0 => self.common.f_narrow(0, 0, 0)?,
            _ => self.narrow(place.offset + elements.start, length)?,
        };
        if length == place.elements() {
            return Ok(flat.f_view(&place.shape[..])?);
        }
        Ok(flat)
    }

    /// A block's values, a view `[elements]`.
    pub fn block(&self, block: &Block) -> Result<Tensor, LearnError> {
        let Range { start, end } = block.range;
        self.narrow(start, end - start)
    }
}

impl Part {
    /// The part's values in those of its place, which are contiguous; a flat view.
    pub fn of_place(&self, place: &Tensor) -> Result<Tensor, LearnError> {
        self.of_place_from(place, 0)
    }

    /// The part's values in those of its place from the element `start` on; a flat view.
    pub fn of_place_from(&self, place: &Tensor, start: i64) -> Result<Tensor, LearnError> {
        let flat = place.f_detach()?.f_view([-1])?;
        let length = self.range.end - self.range.start;
        Ok(flat.f_narrow(0, self.range.start - start, length)?)
    }

    /// The part's values in a block's, a view.
    pub fn of(&self, block: &Tensor) -> Result<Tensor, LearnError> {
        Ok(block.f_narrow(0, self.at, self.range.end - self.range.start)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(sizes: &[i64]) -> Table {
        let named = |(i, &size): (usize, &i64)| (format!("p{i}"), vec![size, 2]);
        Table::new(sizes.iter().enumerate().map(named))
    }

    proptest! {
        /// Every element of every parameter is in one block, blocks do not overlap, and none is
        /// larger than it may be.
        #[test]
        fn blocks_have_every_element_once(
            sizes in prop::collection::vec(0..400i64, 1..12),
            max in 1..8i64,
        ) {
            let (table, max) = (table(&sizes), max * ALIGNMENT);
            let (mut seen, mut end) = (vec![0; sizes.len()], 0);
            for block in table.blocks(max) {
                prop_assert!(block.range.start >= end && block.range.end <= table.elements);
                prop_assert!(block.range.end - block.range.start <= max);
                end = block.range.end;
                for part in &block.parts {
                    let place = &table.places[part.place];
                    prop_assert_eq!(part.range.start, seen[part.place]);
                    prop_assert_eq!(block.range.start + part.at, place.offset + part.range.start);
                    seen[part.place] = part.range.end;
                }
            }
            let all: Vec<i64> = table.places.iter().map(Place::elements).collect();
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn a_place_is_a_view_in_the_parameters_shape() {
        let table = table(&[3, 5]);
        let arena = Arena::zeros(&table, Kind::Float, Device::Cpu).unwrap();
        let second = arena.tensor(&table.places[1]).unwrap();
        assert_eq!((second.size(), table.elements), (vec![5, 2], 128));
        let _ = second.shallow_clone().fill_(2.0);
        let [block] = &table.blocks(128)[..] else {
            panic!("one block")
        };
        let values = arena.block(block).unwrap();
        assert_eq!(f64::try_from(values.sum(Kind::Float)).unwrap(), 20.0);
        let part = block.parts[1].of(&values).unwrap();
        assert_eq!(f64::try_from(part.min()).unwrap(), 2.0);
    }
}
