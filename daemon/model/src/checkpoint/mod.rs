//! Model directories on disk: reads Hugging Face's layout ([`shards`], its quantised weights
//! [`fp8`]), writes it ([`export`]) at once ([`file_sink`]) or from memory while the model trains
//! on ([`snapshot`]), converts it ([`convert`]), and handles whole directories with hashes
//! ([`directory`]), which several processes may fill ([`handover`]), and named tensors of any kind
//! ([`tensors`]), also back into live memory, in parts that ranks share ([`restore`]).

pub(crate) mod convert;
mod directory;
pub(crate) mod export;
pub(crate) mod file_sink;
pub(crate) mod fp8;
mod handover;
mod restore;
pub(crate) mod shards;
mod snapshot;
pub(crate) mod tensors;

pub use convert::{convert, inspect};
pub use directory::{
    Manifest, ManifestEntry, bytes_below, carry_adapter, carry_files, has_manifest,
    verify_manifest, write_directory_atomically,
};
pub use file_sink::{FileSink, Folder};
pub use handover::{discard, hand_over, take_in};
pub use restore::{part_name, restore_tensors};
pub use shards::Contents;
pub use snapshot::{Blocks, Snapshot, SnapshotParts, snapshot};
pub use tensors::{load_tensors, put_tensors, save_tensors};

use crate::error::ModelError;
use std::path::Path;

/// Whether an entry of this name exists. A path that cannot be examined is an error, and not the
/// same as an absent one.
fn is_there(path: &Path) -> crate::error::Result<bool> {
    path.try_exists().map_err(ModelError::io(path))
}

/// Makes the error of a file, for callers who put more files into the directory.
pub fn io_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io {
        path: path.to_owned(),
        source,
    }
}
