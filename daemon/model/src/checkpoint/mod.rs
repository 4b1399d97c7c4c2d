//! Model directories on disk (signatures first; bodies follow).

use crate::error::{ModelError, Result};
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// What `manifest.json` of a checkpoint says.
pub struct Manifest {
    /// SHA-256 of manifest.json itself, hex.
    pub sha256: String,
    /// Relative path, size in bytes and SHA-256 of every file, sorted by path.
    pub files: Vec<ManifestEntry>,
}

pub struct ManifestEntry {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// Runs `fill` on a fresh directory beside `dir`, writes manifest.json, syncs everything and renames it to `dir`, which must not exist:
/// a reader sees a whole checkpoint or none (`CKP-1`).
pub fn write_directory_atomically(_dir: &Path, _fill: impl FnOnce(&Path) -> Result<()>) -> Result<Manifest> {
    unimplemented!()
}

/// Every file of the manifest is there with its hash, and there is no other.
pub fn verify_manifest(_dir: &Path) -> Result<Manifest> {
    unimplemented!()
}

/// Copies what belongs to a model beside its weights (tokenizer, templates, generation settings), where `from` has it.
pub fn carry_files(_from: &Path, _to: &Path) -> Result<()> {
    unimplemented!()
}

/// Writes named tensors of any dtype as one safetensors file.
pub fn save_tensors(_file: &Path, _tensors: &[(String, Tensor)]) -> Result<()> {
    unimplemented!()
}

/// Reads them back, in the file's order.
pub fn load_tensors(_file: &Path, _device: Device) -> Result<Vec<(String, Tensor)>> {
    unimplemented!()
}

/// For callers who write more files into the directory.
pub fn io_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io { path: PathBuf::from(path), source }
}
