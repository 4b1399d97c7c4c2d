//! Multiplies by the model's weights in the way that a pass needs.

use crate::adapters::Lora;
use crate::error::Result;
use crate::packed::Forward;
use crate::packed_weights::PackedWeights;
use crate::tile;
use r1d_torch::fp8;
use tch::{Device, Tensor};

/// Computes x Wᵀ + b, and adds the products of the model's adapters.
#[derive(Clone, Copy)]
pub(crate) struct Products<'a> {
    way: Way<'a>,
    lora: Option<&'a Lora>,
    fp8: bool,
}

#[derive(Clone, Copy)]
enum Way<'a> {
    /// libtorch's product.
    Plain,
    /// Rows are multiplied in tiles of one size, for the batch-invariant mode.
    Tiled,
    /// The packed copy of the weight is used; without one, libtorch's product.
    Packed(&'a PackedWeights<'a>),
}

impl<'a> Products<'a> {
    pub(crate) fn of(options: &Forward<'a>, lora: Option<&'a Lora>, fp8: bool) -> Products<'a> {
        let way = match options.packed {
            _ if options.invariant => Way::Tiled,
            Some(packed) => Way::Packed(packed),
            None => Way::Plain,
        };
        Products { way, lora, fp8 }
    }

    /// The same products in the weights' own dtype, where FP8 would round too much (DeepSeek-V3
    /// 3.3.1 names head and gates).
    pub(crate) fn wide(self) -> Products<'a> {
        Products { fp8: false, ..self }
    }

    pub(crate) fn tiled(self) -> bool {
        matches!(self.way, Way::Tiled)
    }

    /// Multiplies by a weight: `[T, K]`, `[N, K]`, `[N]` → `[T, N]`.
    pub(crate) fn linear(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let y = if self.fp8 && fp8::takes(weight) {
            plus(fp8::linear(x, weight)?, bias)?
        } else {
            self.base_linear(x, weight, bias)?
        };
        let base = |x: &Tensor, weight: &Tensor| self.base_linear(x, weight, None);
        self.adapted(&base, x, weight, y)
    }

    /// Multiplies rows in the order of their experts by libtorch's grouped product: `[P, K]`, `[E,
    /// N, K]`, int32 `[E]` with the end of each expert's rows → `[P, N]`.
    pub(crate) fn grouped(self, rows: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Tensor> {
        let base = |rows: &Tensor, weight: &Tensor| {
            let transposed = weight.f_transpose(1, 2)?;
            heard(rows.f_internal_grouped_mm(&transposed, Some(ends), None, None)?)
        };
        let y = if self.fp8 && fp8::takes(weight) {
            heard(fp8::grouped(rows, weight, ends)?)?
        } else {
            base(rows, weight)?
        };
        self.adapted(&base, rows, weight, y)
    }

    /// Multiplies each expert's rows, of which all have as many: `[E, P, K]`, `[E, N, K]` → `[E, P,
    /// N]`.
    pub(crate) fn batched(self, rows: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let base = |rows: &Tensor, weight: &Tensor| -> Result<Tensor> {
            Ok(rows.f_bmm(&weight.f_transpose(1, 2)?)?)
        };
        self.adapted(&base, rows, weight, base(rows, weight)?)
    }

    /// Adds the products of a weight's adapters, which `base` multiplies by, to `y`.
    fn adapted(
        self,
        base: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>,
        x: &Tensor,
        weight: &Tensor,
        y: Tensor,
    ) -> Result<Tensor> {
        if let Some(lora) = self.lora {
            lora.add(base, x, weight, &y)?;
        }
        Ok(y)
    }

    /// The rank of a weight's adapters; `None` if it has none.
    pub(crate) fn rank(self, weight: &Tensor) -> Option<i64> {
        let lora = self.lora.filter(|lora| lora.adapts(weight))?;
        Some(lora.spec.r)
    }

    /// Multiplies in the weights' own dtype, without adapters.
    pub(crate) fn base_linear(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        match self.way {
            Way::Tiled => return heard(tile::linear(x, weight, bias)?),
            Way::Packed(packed) => {
                if let Some(matrix) = packed.get(weight) {
                    return heard(matrix.linear(x, bias)?);
                }
            }
            Way::Plain => {}
        }
        heard(x.f_linear(weight, bias)?)
    }

    /// The matrix itself, with its adapters' product added: in float32 at least if it has adapters,
    /// because a rounded sum would lose them.
    pub(crate) fn matrix(self, weight: &Tensor) -> Result<Tensor> {
        match self.lora {
            Some(lora) if lora.adapts(weight) => lora.merged_wide(weight),
            _ => Ok(weight.shallow_clone()),
        }
    }
}

/// Reports progress after a product, since products are most of a pass's time. On the CPU a
/// backward pass is one long call, so it reports too when it comes to this product.
fn heard(product: Tensor) -> Result<Tensor> {
    r1d_torch::work::moved(0);
    if product.device() == Device::Cpu && product.requires_grad() {
        r1d_torch::runtime::hear_backward(&product)?;
    }
    Ok(product)
}

/// Computes x + b.
pub(crate) fn plus(x: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    Ok(match bias {
        Some(bias) => x.f_add(bias)?,
        None => x,
    })
}
