//! The products of a decoding step with a layer's matrices and the head's, and what is between
//! them, each by the kernel that suits its rows, its matrix and its dtype.

use super::buffers::Buffers;
use super::step::Step;
use r1d_kernels::{DecodeKernels, Few, Fp8Kernels, Fp8Matrix, Fp8Result, Gpu, KernelError};
use r1d_model::{DenseParts, Norm, RoundedMatrix};
use tch::{Kind, Tensor};

type Result<T> = std::result::Result<T, KernelError>;

/// A matrix that is multiplied in FP8: by kernels of ours for few rows, by cuBLAS in bfloat16 for
/// more.
struct InFp8<'a> {
    gpu: &'a Gpu,
    kernels: &'a Fp8Kernels,
    matrix: &'a RoundedMatrix,
}

impl Step<'_> {
    /// y = Norm(h) Wᵀ.
    pub(super) fn normed_linear(&self, norm: Norm, weight: &Tensor, y: &Tensor) -> Result<()> {
        let Buffers { hidden, normed, .. } = self.buffers;
        if let Some(in_fp8) = self.in_fp8(weight) {
            in_fp8.kernels.rms_norm(self.gpu, hidden, norm, normed)?;
            if !in_fp8.own(normed, (y, Fp8Result::Written))? {
                self.gpu.linear(normed, &in_fp8.matrix.wide, y)?;
            }
            return Ok(());
        }
        if self.few(weight)? {
            let few = match y.kind() {
                Kind::Float => Few::Normed(norm.0, norm.1),
                _ => Few::Plain(norm.0, norm.1),
            };
            return self.kernels.decode.few(self.gpu, &few, hidden, weight, y);
        }
        self.norm(norm)?;
        self.gpu.linear(normed, weight, y)
    }

    /// Writes Norm(h).
    pub(super) fn norm(&self, (norm, epsilon): Norm) -> Result<()> {
        let Buffers { hidden, normed, .. } = self.buffers;
        let decode = &self.kernels.decode;
        decode.rms_norm(self.gpu, hidden, norm, epsilon, normed)
    }

    /// h += x Wᵀ. In FP8 x is rounded in its place.
    pub(super) fn add_linear(&self, x: &Tensor, weight: &Tensor) -> Result<()> {
        let hidden = &self.buffers.hidden;
        if let Some(in_fp8) = self.in_fp8(weight) {
            in_fp8.kernels.round_rows(self.gpu, x)?;
            return in_fp8.added(x, hidden);
        }
        if self.few(weight)? {
            let decode = &self.kernels.decode;
            return decode.few(self.gpu, &Few::Added, x, weight, hidden);
        }
        self.gpu.add_linear(x, weight, hidden)
    }

    /// h += down(silu(gate x) · up x) with x = Norm(h).
    pub(super) fn dense(&self, norm: Norm, dense: &DenseParts) -> Result<()> {
        let (gpu, decode) = (self.gpu, &self.kernels.decode);
        let Buffers { hidden, normed, .. } = self.buffers;
        let (gate_up, activated) = self.buffers.of_width(dense.down.size2()?.1)?;
        if let (Some(first), Some(second)) = (self.in_fp8(dense.gate_up), self.in_fp8(dense.down)) {
            first.kernels.rms_norm(gpu, hidden, norm, normed)?;
            if first.own(normed, (&activated, Fp8Result::Gated))? {
                first.kernels.round_rows(gpu, &activated)?;
            } else {
                gpu.linear(normed, &first.matrix.wide, &gate_up)?;
                first.kernels.silu_mul(gpu, &gate_up, &activated)?;
            }
            return second.added(&activated, hidden);
        }
        if self.few(dense.gate_up)? {
            let gated = Few::Gated(norm.0, norm.1);
            decode.few(gpu, &gated, hidden, dense.gate_up, &activated)?;
        } else {
            self.normed_linear(norm, dense.gate_up, &gate_up)?;
            decode.silu_mul(gpu, &gate_up, &activated)?;
        }
        self.add_linear(&activated, dense.down)
    }

    /// Whether products of few rows with this matrix have kernels of their own.
    fn few(&self, weight: &Tensor) -> Result<bool> {
        let (rows, width) = self.buffers.hidden.size2()?;
        Ok(self.in_fp8(weight).is_none()
            && self.kernels.decode.takes_few(rows, width)
            && DecodeKernels::few_suits(rows, weight.numel() as i64))
    }

    fn in_fp8(&self, weight: &Tensor) -> Option<InFp8<'_>> {
        Some(InFp8 {
            gpu: self.gpu,
            kernels: self.kernels.fp8.as_ref()?,
            matrix: self.parts.rounded.get(weight)?,
        })
    }
}

impl InFp8<'_> {
    /// Computes y = x Wᵀ of rounded rows, or what is made of it, by kernels of ours; `false` where
    /// cuBLAS is faster.
    fn own(&self, x: &Tensor, y: (&Tensor, Fp8Result)) -> Result<bool> {
        let ((rows, inner), outer) = (x.size2()?, self.matrix.values.size2()?.0);
        let own = Fp8Kernels::suits(rows, outer, inner);
        if own {
            let RoundedMatrix { values, scale, .. } = self.matrix;
            let matrix = Fp8Matrix { values, scale };
            self.kernels.linear(self.gpu, x, matrix, y)?;
        }
        Ok(own)
    }

    /// y += x Wᵀ of rounded rows.
    fn added(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        if self.own(x, (y, Fp8Result::Added))? {
            return Ok(());
        }
        self.gpu.add_linear(x, &self.matrix.wide, y)
    }
}
