//! x Wᵀ + b on the CPU with a weight that is packed once and used many times.

use crate::shim::{self, KernelError, check};
use tch::{Device, Kind, Tensor};

/// Columns of the product that are stored together.
const PANEL: i64 = 32;

/// A matrix `[N, K]`, rearranged for this processor. It is a copy and does not follow changes of
/// the weight.
pub struct PackedMatrix {
    /// The rearranged matrix, `[⌈N/32⌉, K, 32]`; in bfloat16 `[⌈N/32⌉, K/2, 32, 2]`.
    panels: Tensor,
    rows: i64,
}

impl PackedMatrix {
    /// Packs a weight. `None` if libtorch's own product is as good: on a GPU, in float64, with
    /// bfloat16 on processors without AVX-512 BF16 or with AMX.
    pub fn new(weight: &Tensor) -> Result<Option<PackedMatrix>, KernelError> {
        let (rows, depth) = weight.size2()?;
        // bfloat16 is multiplied in pairs.
        let together = if weight.kind() == Kind::BFloat16 {
            2
        } else {
            1
        };
        // SAFETY: a live tensor, looked at for the time of the call.
        if weight.device() != Device::Cpu
            || depth % together != 0
            || !unsafe { shim::r1d_packs(weight.as_ptr()) }
        {
            return Ok(None);
        }
        let panels = (rows + PANEL - 1) / PANEL;
        let panels = weight
            .f_detach()?
            .f_constant_pad_nd([0, 0, 0, panels * PANEL - rows])?
            .f_view([panels, PANEL, depth / together, together])?
            .f_permute([0, 2, 1, 3])?
            .f_contiguous()?;
        Ok(Some(PackedMatrix { panels, rows }))
    }

    /// Multiplies `x` `[T, K]` in the weight's dtype, and adds `bias` `[N]` → `[T, N]`. Sums are
    /// float32; there are no gradients. A row's bits do not depend on the other rows.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, KernelError> {
        let (count, _) = x.size2()?;
        let x = x.f_contiguous()?;
        let out = Tensor::f_empty([count, self.rows], (x.kind(), x.device()))?;
        let bias = bias.map_or(std::ptr::null(), Tensor::as_ptr);
        // SAFETY: live tensors, read and written for the time of the call; the shim checks their
        // shapes.
        check("packed product", unsafe {
            shim::r1d_packed_linear(x.as_ptr(), self.panels.as_ptr(), bias, out.as_ptr())
        })?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[i64], seed: f64, kind: Kind) -> Tensor {
        let count = shape.iter().product::<i64>();
        (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.731 + seed)
            .sin()
            .view(shape)
            .to_kind(kind)
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from(
            (a.to_kind(Kind::Double) - b.to_kind(Kind::Double))
                .abs()
                .max(),
        )
        .unwrap()
    }

    #[test]
    fn it_is_libtorchs_product_at_every_size() {
        for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 5e-3)] {
            for (count, rows, depth) in [
                (1, 64, 48),
                (5, 33, 20),
                (12, 1, 2),
                (13, 100, 130),
                (32, 96, 64),
                (131, 40, 256),
            ] {
                let (x, weight, bias) = (
                    random(&[count, depth], 1.0, kind),
                    random(&[rows, depth], 2.0, kind),
                    random(&[rows], 3.0, kind),
                );
                let Some(packed) = PackedMatrix::new(&weight).unwrap() else {
                    continue;
                };
                for bias in [None, Some(&bias)] {
                    let exact = x.to_kind(Kind::Double).linear(
                        &weight.to_kind(Kind::Double),
                        bias.map(|b| b.to_kind(Kind::Double)),
                    );
                    let largest = f64::try_from(exact.abs().max()).unwrap();
                    let difference =
                        largest_difference(&packed.linear(&x, bias).unwrap(), &exact) / largest;
                    assert!(
                        difference < tolerance,
                        "{kind:?} {count} x {depth} x {rows}: {difference:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (x, weight) = (random(&[29, 96], 1.0, kind), random(&[70, 96], 2.0, kind));
            let Some(packed) = PackedMatrix::new(&weight).unwrap() else {
                continue;
            };
            let together = packed.linear(&x, None).unwrap();
            for (start, count) in [(0, 1), (28, 1), (3, 7), (11, 18)] {
                assert_eq!(
                    packed.linear(&x.narrow(0, start, count), None).unwrap(),
                    together.narrow(0, start, count),
                    "{kind:?}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let Some(packed) = PackedMatrix::new(&random(&[4, 6], 0.0, Kind::Float)).unwrap() else {
            return;
        };
        let refused = packed
            .linear(&random(&[2, 8], 0.0, Kind::Float), None)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("8 columns"), "{refused}");
        assert!(
            PackedMatrix::new(&random(&[4, 6], 0.0, Kind::Double))
                .unwrap()
                .is_none()
        );
        assert!(
            PackedMatrix::new(&random(&[4, 5], 0.0, Kind::BFloat16))
                .unwrap()
                .is_none(),
            "an odd depth has no pairs"
        );
    }
}
