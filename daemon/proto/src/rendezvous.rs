//! The calls that a rank makes on its gang's rendezvous, as they travel between a worker and its
//! daemon: keys that one rank sets and others wait for.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Keys that one rendezvous holds.
pub const KEYS_MAX: usize = 1 << 16;
/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// Bytes of a value. Addresses and reports are a few hundred.
pub const VALUE_BYTES_MAX: usize = 1 << 16;

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
    /// The key or the value is larger, or there are more keys, than a rendezvous holds.
    #[error(
        "`{key}` does not fit: a rendezvous holds {KEYS_MAX} keys of {KEY_BYTES_MAX} bytes, each \
         with a value of {VALUE_BYTES_MAX}"
    )]
    Full {
        /// The key, or its beginning.
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

/// A call of a rank. Each is answered by one [`RendezvousAnswer`] of its number, whatever the
/// worker carries out meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RendezvousCall {
    /// Its number among this worker's calls.
    pub number: u64,
    /// The key, below the gang's job and epoch: it begins with the process group.
    pub key: String,
    /// What is asked.
    pub ask: Ask,
}

/// What a rank asks of a rendezvous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Set the key; the answer is empty.
    Set(Vec<u8>),
    /// Answer with the value as soon as the key is set, but within this time.
    Get {
        /// How long to wait; nothing, to learn whether it is set.
        within: Duration,
    },
    /// Add to the number that the key holds; the answer is the sum in decimal digits.
    Add(i64),
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RendezvousAnswer {
    /// The call's number.
    pub number: u64,
    /// What came of it.
    pub result: Result<Vec<u8>, RendezvousError>,
}
