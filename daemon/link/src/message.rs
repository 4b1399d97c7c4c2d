//! What a message between controller and node is.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message between controller and node: plain data, which means the same after it was encoded.
pub trait Message: Serialize + DeserializeOwned + Send + 'static {
    /// Whether this message makes an earlier one obsolete: if that one has not been taken yet, it
    /// is dropped.
    fn replaces(&self, earlier: &Self) -> bool {
        let _ = earlier;
        false
    }

    /// Whether it may replace any: if not, those that wait are not looked through.
    fn may_replace(&self) -> bool {
        false
    }
}
