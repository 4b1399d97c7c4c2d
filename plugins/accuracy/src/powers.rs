//! Powers and roots in normal form.

use crate::expression::{Expr, Function};
use crate::normal::{EXPONENT_MAX, Normal};
use crate::surd::factors;
use crate::terms::{Factor, Sum, Term, fraction, number, whole};
use num_bigint::BigInt;
use reward_sdk::rational::Rational;

/// Factors of a number are looked for up to this.
const FACTORED_MAX: u64 = 1 << 32;

impl Normal {
    #[inline(never)]
    pub(crate) fn power(&self, base: &Sum, exponent: &Sum) -> Option<Sum> {
        self.step()?;
        let one = || Rational::integer(1);
        match exponent.to_rational() {
            Some(exponent) => {
                let (above, below) = fraction(&exponent)?;
                if base.0.is_empty() {
                    return (above > 0).then(|| Sum(Vec::new()));
                }
                if above == 0 {
                    return Some(Sum::constant(one()));
                }
                if below == 1 {
                    if above == 1 {
                        return Some(base.clone());
                    }
                    (above.abs() <= 4 * EXPONENT_MAX).then_some(())?;
                    let raised = self.whole_power(base, above)?;
                    return self.gathered(raised.times, raised.factors);
                }
                self.root(base, &exponent, (above, below))
            }
            None => self.raised(base, exponent),
        }
    }

    /// Raises a sum to a fraction.
    pub(crate) fn root(
        &self,
        base: &Sum,
        exponent: &Rational,
        (above, below): (i64, i64),
    ) -> Option<Sum> {
        let even = below % 2 == 0;
        let (mut content, mut rest) = base.content()?;
        let mut times = Rational::integer(1);
        let mut found = Vec::new();
        if content.is_negative() {
            if !even {
                // The real root of what is below zero.
                (content, times) = (
                    content.negate(),
                    if above % 2 == 0 {
                        times
                    } else {
                        times.negate()
                    },
                );
            } else if rest.to_rational().is_some() {
                (below == 2).then_some(())?;
                content = content.negate();
                found.push(Factor {
                    base: Expr::Imaginary,
                    exponent: number(above),
                });
            } else {
                (content, rest) = (content.negate(), rest.negate());
            }
        } else if !even && rest.is_negative() {
            rest = rest.negate();
            times = if above % 2 == 0 {
                times
            } else {
                times.negate()
            };
        }
        if self.complex && rest.to_rational().is_none() {
            found.extend(self.numeral(&content, &Expr::Number(exponent.clone()))?);
            found.push(Factor {
                base: rest.expr(),
                exponent: Expr::Number(exponent.clone()),
            });
            return self.gathered(times, found);
        }
        found.extend(self.numeral(&content, &Expr::Number(exponent.clone()))?);
        match rest.0.as_slice() {
            [only] => {
                let mut inside = Vec::new();
                for factor in &only.factors {
                    if !even || self.is_never_negative(factor) {
                        found.push(Factor {
                            base: factor.base.clone(),
                            exponent: self.scaled(&factor.exponent, exponent)?,
                        });
                    } else if self.even(&factor.exponent) {
                        found.extend(self.absolute_power(
                            &factor.base,
                            &self.scaled(&factor.exponent, exponent)?,
                        )?);
                    } else {
                        inside.push(factor.clone());
                    }
                }
                found.extend(self.odd(inside, only.times.is_negative(), exponent)?);
            }
            _ => found.push(Factor {
                base: rest.expr(),
                exponent: Expr::Number(exponent.clone()),
            }),
        }
        self.gathered(times, found)
    }

    /// An even root of factors whose signs are not known: that of their product, less what is a
    /// square in it.
    pub(crate) fn odd(
        &self,
        inside: Vec<Factor>,
        negative: bool,
        exponent: &Rational,
    ) -> Option<Vec<Factor>> {
        if !negative && inside.len() < 2 {
            let scaled = |factor: Factor| {
                let raised = self.scaled(&factor.exponent, exponent)?;
                Some(Factor {
                    base: factor.base,
                    exponent: raised,
                })
            };
            return inside.into_iter().map(scaled).collect();
        }
        // One over xy has roots where xy has.
        let turned = !inside.is_empty()
            && inside
                .iter()
                .all(|factor| whole(&factor.exponent) == Some(-1));
        let (mut found, mut bases) = (Vec::new(), Vec::new());
        for factor in inside {
            match whole(&factor.exponent) {
                Some(times) if times != 1 && !turned => {
                    let squared = exponent.multiply(&Rational::integer(times - 1))?;
                    found.extend(self.absolute_power(&factor.base, &Expr::Number(squared))?);
                    bases.push(Factor {
                        base: factor.base,
                        exponent: number(1),
                    });
                }
                Some(_) => bases.push(Factor {
                    base: factor.base,
                    exponent: number(1),
                }),
                None => bases.push(factor),
            }
        }
        let sign = Rational::integer(if negative { -1 } else { 1 });
        let exponent = if turned {
            exponent.clone().negate()
        } else {
            exponent.clone()
        };
        // As a product, whatever it could be opened to: what is in it is in normal form.
        let mut product = self.gathered(sign, bases)?;
        if let [only] = product.0.as_mut_slice()
            && !negative
            && let [Factor { exponent: own, .. }] = only.factors.as_mut_slice()
            && *own == number(1)
        {
            *own = Expr::Number(exponent);
            found.extend(only.factors.iter().cloned());
            return Some(found);
        }
        found.push(Factor {
            base: product.expr(),
            exponent: Expr::Number(exponent),
        });
        Some(found)
    }

    /// Raises a sum to an exponent with letters in it.
    pub(crate) fn raised(&self, base: &Sum, exponent: &Sum) -> Option<Sum> {
        let symbolic = exponent.expr();
        let one = Rational::integer(1);
        if base.0.is_empty() {
            return None;
        }
        // x^{ln y} is e^{ln x · ln y}, and so is y^{ln x}.
        let logarithmic = symbolic.any(&|e| matches!(e, Expr::Call(Function::Ln, _)));
        if logarithmic && !self.complex && *base != Sum::of(Expr::Euler) {
            let logarithm = self.logarithm(base)?;
            return self.power(
                &Sum::of(Expr::Euler),
                &self.product(vec![exponent.clone(), logarithm])?,
            );
        }
        let (content, rest) = base.content()?;
        let mut found = Vec::new();
        let whole_exponent = self.is_whole(exponent);
        let content = if content.is_negative() {
            if rest.to_rational().is_some() || whole_exponent {
                found.push(Factor {
                    base: number(-1),
                    exponent: symbolic.clone(),
                });
                content.negate()
            } else {
                let opaque = Sum(vec![Term {
                    times: one.clone().negate(),
                    factors: rest.0.first()?.factors.clone(),
                }]);
                found.extend(self.numeral(&content.negate(), &symbolic)?);
                found.push(Factor {
                    base: opaque.expr(),
                    exponent: symbolic,
                });
                return self.gathered(one, found);
            }
        } else {
            content
        };
        found.extend(self.numeral(&content, &symbolic)?);
        // A letter times an integer stands in the exponent: then it is taken to be whole.
        let like_whole = exponent.0.iter().all(|term| term.times.to_i64().is_some());
        match rest.0.as_slice() {
            [Term { factors, .. }] if factors.is_empty() => {}
            [Term { factors, .. }] if like_whole && !self.complex => {
                for factor in factors {
                    let product =
                        self.product(vec![self.sum(&factor.exponent)?, exponent.clone()])?;
                    found.extend(self.to_sum(&factor.base, &product)?);
                }
            }
            [Term { factors, .. }]
                if factors.iter().all(|factor| {
                    self.is_never_negative(factor)
                        && !factor.exponent.any(&|e| *e == Expr::Imaginary)
                }) =>
            {
                for factor in factors {
                    let product =
                        self.product(vec![self.sum(&factor.exponent)?, exponent.clone()])?;
                    found.extend(self.to_sum(&factor.base, &product)?);
                }
            }
            _ => {
                let mut rest = rest;
                if whole_exponent && rest.is_negative() {
                    found.push(Factor {
                        base: number(-1),
                        exponent: symbolic.clone(),
                    });
                    rest = rest.negate();
                }
                found.push(Factor {
                    base: rest.expr(),
                    exponent: symbolic,
                });
            }
        }
        self.gathered(one, found)
    }

    /// e^{x + ln y} is y·e^x, and e^{inπ} is (-1)^n.
    pub(crate) fn to_sum(&self, base: &Expr, exponent: &Sum) -> Option<Vec<Factor>> {
        let mut kept = Sum(Vec::new());
        let mut found = Vec::new();
        for term in &exponent.0 {
            if *base == Expr::Euler {
                let log = |factor: &Factor| match (&factor.base, &factor.exponent) {
                    (Expr::Call(Function::Ln, inside), exponent) if *exponent == number(1) => {
                        inside.first().cloned()
                    }
                    _ => None,
                };
                let logarithms =
                    |factor: &&Factor| matches!(&factor.base, Expr::Call(Function::Ln, _));
                let several = term.factors.iter().filter(logarithms).count() > 1;
                if let Some(inside) = term.factors.iter().find_map(log).filter(|_| !several) {
                    let others = term
                        .factors
                        .iter()
                        .filter(|factor| log(factor).is_none())
                        .cloned()
                        .collect();
                    let exponent = Sum(vec![Term {
                        times: term.times.clone(),
                        factors: others,
                    }])
                    .expr();
                    let raised = self.power(&self.sum(&inside)?, &self.sum(&exponent)?)?;
                    let [only] = raised.0.as_slice() else {
                        return None;
                    };
                    only.times.is_one().then_some(())?;
                    found.extend(only.factors.iter().cloned());
                    continue;
                }
                if let Some(turns) = self.half_turns(term) {
                    found.push(Factor {
                        base: number(-1),
                        exponent: turns.expr(),
                    });
                    continue;
                }
            }
            kept = kept.add(&Sum(vec![term.clone()]))?;
        }
        if !kept.0.is_empty() {
            found.push(Factor {
                base: base.clone(),
                exponent: kept.expr(),
            });
        }
        Some(found)
    }

    /// n of iπn, where n is whole.
    pub(crate) fn half_turns(&self, term: &Term) -> Option<Sum> {
        let is = |wanted: Expr| {
            move |factor: &Factor| factor.base == wanted && factor.exponent == number(1)
        };
        let (imaginary, pi) = (is(Expr::Imaginary), is(Expr::Pi));
        (term.factors.iter().any(&imaginary) && term.factors.iter().any(&pi)).then_some(())?;
        let rest = term
            .factors
            .iter()
            .filter(|factor| !imaginary(factor) && !pi(factor))
            .cloned()
            .collect();
        let turns = Sum(vec![Term {
            times: term.times.clone(),
            factors: rest,
        }]);
        self.is_whole(&turns).then_some(turns)
    }

    /// A positive number to an exponent, by its primes; opaque where they are not found.
    pub(crate) fn numeral(&self, value: &Rational, exponent: &Expr) -> Option<Vec<Factor>> {
        if value.is_one() {
            return Some(Vec::new());
        }
        let small = |side: &BigInt| {
            u64::try_from(side)
                .ok()
                .filter(|side| *side <= FACTORED_MAX)
                .and_then(|_| factors(side))
        };
        let mut found = Vec::new();
        match (small(value.numerator()), small(value.denominator())) {
            (Some(above), Some(below)) => {
                for (prime, times) in above
                    .into_iter()
                    .chain(below.into_iter().map(|(prime, times)| (prime, -times)))
                {
                    let base = number(i64::try_from(prime).ok()?);
                    found.push(Factor {
                        base,
                        exponent: self.scaled(exponent, &Rational::integer(times))?,
                    });
                }
            }
            _ => found.push(Factor {
                base: Expr::Number(value.clone()),
                exponent: exponent.clone(),
            }),
        }
        Some(found)
    }

    /// Whether a power has no negative value, whatever stands in it.
    pub(crate) fn is_never_negative(&self, factor: &Factor) -> bool {
        let base = match &factor.base {
            Expr::Number(value) => !value.is_negative(),
            Expr::Pi | Expr::Euler => true,
            // A standard deviation, as in `\sqrt{2\pi\sigma^2}`.
            Expr::Symbol(name) => name == "sigma",
            Expr::Call(Function::Absolute | Function::Cosh, _) => true,
            Expr::Power(..) | Expr::Sum(_) => squares(&factor.base),
            _ => false,
        };
        let root = |value: &Rational| fraction(value).is_some_and(|(_, below)| below % 2 == 0);
        base || matches!(&factor.exponent, Expr::Number(value) if root(value))
    }

    /// Whether a power to this exponent is a power of a square.
    pub(crate) fn even(&self, exponent: &Expr) -> bool {
        matches!(exponent, Expr::Number(value) if fraction(value)
            .is_some_and(|(above, _)| above % 2 == 0))
    }

    /// Whether it is whole for all values of its letters, which are whole.
    pub(crate) fn is_whole(&self, sum: &Sum) -> bool {
        let letter = |factor: &Factor| {
            matches!(&factor.base, Expr::Symbol(name) if self.whole.contains(name))
                && whole(&factor.exponent).is_some_and(|power| power > 0)
        };
        sum.0
            .iter()
            .all(|term| term.times.to_i64().is_some() && term.factors.iter().all(letter))
    }

    /// A whole exponent of −1, modulo 2: n² is as odd as n.
    pub(crate) fn parity(&self, exponent: &Expr) -> Option<Sum> {
        let sum = self.sum(exponent)?;
        if !self.is_whole(&sum) {
            return Some(sum);
        }
        let mut reduced = Sum(Vec::new());
        for term in &sum.0 {
            let times = Rational::integer(term.times.to_i64()?.rem_euclid(2));
            if !times.is_zero() {
                let factors = term
                    .factors
                    .iter()
                    .map(|factor| Factor {
                        base: factor.base.clone(),
                        exponent: number(1),
                    })
                    .collect();
                reduced = reduced.add(&Sum(vec![Term { times, factors }]))?;
            }
        }
        // Two that have become one term are even.
        let odd = reduced
            .0
            .into_iter()
            .filter(|term| term.times.to_i64().is_some_and(|times| times % 2 != 0));
        Some(Sum(odd
            .map(|term| Term {
                times: Rational::integer(1),
                ..term
            })
            .collect()))
    }

    #[inline(never)]
    pub(crate) fn scaled(&self, exponent: &Expr, by: &Rational) -> Option<Expr> {
        match exponent {
            Expr::Number(value) => value.multiply(by).map(Expr::Number),
            other => Some(self.sum(other)?.scale(by)?.expr()),
        }
    }

    #[inline(never)]
    pub(crate) fn added(&self, a: &Expr, b: &Expr) -> Option<Expr> {
        match (a, b) {
            (Expr::Number(x), Expr::Number(y)) => x.add(y).map(Expr::Number),
            _ => Some(self.sum(a)?.add(&self.sum(b)?)?.expr()),
        }
    }
}

/// Even powers and numbers above zero, and sums of such: never below zero.
pub(crate) fn squares(expr: &Expr) -> bool {
    match expr {
        Expr::Number(value) => !value.is_negative(),
        Expr::Pi | Expr::Euler | Expr::Call(Function::Absolute, _) => true,
        Expr::Power(base, exponent) => {
            squares(base)
                || matches!(&**exponent, Expr::Number(value) if value.to_i64()
                    .is_some_and(|value| value % 2 == 0))
        }
        Expr::Product(all) | Expr::Sum(all) => all.iter().all(squares),
        _ => false,
    }
}
