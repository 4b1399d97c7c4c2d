//! What can go wrong with a model, told so that the reader knows which file, tensor or field to
//! mend.

use r1d_shape::{ShapeError, WeightsError};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error("{}: {message}", path.display())]
    BadFile { path: PathBuf, message: String },
    /// Weight files that are not those of the model that config.json describes.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("{}: tensor `{name}` has {count} values that are not finite: the file is damaged or \
             the training that made it diverged", dir.display())]
    NotFinite {
        dir: PathBuf,
        name: String,
        count: i64,
    },
    /// A file of a checkpoint is not what its manifest says (`CKP-1`).
    #[error("{}: {message}: the checkpoint is damaged, use an older one", path.display())]
    Manifest { path: PathBuf, message: String },
    /// The caller's tensors do not fit the model.
    #[error("{0}")]
    Input(String),
    #[error("batch-invariant mode: {0}")]
    Invariant(String),
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    #[error(transparent)]
    Shim(#[from] r1d_torch::TorchError),
    #[error(transparent)]
    Kernel(#[from] r1d_torch::KernelError),
}

/// Where an error comes from, which decides whether a fresh process may get further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Files or a request that are wrong: the same again ends the same.
    Given,
    /// The machine as it is now: a disk, a device, memory.
    Machine,
}

pub type Result<T, E = ModelError> = std::result::Result<T, E>;

impl ModelError {
    /// Only what is read whole and found wrong is the file's fault; what cannot be read is the
    /// machine's.
    pub fn fault(&self) -> Fault {
        match self {
            ModelError::Io { source, .. } => of_io(source),
            ModelError::Torch(_) | ModelError::Shim(_) | ModelError::Kernel(_) => Fault::Machine,
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

/// Bytes that are no text, a name of something that is no file, too many bytes: what is there is
/// wrong. All else may pass.
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
