//! The parts of libtorch that tch lacks: a small C++ shim ([`adamw`], [`attention`], [`product`],
//! [`fp8`], [`foreach`], [`function`], [`runtime`], [`memory`], [`transfer`]), gradients of
//! attention by cuDNN itself (`cudnn`, `even_gradients`), devices by name and CUDA opened at run
//! time ([`device`]), MKL's choice of kernels ([`mkl`]), and the progress and the parts of long
//! work ([`work`], [`spans`]). It knows nothing of models.
//!
//! The build script compiles the shim against the libtorch of `LIBTORCH` and passes its folder to
//! dependents as `DEP_R1D_TORCH_LIB`; their build scripts set the run path from it.

#![warn(clippy::too_many_lines)]

pub mod adamw;
pub mod attention;
mod cudnn;
pub mod device;
mod even_gradients;
pub mod foreach;
pub mod fp8;
pub mod function;
pub mod memory;
pub mod mkl;
pub mod product;
pub mod runtime;
mod shim;
pub mod spans;
pub mod transfer;
pub mod work;

pub use device::open_cuda;
pub use shim::{KernelError, TorchError, guarded_message};
