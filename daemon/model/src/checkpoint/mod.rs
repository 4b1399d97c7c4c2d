//! Model directories on disk: Hugging Face's layout in ([`shards`], its quantised weights [`fp8`]) and out ([`export`]), from one to another
//! ([`convert`]), whole directories with hashes ([`directory`]), and named tensors of any kind ([`tensors`]).

pub(crate) mod convert;
mod directory;
pub(crate) mod export;
pub(crate) mod fp8;
pub(crate) mod shards;
mod tensors;

pub use convert::{Contents, convert, inspect};
pub use directory::{Manifest, ManifestEntry, carry_adapter, carry_files, verify_manifest, write_directory_atomically};
pub use tensors::{load_tensors, save_tensors};

use crate::error::ModelError;
use std::path::Path;

/// For callers who put more files into the directory.
pub fn io_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io { path: path.to_owned(), source }
}
