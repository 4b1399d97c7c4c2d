use crate::error::Result;
use crate::matmul::Products;
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

    pub(crate) fn forward(&self, x: &Tensor, products: Products) -> Result<Tensor> {
        products.linear(
            &activate(&products.linear(x, &self.gate_up, None)?)?,
            &self.down,
            None,
        )
    }
}

/// Computes silu(gate) · up: `[…, 2I]`, gate before up → `[…, I]`.
pub(crate) fn activate(gate_up: &Tensor) -> Result<Tensor> {
    let halves = gate_up.f_chunk(2, -1)?;
    Ok(halves[0].f_silu()?.f_mul(&halves[1])?)
}
