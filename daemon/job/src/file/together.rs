//! Settings that several keys say together.

use super::fields::{Fields, Read};
use super::keys::{Key, Keys};
use super::write::Write;
use crate::error::JobError;

/// A setting that several keys of a table say together: which of them are there, or what one of
/// them is, decides what the others mean.
pub(crate) trait Together: Sized {
    /// The keys, each with what a file may have for it.
    type Parts: Keys + Read + Write;

    /// Puts the parts together. Errors are of parts that do not go together.
    fn join(parts: Self::Parts, from: &Fields<'_>) -> Result<Self, JobError>;

    /// Takes the setting apart again.
    fn split(&self) -> Self::Parts;
}

impl<T: Together> Keys for T {
    fn keys() -> Vec<Key> {
        T::Parts::keys()
    }
}

impl<T: Together> Read for T {
    fn read(from: &Fields<'_>) -> Result<T, JobError> {
        T::join(T::Parts::read(from)?, from)
    }
}

impl<T: Together> Write for T {
    fn write(&self, to: &mut toml::Table) {
        self.split().write(to);
    }
}
