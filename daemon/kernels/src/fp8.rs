//! Products with matrices in FP8 in a decoding step: e4m3 with a float32 scale for each row. Rows
//! of activations are rounded to e4m3 times a power of two of their own, as
//! [`r1d_torch::fp8`](../r1d_torch/fp8/index.html) does, by the kernel that makes them where that
//! is one of these.

use crate::code::{Code, Source};
use crate::decode::of_dtype;
use crate::driver::{Arguments, Function, Launch};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::operands::{Operands, address};
use tch::{Kind, Tensor};

const SOURCE: Source = ("fp8.cu", include_str!("../cuda/fp8.cu"));
/// Threads of a block that norms a row, as of `rms_norm`, which adds in the same order.
const NORM_THREADS: i64 = 256;
/// Most threads of a block that writes a row, and numbers that each of them keeps.
const ROW_MAX_THREADS: i64 = 1024;
const KEPT: i64 = 32;
const WARPS: i64 = 8;
/// Columns that a warp multiplies at a time.
const COLUMNS: i64 = 64;
/// Rows of a matrix, and rows of x, that the tensor cores multiply at a time.
const SIXTEEN: i64 = 16;
const EIGHT: i64 = 8;
/// Floats of shared memory for each row's sums of a warp.
const STRIDE: i64 = 20;
/// Most rows for which the products are faster than cuBLAS's in bfloat16, whatever the matrix
/// (H200, 16 rows: 7 µs against 7 with [9728, 896], 14 against 18 with [17920, 1536]).
const ROWS_MAX: i64 = 16;
/// The same with a small matrix, and most of rows · N · K: each sixteen of the rows reads the whole
/// matrix (H200, 64 rows: 3.5 µs against 4.5 with [1152, 896], 16 against 8 with [9728, 896]).
const SMALL_MAX_ROWS: i64 = 64;
const SMALL_MAX_PRODUCTS: i64 = 1 << 28;

/// A matrix in FP8.
#[derive(Clone, Copy)]
pub struct Fp8Matrix<'a> {
    /// Its numbers, e4m3 `[N, K]`.
    pub values: &'a Tensor,
    /// What each row is multiplied by, float32 `[N, 1]`.
    pub scale: &'a Tensor,
}

/// What is done with x Wᵀ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8Result {
    /// y = x Wᵀ.
    Written,
    /// y += x Wᵀ.
    Added,
    /// y = silu(gate) · up, gate before up.
    Gated,
}

/// The kernels of FP8 products, for activations in bfloat16.
pub struct Fp8Kernels {
    round_rows: Function,
    rms_norm: Function,
    silu_mul: Function,
    /// Products of up to 8 rows and of more, without and with gates.
    products: [Function; 2],
    gated: [Function; 2],
    /// The code of the functions.
    _code: Code,
}

// SAFETY: as of [`Gpu`].
unsafe impl Send for Fp8Kernels {}

impl Fp8Kernels {
    /// Whether there are products with a matrix `[outer, inner]`.
    pub fn takes(outer: i64, inner: i64) -> bool {
        outer % SIXTEEN == 0 && inner % COLUMNS == 0 && inner <= ROW_MAX_THREADS * KEPT
    }

    /// Whether a product of `rows` rows with a matrix `[outer, inner]` is faster than cuBLAS's in
    /// bfloat16, which has to read twice the bytes and reads rows once for more of the matrix.
    pub fn suits(rows: i64, outer: i64, inner: i64) -> bool {
        rows <= ROWS_MAX || rows <= SMALL_MAX_ROWS && rows * outer * inner <= SMALL_MAX_PRODUCTS
    }

    /// Compiles the kernels.
    pub fn compile(gpu: &Gpu) -> Result<Fp8Kernels> {
        let code = Code::compile(gpu, &[SOURCE], &[of_dtype(Kind::BFloat16)])?;
        Ok(Fp8Kernels {
            round_rows: code.find("round_rows")?,
            rms_norm: code.find("rms_norm_rounded")?,
            silu_mul: code.find("silu_mul_rounded")?,
            products: [code.find("product_8")?, code.find("product_16")?],
            gated: [code.find("gated_8")?, code.find("gated_16")?],
            _code: code,
        })
    }

    /// Rounds each row of `x` `[B, K]`, in place.
    pub fn round_rows(&self, gpu: &Gpu, x: &Tensor) -> Result<()> {
        let (rows, width) = x.size2()?;
        let operands = Operands::of("round_rows");
        operands.are(x, Kind::BFloat16, &[rows, width])?;
        fits(&operands, width, ROW_MAX_THREADS)?;
        let arguments = Arguments::new().address(address(x)).int(width as i32);
        let launch = Launch::of_rows(rows, row_threads(width));
        gpu.stream().launch(self.round_rows, launch, arguments)
    }

    /// Computes y = w · x / √(mean(x²) + ε), each row rounded: `x`, `y` `[B, D]`, `weight` `[D]`.
    pub fn rms_norm(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        (weight, epsilon): (&Tensor, f32),
        y: &Tensor,
    ) -> Result<()> {
        let (rows, width) = x.size2()?;
        let operands = Operands::of("rms_norm_rounded");
        operands.are(x, Kind::BFloat16, &[rows, width])?;
        operands.are(weight, Kind::BFloat16, &[width])?;
        operands.are(y, Kind::BFloat16, &[rows, width])?;
        fits(&operands, width, NORM_THREADS)?;
        let launch = Launch::of_rows(rows, NORM_THREADS as u32);
        let arguments = Arguments::new()
            .address(address(x))
            .address(address(weight))
            .address(address(y))
            .int(width as i32)
            .float(epsilon);
        gpu.stream().launch(self.rms_norm, launch, arguments)
    }

    /// Computes y = silu(gate) · up, each row rounded: `gate_up` `[B, 2 · I]`, gate before up, `y`
    /// `[B, I]`.
    pub fn silu_mul(&self, gpu: &Gpu, gate_up: &Tensor, y: &Tensor) -> Result<()> {
        let (rows, width) = y.size2()?;
        let operands = Operands::of("silu_mul_rounded");
        operands.are(gate_up, Kind::BFloat16, &[rows, 2 * width])?;
        operands.are(y, Kind::BFloat16, &[rows, width])?;
        fits(&operands, width, ROW_MAX_THREADS)?;
        let launch = Launch::of_rows(rows, row_threads(width));
        let arguments = Arguments::new()
            .address(address(gate_up))
            .address(address(y))
            .int(width as i32);
        gpu.stream().launch(self.silu_mul, launch, arguments)
    }

    /// Multiplies rounded rows: `x` bfloat16 `[B, K]`, `matrix` `[N, K]`, `y` bfloat16 `[B, N]`, or
    /// float32 where it is written, or `[B, N / 2]` where it is gated. [`Self::takes`] said that it
    /// can.
    pub fn linear(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        Fp8Matrix { values, scale }: Fp8Matrix,
        (y, result): (&Tensor, Fp8Result),
    ) -> Result<()> {
        let ((rows, inner), (outer, _)) = (x.size2()?, values.size2()?);
        let operands = Operands::of("FP8 product");
        operands.are(x, Kind::BFloat16, &[rows, inner])?;
        operands.are(values, Kind::Float8e4m3fn, &[outer, inner])?;
        operands.are(scale, Kind::Float, &[outer, 1])?;
        let (out, kind) = match (result, y.kind()) {
            (Fp8Result::Written, Kind::Float) => (0, Kind::Float),
            (Fp8Result::Written | Fp8Result::Gated, _) => (1, Kind::BFloat16),
            (Fp8Result::Added, _) => (2, Kind::BFloat16),
        };
        let gates = result == Fp8Result::Gated;
        let width = if gates { outer / 2 } else { outer };
        operands.are(y, kind, &[rows, width])?;
        if !Fp8Kernels::takes(outer, inner) {
            return operands.refuse(format!("{rows} rows times [{outer}, {inner}]"));
        }
        let functions = if gates { self.gated } else { self.products };
        let (tile, function) = match functions {
            [few, _] if rows <= EIGHT => (EIGHT, few),
            [_, more] => (SIXTEEN, more),
        };
        let launch = Launch {
            grid: [(outer / SIXTEEN) as u32, up(rows, tile) as u32, 1],
            threads: 32 * WARPS as u32,
            shared_bytes: (WARPS * tile * STRIDE * 4) as u32,
        };
        let arguments = Arguments::new()
            .address(address(x))
            .address(address(values))
            .address(address(scale))
            .address(address(y))
            .int(out)
            .int(rows as i32)
            .int(inner as i32)
            .int(outer as i32);
        gpu.stream().launch(function, launch, arguments)
    }
}

/// Threads of a block that writes a row: warps enough for all eights at once, or an even share.
fn row_threads(width: i64) -> u32 {
    let eights = up(width, EIGHT);
    let each = up(eights, up(eights, ROW_MAX_THREADS));
    (up(each, 32) * 32) as u32
}

/// Refuses a row that a block of so many threads does not write.
fn fits(operands: &Operands, width: i64, threads: i64) -> Result<()> {
    if width % EIGHT == 0 && width <= threads * KEPT {
        return Ok(());
    }
    operands.refuse(format!("rows of {width} numbers"))
}

/// Parts of this size that a whole is cut into.
fn up(whole: i64, size: i64) -> i64 {
    (whole + size - 1) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_every_number_of_its_row() {
        for width in (8..=ROW_MAX_THREADS * KEPT).step_by(8) {
            let threads = i64::from(row_threads(width));
            assert!(
                threads <= ROW_MAX_THREADS && width <= threads * KEPT,
                "{width}"
            );
        }
    }
}
