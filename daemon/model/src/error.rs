//! What can go wrong with a model. Each message names the file, tensor or field to correct.

use r1d_collectives::CollectiveError;
use r1d_collectives::exchange::ExchangeError;
use r1d_shape::{ShapeError, WeightsError};
use std::path::{Path, PathBuf};

/// An error of a model, its files or its forward pass.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The model's shape cannot be read from config.json, or is not supported.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A file is malformed, or does not belong to the model.
    #[error("{}: {message}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// The problem, and what to do about it if that is known.
        message: String,
    },
    /// The weight files are not those of the model that config.json describes.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Weights are NaN or infinite.
    #[error("{}: tensor `{name}` has {count} values that are not finite: the file is damaged or \
             the training that made it diverged", dir.display())]
    NotFinite {
        /// The model's directory.
        dir: PathBuf,
        /// The tensor's name on disk.
        name: String,
        /// The number of values that are not finite.
        count: i64,
    },
    /// A file of a checkpoint differs from its manifest (`CKP-1`).
    #[error("{}: {message}: the checkpoint is damaged, use an older one", path.display())]
    Manifest {
        /// The file, or the manifest itself.
        path: PathBuf,
        /// The difference.
        message: String,
    },
    /// The caller's tensors do not fit the model.
    #[error("{0}")]
    Input(String),
    /// The batch-invariant mode cannot be had: with several threads, with a cache of the other
    /// mode, or with this machine's kernels. The message says what to set.
    #[error("batch-invariant mode: {0}")]
    Invariant(String),
    /// A tensor operation failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A setting of libtorch failed.
    #[error(transparent)]
    Shim(#[from] r1d_torch::TorchError),
    /// One of r1d's own kernels failed.
    #[error(transparent)]
    Kernel(#[from] r1d_torch::KernelError),
    /// One of r1d's own kernels on a GPU failed.
    #[error(transparent)]
    GpuKernel(#[from] r1d_kernels::KernelError),
    /// An exchange with the ranks that have the other experts failed: the gang's epoch is over.
    #[error(transparent)]
    Exchange(Box<ExchangeError>),
}

impl From<ExchangeError> for ModelError {
    fn from(error: ExchangeError) -> ModelError {
        ModelError::Exchange(Box::new(error))
    }
}

impl From<CollectiveError> for ModelError {
    fn from(error: CollectiveError) -> ModelError {
        ExchangeError::from(error).into()
    }
}

/// The origin of an error, which decides whether a fresh process may get further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Files or a request are wrong: another try ends the same.
    Given,
    /// The machine in its present state is at fault: a disk, a device, memory.
    Machine,
}

/// A result of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

impl ModelError {
    /// The origin of this error. Only a file that was read and found wrong is at fault itself; if
    /// it cannot be read, the machine is at fault.
    pub fn fault(&self) -> Fault {
        match self {
            ModelError::Io { source, .. } => of_io(source),
            ModelError::Torch(_)
            | ModelError::Shim(_)
            | ModelError::Kernel(_)
            | ModelError::GpuKernel(_)
            | ModelError::Exchange(_) => Fault::Machine,
            ModelError::Shape(error) => of_shape(error),
            ModelError::Weights(WeightsError::Io { source, .. }) => of_io(source),
            ModelError::Weights(WeightsError::Missing { .. } | WeightsError::Wrong { .. })
            | ModelError::BadFile { .. }
            | ModelError::NotFinite { .. }
            | ModelError::Manifest { .. }
            | ModelError::Input(_)
            | ModelError::Invariant(_) => Fault::Given,
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ModelError + '_ {
        move |source| ModelError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

fn of_shape(error: &ShapeError) -> Fault {
    match error {
        ShapeError::Io { source, .. } => of_io(source),
        ShapeError::InDirectory { problem, .. } => of_shape(problem),
        ShapeError::Config(_) | ShapeError::Unsupported { .. } => Fault::Given,
    }
}

/// The origin of a system's error. Bytes that are not text, a path that is not a file, or too many
/// bytes mean that the file is wrong. All other errors may pass.
fn of_io(error: &std::io::Error) -> Fault {
    use std::io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput};
    if matches!(error.kind(), InvalidData | InvalidInput | FileTooLarge) {
        Fault::Given
    } else {
        Fault::Machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn only_what_was_read_and_is_wrong_is_the_files_fault() {
        let io = |source: Error| ModelError::Io {
            path: "weights".into(),
            source,
        };
        // EIO, EMFILE, EACCES, ESTALE, ENOENT, ENOMEM.
        for number in [5, 24, 13, 116, 2, 12] {
            assert_eq!(
                io(Error::from_raw_os_error(number)).fault(),
                Fault::Machine,
                "{number}"
            );
        }
        assert_eq!(io(ErrorKind::InvalidData.into()).fault(), Fault::Given);
        for words in [
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: uncorrectable ECC error encountered",
            "CUDA error: unspecified launch failure",
            "not enough memory: 4096 bytes cannot be had",
        ] {
            assert_eq!(
                ModelError::Torch(tch::TchError::Torch(words.into())).fault(),
                Fault::Machine,
                "{words}"
            );
        }
        let damaged = ModelError::Manifest {
            path: "weights".into(),
            message: "SHA-256".into(),
        };
        assert_eq!(damaged.fault(), Fault::Given);
        let problem = Box::new(ShapeError::Config("`hidden_size` is missing".into()));
        assert_eq!(
            ModelError::Shape(ShapeError::InDirectory {
                dir: "model".into(),
                problem
            })
            .fault(),
            Fault::Given
        );
    }
}
