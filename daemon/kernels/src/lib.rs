//! CUDA kernels of r1d's own, compiled at run time for the GPU at hand, and what launches them.
//!
//! | module | what it holds |
//! |---|---|
//! | `cuda/*.cu` | the kernels, as text |
//! | `driver` | the CUDA driver: modules, launches, a stream, graphs |
//! | `nvrtc` | text → code for one GPU |
//! | `blas` | matrix products of cuBLAS on the same stream |
//! | `gpu` | a device with all of these |
//! | `decode` | the operations of a decoding step, on tensors whose shapes are checked |
//! | `attention` | those of attention |
//!
//! The libraries are those that libtorch's CUDA half brings: nothing is linked, so a binary runs
//! where there is no GPU. The crate knows tensors and sizes, and no model.

mod attention;
mod blas;
mod decode;
mod driver;
mod error;
mod gpu;
mod nvrtc;
mod operands;

pub use attention::{Attention, AttentionSizes, Rotation, Scratch};
pub use decode::{Cut, DecodeKernels, Draw, Few, kept_bytes};
pub use driver::Graph;
pub use error::{KernelError, Result};
pub use gpu::{Gpu, peak_operations};
pub use nvrtc::Nvrtc;

/// The texts of the kernels by the name of their file, each with what it needs before it: what
/// [`Nvrtc::compile`] takes beside the definitions.
pub fn sources() -> [(&'static str, String); 6] {
    let before = concat!(
        include_str!("../cuda/ptx.cuh"),
        include_str!("../cuda/common.cuh")
    );
    [
        ("layer.cu", include_str!("../cuda/layer.cu")),
        ("attention.cu", include_str!("../cuda/attention.cu")),
        ("attention_mma.cu", include_str!("../cuda/attention_mma.cu")),
        ("few.cu", include_str!("../cuda/few.cu")),
        ("threshold.cu", include_str!("../cuda/threshold.cu")),
        ("draw.cu", include_str!("../cuda/draw.cu")),
    ]
    .map(|(name, text)| (name, format!("{before}\n{text}")))
}
