//! Answers `r1d`'s question before it gives a device jobs, and when jobs fail on it: a process that
//! comes to its end has its libraries, and its device computes.
//!
//! Products of matrices of small whole numbers are exact in float32, and in TF32 too, so whatever
//! the device and its libraries do, the result is one: it is compared with the host's own, number
//! by number, again and again.

use crate::serve::{ServeError, open};
use r1d_proto::worker::PROBED_MEMORY;
use std::process::ExitCode;
use tch::{Device, Kind, Tensor};

/// Rows and columns of the matrices.
const SIZE: usize = 256;
/// Products that are computed and compared.
const ROUNDS: usize = 20;
/// Entries are whole numbers from 0 to below this, less half of it.
const ENTRIES: i64 = 16;

#[derive(clap::Args)]
pub(crate) struct Probe {
    /// `cpu`, `cpu:N` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: String,
}

pub(crate) fn run(arguments: Probe) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let device = open(&arguments.device)?;
    let said = |words: String| ServeError::Device(arguments.device.clone(), words);
    match wrong(device, &product(&entries(1), &entries(2))) {
        Ok(0) => {
            // Without it a plan is not held against the device.
            if let Ok(Some(bytes)) = r1d_torch::memory::of_device(device) {
                eprintln!("{PROBED_MEMORY}{bytes}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Ok(numbers) => Err(Box::new(said(format!(
            "it computes wrongly: {numbers} numbers of {ROUNDS} products of whole numbers differ \
             from the right ones"
        )))),
        Err(error) => Err(Box::new(said(format!("it does not compute: {error}")))),
    }
}

/// The numbers of the device's products that are not the expected ones.
fn wrong(device: Device, expected: &[i64]) -> Result<usize, tch::TchError> {
    let on_device = |seed| {
        let size = SIZE as i64;
        let matrix = Tensor::f_from_slice(&entries(seed))?.f_view([size, size])?;
        matrix.f_to_kind(Kind::Float)?.f_to_device(device)
    };
    let (a, b) = (on_device(1)?, on_device(2)?);
    let mut wrong = 0;
    for _ in 0..ROUNDS {
        let product = a.f_matmul(&b)?.f_to_device(Device::Cpu)?;
        let product: Vec<f32> = product.f_flatten(0, -1)?.try_into()?;
        let same = product
            .iter()
            .zip(expected)
            .filter(|(got, right)| **got == **right as f32);
        wrong += expected.len() - same.count();
    }
    Ok(wrong)
}

/// The entries of a matrix, row by row: a linear congruence, so that each seed has its own.
fn entries(seed: i64) -> Vec<i64> {
    let mut state = seed;
    let mut next = || {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        (state >> 16) % ENTRIES - ENTRIES / 2
    };
    (0..SIZE * SIZE).map(|_| next()).collect()
}

/// The product of two square matrices, on the host.
fn product(a: &[i64], b: &[i64]) -> Vec<i64> {
    let mut product = vec![0; SIZE * SIZE];
    for (row, of_a) in product.chunks_exact_mut(SIZE).zip(a.chunks_exact(SIZE)) {
        for (factor, of_b) in of_a.iter().zip(b.chunks_exact(SIZE)) {
            for (sum, entry) in row.iter_mut().zip(of_b) {
                *sum += factor * entry;
            }
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_wrong_is_counted_in_every_round() {
        let mut expected = product(&entries(1), &entries(2));
        assert!(expected.iter().any(|entry| *entry != 0));
        assert_eq!(wrong(Device::Cpu, &expected).unwrap(), 0);
        expected[300] += 1;
        assert_eq!(wrong(Device::Cpu, &expected).unwrap(), ROUNDS);
    }
}
