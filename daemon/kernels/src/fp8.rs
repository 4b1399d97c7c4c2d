//! Products with matrices in FP8 in a decoding step: e4m3 with a float32 scale for each row.

use crate::code::{Code, Source};
use crate::decode::of_dtype;
use crate::driver::{Arguments, Function, Launch};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::operands::{Operands, address};
use tch::{Kind, Tensor};

const SOURCE: Source = ("fp8.cu", include_str!("../cuda/fp8.cu"));
const ROUND_THREADS: u32 = 256;
const WARPS: u32 = 8;
/// Columns that a warp multiplies at a time.
const COLUMNS: i64 = 64;
/// Rows of a matrix, and rows of x, that the tensor cores multiply at a time.
const SIXTEEN: i64 = 16;
const EIGHT: i64 = 8;
/// Floats of shared memory for each row of x.
const STRIDE: i64 = 20;
/// What the kernels are compiled for: sixteens of the matrix's rows and eights of x's rows that a
/// block multiplies.
const TILES: [Tile; 2] = [(1, 1), (1, 2)];

/// Sixteens of a matrix's rows and eights of x's rows.
type Tile = (i64, i64);

/// A matrix in FP8.
#[derive(Clone, Copy)]
pub struct Fp8Matrix<'a> {
    /// Its numbers, e4m3 `[N, K]`.
    pub values: &'a Tensor,
    /// What each row is multiplied by, float32 `[N, 1]`.
    pub scale: &'a Tensor,
}

/// The kernels of FP8 products, for activations in bfloat16.
pub struct Fp8Kernels {
    round_rows: Function,
    /// Products, in the order of [`TILES`].
    products: Vec<Function>,
    /// The code of the functions.
    _code: Code,
}

// SAFETY: as of [`Gpu`].
unsafe impl Send for Fp8Kernels {}

impl Fp8Kernels {
    /// Most rows that the products are for: with 32, those of cuBLAS in bfloat16 are faster, except
    /// with the widest matrices (H200: 60 µs against 76 with [37888, 3584], 19 against 18 with
    /// [17920, 1536]).
    pub const ROWS_MAX: i64 = 16;

    /// The tiles that [`Self::linear_in`] takes.
    pub const TILES: &'static [Tile] = &TILES;

    /// Whether there are products with a matrix `[outer, inner]`.
    pub fn takes(outer: i64, inner: i64) -> bool {
        outer % SIXTEEN == 0 && inner % COLUMNS == 0
    }

    /// Compiles the kernels.
    pub fn compile(gpu: &Gpu) -> Result<Fp8Kernels> {
        let code = Code::compile(gpu, &[SOURCE], &[of_dtype(Kind::BFloat16)])?;
        let product = |(high, wide)| code.find(&format!("product_{high}_{wide}"));
        Ok(Fp8Kernels {
            round_rows: code.find("round_rows")?,
            products: TILES.into_iter().map(product).collect::<Result<_>>()?,
            _code: code,
        })
    }

    /// Rounds each row of `x` `[B, K]`, in place, to e4m3 times a power of two of its own, as
    /// [`r1d_torch::fp8`](../r1d_torch/fp8/index.html) does.
    pub fn round_rows(&self, gpu: &Gpu, x: &Tensor) -> Result<()> {
        let (rows, width) = x.size2()?;
        let operands = Operands::of("round_rows");
        operands.are(x, Kind::BFloat16, &[rows, width])?;
        if width % EIGHT != 0 {
            return operands.refuse(format!("rows of {width} numbers"));
        }
        let arguments = Arguments::new().address(address(x)).int(width as i32);
        let launch = Launch::of_rows(rows, ROUND_THREADS);
        gpu.stream().launch(self.round_rows, launch, arguments)
    }

    /// Computes y = x Wᵀ, or y += x Wᵀ: `x` bfloat16 `[B, K]`, `matrix` `[N, K]`, `y` bfloat16 `[B,
    /// N]`, or float32 where nothing is added. [`Self::takes`] said that it can.
    pub fn linear(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        matrix: Fp8Matrix,
        (y, adds): (&Tensor, bool),
    ) -> Result<()> {
        let tile = tile_of(x.size2()?.0);
        self.linear_in(gpu, tile, x, matrix, (y, adds))
    }

    /// Computes as [`Self::linear`] does, in tiles of [`Self::TILES`].
    pub fn linear_in(
        &self,
        gpu: &Gpu,
        tile: Tile,
        x: &Tensor,
        Fp8Matrix { values, scale }: Fp8Matrix,
        (y, adds): (&Tensor, bool),
    ) -> Result<()> {
        let ((rows, inner), (outer, _)) = (x.size2()?, values.size2()?);
        let operands = Operands::of("FP8 product");
        operands.are(x, Kind::BFloat16, &[rows, inner])?;
        operands.are(values, Kind::Float8e4m3fn, &[outer, inner])?;
        operands.are(scale, Kind::Float, &[outer, 1])?;
        let out = match y.kind() {
            Kind::Float if !adds => 0,
            _ if !adds => 1,
            _ => 2,
        };
        let kind = if out == 0 {
            Kind::Float
        } else {
            Kind::BFloat16
        };
        operands.are(y, kind, &[rows, outer])?;
        let at = TILES.iter().position(|one| *one == tile);
        let function = at.and_then(|at| self.products.get(at));
        let (Some(function), true) = (function, Fp8Kernels::takes(outer, inner)) else {
            return operands.refuse(format!("{rows} rows times [{outer}, {inner}] in {tile:?}"));
        };
        let (high, wide) = tile;
        let blocks = |size: i64, each: i64| ((size + each - 1) / each) as u32;
        let launch = Launch {
            grid: [blocks(outer, SIXTEEN * high), blocks(rows, EIGHT * wide), 1],
            threads: 32 * WARPS,
            shared_bytes: (i64::from(WARPS) * EIGHT * wide * STRIDE * 4) as u32,
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
        gpu.stream().launch(*function, launch, arguments)
    }
}

/// The tile for `rows` rows of x: larger ones, which read less of x, were slower on an H200.
fn tile_of(rows: i64) -> Tile {
    if rows <= EIGHT { (1, 1) } else { (1, 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_kernel_for_every_number_of_rows() {
        for rows in 1..300 {
            let tile = tile_of(rows);
            assert!(TILES.contains(&tile), "{rows}: {tile:?}");
        }
    }

    #[test]
    fn sums_fit_the_shared_memory_of_a_block() {
        for (_, wide) in TILES {
            assert!(i64::from(WARPS) * EIGHT * wide * STRIDE * 4 <= 48 << 10);
        }
    }
}
