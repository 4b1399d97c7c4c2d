use crate::error::Result;
use crate::forward::Context;
use crate::fused;
use crate::parts::DenseParts;
use crate::weights::{Builder, Rows};
use tch::Tensor;

/// The dense feed-forward network: down(silu(gate x) · up x), without biases (Shazeer 2020).
pub(crate) struct SwiGlu {
    /// Gate above up, `[2 · intermediate, hidden]`.
    gate_up: Tensor,
    down: Tensor,
}

impl SwiGlu {
    pub(crate) fn build(
        weights: &mut Builder,
        prefix: &str,
        hidden: i64,
        intermediate: i64,
    ) -> Result<SwiGlu> {
        let halves = vec![
            Rows::new("gate_proj", intermediate),
            Rows::new("up_proj", intermediate),
        ];
        Ok(SwiGlu {
            gate_up: weights.rows(prefix, "gate_up_proj", ".weight", halves, Some(hidden))?,
            down: weights.rows(
                prefix,
                "",
                ".weight",
                vec![Rows::new("down_proj", hidden)],
                Some(intermediate),
            )?,
        })
    }

    pub(crate) fn parts(&self) -> DenseParts<'_> {
        DenseParts {
            gate_up: &self.gate_up,
            down: &self.down,
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let products = context.products;
        let gate_up = products.linear(x, &self.gate_up, None)?;
        let hidden = match context.kernels {
            Some(kernels) if gate_up.size2()?.1 % 16 == 0 => fused::silu_mul(kernels, &gate_up)?,
            _ => activate(&gate_up)?,
        };
        products.linear(&hidden, &self.down, None)
    }
}

/// Computes silu(gate) · up: `[…, 2I]`, gate before up → `[…, I]`.
pub(crate) fn activate(gate_up: &Tensor) -> Result<Tensor> {
    let halves = gate_up.f_chunk(2, -1)?;
    Ok(halves[0].f_silu()?.f_mul(&halves[1])?)
}
