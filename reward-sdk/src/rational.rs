//! Exact rationals of bounded size: what answers are compared with, so that 0.1 + 0.2 is 0.3 and
//! nothing is "close enough".

use num_bigint::BigInt;
use num_integer::Integer;
use std::cmp::Ordering;

/// Most bits of a numerator or denominator; an operation that would exceed it returns `None`.
/// 32,768 bits are about 9,860 digits: far beyond any answer, and cheap to multiply.
pub const BITS_MAX: u64 = 32_768;
/// Largest power of ten that a number may be scaled by, up or down.
pub const EXPONENT_MAX: u32 = 4_000;

/// Fractions of up to this many bits are kept in lowest terms; reducing larger ones costs more than
/// it saves.
const REDUCED_BITS_MAX: u64 = 256;

/// `numerator / denominator`, the denominator positive, in lowest terms unless it is large.
#[derive(Clone, Debug)]
pub struct Rational {
    numerator: BigInt,
    denominator: BigInt,
}

impl Rational {
    /// The whole number `value`.
    pub fn integer(value: i64) -> Rational {
        Rational {
            numerator: value.into(),
            denominator: 1.into(),
        }
    }

    /// A whole number of any size; `None` beyond [`BITS_MAX`].
    pub fn big(value: BigInt) -> Option<Rational> {
        Rational {
            numerator: value,
            denominator: 1.into(),
        }
        .bounded()
    }

    /// The numerator, which has the sign.
    pub fn numerator(&self) -> &BigInt {
        &self.numerator
    }

    /// The denominator, always positive.
    pub fn denominator(&self) -> &BigInt {
        &self.denominator
    }

    /// The value when it is whole and small enough for an `i64`.
    pub fn to_i64(&self) -> Option<i64> {
        let (whole, rest) = self.numerator.div_rem(&self.denominator);
        if rest == BigInt::ZERO {
            i64::try_from(whole).ok()
        } else {
            None
        }
    }

    /// The largest whole number that is not above the value.
    pub fn floor(&self) -> BigInt {
        self.numerator.div_floor(&self.denominator)
    }

    /// Reads `digits` without separators, the last `decimals` of them after the point, times
    /// 10^`exponent`. `None` if they are not all digits, or beyond [`BITS_MAX`] or
    /// [`EXPONENT_MAX`].
    pub fn decimal(digits: &str, decimals: usize, exponent: i64) -> Option<Rational> {
        // 3.33 bits per digit: refuse before parsing what would be refused after.
        if digits.is_empty()
            || digits.len() as u64 * 3 > BITS_MAX
            || !digits.bytes().all(|b| b.is_ascii_digit())
        {
            return None;
        }
        let value = Rational {
            numerator: digits.parse().ok()?,
            denominator: 1.into(),
        };
        value.scale(exponent.checked_sub(i64::try_from(decimals).ok()?)?)
    }

    /// The value times 10^`exponent`; `None` beyond [`EXPONENT_MAX`] or [`BITS_MAX`].
    pub fn scale(self, exponent: i64) -> Option<Rational> {
        let magnitude = u32::try_from(exponent.unsigned_abs())
            .ok()
            .filter(|&e| e <= EXPONENT_MAX)?;
        let power = Rational {
            numerator: BigInt::from(10).pow(magnitude),
            denominator: 1.into(),
        };
        if exponent < 0 {
            self.divide(&power)
        } else {
            self.multiply(&power)
        }
    }

    /// `self + other`; `None` beyond [`BITS_MAX`].
    #[inline(never)]
    pub fn add(&self, other: &Rational) -> Option<Rational> {
        Rational {
            numerator: &self.numerator * &other.denominator + &other.numerator * &self.denominator,
            denominator: &self.denominator * &other.denominator,
        }
        .bounded()
    }

    /// `self · other`; `None` beyond [`BITS_MAX`].
    #[inline(never)]
    pub fn multiply(&self, other: &Rational) -> Option<Rational> {
        Rational {
            numerator: &self.numerator * &other.numerator,
            denominator: &self.denominator * &other.denominator,
        }
        .bounded()
    }

    /// `self − other`; `None` beyond [`BITS_MAX`].
    pub fn subtract(&self, other: &Rational) -> Option<Rational> {
        self.add(&other.clone().negate())
    }

    /// `self` to a whole power; `None` for zero to a negative one, and beyond [`BITS_MAX`].
    #[inline(never)]
    pub fn power(&self, exponent: i64) -> Option<Rational> {
        let magnitude = u32::try_from(exponent.unsigned_abs()).ok()?;
        let bits = (self
            .numerator
            .bits()
            .max(self.denominator.bits())
            .saturating_sub(1))
        .checked_mul(magnitude.into())?;
        if bits > BITS_MAX {
            return None;
        }
        let raised = Rational {
            numerator: self.numerator.pow(magnitude),
            denominator: self.denominator.pow(magnitude),
        };
        if exponent < 0 {
            Rational::integer(1).divide(&raised)
        } else {
            raised.bounded()
        }
    }

    /// `self / other`; `None` for division by zero, and beyond [`BITS_MAX`].
    #[inline(never)]
    pub fn divide(&self, other: &Rational) -> Option<Rational> {
        if other.is_zero() {
            return None;
        }
        let (mut numerator, mut denominator) = (
            &self.numerator * &other.denominator,
            &self.denominator * &other.numerator,
        );
        if denominator < BigInt::ZERO {
            (numerator, denominator) = (-numerator, -denominator);
        }
        Rational {
            numerator,
            denominator,
        }
        .bounded()
    }

    /// The value with the other sign.
    pub fn negate(self) -> Rational {
        Rational {
            numerator: -self.numerator,
            denominator: self.denominator,
        }
    }

    /// The value without its sign.
    pub fn absolute(self) -> Rational {
        if self.is_negative() {
            self.negate()
        } else {
            self
        }
    }

    /// Whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        self.numerator < BigInt::ZERO
    }

    /// Whether the value is 1.
    pub fn is_one(&self) -> bool {
        self.numerator == self.denominator
    }

    /// Whether the value is 0.
    pub fn is_zero(&self) -> bool {
        self.numerator == BigInt::ZERO
    }

    /// Whether the value lies between 0 and 1, both excluded.
    pub fn is_proper_fraction(&self) -> bool {
        self.numerator > BigInt::ZERO && self.numerator < self.denominator
    }

    #[inline(never)]
    fn bounded(mut self) -> Option<Rational> {
        let one = BigInt::from(1);
        if self.denominator != one
            && self.numerator.bits() <= REDUCED_BITS_MAX
            && self.denominator.bits() <= REDUCED_BITS_MAX
        {
            let common = self.numerator.gcd(&self.denominator);
            if common != one {
                self.numerator /= &common;
                self.denominator /= &common;
            }
        }
        (self.numerator.bits() <= BITS_MAX && self.denominator.bits() <= BITS_MAX).then_some(self)
    }
}

impl PartialEq for Rational {
    fn eq(&self, other: &Rational) -> bool {
        &self.numerator * &other.denominator == &other.numerator * &self.denominator
    }
}

impl Eq for Rational {}

impl PartialOrd for Rational {
    fn partial_cmp(&self, other: &Rational) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rational {
    fn cmp(&self, other: &Rational) -> Ordering {
        (&self.numerator * &other.denominator).cmp(&(&other.numerator * &self.denominator))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(digits: &str, decimals: usize, exponent: i64) -> Rational {
        Rational::decimal(digits, decimals, exponent).unwrap()
    }

    #[test]
    fn arithmetic_is_exact() {
        assert_eq!(
            decimal("01", 1, 0).add(&decimal("02", 1, 0)).unwrap(),
            decimal("03", 1, 0)
        );
        assert_eq!(decimal("15", 1, 3), Rational::integer(1500));
        assert_eq!(
            Rational::integer(1).divide(&Rational::integer(-4)).unwrap(),
            decimal("025", 2, 0).negate()
        );
        assert_ne!(
            Rational::integer(1).divide(&Rational::integer(3)).unwrap(),
            decimal("0333333333333333", 15, 0)
        );
        assert!(Rational::integer(1).divide(&Rational::integer(0)).is_none());
    }

    #[test]
    fn powers_order_and_whole_parts() {
        let half = decimal("05", 1, 0);
        assert_eq!(half.power(3).unwrap(), decimal("0125", 3, 0));
        assert_eq!(half.power(-3).unwrap(), Rational::integer(8));
        assert!(Rational::integer(0).power(-1).is_none());
        assert!(Rational::integer(2).power(1 << 40).is_none());
        assert!(half.clone().negate() < half);
        assert_eq!(
            (half.clone().negate().floor(), half.to_i64()),
            ((-1).into(), None)
        );
        assert_eq!(decimal("40", 1, 0).to_i64(), Some(4));
    }

    #[test]
    fn size_is_bounded() {
        assert!(Rational::decimal(&"9".repeat(1 << 20), 0, 0).is_none());
        assert!(Rational::decimal("1", 0, EXPONENT_MAX as i64).is_some());
        assert!(Rational::decimal("1", 0, EXPONENT_MAX as i64 + 1).is_none());
        assert!(Rational::decimal("1", 0, i64::MIN).is_none());
        let big = decimal("1", 0, EXPONENT_MAX as i64);
        let bigger = big.multiply(&big).unwrap();
        assert!(bigger.multiply(&bigger).is_none());
    }
}
