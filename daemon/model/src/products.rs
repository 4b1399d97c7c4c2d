//! How a pass multiplies by the model's weights.

use crate::causal_lm::CausalLm;
use crate::error::Result;
use crate::packed::Forward;
use crate::tile;
use r1d_torch::product::PackedMatrix;
use std::collections::HashMap;
use tch::{Device, Tensor};

/// x Wᵀ + b, in one of the ways that a pass may ask for.
#[derive(Clone, Copy)]
pub(crate) enum Products<'a> {
    /// libtorch's product.
    Plain,
    /// Rows in tiles of one size, for the batch-invariant mode.
    Tiled,
    /// Where it was packed; libtorch's product otherwise.
    Packed(&'a PackedWeights<'a>),
}

impl<'a> Products<'a> {
    pub fn of(options: &Forward<'a>) -> Products<'a> {
        match options.packed {
            _ if options.invariant => Products::Tiled,
            Some(packed) => Products::Packed(packed),
            None => Products::Plain,
        }
    }

    pub fn tiled(self) -> bool {
        matches!(self, Products::Tiled)
    }

    /// `[T, K]`, `[N, K]`, `[N]` → `[T, N]`.
    pub fn linear(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Products::Tiled => return tile::linear(x, weight, bias),
            Products::Packed(packed) => {
                if let Some(matrix) = packed.matrices.get(&weight.data_ptr().addr()) {
                    return Ok(matrix.linear(x, bias)?);
                }
            }
            Products::Plain => {}
        }
        Ok(x.f_linear(weight, bias)?)
    }
}

/// Copies of a model's matrices, rearranged for products with few rows. Borrows the model: it is made anew when the weights have changed.
pub struct PackedWeights<'a> {
    /// By where the weight lies in memory.
    matrices: HashMap<usize, PackedMatrix>,
    model: std::marker::PhantomData<&'a CausalLm>,
}

impl CausalLm {
    /// For decoding on the CPU, where it pays after a few steps; takes the matrices' memory once more. Experts are not packed: each meets few
    /// tokens. Empty on a GPU.
    pub fn pack(&self) -> Result<PackedWeights<'_>> {
        let mut matrices = HashMap::new();
        if self.device() == Device::Cpu {
            for weight in self.matrices() {
                if let Some(matrix) = PackedMatrix::new(weight)? {
                    let _ = matrices.insert(weight.data_ptr().addr(), matrix);
                }
            }
        }
        Ok(PackedWeights { matrices, model: std::marker::PhantomData })
    }
}
