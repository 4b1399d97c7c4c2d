//! The kinds of value that keys take, by short names: what `takes = …` of a field may say.

use super::keys::Kind;
pub(crate) use super::keys::Kind::{Date, Later, Name, OneOf, Sha256};
use crate::limits::{NUMBER_MAX, STAGE_MAX_STEPS};

/// A whole number from `min` to `max`.
pub(crate) fn integer(min: i64, max: i64) -> Kind {
    Kind::Integer { min, max }
}

/// A whole number from `min` up to one of [`crate::limits`].
pub(crate) fn count(min: i64, max: u32) -> Kind {
    integer(min, max.into())
}

/// A number of steps, or of what is counted as they are.
pub(crate) fn steps(min: i64) -> Kind {
    integer(min, STAGE_MAX_STEPS as i64)
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

/// A number above `min` and up to `max`.
pub(crate) fn number_above(min: f64, max: f64) -> Kind {
    Kind::Float {
        min,
        max,
        above: true,
    }
}

/// A number of at least 0.
pub(crate) fn amount() -> Kind {
    number(0.0, NUMBER_MAX)
}

/// A number above 0.
pub(crate) fn positive() -> Kind {
    number_above(0.0, NUMBER_MAX)
}

/// A share of a whole.
pub(crate) fn share() -> Kind {
    number(0.0, 1.0)
}
