//! AdamW and the norm of gradients by `cuda/adamw.cu`: one pass over a parameter's memory each.

use crate::driver::{Arguments, Launch};
use crate::error::Result;
use crate::operands::{Operands, address};
use crate::train::{MULTIPROCESSORS, THREADS, TrainKernels};
use tch::{Device, Kind, Tensor};

/// Blocks of a launch at most: each goes through its part of the memory in strides.
const BLOCKS_MAX: i64 = MULTIPROCESSORS as i64 * 16;
/// Numbers that a block has at a time.
const BLOCK_NUMBERS: i64 = THREADS as i64 * 8;
/// Bytes of an access.
const ACCESS_BYTES: u64 = 16;

/// One parameter's tensors, of as many numbers each, contiguous.
pub struct AdamWOperands<'a> {
    /// θ, float32.
    pub weight: &'a Tensor,
    /// g, float32 or bfloat16.
    pub gradient: &'a Tensor,
    /// m, float32 or bfloat16.
    pub exp_avg: &'a Tensor,
    /// v, float32 or bfloat16.
    pub exp_avg_sq: &'a Tensor,
    /// What takes θ rounded to bfloat16.
    pub published: Option<&'a Tensor>,
    /// t, a float32 scalar that already counts this step.
    pub step: &'a Tensor,
}

/// Settings of a step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWSettings<'a> {
    /// lr.
    pub learning_rate: f64,
    /// λ.
    pub weight_decay: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub epsilon: f64,
    /// What gradients are divided by, a float32 scalar.
    pub gradient_scale: Option<&'a Tensor>,
    /// 1 if the step must change nothing, 0 otherwise; a float32 scalar.
    pub found_inf: &'a Tensor,
}

impl TrainKernels {
    /// Makes a step of AdamW on one parameter. Moments are rounded to their dtype behind it; the
    /// gradient stays as it is.
    pub fn adamw(&self, of: &AdamWOperands, settings: &AdamWSettings) -> Result<()> {
        let operands = Operands::of("adamw");
        let count = of.weight.numel() as i64;
        are_numbers(&operands, of.weight, count, &[Kind::Float])?;
        let either = [Kind::Float, Kind::BFloat16];
        let flagged = [of.gradient, of.exp_avg, of.exp_avg_sq];
        for tensor in flagged {
            are_numbers(&operands, tensor, count, &either)?;
        }
        if let Some(published) = of.published {
            are_numbers(&operands, published, count, &[Kind::BFloat16])?;
        }
        let scalars = [
            Some(of.step),
            settings.gradient_scale,
            Some(settings.found_inf),
        ];
        for scalar in scalars.into_iter().flatten() {
            are_numbers(&operands, scalar, 1, &[Kind::Float])?;
        }
        if count == 0 {
            return Ok(());
        }
        let tensors = flagged.into_iter().chain([of.weight]).chain(of.published);
        let arguments = Arguments::new()
            .address(address(of.weight))
            .address(address(of.gradient))
            .address(address(of.exp_avg))
            .address(address(of.exp_avg_sq))
            .address(of.published.map_or(0, address))
            .address(address(of.step))
            .address(settings.gradient_scale.map_or(0, address))
            .address(address(settings.found_inf))
            .long(count)
            .int(narrow(&flagged))
            .int(i32::from(are_whole(tensors)))
            .double(settings.learning_rate)
            .double(settings.weight_decay)
            .double(settings.beta1)
            .double(settings.beta2)
            .double(settings.epsilon);
        let launch = Launch::of_rows(blocks_of(count), THREADS);
        self.launch(self.adamw, launch, arguments)
    }

    /// Computes the square sum of all numbers of gradients, float32 or bfloat16, contiguous: a
    /// float64 scalar, summed in an order that depends on sizes alone.
    pub fn square_sum(&self, gradients: &[Tensor], device: Device) -> Result<Tensor> {
        let operands = Operands::of("square_sum");
        let blocks = gradients
            .iter()
            .map(|gradient| blocks_of(gradient.numel() as i64));
        let parts = Tensor::f_zeros([blocks.sum::<i64>()], (Kind::Double, device))?;
        let mut at = 0;
        for gradient in gradients {
            let count = gradient.numel() as i64;
            are_numbers(&operands, gradient, count, &[Kind::Float, Kind::BFloat16])?;
            let blocks = blocks_of(count);
            if blocks == 0 {
                continue;
            }
            let arguments = Arguments::new()
                .address(address(gradient))
                .address(address(&parts.f_narrow(0, at, blocks)?))
                .long(count)
                .int(narrow(&[gradient]))
                .int(i32::from(are_whole([gradient])));
            let launch = Launch::of_rows(blocks, THREADS);
            self.launch(self.square_sums, launch, arguments)?;
            at += blocks;
        }
        Ok(parts.f_sum(Kind::Double)?)
    }
}

fn blocks_of(count: i64) -> i64 {
    ((count + BLOCK_NUMBERS - 1) / BLOCK_NUMBERS).min(BLOCKS_MAX)
}

/// A bit for each tensor that is bfloat16.
fn narrow(tensors: &[&Tensor]) -> i32 {
    let bits = (0..).zip(tensors);
    bits.map(|(bit, of)| i32::from(of.kind() == Kind::BFloat16) << bit)
        .sum()
}

/// Whether all tensors can be accessed in whole vectors.
fn are_whole<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    tensors
        .into_iter()
        .all(|tensor| address(tensor).is_multiple_of(ACCESS_BYTES))
}

fn are_numbers(operands: &Operands, tensor: &Tensor, count: i64, kinds: &[Kind]) -> Result<()> {
    let fits = kinds.contains(&tensor.kind())
        && tensor.numel() as i64 == count
        && tensor.is_contiguous()
        && tensor.device().is_cuda();
    if fits {
        return Ok(());
    }
    operands.refuse(format!(
        "{tensor:?} is not contiguous, of {kinds:?} and {count} numbers, on a GPU"
    ))
}
