//! Loads a Hugging Face directory: `load DIR float32|bfloat16 DEVICE`. Prints seconds and the
//! process's peak memory as JSON, for tests/bench/load.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use r1d_model::{CausalLm, ModelError};
use std::path::PathBuf;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), ModelError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(dtype), Some(device)) = (
        arguments.next().map(PathBuf::from),
        arguments.next(),
        arguments.next(),
    ) else {
        return Err(ModelError::Input(
            "usage: load DIR float32|bfloat16 DEVICE".into(),
        ));
    };
    let device = r1d_torch::device::open(&device).map_err(|e| ModelError::Input(e.to_string()))?;
    // The first tensor on a GPU starts its context.
    Tensor::f_zeros([1], (Kind::Float, device))?.f_double_value(&[])?;
    let kind = if dtype == "bfloat16" {
        Kind::BFloat16
    } else {
        Kind::Float
    };
    let started = Instant::now();
    let model = CausalLm::load(&dir, device, kind)?;
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
    let seconds = started.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next())
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // The system can take back pages of the mapped files; RssAnon counts the process's own memory.
    let (peak, own) = (kilobytes("VmHWM:"), kilobytes("RssAnon:"));
    println!(
        r#"{{"seconds": {seconds}, "peak_bytes": {}, "own_bytes": {}, "parameters": {}}}"#,
        peak * 1024,
        own * 1024,
        model.summary().parameters
    );
    Ok(())
}
