//! The kinds of value that keys take, by short names: what `takes = …` of a field may say.

use super::keys::Kind;
pub(crate) use super::keys::Kind::{Later, Name};
use crate::limits::NUMBER_MAX;

/// A whole number from `min` to `max`.
pub(crate) fn integer(min: i64, max: i64) -> Kind {
    Kind::Integer { min, max }
}

/// A number from `min` to `max`.
pub(crate) fn number(min: f64, max: f64) -> Kind {
    Kind::Float {
        min,
        max,
        above: false,
    }
}

/// The kind of a score, or of a number that a score is multiplied by.
pub(crate) fn score() -> Kind {
    number(-NUMBER_MAX, NUMBER_MAX)
}
