//! Why kernels cannot be used, or failed.

/// A result of this crate.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// An error of the GPU's libraries, or an operand that a kernel does not take.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A library of the GPU's is missing, or lacks a function: the text is the loader's message.
    #[error("cannot open {library}: {message}")]
    Library {
        /// The library's file name.
        library: &'static str,
        /// The loader's message.
        message: String,
    },
    /// The kernels are not written for this GPU.
    #[error(
        "the GPU has compute capability {major}.{minor}, and r1d's kernels are for 9.0 (Hopper)"
    )]
    Unsupported {
        /// The major number of its compute capability.
        major: i32,
        /// The minor number of its compute capability.
        minor: i32,
    },
    /// There are no kernels for a model of this kind.
    #[error("r1d has no kernels for {what}")]
    Model {
        /// What it has that they do not know.
        what: &'static str,
    },
    /// A kernel's text does not compile, which is a fault of r1d's.
    #[error("{file} does not compile: {log}")]
    Compile {
        /// The text's file.
        file: &'static str,
        /// The compiler's messages.
        log: String,
    },
    /// A call of the driver, of cuBLAS or of NVRTC failed.
    #[error("{call}: {message}")]
    Call {
        /// The call.
        call: &'static str,
        /// The library's message, or its number.
        message: String,
    },
    /// An operand has another shape, dtype or layout than the kernel takes.
    #[error("{operation}: {message}")]
    Operand {
        /// The operation.
        operation: &'static str,
        /// What is wrong with which operand.
        message: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}
