//! Rotary position embedding (Su et al. 2021) and its extensions to longer contexts: linear, Llama
//! 3's, YaRN (Peng et al. 2023).
//!
//! In memory a head's rotary dimensions always lie in halves: dimensions i and i + d/2 rotate
//! together. Checkpoints that interleave them (i with i + 1) have the rows of their projections
//! reordered while loading, and back while saving.

use crate::error::Result;
use r1d_shape::RopeSpec;
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

/// Cosines and sines of all positions that were needed so far.
pub(crate) struct Rope {
    frequencies: Vec<f32>,
    attention_factor: f64,
    device: Device,
    /// The table, float32 `[positions, 2, d]`: cos, and sin with the sign that the rotated half
    /// needs. It grows by doubling.
    table: RefCell<Tensor>,
}

/// cos and sin of a pass's tokens, float32 `[T, 1, d]` each.
pub(crate) struct Rotation {
    /// Both, `[T, 2, d]`.
    table: Tensor,
    cos: Tensor,
    sin: Tensor,
}

const TABLE_MIN_POSITIONS: i64 = 1024;

impl Rope {
    pub(crate) fn new(spec: &RopeSpec, dims: i64, device: Device) -> Rope {
        let table = RefCell::new(Tensor::zeros([0, 2, dims], (Kind::Float, device)));
        Rope {
            frequencies: spec.frequencies(dims),
            attention_factor: spec.attention_factor(),
            device,
            table,
        }
    }

    /// The rotation of `positions` int64 `[T]`, none above `max_position`. cos and sin have dtype
    /// `kind` if that is wider than float32.
    pub(crate) fn rotation(
        &self,
        positions: &Tensor,
        max_position: i64,
        kind: Kind,
    ) -> Result<Rotation> {
        let rows = self.table(max_position + 1)?.f_index_select(0, positions)?;
        let rows = if kind == Kind::Double {
            rows.f_to_kind(kind)?
        } else {
            rows
        };
        Ok(Rotation {
            cos: rows.f_narrow(1, 0, 1)?,
            sin: rows.f_narrow(1, 1, 1)?,
            table: rows,
        })
    }

    /// The table of `positions` positions at least, float32 `[positions, 2, d]`.
    pub(crate) fn table(&self, positions: i64) -> Result<Tensor> {
        let known = self.table.borrow().size()[0];
        if positions > known {
            let count = positions.max(2 * known).max(TABLE_MIN_POSITIONS);
            *self.table.borrow_mut() = self.compute(count)?;
        }
        Ok(self.table.borrow().shallow_clone())
    }

    /// Computes the table on the host with the host's own cosine: an entry's bits do not depend on
    /// its place in a vector register.
    fn compute(&self, positions: i64) -> Result<Tensor> {
        let half = self.frequencies.len();
        let mut table = Vec::with_capacity(positions as usize * 4 * half);
        for position in 0..positions {
            let angles = self
                .frequencies
                .iter()
                .map(|frequency| f64::from(position as f32 * frequency));
            let scaled = |x: f64| (x * self.attention_factor) as f32;
            table.extend(
                angles
                    .clone()
                    .chain(angles.clone())
                    .map(|a| scaled(a.cos())),
            );
            table.extend(angles.clone().map(|a| scaled(-a.sin())));
            table.extend(angles.map(|a| scaled(a.sin())));
        }
        Ok(Tensor::f_from_slice(&table)?
            .f_view([positions, 2, 2 * half as i64])?
            .f_to_device(self.device)?)
    }
}

impl Rotation {
    /// Cosines of every token, and sines with the sign that the swapped half needs, `[T, 2, d]`.
    pub(crate) fn table(&self) -> &Tensor {
        &self.table
    }

    /// Rotates (x₁, x₂) → (x₁ cos − x₂ sin, x₂ cos + x₁ sin) on the halves of the last dimension of
    /// `[T, H, d]`, in float32.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let kind = x.kind();
        let half = self.cos.size()[2] / 2;
        let x = if kind == Kind::Double {
            x.shallow_clone()
        } else {
            x.f_to_kind(Kind::Float)?
        };
        let swapped = x.f_roll(half, -1)?;
        Ok((x.f_mul(&self.cos)?.f_add(&swapped.f_mul(&self.sin)?)?).f_to_kind(kind)?)
    }
}

/// The rows `[0, 2, 4, …, 1, 3, 5, …]` of each head's last `rotary` rows: from interleaved pairs on
/// disk to halves in memory. A head has `plain + rotary` rows.
pub(crate) fn halves_from_pairs(heads: i64, plain: i64, rotary: i64) -> Vec<i64> {
    let mut order = Vec::with_capacity((heads * (plain + rotary)) as usize);
    for head in 0..heads {
        let start = head * (plain + rotary);
        order.extend(start..start + plain);
        let rotated = start + plain;
        order.extend((0..rotary / 2).map(|i| rotated + 2 * i));
        order.extend((0..rotary / 2).map(|i| rotated + 2 * i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deepseek() -> RopeSpec {
        let text = include_str!("../../../configs/models/deepseek-v3.json");
        r1d_shape::Config::parse(text).unwrap().rope
    }

    #[test]
    fn the_table_grows_without_changing_what_was_there() {
        let rope = Rope::new(&deepseek(), 8, Device::Cpu);
        let at = |position: i64| {
            let rotation = rope
                .rotation(&Tensor::from_slice(&[position]), position, Kind::Float)
                .unwrap();
            Vec::<f32>::try_from(rotation.cos.reshape([-1])).unwrap()
        };
        let early = at(1000);
        assert_eq!(at(70_000)[0], 70_000f64.cos() as f32);
        assert_eq!(at(1000), early);
    }

    #[test]
    fn halves_and_pairs_hold_the_same_rows() {
        assert_eq!(halves_from_pairs(2, 1, 4), [0, 1, 3, 2, 4, 5, 6, 8, 7, 9]);
    }
}
