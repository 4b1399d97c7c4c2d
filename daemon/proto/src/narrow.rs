//! Small numbers as bytes: one each where all are below 256, else two, little endian. As varints
//! every second expert id of a large mixture takes two bytes, and each has to be looked at.

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};
use std::fmt;

/// Writes the numbers behind one byte that holds the width of each.
pub(crate) fn serialize<S: Serializer>(numbers: &[u16], serializer: S) -> Result<S::Ok, S::Error> {
    let width = if numbers.iter().any(|&number| number > u16::from(u8::MAX)) {
        2
    } else {
        1
    };
    let mut bytes = Vec::with_capacity(1 + width * numbers.len());
    bytes.push(width as u8);
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes()[..width]);
    }
    serializer.serialize_bytes(&bytes)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<u16>, D::Error> {
    deserializer.deserialize_bytes(Numbers)
}

struct Numbers;

impl Visitor<'_> for Numbers {
    type Value = Vec<u16>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a width of 1 or 2 bytes and numbers of that width")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u16>, E> {
        match bytes.split_first() {
            Some((1, numbers)) => Ok(numbers.iter().map(|&number| number.into()).collect()),
            Some((2, numbers)) if numbers.len().is_multiple_of(2) => Ok(numbers
                .chunks_exact(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .collect()),
            _ => Err(E::invalid_length(bytes.len(), &self)),
        }
    }
}
