//! The operations of a decoding step, each a kernel of `cuda/`.

use crate::code::{Code, Source};
use crate::driver::{Arguments, Function, Launch};
use crate::error::{KernelError, Result};
use crate::gpu::Gpu;
use crate::operands::{Operands, address};
use tch::{Kind, Tensor};

/// Most ids of a vocabulary, by the shared memory of `draw`.
const VOCAB_MAX_IDS: i64 = 256 * 1024;
const SOURCES: [Source; 4] = [
    ("layer.cu", include_str!("../cuda/layer.cu")),
    ("few.cu", include_str!("../cuda/few.cu")),
    ("threshold.cu", include_str!("../cuda/threshold.cu")),
    ("draw.cu", include_str!("../cuda/draw.cu")),
];
const NORM_THREADS: u32 = 256;
const DRAW_THREADS: u32 = 1024;
const FEW_WARPS: u32 = 8;
/// Blocks of a product with few rows: more would only norm the same rows again.
const FEW_BLOCKS: u32 = 1056;
/// Shared memory that a block has without asking for more.
const FEW_MAX_BYTES: i64 = 44 << 10;
/// Most numbers of a matrix that [`DecodeKernels::few`] multiplies faster by four rows than cuBLAS
/// (H200: 2.9 µs against 4.3 with [1152, 896], 12 against 7 with [9728, 896]).
const FEW_MAX_NUMBERS_OF_FOUR: i64 = 1 << 22;

/// What a draw reads and writes beside the logits, all on the device.
pub struct Draw<'a> {
    /// A uniform of each step and row, float32 `[steps, B]`.
    pub uniforms: &'a Tensor,
    /// The step at hand, int32 `[1]`.
    pub step: &'a Tensor,
    /// Rows that live, int32 `[1]`.
    pub live: &'a Tensor,
    /// Takes the drawn id, int32 `[B]`.
    pub last_id: &'a Tensor,
    /// Grows by 1, int32 `[B]`.
    pub position: &'a Tensor,
    /// Takes the drawn ids by step, int32 `[steps, B]`.
    pub ids: &'a Tensor,
    /// Takes their log-probabilities by step, float32 `[steps, B]`.
    pub logprobs: &'a Tensor,
    /// Temperature of the distribution; 0 is greedy.
    pub temperature: f32,
    /// Each row's limit as [`DecodeKernels::threshold`] writes it, float32 `[B]`; `None` draws
    /// from all ids.
    pub limits: Option<&'a Tensor>,
    /// Takes the ids that the limits left, one bit each, uint8 `[steps, B, bytes]`; the
    /// log-probabilities are then among these.
    pub kept: Option<&'a Tensor>,
}

/// Which ids may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Temperature of the distribution, above 0.
    pub temperature: f32,
    /// The k likeliest ids; 0 is off.
    pub top_k: i32,
    /// The likeliest ids whose mass reaches this share of what top-k left; 1 is off.
    pub top_p: f32,
}

/// What is done before and behind a product with few rows.
pub enum Few<'a> {
    /// y = norm(x) Wᵀ; y is float32.
    Normed(&'a Tensor, f32),
    /// y = norm(x) Wᵀ.
    Plain(&'a Tensor, f32),
    /// y = silu(gate) · up of norm(x) Wᵀ, gate before up.
    Gated(&'a Tensor, f32),
    /// y += x Wᵀ.
    Added,
}

/// The kernels around attention, compiled for one dtype.
pub struct DecodeKernels {
    kind: Kind,
    embed: Function,
    rms_norm: Function,
    silu_mul: Function,
    threshold: Function,
    draw: Function,
    /// Products with few rows, by what is done around them and log2 of the rows.
    few: [[Function; 3]; 4],
    /// The code of the functions.
    _code: Code,
}

// SAFETY: as of [`Gpu`].
unsafe impl Send for DecodeKernels {}

impl DecodeKernels {
    /// Whether there are kernels for a model of this dtype, vocabulary, and widths of its layers.
    pub fn takes(kind: Kind, widths: &[i64], vocab: i64) -> bool {
        matches!(kind, Kind::BFloat16 | Kind::Float)
            && widths.iter().all(|width| width % 8 == 0)
            && vocab <= VOCAB_MAX_IDS
    }

    /// Compiles the kernels, which takes tens of milliseconds. [`Self::takes`] said that there are.
    pub fn compile(gpu: &Gpu, kind: Kind) -> Result<DecodeKernels> {
        let code = Code::compile(gpu, &SOURCES, &[of_dtype(kind)])?;
        let find = |name: &str| code.find(name);
        let few = |name: &str| {
            let of_rows = |rows: u32| find(&format!("{name}_{rows}"));
            Ok::<_, KernelError>([of_rows(1)?, of_rows(2)?, of_rows(4)?])
        };
        Ok(DecodeKernels {
            kind,
            embed: find("embed")?,
            rms_norm: find("rms_norm")?,
            silu_mul: find("silu_mul")?,
            threshold: find("threshold")?,
            draw: find("draw")?,
            few: [few("normed")?, few("plain")?, few("gated")?, few("added")?],
            _code: code,
        })
    }

    /// Looks rows of the embedding up, and adds 1 to the step int32 `[1]`: `ids` int32 `[B]`,
    /// `table` `[V, D]` → `hidden` `[B, D]`.
    pub fn embed(
        &self,
        gpu: &Gpu,
        (ids, step): (&Tensor, &Tensor),
        table: &Tensor,
        hidden: &Tensor,
    ) -> Result<()> {
        let (rows, width) = hidden.size2()?;
        let operands = Operands::of("embed");
        operands.are(ids, Kind::Int, &[rows])?;
        operands.are(hidden, self.kind, &[rows, width])?;
        operands.are(table, self.kind, &[table.size2()?.0, width])?;
        operands.are(step, Kind::Int, &[1])?;
        let launch = Launch::of_rows(rows, NORM_THREADS);
        let arguments = Arguments::new()
            .address(address(ids))
            .address(address(table))
            .address(address(hidden))
            .address(address(step))
            .int(width as i32);
        gpu.stream().launch(self.embed, launch, arguments)
    }

    /// Computes y = w · x / √(mean(x²) + ε): `x`, `y` `[B, D]`, `weight` `[D]`.
    pub fn rms_norm(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        weight: &Tensor,
        epsilon: f32,
        y: &Tensor,
    ) -> Result<()> {
        let (rows, width) = x.size2()?;
        let operands = Operands::of("rms_norm");
        operands.are(x, self.kind, &[rows, width])?;
        operands.are(weight, self.kind, &[width])?;
        operands.are(y, self.kind, &[rows, width])?;
        let launch = Launch::of_rows(rows, NORM_THREADS);
        let arguments = Arguments::new()
            .address(address(x))
            .address(address(weight))
            .address(address(y))
            .int(width as i32)
            .float(epsilon);
        gpu.stream().launch(self.rms_norm, launch, arguments)
    }

    /// Computes y = silu(gate) · up: `gate_up` `[B, 2 · I]`, gate before up, `y` `[B, I]`.
    pub fn silu_mul(&self, gpu: &Gpu, gate_up: &Tensor, y: &Tensor) -> Result<()> {
        let (rows, width) = y.size2()?;
        let operands = Operands::of("silu_mul");
        operands.are(gate_up, self.kind, &[rows, 2 * width])?;
        operands.are(y, self.kind, &[rows, width])?;
        let blocks = (width as u32).div_ceil(8 * NORM_THREADS);
        let launch = Launch {
            grid: [rows as u32, blocks, 1],
            threads: NORM_THREADS,
            shared_bytes: 0,
        };
        let arguments = Arguments::new()
            .address(address(gate_up))
            .address(address(y))
            .int(width as i32);
        gpu.stream().launch(self.silu_mul, launch, arguments)
    }

    /// Whether [`Self::few`] is faster than cuBLAS, and what is around it, with a matrix of this
    /// many numbers and this many rows.
    pub fn few_suits(rows: i64, numbers: i64) -> bool {
        rows < 4 || numbers <= FEW_MAX_NUMBERS_OF_FOUR
    }

    /// Whether [`Self::few`] takes products of this many rows of `inner` numbers, norm included.
    pub fn takes_few(&self, rows: i64, inner: i64) -> bool {
        let bytes = self.kind.elt_size_in_bytes() as i64;
        matches!(rows, 1 | 2 | 4) && rows * inner * bytes <= FEW_MAX_BYTES
    }

    /// Multiplies few rows: `x` `[B, K]`, `weight` `[N, K]` → `y` `[B, N]`, or `[B, N / 2]` where
    /// gates are applied. [`Self::takes_few`] said that it can.
    pub fn few(&self, gpu: &Gpu, few: &Few, x: &Tensor, weight: &Tensor, y: &Tensor) -> Result<()> {
        let ((rows, inner), (height, _)) = (x.size2()?, weight.size2()?);
        let operands = Operands::of("few");
        let takes = match few {
            Few::Added => matches!(rows, 1 | 2 | 4),
            _ => self.takes_few(rows, inner),
        };
        if !takes {
            return operands.refuse(format!("{rows} rows of {inner} numbers"));
        }
        let (functions, kind, outer, norm) = match *few {
            Few::Normed(norm, epsilon) => {
                (&self.few[0], Kind::Float, height, Some((norm, epsilon)))
            }
            Few::Plain(norm, epsilon) => (&self.few[1], self.kind, height, Some((norm, epsilon))),
            Few::Gated(norm, epsilon) => {
                (&self.few[2], self.kind, height / 2, Some((norm, epsilon)))
            }
            Few::Added => (&self.few[3], self.kind, height, None),
        };
        operands.are(x, self.kind, &[rows, inner])?;
        operands.are(weight, self.kind, &[height, inner])?;
        operands.are(y, kind, &[rows, outer])?;
        if let Some((norm, _)) = norm {
            operands.are(norm, self.kind, &[inner])?;
        }
        let function = functions[rows.trailing_zeros() as usize];
        let normed = rows * inner * self.kind.elt_size_in_bytes() as i64;
        let launch = Launch {
            grid: [(outer as u32).div_ceil(FEW_WARPS).min(FEW_BLOCKS), 1, 1],
            threads: 32 * FEW_WARPS,
            shared_bytes: norm.map_or(0, |_| normed as u32),
        };
        let arguments = Arguments::new()
            .address(address(x))
            .address(norm.map_or(0, |(norm, _)| address(norm)))
            .float(norm.map_or(0.0, |(_, epsilon)| epsilon))
            .address(address(weight))
            .address(address(y))
            .int(inner as i32)
            .int(outer as i32);
        gpu.stream().launch(function, launch, arguments)
    }

    /// Finds which ids of each row may be drawn: `logits` `[B, V]`, `live` int32 `[1]` → `limits`
    /// float32 `[B]`, the largest distance (largest logit − logit) / temperature.
    pub fn threshold(
        &self,
        gpu: &Gpu,
        logits: &Tensor,
        live: &Tensor,
        cut: Cut,
        limits: &Tensor,
    ) -> Result<()> {
        let (rows, vocab) = logits.size2()?;
        let operands = Operands::of("threshold");
        operands.are(logits, self.kind, &[rows, vocab])?;
        operands.are(live, Kind::Int, &[1])?;
        operands.are(limits, Kind::Float, &[rows])?;
        let launch = Launch::of_rows(rows, DRAW_THREADS);
        let arguments = Arguments::new()
            .address(address(logits))
            .address(address(live))
            .address(address(limits))
            .int(vocab as i32)
            .float(cut.temperature)
            .int(cut.top_k)
            .float(cut.top_p);
        gpu.stream().launch(self.threshold, launch, arguments)
    }

    /// Draws the next id of each row from `logits` `[B, V]`.
    pub fn draw(&self, gpu: &Gpu, logits: &Tensor, draw: &Draw) -> Result<()> {
        let (rows, vocab) = logits.size2()?;
        let operands = Operands::of("draw");
        operands.are(logits, self.kind, &[rows, vocab])?;
        let steps = draw.ids.size2()?.0;
        operands.are(draw.uniforms, Kind::Float, &[steps, rows])?;
        operands.are(draw.ids, Kind::Int, &[steps, rows])?;
        operands.are(draw.logprobs, Kind::Float, &[steps, rows])?;
        operands.are(draw.last_id, Kind::Int, &[rows])?;
        operands.are(draw.position, Kind::Int, &[rows])?;
        operands.are(draw.step, Kind::Int, &[1])?;
        operands.are(draw.live, Kind::Int, &[1])?;
        if let Some(limits) = draw.limits {
            operands.are(limits, Kind::Float, &[rows])?;
        }
        let kept_bytes = kept_bytes(vocab);
        if let Some(kept) = draw.kept {
            operands.are(kept, Kind::Uint8, &[steps, rows, kept_bytes])?;
        }
        let launch = Launch::of_rows(rows, DRAW_THREADS);
        let arguments = Arguments::new()
            .address(address(logits))
            .address(address(draw.uniforms))
            .address(address(draw.step))
            .address(address(draw.live))
            .address(address(draw.last_id))
            .address(address(draw.position))
            .address(address(draw.ids))
            .address(address(draw.logprobs))
            .address(draw.limits.map_or(0, address))
            .address(draw.kept.map_or(0, address))
            .int(kept_bytes as i32)
            .int(vocab as i32)
            .int(rows as i32)
            .float(draw.temperature);
        gpu.stream().launch(self.draw, launch, arguments)
    }
}

/// Bytes of a set of kept ids: a bit each, in whole words of 64.
pub fn kept_bytes(vocab: i64) -> i64 {
    (vocab + 63) / 64 * 8
}

/// The definition of the dtype under which a text compiles.
pub(crate) fn of_dtype(kind: Kind) -> String {
    format!("BFLOAT16={}", i32::from(kind == Kind::BFloat16))
}
