//! Copies of adapted weights with their adapters' products added, for an engine that multiplies by
//! one matrix.
//!
//! In bfloat16 a copy is rounded at random, by a number that each place always has (stochastic
//! rounding; Gupta et al. 2015). W is of that dtype, and what a young adapter adds is less than
//! half a unit in the last place of most weights: rounded to the nearest, the copy would be W, and
//! all that the adapter has learned would be missing. Rounded at random it is W + s · B A on
//! average, and a product with it sums over thousands of weights.

use crate::adapters::{Lora, wide};
use crate::error::Result;
use r1d_torch::work;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use tch::{Device, Kind, Tensor};

/// Values of a weight that are merged at a time.
const PART_VALUES: i64 = 1 << 24;
/// Bits by which a bfloat16 is shorter than a float32.
const DROPPED_BITS: i64 = 0xffff;
/// Multipliers of a mixing function with little bias (Wellons' `lowbias32`), as signed numbers.
const MIX: [i64; 2] = [0x7feb_352d, 0x846c_a68b - (1 << 32)];

/// Copies of a model's adapted weights, W + s · B A. [`CausalLm::merge`] fills it; while it lives,
/// each copy keeps its place in memory.
///
/// [`CausalLm::merge`]: crate::CausalLm::merge
#[derive(Default)]
pub struct MergedWeights {
    /// Copies by the memory address of the weight.
    copies: HashMap<usize, Tensor>,
}

impl MergedWeights {
    /// The copy of a weight; `None` if it was not adapted.
    pub(crate) fn get(&self, weight: &Tensor) -> Option<&Tensor> {
        self.copies.get(&weight.data_ptr().addr())
    }

    /// Merges the adapters of all these weights, in the copies that there are.
    pub(crate) fn fill<'a>(
        &mut self,
        lora: &Lora,
        weights: impl Iterator<Item = &'a Tensor>,
    ) -> Result<()> {
        let mut thresholds = None;
        for weight in weights.filter(|weight| lora.adapts(weight)) {
            let copy = match self.copies.entry(weight.data_ptr().addr()) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => {
                    let options = (weight.kind(), weight.device());
                    place.insert(Tensor::f_empty(weight.size(), options)?)
                }
            };
            copy.f_copy_(weight)?;
            for (a, b, start) in lora.of(weight) {
                let rows = b.size()[b.dim() - 2];
                let place = copy.f_narrow(-2, start, rows)?;
                add(lora, (a, b), &place, &mut thresholds)?;
            }
            work::moved(0);
        }
        Ok(())
    }
}

/// Adds s · B A to `place`, a part of a matrix or of each expert's, some rows or experts at a time.
fn add(
    lora: &Lora,
    (a, b): (&Tensor, &Tensor),
    place: &Tensor,
    thresholds: &mut Option<Tensor>,
) -> Result<()> {
    let all = place.size()[0];
    let each = place.numel() as i64 / all.max(1);
    let step = (PART_VALUES / each.max(1)).max(1);
    for first in (0..all).step_by(step as usize) {
        let count = step.min(all - first);
        let (mut part, b) = (
            place.f_narrow(0, first, count)?,
            b.f_narrow(0, first, count)?,
        );
        let of_experts = b.dim() == 3;
        let a = if of_experts {
            a.f_narrow(0, first, count)?
        } else {
            a.shallow_clone()
        };
        let wide = wide(part.kind());
        let sum = part.f_to_kind(wide)?.f_add(&lora.product(&b, &a, wide)?)?;
        part.f_copy_(&match part.kind() {
            Kind::BFloat16 => rounded(&sum, thresholds)?,
            _ => sum,
        })?;
    }
    Ok(())
}

/// Rounds float32 numbers to such as bfloat16 has: away from zero where the bits that are dropped
/// reach above the place's threshold, else towards zero.
fn rounded(sum: &Tensor, thresholds: &mut Option<Tensor>) -> Result<Tensor> {
    let count = sum.numel() as i64;
    let has = thresholds.as_ref().map_or(0, |all| all.numel() as i64);
    let all = match thresholds {
        Some(all) if has >= count => all,
        _ => thresholds.insert(uniform(count, sum.device())?),
    };
    let of_place = all.f_narrow(0, 0, count)?.f_view_as(sum)?;
    let mut bits = sum
        .f_contiguous()?
        .f_view_dtype(Kind::Int)?
        .f_add(&of_place)?;
    let _ = bits.f_bitwise_and_(!DROPPED_BITS)?;
    Ok(bits.f_view_dtype(Kind::Float)?)
}

/// Numbers of 16 bits that depend on their places alone, int32 `[count]`.
fn uniform(count: i64, device: Device) -> Result<Tensor> {
    let mut mixed = Tensor::f_arange(count, (Kind::Int, device))?;
    for (shift, factor) in [16, 15].into_iter().zip(MIX) {
        let shifted = mixed.f_bitwise_right_shift_tensor_scalar(shift)?;
        let _ = mixed.f_bitwise_xor_tensor_(&shifted)?;
        let _ = mixed.f_mul_scalar_(factor)?;
    }
    let shifted = mixed.f_bitwise_right_shift_tensor_scalar(16)?;
    let _ = mixed.f_bitwise_xor_tensor_(&shifted)?;
    Ok(mixed.f_bitwise_and_(DROPPED_BITS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(numbers: &Tensor) -> f64 {
        f64::try_from(numbers.to_kind(Kind::Double).mean(Kind::Double)).unwrap()
    }

    /// A number between two of bfloat16 becomes each of them as often as it is near to it.
    #[test]
    fn rounding_at_random_keeps_the_mean() {
        let mut thresholds = None;
        for share in [0.0, 0.01, 0.3, 0.5, 0.97] {
            for (from, unit) in [(1.0, 2f64.powi(-7)), (-0.02, -(2f64.powi(-13)))] {
                // The nearest neighbour towards zero, and a part of the way to the next.
                let from = f64::from(half(from as f32));
                let numbers =
                    Tensor::full([1 << 16], from + share * unit, (Kind::Float, Device::Cpu));
                let found = rounded(&numbers, &mut thresholds).unwrap();
                let narrow = found.to_kind(Kind::BFloat16).to_kind(Kind::Float);
                assert_eq!(narrow, found, "of bfloat16");
                let moved = (mean(&found) - from) / unit;
                assert!((moved - share).abs() < 0.01, "{share}: {moved}");
                if share == 0.0 {
                    assert_eq!(found, numbers, "what is of bfloat16 stays");
                }
            }
        }
    }

    fn half(x: f32) -> f32 {
        f32::from_bits(x.to_bits() & 0xffff_0000)
    }

    #[test]
    fn thresholds_are_uniform_and_belong_to_their_places() {
        let all = uniform(1 << 16, Device::Cpu).unwrap();
        assert_eq!(all.narrow(0, 0, 1000), uniform(1000, Device::Cpu).unwrap());
        let counts = (all.to_kind(Kind::Int64) / 4096)
            .floor()
            .to_kind(Kind::Int64);
        let counts = Vec::<i64>::try_from(counts.bincount::<Tensor>(None, 16)).unwrap();
        assert!(
            counts.iter().all(|count| (3700..4500).contains(count)),
            "{counts:?}"
        );
    }
}
