//! The key of a token set: SHA-256 of all that its contents depend on, the bytes of its files, how
//! they are read, and the build that reads them. It is the name of the set's file.

use sha2::{Digest, Sha256};

pub use r1d_store::BlobHash as Key;

/// Hashes parts with their lengths, so that different lists of parts never give the same key.
#[derive(Default)]
pub(crate) struct KeyParts(Sha256);

impl KeyParts {
    pub(crate) fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    pub(crate) fn key(self) -> Key {
        Key::from_bytes(self.0.finalize().into())
    }
}
