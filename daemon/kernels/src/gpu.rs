//! A GPU with a stream, a compiler and cuBLAS.

use crate::blas::{Blas, Products, WORKSPACE_BYTES};
use crate::driver::{Driver, Graph, Module, Stream};
use crate::error::{KernelError, Result};
use crate::nvrtc::Nvrtc;
use tch::{Device, Kind, Tensor};

/// The compute capability that the kernels are written for.
pub(crate) const HOPPER: (i32, i32) = (9, 0);

/// Floating-point operations a second that an H100 or H200 does with dense matrices, by NVIDIA's
/// data sheet: in bfloat16 on the tensor cores, and in float32.
const HOPPER_PEAK_BFLOAT16: f64 = 989.4e12;
const HOPPER_PEAK_FLOAT32: f64 = 66.9e12;

/// The floating-point operations a second that a device can do in this dtype; `None` where r1d does
/// not know.
pub fn peak_operations(device: Device, kind: Kind) -> Option<f64> {
    if !device.is_cuda() {
        return None;
    }
    // The driver's context is there once libtorch has used the device.
    let _ = Tensor::f_zeros([1i64], (Kind::Float, device)).ok()?;
    let capability = Driver::get().ok()?.compute_capability().ok()?;
    match kind {
        _ if capability != HOPPER => None,
        Kind::BFloat16 => Some(HOPPER_PEAK_BFLOAT16),
        Kind::Float => Some(HOPPER_PEAK_FLOAT32),
        _ => None,
    }
}

/// A GPU on which r1d's own kernels run. Its stream and libtorch's default stream wait for each
/// other, so tensors go from one to the other without ceremony.
pub struct Gpu {
    driver: &'static Driver,
    nvrtc: Nvrtc,
    blas: Blas,
    stream: Stream,
}

// SAFETY: streams, modules and handles of cuBLAS may be used from any thread, one at a time, and
// nothing here is shared.
unsafe impl Send for Gpu {}

impl Gpu {
    /// Opens the device, which libtorch has used on this thread before.
    pub fn open(device: Device) -> Result<Gpu> {
        let workspace = Tensor::f_zeros([WORKSPACE_BYTES], (Kind::Uint8, device))?;
        let driver = Driver::get()?;
        let (major, minor) = driver.compute_capability()?;
        if (major, minor) != HOPPER {
            return Err(KernelError::Unsupported { major, minor });
        }
        let stream = Stream::new(driver)?;
        Ok(Gpu {
            driver,
            nvrtc: Nvrtc::open()?,
            blas: Blas::new(&stream, workspace)?,
            stream,
        })
    }

    pub(crate) fn compile(
        &self,
        file: &'static str,
        text: &str,
        definitions: &[String],
    ) -> Result<Module> {
        Module::load(self.driver, &self.nvrtc.compile(file, text, definitions)?)
    }

    /// Computes products of a batch of matrices, as [`Blas::batched`] does.
    pub(crate) fn batched(&self, products: &Products) -> Result<()> {
        self.blas.batched(products)
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Computes y = x Wᵀ: `x` `[B, K]`, `weight` `[N, K]`, `y` `[B, N]`.
    pub fn linear(&self, x: &Tensor, weight: &Tensor, y: &Tensor) -> Result<()> {
        self.blas.linear(x, weight, y, false)
    }

    /// Computes y += x Wᵀ: `x` `[B, K]`, `weight` `[N, K]`, `y` `[B, N]`.
    pub fn add_linear(&self, x: &Tensor, weight: &Tensor, y: &Tensor) -> Result<()> {
        self.blas.linear(x, weight, y, true)
    }

    /// Records the operations of `work` on this device instead of running them. The tensors that
    /// they use must live as long as the graph, in the same memory.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.stream.capture(work)
    }

    /// Runs a captured graph behind all work of the device.
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        self.stream.replay(graph)
    }

    /// Waits until all operations of this device's stream are done.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()
    }
}
