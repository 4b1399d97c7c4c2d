//! Measures products in FP8 with few rows on a GPU, beside cuBLAS's in bfloat16: how far each is
//! from float64, and its time in a captured graph, with that of rounding the rows. A JSON line for
//! each matrix of Qwen2.5's layers and number of rows.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use r1d_kernels::{Fp8Kernels, Fp8Matrix, Fp8Result, Gpu, KernelError};
use serde_json::json;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Matrices `[outer, inner]` of the layers of 0.5B, 1.5B and 7B.
const MATRICES: [(&str, i64, i64); 12] = [
    ("0.5B qkv", 1152, 896),
    ("0.5B o", 896, 896),
    ("0.5B gate_up", 9728, 896),
    ("0.5B down", 896, 4864),
    ("1.5B qkv", 2048, 1536),
    ("1.5B o", 1536, 1536),
    ("1.5B gate_up", 17920, 1536),
    ("1.5B down", 1536, 8960),
    ("7B qkv", 4608, 3584),
    ("7B o", 3584, 3584),
    ("7B gate_up", 37888, 3584),
    ("7B down", 3584, 18944),
];
const ROWS: [i64; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Bytes of copies of a matrix, so that no cache holds it from call to call.
const COPIES_BYTES: i64 = 200 << 20;
const COPIES_MAX: i64 = 40;
const REPLAYS: usize = 4;

fn main() -> Result<()> {
    let device = r1d_torch::device::open("cuda:0")?;
    tch::manual_seed(1);
    let gpu = Gpu::open(device)?;
    let kernels = Fp8Kernels::compile(&gpu)?;
    for (name, outer, inner) in MATRICES {
        for rows in ROWS {
            measure((&gpu, &kernels, device), name, (outer, inner), rows)?;
        }
    }
    Ok(())
}

fn measure(
    (gpu, kernels, device): (&Gpu, &Fp8Kernels, Device),
    name: &str,
    (outer, inner): (i64, i64),
    rows: i64,
) -> Result<()> {
    let random = |shape: &[i64]| Tensor::f_randn(shape, (Kind::BFloat16, device));
    let copies = (COPIES_BYTES / (outer * inner)).clamp(2, COPIES_MAX) as usize;
    let scale = Tensor::f_full([outer, 1], 0.25, (Kind::Float, device))?;
    let mut wide = Vec::new();
    for _ in 0..copies {
        let values = random(&[outer, inner])?.f_to_kind(Kind::Float8e4m3fn)?;
        let matrix = values.f_to_kind(Kind::BFloat16)?.f_mul_scalar(0.25)?;
        wide.push((values, matrix));
    }
    let matrix = |copy: usize| Fp8Matrix {
        values: &wide[copy % copies].0,
        scale: &scale,
    };
    let x = random(&[rows, inner])?;
    kernels.round_rows(gpu, &x)?;
    gpu.synchronize()?;
    let exact = x
        .f_to_kind(Kind::Double)?
        .f_matmul(&wide[0].1.f_to_kind(Kind::Double)?.f_tr()?)?;
    let sums = Tensor::f_zeros([rows, outer], (Kind::Float, device))?;
    kernels.linear(gpu, &x, matrix(0), (&sums, Fp8Result::Written))?;
    gpu.synchronize()?;
    let largest = |of: &Tensor| f64::try_from(of.f_abs()?.f_max()?);
    let difference = sums.f_to_kind(Kind::Double)?.f_sub(&exact)?;
    let off = largest(&difference)? / largest(&exact)?;
    let y = random(&[rows, outer])?;
    let call = |copy| kernels.linear(gpu, &x, matrix(copy), (&y, Fp8Result::Added));
    let fp8 = microseconds(gpu, copies, call)?;
    let call = |copy: usize| gpu.add_linear(&x, &wide[copy % copies].1, &y);
    let bfloat16 = microseconds(gpu, copies, call)?;
    let rounding = microseconds(gpu, copies, |_| kernels.round_rows(gpu, &x))?;
    println!(
        "{}",
        json!({"matrix": name, "rows": rows, "off": off, "cublas_bfloat16_us": bfloat16,
            "round_rows_us": rounding, "fp8_us": fp8})
    );
    Ok(())
}

/// Microseconds of a call, within a graph of `calls` of them.
fn microseconds(
    gpu: &Gpu,
    calls: usize,
    call: impl Fn(usize) -> std::result::Result<(), KernelError>,
) -> Result<f64> {
    let all = || (0..calls).try_for_each(&call);
    all()?;
    let graph = gpu.capture(all)?;
    gpu.replay(&graph)?;
    gpu.synchronize()?;
    let begun = Instant::now();
    for _ in 0..REPLAYS {
        gpu.replay(&graph)?;
    }
    gpu.synchronize()?;
    let seconds = begun.elapsed().as_secs_f64() / (REPLAYS * calls) as f64;
    Ok((seconds * 1e8).round() / 100.0)
}
