//! Real numbers of bounded error: a midpoint and a radius, both of any precision. Whatever the true
//! value of a computation is, it lies in the ball; balls that do not meet are proof that two values
//! differ.

use num_bigint::BigInt;
use reward_sdk::rational::Rational;
use std::cmp::Ordering;

/// Powers of two beyond this are too large to be an answer, or too small.
const EXPONENT_MAX: i64 = 1 << 20;

/// `(middle ± radius) · 2^exponent`
#[derive(Clone, Debug)]
pub(crate) struct Ball {
    pub middle: BigInt,
    pub radius: BigInt,
    pub exponent: i64,
}

fn absolute(value: &BigInt) -> BigInt {
    if *value < BigInt::ZERO {
        -value
    } else {
        value.clone()
    }
}

impl Ball {
    pub(crate) fn integer(value: i64) -> Ball {
        Ball {
            middle: value.into(),
            radius: BigInt::ZERO,
            exponent: 0,
        }
    }

    pub(crate) fn rational(value: &Rational, bits: u64) -> Option<Ball> {
        let above = Ball {
            middle: value.numerator().clone(),
            radius: BigInt::ZERO,
            exponent: 0,
        }
        .rounded(bits)?;
        if *value.denominator() == BigInt::from(1) {
            return Some(above);
        }
        above.divide(
            &Ball {
                middle: value.denominator().clone(),
                radius: BigInt::ZERO,
                exponent: 0,
            },
            bits,
        )
    }

    pub(crate) fn is_exact_zero(&self) -> bool {
        self.middle == BigInt::ZERO && self.radius == BigInt::ZERO
    }

    pub(crate) fn contains_zero(&self) -> bool {
        absolute(&self.middle) <= self.radius
    }

    /// The sign of all values in the ball; `None` when zero lies within, unless the ball is exactly
    /// zero.
    pub(crate) fn sign(&self) -> Option<Ordering> {
        if self.is_exact_zero() {
            Some(Ordering::Equal)
        } else if self.contains_zero() {
            None
        } else {
            Some(self.middle.cmp(&BigInt::ZERO))
        }
    }

    /// log₂ of an upper bound of the absolute value; very small for zero.
    pub(crate) fn magnitude(&self) -> i64 {
        let top = absolute(&self.middle) + &self.radius;
        if top == BigInt::ZERO {
            -EXPONENT_MAX
        } else {
            top.bits() as i64 + self.exponent
        }
    }

    /// log₂ of an upper bound of the radius.
    pub(crate) fn error(&self) -> i64 {
        if self.radius == BigInt::ZERO {
            -EXPONENT_MAX
        } else {
            self.radius.bits() as i64 + self.exponent
        }
    }

    /// Rounds the ball to `bits` bits; what is cut off goes into the radius.
    fn rounded(mut self, bits: u64) -> Option<Ball> {
        let excess = self
            .middle
            .bits()
            .max(self.radius.bits())
            .saturating_sub(bits);
        if excess > 0 {
            self.middle >>= excess;
            self.radius = (self.radius >> excess) + 2;
            self.exponent = self.exponent.checked_add(i64::try_from(excess).ok()?)?;
        }
        if self.middle == BigInt::ZERO && self.radius == BigInt::ZERO {
            self.exponent = 0;
        }
        (self.magnitude() < EXPONENT_MAX).then_some(self)
    }

    pub(crate) fn negate(mut self) -> Ball {
        self.middle = -self.middle;
        self
    }

    pub(crate) fn absolute(self) -> Ball {
        if self.middle < BigInt::ZERO {
            self.negate()
        } else {
            self
        }
    }

    pub(crate) fn add(&self, other: &Ball, bits: u64) -> Option<Ball> {
        if self.is_exact_zero() {
            return Some(other.clone());
        }
        if other.is_exact_zero() {
            return Some(self.clone());
        }
        let (high, low) = if self.exponent >= other.exponent {
            (self, other)
        } else {
            (other, self)
        };
        let gap = high.exponent - low.exponent;
        let room = i64::try_from(4 * bits + 256).ok()?;
        if gap > room && low.magnitude() < high.exponent {
            // The lower one vanishes in the rounding of the higher.
            let shift = u64::try_from(room).ok()?;
            return Ball {
                middle: &high.middle << shift,
                radius: (&high.radius << shift) + (BigInt::from(1) << shift),
                exponent: high.exponent - room,
            }
            .rounded(bits);
        }
        if gap > 2 * EXPONENT_MAX {
            return None;
        }
        let sum = Ball {
            middle: (&high.middle << gap) + &low.middle,
            radius: (&high.radius << gap) + &low.radius,
            exponent: low.exponent,
        };
        sum.rounded(bits)
    }

    pub(crate) fn subtract(&self, other: &Ball, bits: u64) -> Option<Ball> {
        self.add(&other.clone().negate(), bits)
    }

    pub(crate) fn multiply(&self, other: &Ball, bits: u64) -> Option<Ball> {
        let radius = absolute(&self.middle) * &other.radius
            + absolute(&other.middle) * &self.radius
            + &self.radius * &other.radius;
        Ball {
            middle: &self.middle * &other.middle,
            radius,
            exponent: self.exponent.checked_add(other.exponent)?,
        }
        .rounded(bits)
    }

    /// Divides by a ball; `None` when the divisor may be zero.
    pub(crate) fn divide(&self, other: &Ball, bits: u64) -> Option<Ball> {
        if other.contains_zero() {
            return None;
        }
        let shift = (bits + other.middle.bits()).saturating_sub(self.middle.bits()) + 2;
        let below = absolute(&other.middle);
        let error = absolute(&self.middle) * &other.radius + &below * &self.radius;
        let radius = (error << shift) / (&below * (&below - &other.radius)) + 2;
        let middle = (&self.middle << shift) / &other.middle;
        Ball {
            middle,
            radius,
            exponent: self
                .exponent
                .checked_sub(other.exponent)?
                .checked_sub(i64::try_from(shift).ok()?)?,
        }
        .rounded(bits)
    }

    pub(crate) fn scale(&self, exponent: i64) -> Option<Ball> {
        if self.is_exact_zero() {
            return Some(self.clone());
        }
        let scaled = Ball {
            exponent: self.exponent.checked_add(exponent)?,
            ..self.clone()
        };
        (scaled.magnitude() < EXPONENT_MAX).then_some(scaled)
    }

    /// The n-th root of a ball that is not below zero; a ball that reaches below zero is cut there.
    pub(crate) fn root(&self, degree: u32, bits: u64) -> Option<Ball> {
        if self.is_exact_zero() {
            return Some(self.clone());
        }
        let low = (&self.middle - &self.radius).max(BigInt::ZERO);
        let high = &self.middle + &self.radius;
        if high < BigInt::ZERO {
            return None;
        }
        let n = i64::from(degree);
        // Enough bits, and an exponent that n divides.
        let mut shift = i64::try_from((u64::from(degree) * bits).saturating_sub(high.bits()))
            .ok()?
            .max(0);
        shift += (self.exponent - shift).rem_euclid(n);
        let (low, high) = (
            (low << shift).nth_root(degree),
            (high << shift).nth_root(degree) + 1,
        );
        let middle: BigInt = (&low + &high) >> 1;
        Ball {
            radius: &high - &low + 1,
            middle,
            exponent: (self.exponent - shift) / n,
        }
        .rounded(bits)
    }

    pub(crate) fn power(&self, exponent: u64, bits: u64) -> Option<Ball> {
        let mut base = self.clone();
        let mut result = Ball::integer(1);
        let mut left = exponent;
        while left > 0 {
            if left & 1 == 1 {
                result = result.multiply(&base, bits)?;
            }
            left >>= 1;
            if left > 0 {
                base = base.multiply(&base, bits)?;
            }
        }
        Some(result)
    }

    /// The whole part, when the ball does not reach over a whole number.
    pub(crate) fn floor(&self) -> Option<BigInt> {
        let whole = |value: BigInt| -> Option<BigInt> {
            if self.exponent >= 0 {
                (self.exponent < 65_536).then(|| value << self.exponent)
            } else {
                Some(value >> self.exponent.unsigned_abs())
            }
        };
        let (low, high) = (
            whole(&self.middle - &self.radius)?,
            whole(&self.middle + &self.radius)?,
        );
        (low == high).then_some(low)
    }

    /// The nearest whole number, or one next to it.
    pub(crate) fn nearest(&self) -> Option<BigInt> {
        if self.exponent >= 0 {
            return (self.exponent < 65_536).then(|| &self.middle << self.exponent);
        }
        let shift = self.exponent.unsigned_abs();
        Some((&self.middle + (BigInt::from(1) << (shift - 1))) >> shift)
    }
}
