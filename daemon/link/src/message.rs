//! What a message between controller and node is.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message between controller and node: plain data, which means the same after it was encoded.
pub trait Message: Serialize + DeserializeOwned + Send + 'static {
    /// Whether an earlier message that was not taken yet says nothing any more once this one is
    /// said, and is dropped.
    fn replaces(&self, earlier: &Self) -> bool {
        let _ = earlier;
        false
    }

    /// Whether it may replace any: if not, those that wait are not looked through.
    fn may_replace(&self) -> bool {
        false
    }
}
