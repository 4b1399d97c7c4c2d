//! CUDA kernels of r1d's own, compiled at run time for the GPU at hand, and what launches them.
//!
//! | module | what it holds |
//! |---|---|
//! | `cuda/*.cu` | the kernels, as text |
//! | `driver` | the CUDA driver: modules, launches, a stream, graphs |
//! | `nvrtc`, `code`, `cache` | text → code for one GPU; compiled code on disk |
//! | `pinned` | host memory that a GPU copies to fast |
//! | `blas` | matrix products of cuBLAS on the same stream |
//! | `gpu` | a device with all of these |
//! | `decode` | the operations of a decoding step, on tensors whose shapes are checked |
//! | `attention` | those of grouped-query attention |
//! | `pages` | the cache that both kinds of attention read and write |
//! | `latent` | those of multi-head latent attention |
//! | `experts` | those of a mixture of experts |
//! | `train` | the operations of a training pass, with their gradients |
//! | `latent_heads`, `routed` | those of latent attention, and of routed experts |
//! | `adamw` | the optimiser's step, and the norm of gradients |
//! | `logprobs` | log-probabilities over logits, with their gradients |
//!
//! The libraries are those that libtorch's CUDA half brings: nothing is linked, so a binary runs
//! where there is no GPU. The crate knows tensors and sizes, and no model.

mod adamw;
mod attention;
mod blas;
mod cache;
mod code;
mod decode;
mod driver;
mod error;
mod experts;
mod fp8;
mod gpu;
mod latent;
mod latent_heads;
mod logprobs;
mod nvrtc;
mod operands;
mod pages;
mod pinned;
mod routed;
mod train;

pub use adamw::{AdamWOperands, AdamWSettings};
pub use attention::{Attention, AttentionSizes, Rotation, Scratch};
pub use cache::keep_compiled_in;
pub use decode::{Cut, DecodeKernels, Draw, Few, kept_bytes};
pub use driver::Graph;
pub use error::{KernelError, Result};
pub use experts::{Choice, ExpertSizes, Experts, Routing, Scores};
pub use fp8::{Fp8Kernels, Fp8Matrix, Fp8Result};
pub use gpu::{Gpu, peak_operations};
pub use latent::{Compression, LatentAttention, LatentSizes, LatentToken};
pub use latent_heads::LatentHeads;
pub use logprobs::Logprobs;
pub use nvrtc::Nvrtc;
pub use pages::{CachePages, PAGE_TOKENS};
pub use pinned::PinnedMemory;
pub use routed::{Gating, Places};
pub use train::{Normed, QkvSizes, TrainKernels};
