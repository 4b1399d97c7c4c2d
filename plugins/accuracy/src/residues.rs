//! Formulas evaluated at a seeded point of a finite field: what is too large to be evaluated
//! exactly.
//!
//! Modulo a prime p ≡ 3 (mod 4), numbers of any size take one word, and every square root is there:
//! one of q or of −q, and i = √−1 in 𝔽ₚ². Rational numbers, variables, π, e, i and the roots of
//! primes, which are independent, are mapped to it with sums and products kept (a homomorphism), so
//! two formulas that differ there are different. Two that agree are equal, but for a chance of
//! about degree · 2⁻⁶⁰ (Schwartz, Zippel): the prime and the point are seeded by the texts, so
//! no answer can be made for them.

use crate::expression::Expr;
use crate::numeric::constant_rational;
use crate::surd::{Surd, factors};
use num_bigint::BigInt;
use reward_sdk::rational::Rational;
use std::cell::Cell;

/// Products of two residues that all evaluations of one verdict may take: some 10 M of the
/// sandbox's fuel.
const PRODUCTS_MAX: u32 = 25_000;
/// Witnesses that tell all primes below 2⁶⁴ (Sorenson and Webster 2015).
const WITNESSES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];

/// re + i·im, both below the prime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Residue {
    re: u64,
    im: u64,
}

pub(crate) struct Residues {
    prime: u64,
    seed: u64,
    products: Cell<u32>,
}

impl Residues {
    /// Chooses a prime between 2⁶⁰ and 2⁶¹ from the seed.
    pub(crate) fn new(seed: u64) -> Residues {
        // One in forty of these is prime.
        let mut candidate = (1 << 60) | (mixed(seed) >> 4) | 3;
        while !is_prime(candidate) {
            candidate = (1 << 60) | (candidate.wrapping_add(4) & ((1 << 60) - 1));
        }
        Residues {
            prime: candidate,
            seed,
            products: Cell::new(0),
        }
    }

    /// Evaluates a formula. `None` for what a field does not have (functions, roots of variables),
    /// for what is not defined, and for what takes too long.
    pub(crate) fn value(&self, expr: &Expr) -> Option<Residue> {
        match expr {
            Expr::Number(value) => self.rational(value),
            Expr::Symbol(name) => Some(self.free(name)),
            Expr::Pi => Some(self.free(" pi")),
            Expr::Euler => Some(self.free(" e")),
            Expr::Imaginary => Some(Residue { re: 0, im: 1 }),
            Expr::Sum(terms) => terms
                .iter()
                .try_fold(Residue { re: 0, im: 0 }, |sum, term| {
                    Some(self.add(sum, self.value(term)?))
                }),
            Expr::Product(all) => all.iter().try_fold(self.one(), |product, factor| {
                self.multiply(product, self.value(factor)?)
            }),
            Expr::Quotient(above, below) => {
                self.multiply(self.value(above)?, self.inverse(self.value(below)?)?)
            }
            Expr::Percent(inner) => {
                self.multiply(self.value(inner)?, self.inverse(self.whole(100))?)
            }
            Expr::Degrees(inner) | Expr::Quantity(inner, _) => self.value(inner),
            Expr::Root(inner, 2) => self.surd(&Surd::root_of(&constant_rational(inner)?)?),
            Expr::Power(base, exponent) => {
                let base = self.value(base)?;
                let times = constant_rational(exponent)?.to_i64()?;
                let base = if times < 0 { self.inverse(base)? } else { base };
                if times == 0 && base == self.whole(0) {
                    None
                } else {
                    self.power(base, times.unsigned_abs())
                }
            }
            _ => None,
        }
    }

    fn one(&self) -> Residue {
        self.whole(1)
    }

    fn whole(&self, value: u64) -> Residue {
        Residue {
            re: value % self.prime,
            im: 0,
        }
    }

    /// Returns the value of something that has no relation to the rest, as a variable or π.
    fn free(&self, key: &str) -> Residue {
        let hash = key.bytes().fold(self.seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.whole(mixed(hash))
    }

    fn integer(&self, value: &BigInt) -> Option<Residue> {
        let prime = BigInt::from(self.prime);
        Some(Residue {
            re: u64::try_from((value % &prime + &prime) % &prime).ok()?,
            im: 0,
        })
    }

    fn rational(&self, value: &Rational) -> Option<Residue> {
        self.multiply(
            self.integer(value.numerator())?,
            self.inverse(self.integer(value.denominator())?)?,
        )
    }

    fn surd(&self, value: &Surd) -> Option<Residue> {
        value
            .terms()
            .iter()
            .try_fold(self.whole(0), |sum, (radicand, times)| {
                let mut term = self.rational(times)?;
                if *radicand < 0 {
                    term = self.multiply(term, Residue { re: 0, im: 1 })?;
                }
                for (prime, _) in factors(&BigInt::from(radicand.unsigned_abs()))? {
                    term = self.multiply(term, self.root(prime)?)?;
                }
                Some(self.add(sum, term))
            })
    }

    fn root(&self, value: u64) -> Option<Residue> {
        let value = self.whole(value);
        let root = self.power(value, (self.prime + 1) / 4)?;
        // Else it is that of −value.
        if self.multiply(root, root)? == value {
            Some(root)
        } else {
            Some(Residue { re: 0, im: root.re })
        }
    }

    fn add(&self, a: Residue, b: Residue) -> Residue {
        Residue {
            re: (a.re + b.re) % self.prime,
            im: (a.im + b.im) % self.prime,
        }
    }

    fn multiply(&self, a: Residue, b: Residue) -> Option<Residue> {
        self.products.set(self.products.get() + 1);
        (self.products.get() <= PRODUCTS_MAX).then_some(())?;
        let times = |a: u64, b: u64| product(a, b, self.prime);
        if a.im == 0 && b.im == 0 {
            return Some(Residue {
                re: times(a.re, b.re),
                im: 0,
            });
        }
        let re = times(a.re, b.re) + self.prime - times(a.im, b.im);
        Some(Residue {
            re: re % self.prime,
            im: (times(a.re, b.im) + times(a.im, b.re)) % self.prime,
        })
    }

    fn power(&self, mut base: Residue, mut exponent: u64) -> Option<Residue> {
        let mut result = self.one();
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = self.multiply(result, base)?;
            }
            base = self.multiply(base, base)?;
            exponent >>= 1;
        }
        Some(result)
    }

    fn inverse(&self, value: Residue) -> Option<Residue> {
        if value == self.one() {
            return Some(value);
        }
        let conjugate = Residue {
            re: value.re,
            im: (self.prime - value.im) % self.prime,
        };
        let norm = self.multiply(value, conjugate)?;
        (norm.re != 0).then_some(())?;
        self.multiply(conjugate, self.power(norm, self.prime - 2)?)
    }
}

/// a·b modulo m, all below 2⁶².
fn product(a: u64, b: u64, m: u64) -> u64 {
    u64::try_from(u128::from(a) * u128::from(b) % u128::from(m)).unwrap_or(0)
}

fn is_prime(n: u64) -> bool {
    if WITNESSES.iter().any(|&prime| n.is_multiple_of(prime)) {
        return WITNESSES.contains(&n);
    }
    let twos = (n - 1).trailing_zeros();
    WITNESSES.iter().all(|&witness| {
        let (mut base, mut exponent, mut power) = (witness, (n - 1) >> twos, 1);
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = product(power, base, n);
            }
            base = product(base, base, n);
            exponent >>= 1;
        }
        power == 1
            || (0..twos).any(|_| {
                let minus_one = power == n - 1;
                power = product(power, power, n);
                minus_one
            })
    })
}

fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_others() {
        let small: Vec<u64> = (2..60).filter(|&n| is_prime(n)).collect();
        assert_eq!(
            small,
            [
                2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59
            ]
        );
        assert!(is_prime((1 << 61) - 1));
        assert!(
            !is_prime(3_215_031_751),
            "a strong pseudoprime to 2, 3, 5 and 7"
        );
        assert!(!is_prime(((1 << 30) - 35) * ((1 << 30) - 41)), "two primes");
    }

    #[test]
    fn arithmetic_is_that_of_a_field_with_all_square_roots() {
        for seed in 0..20 {
            let field = Residues::new(seed);
            assert!(field.prime >> 60 == 1 && field.prime % 4 == 3);
            let x = Residue {
                re: 12_345,
                im: field.prime - 7,
            };
            assert_eq!(
                field.multiply(x, field.inverse(x).unwrap()),
                Some(field.one())
            );
            assert_eq!(field.inverse(field.whole(0)), None);
            for prime in [2, 3, 5, 7, 11, 13] {
                let root = field.root(prime).unwrap();
                assert_eq!(
                    field.multiply(root, root),
                    Some(field.whole(prime)),
                    "√{prime}"
                );
            }
            let root = |n: i64| {
                field
                    .surd(&Surd::root_of(&Rational::integer(n)).unwrap())
                    .unwrap()
            };
            assert_eq!(
                field.multiply(root(6), root(-15)),
                field.multiply(root(-10), field.whole(3))
            );
            let half = Rational::integer(-1).divide(&Rational::integer(2)).unwrap();
            assert_eq!(
                field.add(
                    field.rational(&half).unwrap(),
                    field.rational(&half).unwrap()
                ),
                field.whole(field.prime - 1)
            );
        }
    }
}
