//! x Wᵀ with both sides in FP8, e4m3 with one scale per row (`_scaled_mm` on Hopper; DeepSeek-V3
//! 3.3 has finer scales).

use crate::shim::{self, KernelError, check};
use tch::{Kind, Tensor};

/// The rows of both operands, and of the product, must have a multiple of 16 bytes.
const MULTIPLE: i64 = 16;

/// Whether [`linear`] takes a weight `[N, K]`, or [`grouped`] one `[E, N, K]`. Other weights use
/// libtorch's own products.
pub fn takes(weight: &Tensor) -> bool {
    weight.kind() == Kind::BFloat16
        && weight
            .size()
            .iter()
            .rev()
            .take(2)
            .all(|size| size % MULTIPLE == 0)
}

/// Multiplies `x` `[T, K]` by `weight` `[N, K]`, both bfloat16 → `[T, N]`. Each row is rounded to
/// e4m3 by a power of two of its own, the sums are float32. Gradients are those of the product of
/// the rounded rows, in bfloat16. On a GPU it needs compute capability 8.9; on the CPU the same
/// numbers are multiplied in float32.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor, KernelError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors, read for the time of the call; on success `out` is a new tensor that is
    // ours.
    check("FP8 product", unsafe {
        shim::r1d_fp8_linear(x.as_ptr(), weight.as_ptr(), &mut out)
    })?;
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Multiplies rows by their experts' weights: `x` `[P, K]`, `weight` `[E, N, K]`, both bfloat16 →
/// `[P, N]`. Expert e's rows end at `ends[e]` (int32 `[E]`, ascending) and begin where the expert's
/// before it end. Rounding, sums and gradients are those of [`linear`].
pub fn grouped(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Tensor, KernelError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: as in `linear`.
    let message =
        unsafe { shim::r1d_fp8_grouped(x.as_ptr(), weight.as_ptr(), ends.as_ptr(), &mut out) };
    check("grouped FP8 product", message)?;
    Ok(unsafe { Tensor::from_ptr(out) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn random(shape: &[i64], seed: f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.731 + seed)
            .sin()
            .view(shape)
            .to_kind(Kind::BFloat16)
    }

    fn largest(t: &Tensor) -> f64 {
        f64::try_from(t.to_kind(Kind::Double).abs().max()).unwrap()
    }

    #[test]
    fn it_is_the_product_within_e4m3_whatever_the_rows_sizes() {
        let (x, weight) = (random(&[5, 64], 1.0), random(&[32, 64], 2.0));
        // The rows have very different sizes, and one is all zeros.
        let sizes = Tensor::from_slice(&[1e-6f32, 1.0, 3e4, 0.0, 7.0])
            .view([5, 1])
            .to_kind(Kind::BFloat16);
        let x = x * sizes;
        let product = linear(&x, &weight).unwrap();
        let exact = x
            .to_kind(Kind::Double)
            .matmul(&weight.to_kind(Kind::Double).tr());
        for row in 0..5 {
            let (product, exact) = (product.get(row).to_kind(Kind::Double), exact.get(row));
            // 3 bits behind the leading one: each factor is within 1/16, and errors of 64 terms
            // average out.
            assert!(
                largest(&(&product - &exact)) <= 0.05 * largest(&exact),
                "row {row}: {product:?} {exact:?}"
            );
        }
        let same = linear(&x, &weight).unwrap();
        assert_eq!(same, product);
        let rounded_less = x.matmul(&weight.tr());
        assert!(
            largest(&(rounded_less - &product)) > 0.0,
            "nothing was rounded to FP8"
        );
    }

    #[test]
    fn gradients_are_those_of_the_product_of_what_was_rounded() {
        let gradients = |product: fn(&Tensor, &Tensor) -> Tensor, round: fn(Tensor) -> Tensor| {
            let [x, weight] = [random(&[8, 32], 1.0), random(&[16, 32], 2.0)]
                .map(|t| round(t).set_requires_grad(true));
            (product(&x, &weight) * random(&[8, 16], 3.0))
                .sum(Kind::Float)
                .backward();
            [x.grad(), weight.grad()]
        };
        let in_bfloat16: fn(&Tensor, &Tensor) -> Tensor =
            |x, weight| x.linear(weight, None::<&Tensor>);
        let found = gradients(|x, weight| linear(x, weight).unwrap(), |t| t);
        let exact = gradients(in_bfloat16, eighths);
        let unrounded = gradients(in_bfloat16, |t| t);
        for ((found, exact), unrounded) in found.iter().zip(&exact).zip(&unrounded) {
            assert!(largest(&(found - exact)) <= 0.005 * largest(exact));
            assert!(
                largest(&(found - unrounded)) > 0.005 * largest(exact),
                "the test must be able to tell them apart"
            );
        }
    }

    /// Rounds each row as the product does, by a product with the unit matrix.
    fn eighths(t: Tensor) -> Tensor {
        linear(&t, &Tensor::eye(t.size()[1], (Kind::BFloat16, Device::Cpu))).unwrap()
    }

    /// Some experts get no rows.
    #[test]
    fn grouped_products_are_the_experts_own() {
        let ends = Tensor::from_slice(&[3i32, 3, 10, 12]);
        let [x, weight] =
            [random(&[12, 32], 1.0), random(&[4, 16, 32], 2.0)].map(|t| t.set_requires_grad(true));
        let product = grouped(&x, &weight, &ends).unwrap();
        for (expert, rows) in [(0, 0..3), (2, 3..10), (3, 10..12)] {
            let own = linear(
                &x.narrow(0, rows.start, rows.end - rows.start),
                &weight.get(expert),
            )
            .unwrap();
            assert_eq!(
                product.narrow(0, rows.start, rows.end - rows.start),
                own,
                "expert {expert}"
            );
        }
        let factor = random(&[12, 16], 3.0);
        (product * &factor).sum(Kind::Float).backward();
        let (of_x, of_weight) = (x.grad(), weight.grad());
        assert_eq!(
            largest(&of_weight.get(1)),
            0.0,
            "an expert without rows learns nothing"
        );
        let (x, weight) = (x.detach(), weight.detach());
        let expected = factor
            .narrow(0, 3, 7)
            .tr()
            .matmul(&eighths(x.narrow(0, 3, 7)));
        assert!(largest(&(of_weight.get(2) - &expected)) <= 0.005 * largest(&expected));
        let expected = factor.narrow(0, 10, 2).matmul(&eighths(weight.get(3)));
        assert!(largest(&(of_x.narrow(0, 10, 2) - &expected)) <= 0.005 * largest(&expected));
    }

    #[test]
    fn weights_of_other_widths_are_not_taken() {
        assert!(
            takes(&random(&[32, 64], 0.0))
                && !takes(&random(&[32, 60], 0.0))
                && !takes(&random(&[30, 64], 0.0))
        );
        assert!(!takes(&random(&[32, 64], 0.0).to_kind(Kind::Float)));
    }
}
