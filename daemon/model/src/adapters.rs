//! Low-rank adapters of a model's matrices (Hu et al. 2022): a frozen W x becomes W x + s · B A x,
//! s = α / r.

use crate::error::Result;
use crate::weights::{Piece, Weight, own};
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// The settings of an adapter, under peft's names.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    /// Rank of B A.
    pub r: i64,
    /// The adapter's product is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// The adapted linear layers by the last parts of their names (`q_proj`, `self_attn.o_proj`),
    /// or `all-linear`.
    pub target_modules: Vec<String>,
}

/// The adapter of one linear layer, or of all experts' layers of one name, as indices into the list
/// of weights.
#[derive(Clone)]
pub(crate) struct Adapter {
    /// A, `[r, K]`; of experts `[E, r, K]`.
    pub a: usize,
    /// B, `[N, r]` or `[E, N, r]`, with its rows in the order of the adapted weight.
    pub b: usize,
    /// First row in the adapted weight, which may hold several layers.
    pub start: i64,
}

/// The adapters of a model.
pub(crate) struct Lora {
    pub spec: LoraSpec,
    pub scale: f64,
    pub weights: Vec<Weight>,
    /// Adapters by the memory address of the adapted weight.
    pub adapters: HashMap<usize, Vec<Adapter>>,
}

impl Lora {
    pub(crate) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The first block with an adapter; `None` if no block has one.
    pub(crate) fn lowest_block(&self) -> Option<usize> {
        let block = |weight: &Weight| {
            let (_, behind) = weight.name.split_once(".layers.")?;
            behind.split('.').next()?.parse().ok()
        };
        self.weights.iter().filter_map(block).min()
    }

    /// The same adapters of the same weights, in their own storage.
    pub(crate) fn copy(&self) -> Result<Lora> {
        let weights = self
            .weights
            .iter()
            .map(Weight::copy)
            .collect::<Result<_>>()?;
        Ok(Lora {
            spec: self.spec.clone(),
            scale: self.scale,
            weights,
            adapters: self.adapters.clone(),
        })
    }

    /// The adapters of a weight: A, B, and the first row in it.
    pub(crate) fn of(&self, weight: &Tensor) -> impl Iterator<Item = (&Tensor, &Tensor, i64)> {
        let adapters = self
            .adapters
            .get(&weight.data_ptr().addr())
            .into_iter()
            .flatten();
        adapters.map(|adapter| {
            (
                &self.weights[adapter.a].tensor,
                &self.weights[adapter.b].tensor,
                adapter.start,
            )
        })
    }

    /// Adds s · B A x to `y` = W x, whose last dimension is W's rows, in place. `product`
    /// multiplies by a weight in the way of the pass.
    pub(crate) fn add(
        &self,
        product: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>,
        x: &Tensor,
        weight: &Tensor,
        y: &Tensor,
    ) -> Result<()> {
        for (a, b, start) in self.of(weight) {
            let low = product(x, a)?.f_mul_scalar(self.scale)?;
            let delta = product(&low, b)?;
            let rows = b.size()[b.dim() - 2];
            let _ = y.f_narrow(-1, start, rows)?.f_add_(&delta)?;
        }
        Ok(())
    }

    pub(crate) fn adapts(&self, weight: &Tensor) -> bool {
        self.adapters.contains_key(&weight.data_ptr().addr())
    }

    /// Computes W + s · B A of one piece of a weight in its dtype, without gradients.
    pub(crate) fn merged_piece(&self, weight: &Tensor, piece: &Piece) -> Result<Tensor> {
        let place = piece.place(weight)?;
        let mut adapters = self.of(weight);
        let Some((a, b, _)) = adapters.find(|(_, _, start)| *start == piece.start()) else {
            return Ok(place);
        };
        let wide = wide(weight.kind());
        let sum = own(&place, wide, weight.device())?;
        let _ = sum.shallow_clone().f_add_(&self.product(
            &piece.layer(b)?,
            &piece.layer(a)?,
            wide,
        )?)?;
        Ok(sum.f_to_kind(weight.kind())?)
    }

    /// Computes s · B A of one matrix, or of each expert's.
    pub(crate) fn product(&self, b: &Tensor, a: &Tensor, kind: Kind) -> Result<Tensor> {
        let product = b.f_to_kind(kind)?.f_matmul(&a.f_to_kind(kind)?)?;
        Ok(product.f_mul_scalar(self.scale)?)
    }

    /// Computes W + s · B A in float32 at least, if W has adapters.
    pub(crate) fn merged_wide(&self, weight: &Tensor) -> Result<Tensor> {
        if !self.adapts(weight) {
            return Ok(weight.shallow_clone());
        }
        let wide = wide(weight.kind());
        let sum = own(weight, wide, weight.device())?;
        for (a, b, start) in self.of(weight) {
            let delta = self.product(b, a, wide)?;
            let _ = sum.f_narrow(0, start, b.size()[0])?.f_add_(&delta)?;
        }
        Ok(sum)
    }
}

/// Float32 at least.
pub(crate) fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    }
}
