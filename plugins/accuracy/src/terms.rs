//! Sums of products of powers: what the normal form is made of.

use crate::expression::Expr;
use num_bigint::BigInt;
use reward_sdk::rational::Rational;
use std::cmp::Ordering;

/// A base and what it is raised to, both in normal form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Factor {
    pub base: Expr,
    pub exponent: Expr,
}

/// A number times powers, sorted by base; each base once, no exponent zero.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Term {
    pub times: Rational,
    pub factors: Vec<Factor>,
}

/// Terms sorted by their factors; none is zero.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sum(pub Vec<Term>);

impl Term {
    pub(crate) fn constant(times: Rational) -> Term {
        Term {
            times,
            factors: Vec::new(),
        }
    }

    #[inline(never)]
    pub(crate) fn expr(&self) -> Expr {
        let one = number(1);
        let mut parts: Vec<Expr> = Vec::with_capacity(self.factors.len() + 1);
        if !self.times.is_one() || self.factors.is_empty() {
            parts.push(Expr::Number(self.times.clone()));
        }
        parts.extend(self.factors.iter().map(|factor| {
            if factor.exponent == one {
                factor.base.clone()
            } else {
                factor.base.clone().raised_to(factor.exponent.clone())
            }
        }));
        if parts.len() == 1 {
            parts.remove(0)
        } else {
            Expr::Product(parts)
        }
    }
}

impl Sum {
    /// The number in a sum, and the rest.
    pub(crate) fn parted(&self) -> Option<(Rational, Sum)> {
        let mut constant = Rational::integer(0);
        let mut rest = Vec::new();
        for term in &self.0 {
            if term.factors.is_empty() {
                constant = constant.add(&term.times)?;
            } else {
                rest.push(term.clone());
            }
        }
        Some((constant, Sum(rest)))
    }

    /// Makes a sum of terms in any order: equal terms become one.
    pub(crate) fn of_terms(mut terms: Vec<Term>) -> Option<Sum> {
        terms.sort_by(|x, y| by_factors(&x.factors, &y.factors));
        let mut found: Vec<Term> = Vec::with_capacity(terms.len());
        for term in terms {
            match found.last_mut() {
                Some(last) if last.factors == term.factors => {
                    last.times = last.times.add(&term.times)?
                }
                _ => found.push(term),
            }
        }
        found.retain(|term| !term.times.is_zero());
        Some(Sum(found))
    }

    pub(crate) fn constant(value: Rational) -> Sum {
        Sum(if value.is_zero() {
            Vec::new()
        } else {
            vec![Term::constant(value)]
        })
    }

    pub(crate) fn of(base: Expr) -> Sum {
        Sum(vec![Term {
            times: Rational::integer(1),
            factors: vec![Factor {
                base,
                exponent: number(1),
            }],
        }])
    }

    #[inline(never)]
    pub(crate) fn expr(&self) -> Expr {
        match self.0.as_slice() {
            [] => number(0),
            [only] => only.expr(),
            several => Expr::Sum(several.iter().map(Term::expr).collect()),
        }
    }

    /// The value of a sum that is a number.
    pub(crate) fn to_rational(&self) -> Option<Rational> {
        match self.0.as_slice() {
            [] => Some(Rational::integer(0)),
            [Term { times, factors }] if factors.is_empty() => Some(times.clone()),
            _ => None,
        }
    }

    /// Whether it is made of whole powers of letters alone: such sums are equal only if they are
    /// the same.
    pub(crate) fn is_polynomial(&self) -> bool {
        let power = |factor: &Factor| {
            matches!(factor.base, Expr::Symbol(_)) && whole(&factor.exponent).is_some()
        };
        self.0.iter().all(|term| term.factors.iter().all(power))
    }

    /// Whether its first term is below zero, letters taken as above.
    pub(crate) fn is_negative(&self) -> bool {
        self.0.first().is_some_and(|term| term.times.is_negative())
    }

    #[inline(never)]
    pub(crate) fn negate(self) -> Sum {
        Sum(self
            .0
            .into_iter()
            .map(|term| Term {
                times: term.times.negate(),
                factors: term.factors,
            })
            .collect())
    }

    #[inline(never)]
    pub(crate) fn scale(&self, by: &Rational) -> Option<Sum> {
        if by.is_zero() {
            return Some(Sum(Vec::new()));
        }
        let scaled = |term: &Term| {
            Some(Term {
                times: term.times.multiply(by)?,
                factors: term.factors.clone(),
            })
        };
        self.0.iter().map(scaled).collect::<Option<_>>().map(Sum)
    }

    #[inline(never)]
    pub(crate) fn add(&self, other: &Sum) -> Option<Sum> {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut terms = Vec::with_capacity(self.0.len() + other.0.len());
        loop {
            let next = match (left.peek(), right.peek()) {
                (None, None) => return Some(Sum(terms)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(x), Some(y)) => by_factors(&x.factors, &y.factors),
            };
            match next {
                Ordering::Less => terms.extend(left.next().cloned()),
                Ordering::Greater => terms.extend(right.next().cloned()),
                Ordering::Equal => {
                    if let (Some(x), Some(y)) = (left.next(), right.next()) {
                        let times = x.times.add(&y.times)?;
                        if !times.is_zero() {
                            terms.push(Term {
                                times,
                                factors: x.factors.clone(),
                            });
                        }
                    }
                }
            }
        }
    }

    /// Its numbers' greatest common divisor, and the sum without it; for a single term its number,
    /// which may be below zero.
    pub(crate) fn content(&self) -> Option<(Rational, Sum)> {
        let gcd = |mut a: BigInt, mut b: BigInt| {
            while b != BigInt::ZERO {
                (a, b) = (b.clone(), a % b);
            }
            if a < BigInt::ZERO { -a } else { a }
        };
        let content = match self.0.as_slice() {
            [only] => only.times.clone(),
            terms => {
                let (mut above, mut below) = (BigInt::ZERO, BigInt::from(1));
                for term in terms {
                    above = gcd(above, term.times.numerator().clone());
                    let common = gcd(below.clone(), term.times.denominator().clone());
                    below = below * term.times.denominator() / common;
                }
                Rational::big(above)?.divide(&Rational::big(below)?)?
            }
        };
        let rest = self.scale(&Rational::integer(1).divide(&content)?)?;
        Some((content, rest))
    }
}

pub(crate) fn number(value: i64) -> Expr {
    Expr::integer(value)
}

/// A total order of scalar formulas, by kind and then by parts.
pub(crate) fn order(a: &Expr, b: &Expr) -> Ordering {
    fn rank(expr: &Expr) -> u8 {
        match expr {
            Expr::Number(_) => 0,
            Expr::Pi => 1,
            Expr::Euler => 2,
            Expr::Imaginary => 3,
            Expr::Symbol(_) => 4,
            Expr::Power(..) => 5,
            Expr::Product(_) => 6,
            Expr::Call(..) => 7,
            Expr::Sum(_) => 8,
            _ => 9,
        }
    }
    fn all(a: &[Expr], b: &[Expr]) -> Ordering {
        a.iter()
            .zip(b)
            .map(|(x, y)| order(x, y))
            .find(|found| found.is_ne())
            .unwrap_or_else(|| a.len().cmp(&b.len()))
    }
    match (a, b) {
        (Expr::Number(x), Expr::Number(y)) => x.cmp(y),
        (Expr::Symbol(x), Expr::Symbol(y)) => x.cmp(y),
        (Expr::Power(x, m), Expr::Power(y, n)) => order(x, y).then_with(|| order(m, n)),
        (Expr::Sum(x), Expr::Sum(y)) | (Expr::Product(x), Expr::Product(y)) => all(x, y),
        (Expr::Call(f, x), Expr::Call(g, y)) => (*f as u8).cmp(&(*g as u8)).then_with(|| all(x, y)),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn by_factors(a: &[Factor], b: &[Factor]) -> Ordering {
    a.iter()
        .zip(b)
        .map(|(x, y)| order(&x.base, &y.base).then_with(|| order(&x.exponent, &y.exponent)))
        .find(|found| found.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// A rational exponent in lowest terms.
pub(crate) fn fraction(value: &Rational) -> Option<(i64, i64)> {
    let (above, below) = (
        i64::try_from(value.numerator()).ok()?,
        i64::try_from(value.denominator()).ok()?,
    );
    let (mut a, mut b) = (above.unsigned_abs(), below.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let common = i64::try_from(a.max(1)).ok()?;
    Some((above / common, below / common))
}

pub(crate) fn whole(exponent: &Expr) -> Option<i64> {
    match exponent {
        Expr::Number(value) => value.to_i64(),
        _ => None,
    }
}
