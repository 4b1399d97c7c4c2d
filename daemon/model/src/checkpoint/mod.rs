//! Model directories on disk: Hugging Face's layout in ([`shards`]) and out ([`export`]), whole directories with hashes ([`directory`]),
//! and named tensors of any kind ([`tensors`]).

mod directory;
pub(crate) mod export;
pub(crate) mod shards;
mod tensors;

pub use directory::{Manifest, ManifestEntry, carry_files, verify_manifest, write_directory_atomically};
pub use tensors::{load_tensors, save_tensors};

use crate::error::ModelError;
use std::path::Path;

/// For callers who put more files into the directory.
pub fn io_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io { path: path.to_owned(), source }
}
