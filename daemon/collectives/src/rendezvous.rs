//! Where the ranks of a group find each other: keys that one rank sets and others wait for. What is
//! here is small and rare, such as addresses and reports; tensors go through a [backend].
//!
//! A daemon carries these calls for its workers, so no port is opened for them. [`Shared`] is for
//! ranks that are threads of one process, and for whoever serves ranks that are not.
//!
//! [backend]: crate::backend

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Keys that one rendezvous holds.
const KEYS_MAX: usize = 1 << 16;
/// Bytes of a value. Addresses and reports are a few hundred.
const VALUE_BYTES_MAX: usize = 1 << 16;

/// A rendezvous that did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RendezvousError {
    /// Nobody set the key in time.
    #[error("nobody set `{key}` within {within:?}")]
    Absent {
        /// The key.
        key: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// The value is larger, or there are more keys, than a rendezvous holds.
    #[error("`{key}` does not fit: a rendezvous holds {KEYS_MAX} keys of {VALUE_BYTES_MAX} bytes")]
    Full {
        /// The key.
        key: String,
    },
    /// The key holds something else than a number.
    #[error("`{key}` is no number")]
    NoNumber {
        /// The key.
        key: String,
    },
    /// The rendezvous cannot be reached: whoever serves it is gone.
    #[error("the rendezvous cannot be reached: {0}")]
    Unreachable(String),
}

/// Keys and values that all ranks of a gang see. Contract: a value that was set is seen by every
/// later call; calls come from any thread, also from threads of libtorch.
pub trait Rendezvous: Send + Sync + 'static {
    /// Sets a key, also one that is set already.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), RendezvousError>;

    /// Waits until the key is set.
    fn get(&self, key: &str, within: Duration) -> Result<Vec<u8>, RendezvousError>;

    /// Adds to the number that a key holds, 0 at first, and returns the sum. The value is the
    /// number in decimal digits.
    fn add(&self, key: &str, amount: i64) -> Result<i64, RendezvousError>;

    /// Says whether the key is set.
    fn has(&self, key: &str) -> Result<bool, RendezvousError> {
        match self.get(key, Duration::ZERO) {
            Ok(_) => Ok(true),
            Err(RendezvousError::Absent { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A rendezvous in memory.
#[derive(Default)]
pub struct Shared {
    values: Mutex<BTreeMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl Shared {
    fn put(
        &self,
        values: &mut BTreeMap<String, Vec<u8>>,
        key: &str,
        value: Vec<u8>,
    ) -> Result<(), RendezvousError> {
        let more = !values.contains_key(key) && values.len() >= KEYS_MAX;
        if more || value.len() > VALUE_BYTES_MAX {
            return Err(RendezvousError::Full {
                key: key.to_owned(),
            });
        }
        values.insert(key.to_owned(), value);
        self.changed.notify_all();
        Ok(())
    }
}

impl Rendezvous for Shared {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), RendezvousError> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(&mut values, key, value.to_vec())
    }

    fn get(&self, key: &str, within: Duration) -> Result<Vec<u8>, RendezvousError> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let (values, _) = self
            .changed
            .wait_timeout_while(values, within, |values| !values.contains_key(key))
            .unwrap_or_else(PoisonError::into_inner);
        values
            .get(key)
            .cloned()
            .ok_or_else(|| RendezvousError::Absent {
                key: key.to_owned(),
                within,
            })
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, RendezvousError> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let number = || RendezvousError::NoNumber {
            key: key.to_owned(),
        };
        let before = match values.get(key) {
            None => 0,
            Some(value) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(number)?,
        };
        let sum = before.checked_add(amount).ok_or_else(number)?;
        self.put(&mut values, key, sum.to_string().into_bytes())?;
        Ok(sum)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_waited_for_and_a_missing_one_is_named() {
        let shared = Arc::new(Shared::default());
        let setter = Arc::clone(&shared);
        let thread = std::thread::spawn(move || setter.set("address", b"1.2.3.4"));
        assert_eq!(
            shared.get("address", Duration::from_secs(20)).unwrap(),
            b"1.2.3.4"
        );
        thread.join().unwrap().unwrap();
        assert!(shared.has("address").unwrap());
        assert!(!shared.has("other").unwrap());
        let error = shared.get("other", Duration::from_millis(5)).unwrap_err();
        assert_eq!(error.to_string(), "nobody set `other` within 5ms");
    }

    #[test]
    fn numbers_add_up() {
        let shared = Shared::default();
        assert_eq!(shared.add("count", 2).unwrap(), 2);
        assert_eq!(shared.add("count", -5).unwrap(), -3);
        shared.set("text", b"x").unwrap();
        assert!(matches!(
            shared.add("text", 1),
            Err(RendezvousError::NoNumber { .. })
        ));
        assert!(matches!(
            shared.add("count", i64::MIN),
            Err(RendezvousError::NoNumber { .. })
        ));
    }

    #[test]
    fn a_rendezvous_holds_no_tensors() {
        let shared = Shared::default();
        let large = vec![0; VALUE_BYTES_MAX + 1];
        assert!(matches!(
            shared.set("large", &large),
            Err(RendezvousError::Full { .. })
        ));
    }

    #[test]
    fn epochs_do_not_meet() {
        let shared: Arc<dyn Rendezvous> = Arc::new(Shared::default());
        let first = Below::new("job/1", Arc::clone(&shared));
        let second = Below::new("job/2", Arc::clone(&shared));
        first.set("rank 0", b"here").unwrap();
        assert!(!second.has("rank 0").unwrap());
        assert!(shared.has("job/1/rank 0").unwrap());
    }
}
