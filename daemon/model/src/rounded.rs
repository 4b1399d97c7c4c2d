//! Copies of weights in FP8, for an engine that multiplies by them in many steps: rounded once and
//! not at every product, to the numbers that [`r1d_torch::fp8`] rounds to.

use crate::error::Result;
use r1d_torch::{fp8, work};
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// The largest number of e4m3.
const LARGEST: f64 = 448.0;
/// Most of a scale's exponent, so that its inverse is a bfloat16 too.
const EXPONENT_MAX: f64 = 100.0;

/// Copies of a model's matrices that are multiplied in FP8. [`CausalLm::round`] fills it; while it
/// lives, each copy keeps its place in memory.
///
/// [`CausalLm::round`]: crate::CausalLm::round
#[derive(Default)]
pub struct RoundedWeights {
    /// Copies by the memory address of the weight.
    matrices: HashMap<usize, RoundedMatrix>,
}

/// A matrix that was rounded to FP8, in two dtypes.
pub struct RoundedMatrix {
    /// Its numbers, e4m3 `[N, K]`.
    pub values: Tensor,
    /// The power of two of each row that they are multiplied by, float32 `[N, 1]`.
    pub scale: Tensor,
    /// The products of both, bfloat16 `[N, K]`, which holds them exactly.
    pub wide: Tensor,
}

impl RoundedWeights {
    /// The copy of a weight; `None` if it is not multiplied in FP8.
    pub fn get(&self, weight: &Tensor) -> Option<&RoundedMatrix> {
        self.matrices.get(&weight.data_ptr().addr())
    }

    /// All copies.
    pub fn matrices(&self) -> impl Iterator<Item = &RoundedMatrix> {
        self.matrices.values()
    }

    /// Rounds those of these weights that are multiplied in FP8, into the copies that there are.
    pub(crate) fn fill<'a>(&mut self, weights: impl Iterator<Item = &'a Tensor>) -> Result<()> {
        for weight in weights.filter(|weight| fp8::takes(weight)) {
            let rounded = RoundedMatrix::of(weight)?;
            match self.matrices.get_mut(&weight.data_ptr().addr()) {
                Some(there) => there.copy_from(&rounded)?,
                None => {
                    let _ = self.matrices.insert(weight.data_ptr().addr(), rounded);
                }
            }
            work::moved(0);
        }
        Ok(())
    }
}

impl RoundedMatrix {
    fn of(weight: &Tensor) -> Result<RoundedMatrix> {
        let largest = weight.f_abs()?.f_amax([-1].as_slice(), true)?;
        let exponent = (largest.f_to_kind(Kind::Float)?.f_div_scalar(LARGEST)?)
            .f_log2()?
            .f_ceil()?;
        // A row of zeros has no logarithm.
        let exponent = exponent.f_nan_to_num(0.0, 0.0, 0.0)?;
        let scale = exponent.f_clamp(-EXPONENT_MAX, EXPONENT_MAX)?.f_exp2()?;
        let inverse = scale.f_reciprocal()?.f_to_kind(weight.kind())?;
        let values = weight.f_mul(&inverse)?.f_to_kind(Kind::Float8e4m3fn)?;
        let wide = (values.f_to_kind(weight.kind())?).f_mul(&scale.f_to_kind(weight.kind())?)?;
        Ok(RoundedMatrix {
            values,
            scale,
            wide,
        })
    }

    fn copy_from(&mut self, other: &RoundedMatrix) -> Result<()> {
        self.values.f_copy_(&other.values)?;
        self.scale.f_copy_(&other.scale)?;
        self.wide.f_copy_(&other.wide)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// The product with the unit matrix is what was rounded.
    #[test]
    fn the_copies_are_what_passes_round_weights_to() {
        let places = Tensor::arange(48 * 64, (Kind::Double, Device::Cpu));
        let sizes = Tensor::logspace(-9.0, 4.0, 48, 10.0, (Kind::Double, Device::Cpu));
        let weight =
            ((places * 0.731).sin().view([48, 64]) * sizes.view([48, 1])).to_kind(Kind::BFloat16);
        let _ = weight.get(7).fill_(0.0);
        let mut rounded = RoundedWeights::default();
        rounded.fill([&weight].into_iter()).unwrap();
        let unit = Tensor::eye(64, (Kind::BFloat16, Device::Cpu));
        let expected = fp8::linear(&weight, &unit).unwrap();
        let place = {
            let copy = rounded.get(&weight).unwrap();
            assert_eq!(copy.wide, expected);
            let exact = copy.values.to_kind(Kind::Double) * copy.scale.to_kind(Kind::Double);
            assert_eq!(exact, expected.to_kind(Kind::Double));
            copy.wide.data_ptr()
        };
        // New weights come into the same memory.
        let _ = weight.shallow_clone().neg_();
        rounded.fill([&weight].into_iter()).unwrap();
        let copy = rounded.get(&weight).unwrap();
        assert_eq!((copy.wide.data_ptr(), &copy.wide), (place, &-expected));
    }
}
