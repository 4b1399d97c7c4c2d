//! Functions in normal form: absolute values, logarithms and angles by their laws.
//!
//! Logarithms are of absolute values: ln u becomes ln|u|, which is ln u wherever that has a value,
//! and there the laws of products and powers hold without conditions. Where that makes two formulas
//! alike, [`crate::equal`] still asks for a point at which both are real.

use crate::expression::{Expr, Function, radians};
use crate::normal::Normal;
use crate::surd::factors;
use crate::terms::{Factor, Sum, Term, fraction, number, order};
use num_bigint::BigInt;
use reward_sdk::rational::Rational;

/// The most arguments of a maximum or minimum that are written out: each doubles the formula.
const FOLDED_MAX: usize = 3;

impl Normal {
    /// A call with its arguments in normal form.
    pub(crate) fn called(&self, function: Function, arguments: &[Expr]) -> Option<Sum> {
        use Function::*;
        let first = arguments.first()?;
        let inverse = |sum: &Sum| self.power(sum, &Sum::constant(Rational::integer(-1)));
        let divided = |above: Sum, below: Sum| self.product(vec![above, inverse(&below)?]);
        match function {
            Sin | Cos | Tan | Cot | Sec | Csc => {
                let angle = self.sum(&radians(first))?;
                let (sine, cosine) = (
                    || self.turned(true, angle.clone()),
                    || self.turned(false, angle.clone()),
                );
                match function {
                    Sin => sine(),
                    Cos => cosine(),
                    Tan => divided(sine()?, cosine()?),
                    Cot => divided(cosine()?, sine()?),
                    Sec => inverse(&cosine()?),
                    _ => inverse(&sine()?),
                }
            }
            Sinh | Cosh | Tanh => {
                let inside = self.sum(first)?;
                let grown = self.power(&Sum::of(Expr::Euler), &inside)?;
                let shrunk = self.power(&Sum::of(Expr::Euler), &inside.negate())?;
                let (difference, sum) = (grown.add(&shrunk.clone().negate())?, grown.add(&shrunk)?);
                let half = Rational::integer(1).divide(&Rational::integer(2))?;
                match function {
                    Sinh => difference.scale(&half),
                    Cosh => sum.scale(&half),
                    _ => divided(difference, sum),
                }
            }
            Ln => self.logarithm(&self.sum(first)?),
            Log => divided(
                self.logarithm(&self.sum(arguments.get(1)?)?)?,
                self.logarithm(&self.sum(first)?)?,
            ),
            Absolute => self.absolute(&self.sum(first)?),
            Arcsin | Arctan => {
                let inside = self.sum(first)?;
                let negative = inside.is_negative();
                let inside = if negative { inside.negate() } else { inside };
                let found = if inside.0.is_empty() {
                    inside
                } else {
                    Sum::of(Expr::call(function, inside.expr()))
                };
                Some(if negative { found.negate() } else { found })
            }
            Floor | Ceiling => {
                let inside = self.sum(first)?;
                let inside = if function == Ceiling {
                    inside.negate()
                } else {
                    inside
                };
                let (constant, rest) = inside.parted()?;
                let whole = Rational::big(constant.floor())?;
                let left = rest.add(&Sum::constant(constant.subtract(&whole)?))?;
                let floor = match left.to_rational() {
                    Some(value) => Sum::constant(Rational::big(value.floor())?),
                    None => Sum::of(Expr::call(Floor, left.expr())),
                };
                let found = floor.add(&Sum::constant(whole))?;
                Some(if function == Ceiling {
                    found.negate()
                } else {
                    found
                })
            }
            // max(a, b) = (a + b + |a − b|)/2
            Max | Min if !self.complex && arguments.len() <= FOLDED_MAX => {
                let mut all = arguments
                    .iter()
                    .map(|argument| self.sum(argument))
                    .collect::<Option<Vec<Sum>>>()?;
                all.sort_by(|x, y| order(&x.expr(), &y.expr()));
                all.dedup();
                let half = Rational::integer(1).divide(&Rational::integer(2))?;
                let mut all = all.into_iter();
                let first = all.next()?;
                all.try_fold(first, |found, other| {
                    let apart = self.absolute(&found.add(&other.clone().negate())?)?;
                    let apart = if function == Max {
                        apart
                    } else {
                        apart.negate()
                    };
                    found.add(&other)?.add(&apart)?.scale(&half)
                })
            }
            Max | Min | Gcd | Lcm => {
                let mut all = arguments
                    .iter()
                    .map(|argument| Some(self.sum(argument)?.expr()))
                    .collect::<Option<Vec<Expr>>>()?;
                all.sort_by(order);
                all.dedup();
                Some(Sum::of(Expr::Call(function, all)))
            }
            Arccos | Factorial | Binomial | RealPart | ImaginaryPart => {
                let all = arguments
                    .iter()
                    .map(|argument| Some(self.sum(argument)?.expr()))
                    .collect::<Option<Vec<Expr>>>()?;
                Some(Sum::of(Expr::Call(function, all)))
            }
            Determinant => None,
        }
    }

    /// |x|ⁿ, without bars where they say nothing.
    pub(crate) fn absolute_power(&self, base: &Expr, exponent: &Expr) -> Option<Vec<Factor>> {
        if *exponent == number(0) {
            return Some(Vec::new());
        }
        let bare = Factor {
            base: base.clone(),
            exponent: number(1),
        };
        let even = matches!(exponent, Expr::Number(value) if value.to_i64()
            .is_some_and(|value| value % 2 == 0));
        if self.is_never_negative(&bare) || (even && !self.complex) {
            return Some(vec![Factor {
                base: base.clone(),
                exponent: exponent.clone(),
            }]);
        }
        Some(vec![Factor {
            base: Expr::call(Function::Absolute, base.clone()),
            exponent: exponent.clone(),
        }])
    }

    /// The absolute value of a product is that of its factors.
    pub(crate) fn absolute(&self, inside: &Sum) -> Option<Sum> {
        if inside.0.is_empty() {
            return Some(inside.clone());
        }
        let whole = inside.expr();
        if self.complex && whole.any(&|e| *e == Expr::Imaginary) {
            return Some(Sum::of(Expr::call(Function::Absolute, whole)));
        }
        let (content, found) = self.apart(inside)?;
        let mut all = Vec::new();
        for factor in &found {
            let rooted = matches!(&factor.exponent, Expr::Number(value) if fraction(value)
                .is_some_and(|(_, below)| below % 2 == 0));
            match &factor.base {
                Expr::Imaginary => {}
                Expr::Number(value) if value.is_negative() => {}
                _ if rooted && !self.complex => all.push(factor.clone()),
                _ => all.extend(self.absolute_power(&factor.base, &factor.exponent)?),
            }
        }
        let product = all.into_iter().map(|factor| {
            Sum(vec![Term {
                times: Rational::integer(1),
                factors: vec![factor],
            }])
        });
        self.product(product.chain([Sum::constant(content.absolute())]).collect())
    }

    /// A sum as a number times powers: what all its terms have in common, and the rest with its
    /// first term above zero.
    fn apart(&self, inside: &Sum) -> Option<(Rational, Vec<Factor>)> {
        let (content, rest) = inside.content()?;
        if let [only] = rest.0.as_slice() {
            return Some((content.multiply(&only.times)?, only.factors.clone()));
        }
        let (mut common, rest) = self.common(rest)?;
        let (content, rest) = if rest.is_negative() {
            (content.negate(), rest.negate())
        } else {
            (content, rest)
        };
        common.push(Factor {
            base: rest.expr(),
            exponent: number(1),
        });
        Some((content, common))
    }

    /// ln|xⁿy| = n·ln|x| + ln|y|
    pub(crate) fn logarithm(&self, inside: &Sum) -> Option<Sum> {
        if inside.0.is_empty() {
            return None;
        }
        if self.complex {
            return match inside.to_rational() {
                Some(value) if !value.is_negative() => numeral(&value),
                _ => Some(Sum::of(Expr::call(Function::Ln, inside.expr()))),
            };
        }
        let (content, found) = self.apart(inside)?;
        let mut sum = numeral(&content.absolute())?;
        for factor in found {
            let log = match &factor.base {
                Expr::Euler => Sum::constant(Rational::integer(1)),
                Expr::Imaginary => return None,
                Expr::Number(value) if value.is_negative() => continue,
                Expr::Number(value) => numeral(value)?,
                Expr::Call(Function::Absolute, inside) => {
                    Sum::of(Expr::Call(Function::Ln, inside.clone()))
                }
                other => Sum::of(Expr::call(Function::Ln, other.clone())),
            };
            sum = sum.add(&self.product(vec![self.sum(&factor.exponent)?, log])?)?;
        }
        Some(sum)
    }

    /// Sine or cosine of an angle, of which parts of a turn are taken off: sin(π − x) is sin x,
    /// cos nπ is (−1)ⁿ.
    fn turned(&self, sine: bool, angle: Sum) -> Option<Sum> {
        let (mut turns, mut rest, mut whole) =
            (Rational::integer(0), Sum(Vec::new()), Sum(Vec::new()));
        for term in &angle.0 {
            let pi = |factor: &Factor| factor.base == Expr::Pi && factor.exponent == number(1);
            if !term.factors.iter().any(pi) {
                rest = rest.add(&Sum(vec![term.clone()]))?;
                continue;
            }
            let others = term
                .factors
                .iter()
                .filter(|factor| !pi(factor))
                .cloned()
                .collect();
            let times = Sum(vec![Term {
                times: term.times.clone(),
                factors: others,
            }]);
            match times.to_rational() {
                Some(value) => turns = turns.add(&value)?,
                None if self.is_whole(&times) => whole = whole.add(&times)?,
                None => rest = rest.add(&Sum(vec![term.clone()]))?,
            }
        }
        let mut negative = false;
        if rest.is_negative() {
            (rest, turns) = (rest.negate(), turns.negate());
            negative = sine;
        }
        // Half turns change the sign, quarter turns the function.
        let halves = Rational::big(turns.floor())?;
        turns = turns.subtract(&halves)?;
        negative ^= halves.numerator() % 2 != BigInt::ZERO;
        let half = Rational::integer(1).divide(&Rational::integer(2))?;
        let mut sine = sine;
        if turns >= half {
            turns = turns.subtract(&half)?;
            // sin(x + π/2) is cos x, cos(x + π/2) is −sin x.
            negative ^= !sine;
            sine = !sine;
        }
        let mut found = if rest.0.is_empty() {
            // The angle in the lower half of the right angle.
            let quarter = half.multiply(&half)?;
            if turns > quarter {
                (turns, sine) = (half.subtract(&turns)?, !sine);
            }
            match self.known(sine, &turns) {
                Some(value) => value,
                None => Sum::of(Expr::call(
                    if sine { Function::Sin } else { Function::Cos },
                    Expr::Number(turns).times(Expr::Pi),
                )),
            }
        } else {
            let angle = rest.add(&self.product(vec![Sum::constant(turns), Sum::of(Expr::Pi)])?)?;
            Sum::of(Expr::call(
                if sine { Function::Sin } else { Function::Cos },
                angle.expr(),
            ))
        };
        if !whole.0.is_empty() {
            let sign = self.power(&Sum::constant(Rational::integer(-1)), &whole)?;
            found = self.product(vec![found, sign])?;
        }
        Some(if negative { found.negate() } else { found })
    }

    /// The sine or cosine of 0, 1/6 and 1/4 of half a turn, and of halves of the last as roots in
    /// roots.
    fn known(&self, sine: bool, turns: &Rational) -> Option<Sum> {
        let share = |below: i64| Rational::integer(1).divide(&Rational::integer(below));
        let root = |value: i64| {
            self.power(
                &Sum::constant(Rational::integer(value)),
                &Sum::constant(share(2)?),
            )?
            .scale(&share(2)?)
        };
        match fraction(turns)? {
            (0, _) => Some(Sum::constant(Rational::integer(i64::from(!sine)))),
            (1, 6) if sine => Some(Sum::constant(share(2)?)),
            (1, 6) => root(3),
            (1, 4) => root(2),
            // cos²(x/2) = (1 + cos x)/2
            (_, 8 | 16 | 32 | 64) => {
                let (half, double) = (share(2)?, turns.multiply(&Rational::integer(2))?);
                let quarter = share(4)?;
                let cosine = if double > quarter {
                    self.known(true, &half.subtract(&double)?)?
                } else {
                    self.known(false, &double)?
                };
                let cosine = if sine { cosine.negate() } else { cosine };
                self.power(
                    &Sum::constant(Rational::integer(1))
                        .add(&cosine)?
                        .scale(&half)?,
                    &Sum::constant(half),
                )
            }
            _ => None,
        }
    }
}

/// The logarithm of a positive number by its primes.
fn numeral(value: &Rational) -> Option<Sum> {
    let mut sum = Sum(Vec::new());
    for (side, sign) in [(value.numerator(), 1), (value.denominator(), -1)] {
        if *side == BigInt::from(1) {
            continue;
        }
        match factors(side) {
            Some(primes) => {
                for (prime, times) in primes {
                    let log = Sum::of(Expr::call(Function::Ln, number(i64::try_from(prime).ok()?)));
                    sum = sum.add(&log.scale(&Rational::integer(sign * times))?)?;
                }
            }
            None => {
                let log = Sum::of(Expr::call(
                    Function::Ln,
                    Expr::Number(Rational::big(side.clone())?),
                ));
                sum = sum.add(&log.scale(&Rational::integer(sign))?)?;
            }
        }
    }
    Some(sum)
}

/// Whether a formula has logarithms of what may be below zero.
pub(crate) fn has_bare_logarithm(expr: &Expr) -> bool {
    expr.any(&|e| match e {
        Expr::Call(Function::Ln | Function::Log, arguments) => {
            arguments.last().is_some_and(|inside| match inside {
                Expr::Call(Function::Absolute, _) | Expr::Symbol(_) => false,
                Expr::Number(value) => value.is_negative(),
                _ => true,
            })
        }
        _ => false,
    })
}
