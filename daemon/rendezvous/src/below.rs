//! The part of a rendezvous below a prefix.

use crate::{Rendezvous, RendezvousError};
use std::sync::Arc;
use std::time::Duration;

/// The part of a rendezvous below a prefix. A group's prefix names job, epoch and group, so ranks
/// of an earlier epoch do not meet those of a new one.
pub struct Below {
    prefix: String,
    inner: Arc<dyn Rendezvous>,
}

impl Below {
    /// The keys of `inner` that begin with `prefix/`.
    pub fn new(prefix: &str, inner: Arc<dyn Rendezvous>) -> Below {
        let prefix = format!("{prefix}/");
        Below { prefix, inner }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl Rendezvous for Below {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), RendezvousError> {
        self.inner.set(&self.key(key), value)
    }

    fn get(&self, key: &str, within: Duration) -> Result<Vec<u8>, RendezvousError> {
        self.inner.get(&self.key(key), within)
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, RendezvousError> {
        self.inner.add(&self.key(key), amount)
    }

    fn has(&self, key: &str) -> Result<bool, RendezvousError> {
        self.inner.has(&self.key(key))
    }
}
