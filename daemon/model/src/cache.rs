//! Keeps the results of attention for earlier tokens, in slots of one length.

use crate::attention::CacheView;
use crate::error::{ModelError, Result};
use crate::tile::{TILE_KEYS, whole_tiles};
use tch::{Device, Kind, Tensor};

/// Keys and values, or MLA's latents, of `slots` sequences of up to `capacity` tokens.
/// [`crate::CausalLm::cache`] makes it; its memory can be [cut](Cache::cut) into other slots.
pub struct Cache {
    /// All memory, and the part of it that is in use, `[slots, heads, capacity, width]`, per layer
    /// and kind of row.
    layers: Vec<Vec<Held>>,
    /// Tokens that the whole memory holds.
    tokens: i64,
    /// Number of slots, each for one sequence.
    pub slots: i64,
    /// Tokens that each slot holds.
    pub capacity: i64,
    /// Whether it holds whole keys and values, for the batch-invariant mode.
    pub invariant: bool,
    /// The numbers 0, 1, 2, … `[capacity]`.
    places: Tensor,
}

struct Held {
    memory: Tensor,
    slots: Tensor,
}

impl Cache {
    pub(crate) fn new(
        layers: i64,
        rows: &[(i64, i64)],
        slots: i64,
        capacity: i64,
        invariant: bool,
        options: (Kind, Device),
    ) -> Result<Cache> {
        if slots < 1 || capacity < 1 {
            return Err(ModelError::Input(format!(
                "a cache of {slots} slots of {capacity} tokens: both must be at least 1"
            )));
        }
        let too_many = || {
            ModelError::Input(format!(
                "a cache of {slots} slots of {capacity} tokens: no memory holds as many"
            ))
        };
        let held = slot_length(capacity).ok_or_else(too_many)?;
        let tokens = slots.checked_mul(held).ok_or_else(too_many)?;
        // The memory starts as zeros: a masked place has weight 0, but 0 · NaN would not be 0.
        let one = |&(heads, width): &(i64, i64)| -> Result<Held> {
            let memory = Tensor::f_zeros([slots, heads, held, width], options)?;
            Ok(Held {
                slots: memory.shallow_clone(),
                memory,
            })
        };
        let layers = (0..layers)
            .map(|_| rows.iter().map(one).collect())
            .collect::<Result<_>>()?;
        Ok(Cache {
            layers,
            tokens,
            slots,
            capacity,
            invariant,
            places: Tensor::f_arange(held, (Kind::Int64, options.1))?,
        })
    }

    /// Cuts the same memory into `slots` sequences of up to `capacity` tokens, all of them empty.
    pub fn cut(&mut self, slots: i64, capacity: i64) -> Result<()> {
        let held = slot_length(capacity).filter(|&held| {
            slots > 0 && capacity > 0 && slots.checked_mul(held).is_some_and(|n| n <= self.tokens)
        });
        let Some(held) = held else {
            let message = format!(
                "{slots} slots of {capacity} tokens: the cache holds {} tokens in all",
                self.tokens
            );
            return Err(ModelError::Input(message));
        };
        for kept in self.layers.iter_mut().flatten() {
            let (slots_before, heads, _, width) = kept.memory.size4()?;
            if slots_before == 0 {
                let options = (kept.memory.kind(), kept.memory.device());
                kept.memory = Tensor::f_zeros([1, heads, self.tokens, width], options)?;
            }
            let part = kept
                .memory
                .f_view([-1])?
                .f_narrow(0, 0, slots * heads * held * width)?;
            kept.slots = part.f_view([slots, heads, held, width])?;
        }
        (self.slots, self.capacity) = (slots, capacity);
        self.places = Tensor::f_arange(held, (Kind::Int64, self.places.device()))?;
        Ok(())
    }

    /// Cuts the same memory into as many slots of `tokens` tokens as it has, to serve as pages.
    /// Returns their number.
    pub fn cut_into_pages(&mut self, tokens: i64) -> Result<i64> {
        self.cut(self.tokens / tokens.max(1), tokens)?;
        Ok(self.slots)
    }

    /// Gives the memory back until it is cut the next time. Nothing else may be done with the cache
    /// before.
    pub fn release(&mut self) -> Result<()> {
        for kept in self.layers.iter_mut().flatten() {
            let (_, heads, _, width) = kept.memory.size4()?;
            let options = (kept.memory.kind(), kept.memory.device());
            kept.memory = Tensor::f_zeros([0, heads, 0, width], options)?;
            kept.slots = kept.memory.shallow_clone();
        }
        self.slots = 0;
        Ok(())
    }

    /// Sets everything to zero, as in the beginning, after values that are not finite may have been
    /// written.
    pub fn clear(&mut self) -> Result<()> {
        for held in self.layers.iter_mut().flatten() {
            let _ = held.memory.f_zero_()?;
        }
        Ok(())
    }

    /// Selects slots for decoding. Consecutive ones are read in place, others are gathered anew in
    /// every layer of every step.
    pub fn select(&self, slots: &[i64]) -> Result<SlotSet> {
        if let Some(slot) = slots.iter().find(|&&slot| slot < 0 || slot >= self.slots) {
            return Err(ModelError::Input(format!(
                "slot {slot} does not exist: the cache has {}",
                self.slots
            )));
        }
        let reads = match slots.first() {
            Some(&start)
                if slots
                    .iter()
                    .zip(start..)
                    .all(|(&slot, expected)| slot == expected) =>
            {
                Reads::Range {
                    start,
                    count: slots.len() as i64,
                }
            }
            _ => Reads::Scattered,
        };
        Ok(SlotSet {
            index: Tensor::f_from_slice(slots)?.f_to_device(self.places.device())?,
            reads,
        })
    }

    /// Copies the first `length` tokens from slots to others: (from, to) pairs, all read before any
    /// is written.
    pub fn copy(&mut self, moves: &[(i64, i64)], length: i64) -> Result<()> {
        if let Some((from, to)) = moves.iter().find(|(from, to)| {
            [from, to]
                .iter()
                .any(|slot| **slot < 0 || **slot >= self.slots)
        }) {
            return Err(ModelError::Input(format!(
                "copy of slot {from} to slot {to}: the cache has {}",
                self.slots
            )));
        }
        if length > self.capacity {
            return Err(ModelError::Input(format!(
                "copy of {length} tokens: a slot holds {}",
                self.capacity
            )));
        }
        let (from, to): (Vec<i64>, Vec<i64>) = moves.iter().copied().unzip();
        let [from, to] =
            [from, to].map(|slots| Tensor::f_from_slice(&slots)?.f_to_device(self.places.device()));
        let (from, to) = (from?, to?);
        for held in self.layers.iter().flatten() {
            let mut held = held.slots.f_narrow(2, 0, length)?;
            let _ = held.f_index_copy_(0, &to, &held.f_index_select(0, &from)?)?;
        }
        Ok(())
    }

    /// Keys and values of a layer, `[slots, heads, places, width]` each; `None` where the cache
    /// holds something else.
    pub fn keys_and_values(&self, layer: usize) -> Option<(&Tensor, &Tensor)> {
        match self.layers.get(layer)?.as_slice() {
            [keys, values] => Some((&keys.slots, &values.slots)),
            _ => None,
        }
    }

    /// Latents with their rotary keys of a layer, `[slots, 1, places, width]`; `None` where the
    /// cache holds something else.
    pub fn latents(&self, layer: usize) -> Option<&Tensor> {
        match self.layers.get(layer)?.as_slice() {
            [latents] => Some(&latents.slots),
            _ => None,
        }
    }

    /// The device of its memory.
    pub fn device(&self) -> Device {
        self.places.device()
    }

    /// Bytes of its memory on the device.
    pub fn bytes(&self) -> u64 {
        self.layers
            .iter()
            .flatten()
            .map(|held| (held.memory.numel() * held.memory.kind().elt_size_in_bytes()) as u64)
            .sum()
    }
}

/// A cache during one pass, with the places that the pass's tokens go to and the slots that its
/// queries see.
pub(crate) struct Cached<'a> {
    cache: &'a Cache,
    /// The pass's token that each written row comes from; `None` if every token is written once, in
    /// order.
    source: Option<Tensor>,
    slots: Tensor,
    positions: Tensor,
    /// Slots that a decoding step reads.
    reads: Reads,
    /// Tokens of each slot that a decoding step reads.
    length: i64,
}

#[derive(Clone, Copy)]
enum Reads {
    Range { start: i64, count: i64 },
    Scattered,
}

/// Slots that decode together. [`Cache::select`] makes it.
pub struct SlotSet {
    /// The slots' numbers, int64 `[B]`.
    index: Tensor,
    reads: Reads,
}

/// The places of a decoding step's tokens.
pub struct Places<'a> {
    /// The slot of each token.
    pub slots: &'a SlotSet,
    /// The number of tokens that each slot already holds, earlier ones of the same step included,
    /// int64 `[B]`.
    pub positions: &'a Tensor,
    /// The largest of `positions`, or a larger number.
    pub max_position: i64,
}

impl SlotSet {
    /// The slots at these places of the set, which may repeat.
    pub(crate) fn rows(&self, rows: &Tensor) -> Result<SlotSet> {
        Ok(SlotSet {
            index: self.index.f_index_select(0, rows)?,
            reads: Reads::Scattered,
        })
    }

    /// The slots of a pass that decodes `times` tokens of each: all slots' first tokens, then all
    /// their second ones, and so on.
    pub fn repeated(&self, times: i64) -> Result<SlotSet> {
        Ok(SlotSet {
            index: self.index.f_repeat([times])?,
            reads: self.reads,
        })
    }

    pub(crate) fn same(&self) -> SlotSet {
        SlotSet {
            index: self.index.shallow_clone(),
            reads: self.reads,
        }
    }

    pub(crate) fn count(&self) -> i64 {
        self.index.numel() as i64
    }
}

/// Tokens that a slot of this capacity takes: whole tiles.
fn slot_length(capacity: i64) -> Option<i64> {
    capacity
        .checked_add(TILE_KEYS)
        .map(|_| whole_tiles(capacity, TILE_KEYS))
}

/// Writes `rows` `[T, heads, width]` like `index_put_`. With deterministic algorithms on, libtorch
/// sorts the indices first on a GPU, which costs more than a layer of a small model; a scatter does
/// not, and here no place is written twice with different values.
fn scatter_rows(held: &Tensor, slots: &Tensor, positions: &Tensor, rows: &Tensor) -> Result<()> {
    let (_, heads, places, width) = held.size4()?;
    let head = Tensor::f_arange(heads, (Kind::Int64, held.device()))?;
    let place = slots
        .f_mul_scalar(heads)?
        .f_unsqueeze(1)?
        .f_add(&head)?
        .f_mul_scalar(places)?
        .f_add(&positions.f_unsqueeze(1)?)?;
    let index = place.f_view([-1, 1])?.f_expand([-1, width], false)?;
    let _ = held
        .f_view([-1, width])?
        .f_scatter_(0, &index, &rows.f_reshape([-1, width])?)?;
    Ok(())
}

/// The chains of slots in each of which a prefill leaves a sequence, one slot of a chain behind the
/// other.
pub(crate) type Chains = Vec<Vec<i64>>;

/// Chains of one slot each.
pub(crate) fn each_alone(slots: &[Vec<i64>]) -> Vec<Chains> {
    let alone = |slots: &Vec<i64>| slots.iter().map(|slot| vec![*slot]).collect();
    slots.iter().map(alone).collect()
}

impl<'a> Cached<'a> {
    /// Prepares a pass over whole sequences of `lengths`, of which sequence i goes to `chains[i]`.
    pub(crate) fn prefill(
        cache: &'a mut Cache,
        lengths: &[i64],
        chains: &[Chains],
        device: Device,
    ) -> Result<Cached<'a>> {
        if chains.len() != lengths.len() {
            return Err(ModelError::Input(format!(
                "{} lists of slots for {} sequences",
                chains.len(),
                lengths.len()
            )));
        }
        let capacity = cache.capacity;
        for (&length, chains) in lengths.iter().zip(chains) {
            let fits = |chain: &Vec<i64>| length <= chain.len() as i64 * capacity;
            if !chains.iter().all(fits) {
                return Err(ModelError::Input(format!(
                    "a prompt of {length} tokens does not fit a slot of {capacity} tokens"
                )));
            }
        }
        if let Some(slot) = chains
            .iter()
            .flatten()
            .flatten()
            .find(|&&slot| slot < 0 || slot >= cache.slots)
        {
            return Err(ModelError::Input(format!(
                "slot {slot} does not exist: the cache has {}",
                cache.slots
            )));
        }
        let (mut source, mut slot_of, mut position_of) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (&length, chains) in lengths.iter().zip(chains) {
            for chain in chains {
                source.extend(start..start + length);
                slot_of.extend((0..length).map(|token| chain[(token / capacity) as usize]));
                position_of.extend((0..length).map(|token| token % capacity));
            }
            start += length;
        }
        let on_device = |host: &[i64]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(host)?.f_to_device(device)?)
        };
        let in_order = chains.iter().all(|chains| chains.len() == 1);
        Ok(Cached {
            cache,
            source: if in_order {
                None
            } else {
                Some(on_device(&source)?)
            },
            slots: on_device(&slot_of)?,
            positions: on_device(&position_of)?,
            reads: Reads::Scattered,
            length: 0,
        })
    }

    pub(crate) fn step(cache: &'a mut Cache, places: &Places) -> Result<Cached<'a>> {
        let Places {
            slots,
            positions,
            max_position,
        } = *places;
        if max_position >= cache.capacity {
            return Err(ModelError::Input(format!(
                "position {max_position} does not fit a slot of {} tokens",
                cache.capacity
            )));
        }
        let length = max_position + 1;
        // On a GPU products over rows of arbitrary length are slow, so whole tiles are read; places
        // behind the positions are masked.
        let in_tiles = cache.invariant || positions.device() != Device::Cpu;
        let length = if in_tiles {
            whole_tiles(length, TILE_KEYS)
        } else {
            length
        };
        let SlotSet { index, reads } = slots.same();
        Ok(Cached {
            cache,
            source: None,
            slots: index,
            positions: positions.shallow_clone(),
            reads,
            length,
        })
    }

    pub(crate) fn naive(&self) -> bool {
        self.cache.invariant
    }

    /// The places that the step's queries see: their own slots up to their positions.
    pub(crate) fn seen(&self, kind: Kind) -> Result<CacheView> {
        let invariant = self.cache.invariant;
        if !invariant
            && self.positions.device() == Device::Cpu
            && matches!(kind, Kind::Float | Kind::BFloat16)
        {
            return Ok(CacheView::UpTo(self.positions.shallow_clone()));
        }
        let behind = self
            .cache
            .places
            .f_narrow(0, 0, self.length)?
            .f_gt_tensor(&self.positions.f_unsqueeze(1)?)?;
        let mut mask = Tensor::f_zeros(behind.size(), (kind, behind.device()))?;
        let mask = mask
            .f_masked_fill_(&behind, f64::NEG_INFINITY)?
            .f_unsqueeze(1)?;
        Ok(if invariant {
            CacheView::MaskOfTiles(mask)
        } else {
            CacheView::Mask(mask)
        })
    }

    /// Writes the pass's rows `[T, heads, width]`, one tensor per kind of row.
    pub(crate) fn store(&self, layer: usize, rows: &[&Tensor]) -> Result<()> {
        for (Held { slots: held, .. }, rows) in self.cache.layers[layer].iter().zip(rows) {
            let rows = match &self.source {
                Some(source) => rows.f_index_select(0, source)?,
                None => rows.shallow_clone(),
            };
            if rows.device() == Device::Cpu {
                let _ = held.shallow_clone().f_index_put_(
                    &[Some(&self.slots), None, Some(&self.positions)],
                    &rows,
                    false,
                )?;
            } else {
                scatter_rows(held, &self.slots, &self.positions, &rows)?;
            }
        }
        Ok(())
    }

    /// Reads a step's slots: `[B, heads, length, width]`, each repeated slot once. The result is a
    /// view if the slots are consecutive, and a copy otherwise.
    pub(crate) fn read(&self, layer: usize, row: usize) -> Result<Tensor> {
        let held = self.cache.layers[layer][row]
            .slots
            .f_narrow(2, 0, self.length)?;
        Ok(match self.reads {
            Reads::Range { start, count } => held.f_narrow(0, start, count)?,
            Reads::Scattered => held.f_index_select(0, &self.slots)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_cut_into_slots_of_any_length() {
        let mut cache = Cache::new(
            1,
            &[(2, 3), (1, 5)],
            4,
            128,
            false,
            (Kind::Float, Device::Cpu),
        )
        .unwrap();
        let bytes = cache.bytes();
        for (slots, capacity, held) in [
            (8, 64, 64),
            (2, 200, 256),
            (1, 512, 512),
            (5, 65, 0),
            (4, 128, 128),
            (0, 5, 0),
            (i64::MAX, 64, 0),
        ] {
            let cut = cache.cut(slots, capacity);
            if held == 0 {
                assert!(
                    cut.unwrap_err().to_string().contains("holds 512 tokens"),
                    "{slots} of {capacity}"
                );
                continue;
            }
            assert_eq!(
                (cache.slots, cache.capacity, cache.bytes()),
                (slots, capacity, bytes)
            );
            assert_eq!(cache.layers[0][0].slots.size(), [slots, 2, held, 3]);
            assert_eq!(cache.layers[0][1].slots.size(), [slots, 1, held, 5]);
            assert!(cache.select(&[slots - 1]).is_ok() && cache.select(&[slots]).is_err());
        }
        let _ = cache.layers[0][0].slots.fill_(f64::NAN);
        cache.clear().unwrap();
        assert_eq!(
            cache.layers[0][0].memory,
            Tensor::zeros([4, 2, 128, 3], (Kind::Float, Device::Cpu))
        );
    }

    #[test]
    fn memory_that_was_given_back_is_there_again_when_it_is_cut() {
        let options = (Kind::Float, Device::Cpu);
        let mut cache = Cache::new(2, &[(2, 3), (1, 5)], 4, 128, false, options).unwrap();
        let bytes = cache.bytes();
        let _ = cache.layers[1][0].slots.fill_(f64::NAN);
        cache.release().unwrap();
        assert_eq!(cache.bytes(), 0);
        assert!(cache.select(&[0]).is_err(), "there is no slot");
        assert_eq!(cache.cut_into_pages(64).unwrap(), 8);
        assert_eq!((cache.bytes(), cache.capacity), (bytes, 64));
        let zeros = Tensor::zeros([8, 2, 64, 3], options);
        assert_eq!(cache.layers[1][0].slots, zeros);
    }

    /// The GPU's way to write a cache gives the same as the CPU's, place by place.
    #[test]
    fn scattered_rows_lie_where_index_put_puts_them() {
        let (slots, positions) = (
            Tensor::from_slice(&[3i64, 0, 2, 3]),
            Tensor::from_slice(&[4i64, 0, 1, 2]),
        );
        let rows = Tensor::arange(4 * 2 * 3, (Kind::Float, Device::Cpu)).view([4, 2, 3]) + 1.0;
        let [scattered, mut put] =
            [(); 2].map(|()| Tensor::zeros([5, 2, 6, 3], (Kind::Float, Device::Cpu)));
        scatter_rows(&scattered, &slots, &positions, &rows).unwrap();
        let _ = put.index_put_(&[Some(&slots), None, Some(&positions)], &rows, false);
        assert_eq!(scattered, put);
    }

    #[test]
    fn copies_read_all_before_they_write_and_name_what_is_outside() {
        let mut cache = Cache::new(2, &[(1, 2)], 3, 4, false, (Kind::Float, Device::Cpu)).unwrap();
        for held in cache.layers.iter().flatten() {
            held.slots.shallow_clone().copy_(
                &Tensor::arange(3, (Kind::Float, Device::Cpu))
                    .view([3, 1, 1, 1])
                    .expand_as(&held.slots),
            );
        }
        cache.copy(&[(0, 1), (1, 2)], 3).unwrap();
        let column = |place: i64| {
            Vec::<f32>::try_from(
                cache.layers[1][0]
                    .slots
                    .select(2, place)
                    .select(2, 0)
                    .view([-1]),
            )
            .unwrap()
        };
        assert_eq!(
            (column(2), column(3)),
            (vec![0.0, 0.0, 1.0], vec![0.0, 1.0, 2.0]),
            "3 tokens are copied, the fourth is not"
        );
        assert!(
            cache
                .copy(&[(0, 3)], 1)
                .unwrap_err()
                .to_string()
                .contains("slot 3")
        );
        assert!(
            cache
                .copy(&[(0, 1)], 5)
                .unwrap_err()
                .to_string()
                .contains("5 tokens")
        );
    }
}
