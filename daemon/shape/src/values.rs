//! The numbers of a stored tensor, read without a tensor library, as far as it takes to tell
//! whether two tensors have equal values.

use crate::fp8::{BlockSize, scale_name};
use crate::safetensors::{SafetensorsFile, StoredTensor};
use crate::weights_error::{Result, WeightsError};
use std::os::unix::fs::FileExt;

/// Numbers of each tensor that are read at a time.
const PART_NUMBERS: u64 = 1 << 20;

/// How the numbers of a dtype are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    F64,
    F32,
    Bf16,
    F16,
    /// The 8-bit format of FP8 weights. It has no infinities; each block of a matrix has a scale.
    F8E4m3,
}

impl Format {
    fn of(dtype: &str) -> Option<Format> {
        Some(match dtype {
            "F64" => Format::F64,
            "F32" => Format::F32,
            "BF16" => Format::Bf16,
            "F16" => Format::F16,
            "F8_E4M3" => Format::F8E4m3,
            _ => return None,
        })
    }

    fn width(self) -> usize {
        match self {
            Format::F64 => 8,
            Format::F32 => 4,
            Format::Bf16 | Format::F16 => 2,
            Format::F8E4m3 => 1,
        }
    }

    /// Decodes one number from its [`Self::width`] bytes, little-endian.
    fn number(self, bytes: &[u8]) -> f64 {
        let bits = bytes
            .iter()
            .rev()
            .fold(0, |bits: u64, &byte| bits << 8 | u64::from(byte));
        match self {
            Format::F64 => f64::from_bits(bits),
            Format::F32 => f32::from_bits(bits as u32).into(),
            Format::Bf16 => f32::from_bits((bits as u32) << 16).into(),
            Format::F16 if bits >> 10 & 31 == 31 => {
                let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
                if bits & 1023 == 0 {
                    sign * f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            Format::F16 => minifloat(bits, 5, 10),
            Format::F8E4m3 if bits & 0x7f == 0x7f => f64::NAN,
            Format::F8E4m3 => minifloat(bits, 4, 3),
        }
    }
}

/// Decodes a finite number of one sign bit, `exponent` bits with the usual bias, and `mantissa`
/// bits.
fn minifloat(bits: u64, exponent: u32, mantissa: u32) -> f64 {
    let fraction = (bits & ((1 << mantissa) - 1)) as f64;
    let power = (bits >> mantissa & ((1 << exponent) - 1)) as i32;
    let (bias, whole) = ((1 << (exponent - 1)) - 1, f64::from(1 << mantissa));
    let size = match power {
        0 => fraction * f64::powi(2.0, 1 - bias - mantissa as i32),
        power => (1.0 + fraction / whole) * f64::powi(2.0, power - bias),
    };
    if bits >> (exponent + mantissa) & 1 == 1 {
        -size
    } else {
        size
    }
}

/// A tensor and the file that has it.
type Stored<'a> = (&'a SafetensorsFile, &'a StoredTensor);

/// A tensor whose numbers can be read.
struct Numbers<'a> {
    file: &'a SafetensorsFile,
    tensor: &'a StoredTensor,
    format: Format,
    /// The size of a block and the scales, row by row, if the format is FP8.
    scales: Option<(BlockSize, Vec<f64>)>,
}

impl<'a> Numbers<'a> {
    /// Opens the numbers of a tensor. `None` for a tensor that has no floating-point dtype, or is
    /// FP8 without its scales.
    fn of(
        stored: impl Fn(&str) -> Option<Stored<'a>>,
        name: &str,
        block: BlockSize,
    ) -> Result<Option<Numbers<'a>>> {
        let Some((file, tensor)) = stored(name) else {
            return Ok(None);
        };
        let Some(format) = Format::of(&tensor.dtype) else {
            return Ok(None);
        };
        let plain = Numbers {
            file,
            tensor,
            format,
            scales: None,
        };
        if format != Format::F8E4m3 {
            return Ok(Some(plain));
        }
        let Some((file, scales)) = stored(&scale_name(name)) else {
            return Ok(None);
        };
        let wanted = block.scales(&tensor.shape);
        let Some(format) = Format::of(&scales.dtype)
            .filter(|&format| format != Format::F8E4m3 && scales.shape == wanted)
        else {
            return Ok(None);
        };
        let count = wanted.iter().product::<i64>() as u64;
        let scales = Numbers {
            file,
            tensor: scales,
            format,
            scales: None,
        };
        let scales = scales.decoded(0, &scales.part(0, count)?);
        Ok(Some(Numbers {
            scales: Some((block, scales)),
            ..plain
        }))
    }

    /// Reads the bytes of `count` numbers from number `start` on.
    fn part(&self, start: u64, count: u64) -> Result<Vec<u8>> {
        let width = self.format.width() as u64;
        let mut bytes = vec![0; (count * width) as usize];
        let read = self
            .file
            .file
            .read_exact_at(&mut bytes, self.tensor.bytes.start + start * width);
        read.map_err(|source| WeightsError::Io {
            path: self.file.path.clone(),
            source,
        })?;
        Ok(bytes)
    }

    /// Decodes a [`part`](Self::part) that begins at number `start`, and scales it as the model
    /// does.
    fn decoded(&self, start: u64, part: &[u8]) -> Vec<f64> {
        let numbers = part
            .chunks_exact(self.format.width())
            .map(|bytes| self.format.number(bytes));
        let Some((block, scales)) = &self.scales else {
            return numbers.collect();
        };
        let columns = self.tensor.shape.last().copied().unwrap_or(1).max(1) as u64;
        let across = columns.div_ceil(block.columns as u64);
        let scale = |index: u64| {
            let place = index / columns / block.rows as u64 * across
                + index % columns / block.columns as u64;
            scales.get(place as usize).copied().unwrap_or(f64::NAN)
        };
        // The product is float32, as where the model is loaded.
        (start..)
            .zip(numbers)
            .map(|(index, number)| f64::from(number as f32 * scale(index) as f32))
            .collect()
    }
}

/// Whether tensors `a` and `b`, both of which are `stored`, have different numbers, whatever their
/// dtypes. Calls `moved` with the bytes read.
pub(crate) fn differ<'a>(
    stored: impl Fn(&str) -> Option<Stored<'a>>,
    [a, b]: [&str; 2],
    block: BlockSize,
    moved: &mut dyn FnMut(u64),
) -> Result<bool> {
    let (Some(a), Some(b)) = (
        Numbers::of(&stored, a, block)?,
        Numbers::of(&stored, b, block)?,
    ) else {
        return Ok(true);
    };
    if a.tensor.shape != b.tensor.shape {
        return Ok(true);
    }
    let alike = a.format == b.format
        && a.scales.as_ref().map(|(_, scales)| scales)
            == b.scales.as_ref().map(|(_, scales)| scales);
    let count: u64 = a.tensor.shape.iter().map(|&size| size as u64).product();
    let mut start = 0;
    while start < count {
        let length = PART_NUMBERS.min(count - start);
        let (of_a, of_b) = (a.part(start, length)?, b.part(start, length)?);
        // Zeros of two signs are equal numbers with different bytes.
        if (!alike || of_a != of_b) && a.decoded(start, &of_a) != b.decoded(start, &of_b) {
            return Ok(true);
        }
        moved((of_a.len() + of_b.len()) as u64);
        start += length;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_torch_reads() {
        for (bits, number) in [
            (0x3c00, 1.0),
            (0xc500, -5.0),
            (0x0001, f64::powi(2.0, -24)),
            (0x7bff, 65504.0),
            (0x8000, 0.0),
        ] {
            assert_eq!(
                Format::F16.number(&u16::to_le_bytes(bits)),
                number,
                "{bits:x}"
            );
        }
        assert_eq!(
            Format::F16.number(&u16::to_le_bytes(0xfc00)),
            f64::NEG_INFINITY
        );
        assert!(Format::F16.number(&u16::to_le_bytes(0x7c01)).is_nan());
        for (bits, number) in [
            (0x38, 1.0),
            (0xc0, -2.0),
            (0x01, f64::powi(2.0, -9)),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ] {
            assert_eq!(Format::F8E4m3.number(&[bits]), number, "{bits:x}");
        }
        assert!(Format::F8E4m3.number(&[0xff]).is_nan());
        assert_eq!(Format::Bf16.number(&u16::to_le_bytes(0xbfc0)), -1.5);
        assert_eq!(Format::F32.number(&0.1f32.to_le_bytes()), f64::from(0.1f32));
        assert_eq!(Format::F64.number(&0.1f64.to_le_bytes()), 0.1);
    }
}
