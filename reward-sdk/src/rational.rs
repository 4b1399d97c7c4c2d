//! Exact rationals of bounded size: what answers are compared with, so that 0.1 + 0.2 is 0.3 and nothing is "close enough".

use num_bigint::BigInt;

/// Numerator and denominator may have this many bits; an operation that would pass it gives `None`.
/// 32,768 bits are about 9,860 digits: far beyond any answer, and cheap to multiply.
pub const BITS_MAX: u64 = 32_768;
/// Largest power of ten that a number may be scaled by, up or down.
pub const EXPONENT_MAX: u32 = 4_000;

/// `numerator / denominator`, the denominator positive, not necessarily in lowest terms.
#[derive(Clone, Debug)]
pub struct Rational {
    numerator: BigInt,
    denominator: BigInt,
}

impl Rational {
    pub fn integer(value: i64) -> Rational {
        Rational { numerator: value.into(), denominator: 1.into() }
    }

    /// `digits` without separators, the last `decimals` of them after the point, times 10^`exponent`.
    pub fn decimal(digits: &str, decimals: usize, exponent: i64) -> Option<Rational> {
        // 3.33 bits per digit: refuse before parsing what would be refused after.
        if digits.is_empty() || digits.len() as u64 * 3 > BITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let value = Rational { numerator: digits.parse().ok()?, denominator: 1.into() };
        value.scale(exponent.checked_sub(i64::try_from(decimals).ok()?)?)
    }

    /// Times 10^`exponent`.
    pub fn scale(self, exponent: i64) -> Option<Rational> {
        let magnitude = u32::try_from(exponent.unsigned_abs()).ok().filter(|&e| e <= EXPONENT_MAX)?;
        let power = Rational { numerator: BigInt::from(10).pow(magnitude), denominator: 1.into() };
        if exponent < 0 { self.divide(&power) } else { self.multiply(&power) }
    }

    pub fn add(&self, other: &Rational) -> Option<Rational> {
        Rational {
            numerator: &self.numerator * &other.denominator + &other.numerator * &self.denominator,
            denominator: &self.denominator * &other.denominator,
        }
        .bounded()
    }

    pub fn multiply(&self, other: &Rational) -> Option<Rational> {
        Rational { numerator: &self.numerator * &other.numerator, denominator: &self.denominator * &other.denominator }.bounded()
    }

    /// `None` for division by zero.
    pub fn divide(&self, other: &Rational) -> Option<Rational> {
        if other.is_zero() {
            return None;
        }
        let (mut numerator, mut denominator) = (&self.numerator * &other.denominator, &self.denominator * &other.numerator);
        if denominator < BigInt::ZERO {
            (numerator, denominator) = (-numerator, -denominator);
        }
        Rational { numerator, denominator }.bounded()
    }

    pub fn negate(self) -> Rational {
        Rational { numerator: -self.numerator, denominator: self.denominator }
    }

    pub fn is_zero(&self) -> bool {
        self.numerator == BigInt::ZERO
    }

    /// Whether it lies between 0 and 1, both left out.
    pub fn is_proper_fraction(&self) -> bool {
        self.numerator > BigInt::ZERO && self.numerator < self.denominator
    }

    fn bounded(self) -> Option<Rational> {
        (self.numerator.bits() <= BITS_MAX && self.denominator.bits() <= BITS_MAX).then_some(self)
    }
}

impl PartialEq for Rational {
    fn eq(&self, other: &Rational) -> bool {
        &self.numerator * &other.denominator == &other.numerator * &self.denominator
    }
}

impl Eq for Rational {}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(digits: &str, decimals: usize, exponent: i64) -> Rational {
        Rational::decimal(digits, decimals, exponent).unwrap()
    }

    #[test]
    fn arithmetic_is_exact() {
        assert_eq!(decimal("01", 1, 0).add(&decimal("02", 1, 0)).unwrap(), decimal("03", 1, 0));
        assert_eq!(decimal("15", 1, 3), Rational::integer(1500));
        assert_eq!(Rational::integer(1).divide(&Rational::integer(-4)).unwrap(), decimal("025", 2, 0).negate());
        assert_ne!(Rational::integer(1).divide(&Rational::integer(3)).unwrap(), decimal("0333333333333333", 15, 0));
        assert!(Rational::integer(1).divide(&Rational::integer(0)).is_none());
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
