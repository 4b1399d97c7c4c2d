//! Log-probabilities of given ids over logits, forward and backward, by `cuda/logprobs.cu`.

use crate::driver::{Arguments, Launch};
use crate::error::Result;
use crate::operands::{Operands, address};
use crate::train::TrainKernels;
use std::f32::consts::LOG2_E;
use tch::{Kind, Tensor};

const ROW_THREADS: u32 = 1024;
const PART_THREADS: u32 = 256;
/// Blocks that share a row of the gradient.
const PARTS: u32 = 8;

/// What one pass over logits gives of each row, `[n]` each.
pub struct Logprobs {
    /// The target's log-probability, float32.
    pub logp: Tensor,
    /// The entropy of the distribution, nats, float32.
    pub entropy: Tensor,
    /// The likeliest id, the first of several, int64.
    pub likeliest: Tensor,
    /// The normaliser's base-2 logarithm, float32.
    normaliser: Tensor,
}

impl TrainKernels {
    /// Computes log-probabilities under softmax(logits / temperature) over the kept ids: `logits`
    /// bfloat16 `[n, V]`, `targets` int64 `[n]`, `kept` bool `[n, V]` (`None`: all).
    pub fn logprobs(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        kept: Option<&Tensor>,
        temperature: f64,
    ) -> Result<Logprobs> {
        let (rows, vocab) = check(logits, targets, kept)?;
        let device = logits.device();
        let floats = || Tensor::f_empty([rows], (Kind::Float, device));
        let found = Logprobs {
            logp: floats()?,
            entropy: floats()?,
            likeliest: Tensor::f_empty([rows], (Kind::Int64, device))?,
            normaliser: floats()?,
        };
        let arguments = Arguments::new()
            .address(address(logits))
            .address(address(targets))
            .address(kept.map_or(0, address))
            .address(address(&found.logp))
            .address(address(&found.normaliser))
            .address(address(&found.entropy))
            .address(address(&found.likeliest))
            .int(vocab as i32)
            .float(LOG2_E / temperature as f32);
        let launch = Launch::of_rows(rows, ROW_THREADS);
        self.launch(self.logprobs, launch, arguments)?;
        Ok(found)
    }

    /// Writes the gradient of Σ slope · logp in the place of the logits of [`Self::logprobs`],
    /// which found `found`: `slope` float32 `[n]`.
    pub fn logits_gradient(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        kept: Option<&Tensor>,
        found: &Logprobs,
        slope: &Tensor,
        temperature: f64,
    ) -> Result<()> {
        let (rows, vocab) = check(logits, targets, kept)?;
        let operands = Operands::of("logits_gradient");
        operands.are(&found.normaliser, Kind::Float, &[rows])?;
        operands.are(slope, Kind::Float, &[rows])?;
        let arguments = Arguments::new()
            .address(address(logits))
            .address(address(targets))
            .address(kept.map_or(0, address))
            .address(address(&found.normaliser))
            .address(address(slope))
            .int(vocab as i32)
            .float(LOG2_E / temperature as f32)
            .float(1.0 / temperature as f32);
        let launch = Launch {
            grid: [rows as u32, PARTS, 1],
            threads: PART_THREADS,
            shared_bytes: 0,
        };
        self.launch(self.logits_gradient, launch, arguments)
    }
}

fn check(logits: &Tensor, targets: &Tensor, kept: Option<&Tensor>) -> Result<(i64, i64)> {
    let (rows, vocab) = logits.size2()?;
    let operands = Operands::of("logprobs");
    operands.are(logits, Kind::BFloat16, &[rows, vocab])?;
    operands.are(targets, Kind::Int64, &[rows])?;
    if let Some(kept) = kept {
        operands.are(kept, Kind::Bool, &[rows, vocab])?;
    }
    Ok((rows, vocab))
}
