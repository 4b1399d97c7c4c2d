//! Exact numbers with square roots: rational combinations of √r, r a squarefree integer, negative
//! ones for the imaginary unit.
//!
//! Each such number has one form, so equality is equality of forms: `√8 + √2` is `3√2`, `1/(√2−1)`
//! is `√2+1`.

use num_bigint::BigInt;
use reward_sdk::rational::Rational;

/// The most different roots in one number; inverting doubles them per prime.
const TERMS_MAX: usize = 32;
/// Radicands stay below this, so that products of two fit.
const RADICAND_MAX: i64 = 1 << 40;
/// Primes up to this are found; what is left over below its cube is squarefree when it is no
/// square.
const PRIME_MAX: u64 = 1_000;
const FACTORED_MAX: u64 = 1_000_000_000;
/// Automorphisms that an inverse goes through: one for each prime, and one for i.
const PRIMES_MAX: u32 = 8;

/// Rational multiples of square roots, sorted by radicand; no coefficient is zero.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Surd {
    terms: Vec<(i64, Rational)>,
}

impl Surd {
    pub(crate) fn rational(value: Rational) -> Surd {
        Surd {
            terms: if value.is_zero() {
                Vec::new()
            } else {
                vec![(1, value)]
            },
        }
    }

    pub(crate) fn integer(value: i64) -> Surd {
        Surd::rational(Rational::integer(value))
    }

    /// The imaginary unit i.
    pub(crate) fn imaginary() -> Surd {
        Surd {
            terms: vec![(-1, Rational::integer(1))],
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.terms.is_empty()
    }

    /// Size of all its coefficients together, in bits.
    pub(crate) fn bits(&self) -> u64 {
        self.terms
            .iter()
            .map(|(_, value)| value.numerator().bits() + value.denominator().bits())
            .sum()
    }

    /// Whether no coefficient is a fraction.
    pub(crate) fn is_whole(&self) -> bool {
        self.terms
            .iter()
            .all(|(_, value)| *value.denominator() == BigInt::from(1))
    }

    /// Radicands, squarefree and negative for multiples of i, with their coefficients.
    pub(crate) fn terms(&self) -> &[(i64, Rational)] {
        &self.terms
    }

    pub(crate) fn to_rational(&self) -> Option<Rational> {
        match self.terms.as_slice() {
            [] => Some(Rational::integer(0)),
            [(1, value)] => Some(value.clone()),
            _ => None,
        }
    }

    pub(crate) fn add(&self, other: &Surd) -> Option<Surd> {
        let mut terms = self.terms.clone();
        for (radicand, value) in &other.terms {
            match terms.binary_search_by_key(radicand, |term| term.0) {
                Ok(at) => {
                    let sum = terms.get(at)?.1.add(value)?;
                    if sum.is_zero() {
                        terms.remove(at);
                    } else {
                        terms.get_mut(at)?.1 = sum;
                    }
                }
                Err(at) => terms.insert(at, (*radicand, value.clone())),
            }
        }
        (terms.len() <= TERMS_MAX).then_some(Surd { terms })
    }

    pub(crate) fn negate(self) -> Surd {
        Surd {
            terms: self
                .terms
                .into_iter()
                .map(|(radicand, value)| (radicand, value.negate()))
                .collect(),
        }
    }

    pub(crate) fn multiply(&self, other: &Surd) -> Option<Surd> {
        let mut product = Surd { terms: Vec::new() };
        for (a, x) in &self.terms {
            for (b, y) in &other.terms {
                let common = gcd(a.unsigned_abs(), b.unsigned_abs());
                let common = i64::try_from(common).ok()?;
                let radicand = (a / common).checked_mul(b / common)?;
                if radicand.abs() >= RADICAND_MAX {
                    return None;
                }
                let mut value = x.multiply(y)?;
                // √a·√b = g·√(ab/g²), and i·i = −1.
                let (radicand, factor) = if *a < 0 && *b < 0 {
                    (radicand, -common)
                } else {
                    (radicand, common)
                };
                if factor != 1 {
                    value = value.multiply(&Rational::integer(factor))?;
                }
                product = product.add(&Surd {
                    terms: vec![(radicand, value)],
                })?;
            }
        }
        Some(product)
    }

    /// The inverse; `None` for zero too.
    pub(crate) fn inverse(&self) -> Option<Surd> {
        let mut top = Surd::integer(1);
        let mut below = self.clone();
        for _ in 0..=PRIMES_MAX {
            if let Some(value) = below.to_rational() {
                let value = Rational::integer(1).divide(&value)?;
                return top.multiply(&Surd::rational(value));
            }
            let conjugate = below.conjugate()?;
            top = top.multiply(&conjugate)?;
            below = below.multiply(&conjugate)?;
        }
        None
    }

    /// Applies the automorphism that turns the sign of i, or else of the root of one prime that
    /// occurs.
    fn conjugate(&self) -> Option<Surd> {
        let imaginary = self.terms.iter().any(|(radicand, _)| *radicand < 0);
        let prime = if imaginary {
            0
        } else {
            self.terms
                .iter()
                .find_map(|(radicand, _)| smallest_prime(radicand.unsigned_abs()))?
        };
        let turned = |radicand: i64| {
            if imaginary {
                radicand < 0
            } else {
                radicand.unsigned_abs().is_multiple_of(prime)
            }
        };
        let terms = self.terms.iter().map(|(radicand, value)| {
            (
                *radicand,
                if turned(*radicand) {
                    value.clone().negate()
                } else {
                    value.clone()
                },
            )
        });
        Some(Surd {
            terms: terms.collect(),
        })
    }

    pub(crate) fn power(&self, exponent: i64) -> Option<Surd> {
        if let Some(value) = self.to_rational() {
            return value.power(exponent).map(Surd::rational);
        }
        let mut base = if exponent < 0 {
            self.inverse()?
        } else {
            self.clone()
        };
        let mut left = exponent.unsigned_abs();
        let mut result = Surd::integer(1);
        while left > 0 {
            if left & 1 == 1 {
                result = result.multiply(&base)?;
            }
            left >>= 1;
            if left > 0 {
                base = base.multiply(&base)?;
            }
        }
        Some(result)
    }

    /// The square root of a rational, on the upper imaginary axis when it is negative.
    pub(crate) fn root_of(value: &Rational) -> Option<Surd> {
        if value.is_zero() {
            return Some(Surd::integer(0));
        }
        let negative = value.is_negative();
        let (above, below) = (value.clone().absolute(), value.denominator());
        let (above, below) = (square_part(above.numerator())?, square_part(below)?);
        // √(p²a / q²b) = p/(q·b) · √(ab)
        let common = gcd(above.1, below.1);
        let radicand = (above.1 / common).checked_mul(below.1 / common)?;
        let radicand = i64::try_from(radicand).ok().filter(|&r| r < RADICAND_MAX)?;
        let scale = Rational::big(above.0 * BigInt::from(common))?
            .divide(&Rational::big(below.0 * BigInt::from(below.1))?)?;
        Some(Surd {
            terms: vec![(if negative { -radicand } else { radicand }, scale)],
        })
    }
}

/// `n = s²·r`, r squarefree.
fn square_part(value: &BigInt) -> Option<(BigInt, u64)> {
    let root = value.sqrt();
    if &root * &root == *value {
        return Some((root, 1));
    }
    let mut left = value.clone();
    let mut square = BigInt::from(1);
    let mut free = 1u64;
    // Large squares are rare: all that is wanted of them is in the part that fits.
    if left.bits() > 200 {
        return None;
    }
    let mut prime = 2u64;
    while prime <= PRIME_MAX && left.bits() > 1 {
        let mut times = 0u32;
        while (&left % prime) == BigInt::ZERO {
            left /= prime;
            times += 1;
        }
        square *= BigInt::from(prime).pow(times / 2);
        if times % 2 == 1 {
            free = free.checked_mul(prime)?;
        }
        prime += if prime == 2 { 1 } else { 2 };
    }
    let root = left.sqrt();
    if &root * &root == left {
        return Some((square * root, free));
    }
    let rest = u64::try_from(left)
        .ok()
        .filter(|&rest| rest < FACTORED_MAX)?;
    Some((square, free.checked_mul(rest)?))
}

/// Prime factors with their exponents, of numbers that small primes make up.
pub(crate) fn factors(value: &BigInt) -> Option<Vec<(u64, i64)>> {
    let mut left = u64::try_from(value).ok().filter(|&v| v > 0)?;
    let mut found = Vec::new();
    let mut prime = 2u64;
    while prime <= PRIME_MAX && prime * prime <= left {
        let mut times = 0;
        while left.is_multiple_of(prime) {
            left /= prime;
            times += 1;
        }
        if times > 0 {
            found.push((prime, times));
        }
        prime += if prime == 2 { 1 } else { 2 };
    }
    if left > 1 {
        // Below the square of the largest prime tried it is prime.
        (left < PRIME_MAX * PRIME_MAX).then_some(())?;
        found.push((left, 1));
    }
    Some(found)
}

fn smallest_prime(value: u64) -> Option<u64> {
    if value < 2 {
        return None;
    }
    let mut prime = 2u64;
    while prime * prime <= value && prime < 1 << 20 {
        if value.is_multiple_of(prime) {
            return Some(prime);
        }
        prime += if prime == 2 { 1 } else { 2 };
    }
    Some(value)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(n: i64) -> Surd {
        Surd::root_of(&Rational::integer(n)).unwrap()
    }

    #[test]
    fn one_number_has_one_form() {
        assert_eq!(root(8).add(&root(2)), root(2).multiply(&Surd::integer(3)));
        assert_eq!(root(2).multiply(&root(3)), Some(root(6)));
        assert_eq!(
            root(6).multiply(&root(15)),
            root(10).multiply(&Surd::integer(3))
        );
        assert_eq!(
            root(-4),
            Surd::imaginary().multiply(&Surd::integer(2)).unwrap()
        );
        assert_eq!(root(-2).multiply(&root(-3)), Some(root(6).negate()));
        let below = root(2).add(&Surd::integer(-1)).unwrap();
        assert_eq!(below.inverse(), root(2).add(&Surd::integer(1)));
        let sum = root(2)
            .add(&root(3))
            .unwrap()
            .add(&root(5))
            .unwrap()
            .add(&Surd::imaginary())
            .unwrap();
        assert_eq!(
            sum.inverse().unwrap().multiply(&sum),
            Some(Surd::integer(1))
        );
        assert_eq!(Surd::integer(0).inverse(), None);
    }

    #[test]
    fn powers_are_those_of_the_field() {
        let golden = Surd::integer(1)
            .add(&root(5))
            .unwrap()
            .multiply(&Surd::rational(
                Rational::integer(1).divide(&Rational::integer(2)).unwrap(),
            ));
        let golden = golden.unwrap();
        assert_eq!(golden.power(2), golden.add(&Surd::integer(1)));
        assert_eq!(golden.power(-1), golden.add(&Surd::integer(-1)));
    }
}
