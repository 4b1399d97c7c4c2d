//! What can go wrong with a model, told so that the reader knows which file, tensor or field to mend.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A field of config.json is missing, has the wrong type, or contradicts another.
    #[error("config.json: {0}")]
    Config(String),
    /// A well-formed config.json asks for something that this release does not compute.
    #[error("config.json: `{field}` is {found}, which is not supported: {supported}")]
    Unsupported { field: String, found: String, supported: String },
    /// Of the config.json in a directory.
    #[error("{}/{problem}", dir.display())]
    InDirectory { dir: PathBuf, problem: Box<ModelError> },
    #[error("{}: {message}", path.display())]
    BadFile { path: PathBuf, message: String },
    #[error("{}: the index names the shard {shard:?}, which is not there: fetch the directory again, whole", dir.display())]
    MissingShard { dir: PathBuf, shard: String },
    #[error("{}: no tensor named `{name}`, which config.json asks for", dir.display())]
    MissingTensor { dir: PathBuf, name: String },
    #[error("{}: {count} tensors that the model does not have, the first is `{first}`: config.json and weights do not belong together", dir.display())]
    UnexpectedTensors { dir: PathBuf, count: usize, first: String },
    #[error("{}: tensor `{name}` has shape {found:?}, config.json asks for {expected:?}", file.display())]
    WrongShape { file: PathBuf, name: String, expected: Vec<i64>, found: Vec<i64> },
    #[error("{}: tensor `{name}` has dtype {found}, supported are F32, F16, BF16, F64 and, with block scales, F8_E4M3", file.display())]
    WrongDtype { file: PathBuf, name: String, found: String },
    #[error("{}: tensor `{name}` has {count} values that are not finite: the file is damaged or the training that made it diverged", dir.display())]
    NotFinite { dir: PathBuf, name: String, count: i64 },
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

pub type Result<T, E = ModelError> = std::result::Result<T, E>;

impl ModelError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ModelError + '_ {
        move |source| ModelError::Io { path: path.to_owned(), source }
    }
}
