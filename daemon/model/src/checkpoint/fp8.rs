//! FP8 weights with a scale for each block, as DeepSeek-V3 was released: W[i, j] = q[i, j] ·
//! scale_inv[i / 128, j / 128], q in e4m3 ("_inv" because the values are multiplied by it to
//! restore them).

use crate::error::Result;
use r1d_shape::fp8::BlockSize;
use tch::{Kind, Tensor};

/// Restores float32 `[R, C]` from e4m3 `[R, C]` and the blocks' scales.
pub(crate) fn dequantise(block: BlockSize, quantised: &Tensor, scales: &Tensor) -> Result<Tensor> {
    let (rows, columns) = quantised.size2()?;
    let spread = scales
        .f_to_kind(Kind::Float)?
        .f_repeat_interleave_self_int(block.rows, 0, None)?
        .f_narrow(0, 0, rows)?
        .f_repeat_interleave_self_int(block.columns, 1, None)?
        .f_narrow(1, 0, columns)?;
    Ok(quantised.f_to_kind(Kind::Float)?.f_mul(&spread)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_shape::fp8::BLOCK_SIZE;

    /// A published golden: nine values from -3 to 3, one block.
    #[test]
    fn a_block_comes_back_as_it_was() {
        let scale = 0.0066964286379516125f64;
        let quantised = [-448f32, -320., -224., -112., 0., 112., 224., 320., 448.];
        let quantised = Tensor::from_slice(&quantised)
            .to_kind(Kind::Float8e4m3fn)
            .view([1, 9]);
        let back = dequantise(
            BLOCK_SIZE,
            &quantised,
            &Tensor::from_slice(&[scale as f32]).view([1, 1]),
        )
        .unwrap();
        let expected = [
            -3.0f64,
            -2.142857074737549,
            -1.5,
            -0.75,
            0.0,
            0.75,
            1.5,
            2.142857074737549,
            3.0,
        ];
        for (found, expected) in Vec::<f32>::try_from(back.view([-1]))
            .unwrap()
            .iter()
            .zip(expected)
        {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn each_block_has_its_scale_and_the_last_may_be_small() {
        let block = BlockSize {
            rows: 2,
            columns: 3,
        };
        assert_eq!(block.scales(&[5, 7]), [3, 3]);
        let scales = Tensor::arange(9, (Kind::Float, tch::Device::Cpu)).view([3, 3]) + 1.0;
        let ones =
            Tensor::ones([5, 7], (Kind::Float, tch::Device::Cpu)).to_kind(Kind::Float8e4m3fn);
        let back = dequantise(block, &ones, &scales).unwrap();
        for (row, column, expected) in [
            (0, 0, 1.0),
            (1, 2, 1.0),
            (1, 3, 2.0),
            (2, 0, 4.0),
            (4, 6, 9.0),
            (3, 5, 5.0),
        ] {
            assert_eq!(back.double_value(&[row, column]), expected);
        }
    }
}
