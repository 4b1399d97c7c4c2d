//! Where the ranks of a gang find each other: keys that one rank sets and others wait for. What is
//! here is small and rare, such as addresses and reports; tensors go through the backends of
//! collectives.
//!
//! A daemon carries these calls for its workers, so no port is opened for them.
//!
//! | module | what it holds |
//! |---|---|
//! | `table` | the keys and their values, with their limits |
//! | `shared` | [`Shared`]: a rendezvous in memory, for ranks that are threads of one process |
//! | `below` | [`Below`]: the part of one below a prefix |
//! | `served` | [`Served`]: one that a daemon has for the workers of a gang |
//! | `carried` | [`Carried`]: the same as a worker sees it, over its channel to the daemon |

#![warn(clippy::too_many_lines)]

mod below;
mod carried;
mod served;
mod shared;
mod table;

pub use below::Below;
pub use carried::Carried;
pub use r1d_proto::rendezvous::RendezvousError;
pub use served::{CALLS_MAX, Missed, Served, ToRank, WAIT_MAX};
pub use shared::Shared;

use std::time::Duration;

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
