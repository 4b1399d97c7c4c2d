//! Makes the first weights at random, and storage that is filled later.

use crate::error::Result;
use crate::weights::{Initial, Piece, Source, Weight};
use r1d_torch::work;
use std::f64::consts::TAU;
use tch::{Device, Kind, Tensor};

/// Makes Normal(0, σ²) matrices, norms 1, biases 0. An element is a function of (seed, the tensor's
/// name on disk, its index there) only.
pub(crate) struct Random {
    pub seed: u64,
    pub standard_deviation: f64,
}

impl Source for Random {
    fn fill(&mut self, piece: &Piece, memory: &Tensor) -> Result<()> {
        let count = piece.shape.iter().product::<i64>() as usize;
        let values = match piece.initial {
            Initial::Ones => vec![1f32; count],
            Initial::Zeros => vec![0f32; count],
            Initial::KaimingUniform => uniforms(
                stream(self.seed, &piece.name),
                count,
                (piece.shape[1] as f64).powf(-0.5),
            ),
            Initial::Normal => normals(
                stream(self.seed, &piece.name),
                count,
                self.standard_deviation,
            ),
        };
        piece.write(
            memory,
            &Tensor::f_from_slice(&values)?.f_view(&piece.shape[..])?,
        )
    }
}

/// Makes matrices of the same distribution by the device's own generator: faster, and other
/// numbers.
pub(crate) struct OnDevice {
    pub device: Device,
    pub standard_deviation: f64,
}

impl Source for OnDevice {
    fn fill(&mut self, piece: &Piece, memory: &Tensor) -> Result<()> {
        let (shape, options) = (&piece.shape[..], (Kind::Float, self.device));
        let values = match piece.initial {
            Initial::Ones => Tensor::f_ones(shape, options)?,
            Initial::Zeros => Tensor::f_zeros(shape, options)?,
            Initial::KaimingUniform | Initial::Normal => {
                Tensor::f_randn(shape, options)?.f_mul_scalar(self.standard_deviation)?
            }
        };
        piece.write(memory, &values)
    }
}

/// Leaves the storage uninitialised, for a copy that overwrites it.
pub(crate) struct Unfilled;

impl Source for Unfilled {
    fn fill(&mut self, _: &Piece, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// Shares the storage of an existing model, weight by weight in the order in which they are built.
pub(crate) struct Shared<'a>(pub std::slice::Iter<'a, Weight>);

impl Source for Shared<'_> {
    fn ready(&mut self) -> Option<Tensor> {
        self.0.next().map(|weight| weight.tensor.shallow_clone())
    }

    fn fill(&mut self, _: &Piece, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// Hashes the name by FNV-1a and mixes the result with the seed.
fn stream(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash ^ mix(seed))
}

/// SplitMix64's output function.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform numbers in (−bound, bound].
fn uniforms(stream: u64, count: usize, bound: f64) -> Vec<f32> {
    let uniform =
        |counter: u64| ((mix(stream.wrapping_add(counter)) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    (0..count as u64)
        .map(|counter| (bound * (2.0 * uniform(counter) - 1.0)) as f32)
        .collect()
}

/// Pairs of numbers after which progress is reported.
const REPORT_PAIRS: u64 = 1 << 18;

/// Normal numbers by Box–Muller over a counter.
fn normals(stream: u64, count: usize, standard_deviation: f64) -> Vec<f32> {
    // The uniform has 53 bits and is in (0, 1], so that the logarithm is finite.
    let uniform =
        |counter: u64| ((mix(stream.wrapping_add(counter)) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let mut values = Vec::with_capacity(count + 1);
    for pair in 0..count.div_ceil(2) as u64 {
        if pair > 0 && pair % REPORT_PAIRS == 0 {
            // The bytes count as done later, when they are in their place.
            work::moved(0);
        }
        let radius = standard_deviation * (-2.0 * uniform(2 * pair).ln()).sqrt();
        let (sin, cos) = (TAU * uniform(2 * pair + 1)).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_the_asked_moments_and_depend_on_seed_and_name() {
        let n = 100_000;
        let values = normals(stream(7, "model.embed_tokens.weight"), n, 0.02);
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        let moment = |p: i32| {
            values
                .iter()
                .map(|&x| (f64::from(x) / 0.02).powi(p))
                .sum::<f64>()
                / n as f64
        };
        assert!(
            mean.abs() < 3e-4 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.15,
            "{mean} {}",
            moment(4)
        );
        assert_eq!(
            values,
            normals(stream(7, "model.embed_tokens.weight"), n, 0.02)
        );
        assert_ne!(
            values[..4],
            normals(stream(8, "model.embed_tokens.weight"), 4, 0.02)[..]
        );
        assert_ne!(
            values[..4],
            normals(stream(7, "lm_head.weight"), 4, 0.02)[..]
        );
    }
}
