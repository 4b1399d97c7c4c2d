//! The keys of a rendezvous and their values.

use crate::RendezvousError;
use r1d_proto::rendezvous::{KEY_BYTES_MAX, KEYS_MAX, VALUE_BYTES_MAX};
use std::collections::BTreeMap;

/// Characters of a key that is too long which its error shows.
const SHOWN_MAX: usize = 60;

/// The keys that are set.
#[derive(Default)]
pub(crate) struct Table(BTreeMap<String, Vec<u8>>);

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) -> Result<(), RendezvousError> {
        let is_new = !self.0.contains_key(key);
        let more = is_new && self.0.len() >= KEYS_MAX;
        if more || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err(RendezvousError::Full {
                key: key.chars().take(SHOWN_MAX).collect(),
            });
        }
        self.0.insert(key.to_owned(), value);
        Ok(())
    }

    /// Adds to the number that a key holds, 0 at first.
    pub(crate) fn add(&mut self, key: &str, amount: i64) -> Result<i64, RendezvousError> {
        let number = || RendezvousError::NoNumber {
            key: key.to_owned(),
        };
        let before = self
            .get(key)
            .map_or(Some(0), number_of)
            .ok_or_else(number)?;
        let sum = before.checked_add(amount).ok_or_else(number)?;
        self.set(key, sum.to_string().into_bytes())?;
        Ok(sum)
    }
}

/// The number that a value is in decimal digits.
pub(crate) fn number_of(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
