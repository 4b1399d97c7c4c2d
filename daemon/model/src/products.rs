//! How a pass multiplies by the model's weights.

use crate::causal_lm::CausalLm;
use crate::error::Result;
use crate::lora::Lora;
use crate::packed::Forward;
use crate::tile;
use r1d_torch::product::PackedMatrix;
use std::collections::HashMap;
use tch::{Device, Tensor};

/// x Wᵀ + b, with what the model's adapters add to it.
#[derive(Clone, Copy)]
pub(crate) struct Products<'a> {
    way: Way<'a>,
    lora: Option<&'a Lora>,
}

#[derive(Clone, Copy)]
enum Way<'a> {
    /// libtorch's product.
    Plain,
    /// Rows in tiles of one size, for the batch-invariant mode.
    Tiled,
    /// Where it was packed; libtorch's product otherwise.
    Packed(&'a PackedWeights<'a>),
}

impl<'a> Products<'a> {
    pub fn of(options: &Forward<'a>, lora: Option<&'a Lora>) -> Products<'a> {
        let way = match options.packed {
            _ if options.invariant => Way::Tiled,
            Some(packed) => Way::Packed(packed),
            None => Way::Plain,
        };
        Products { way, lora }
    }

    pub fn tiled(self) -> bool {
        matches!(self.way, Way::Tiled)
    }

    /// `[T, K]`, `[N, K]`, `[N]` → `[T, N]`.
    pub fn linear(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let y = self.base_linear(x, weight, bias)?;
        if let Some(lora) = self.lora {
            lora.add(self, x, weight, &y)?;
        }
        Ok(y)
    }

    /// Without adapters.
    pub fn base_linear(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self.way {
            Way::Tiled => return tile::linear(x, weight, bias),
            Way::Packed(packed) => {
                if let Some(matrix) = packed.matrices.get(&weight.data_ptr().addr()) {
                    return Ok(matrix.linear(x, bias)?);
                }
            }
            Way::Plain => {}
        }
        Ok(x.f_linear(weight, bias)?)
    }

    /// The matrix itself, with what its adapters add: in float32 at least where it has some, which a rounded sum would lose.
    pub fn matrix(self, weight: &Tensor) -> Result<Tensor> {
        match self.lora {
            Some(lora) if lora.adapts(weight) => lora.merged_wide(weight),
            _ => Ok(weight.shallow_clone()),
        }
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
            for weight in self.matrix_weights().map(|weight| &weight.tensor) {
                if let Some(matrix) = PackedMatrix::new(weight)? {
                    let _ = matrices.insert(weight.data_ptr().addr(), matrix);
                }
            }
        }
        Ok(PackedWeights { matrices, model: std::marker::PhantomData })
    }
}
