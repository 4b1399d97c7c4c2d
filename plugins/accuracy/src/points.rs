//! Formulas evaluated exactly at seeded points.
//!
//! Two formulas that agree at random points of a large set are the same (Schwartz, Zippel). What
//! has no relation to the rest gets a value of its own: each variable, π and e, the logarithm of
//! each prime, and for each angle x a point (cos x, sin x) of the rational circle, so that
//! identities between sines and cosines of sums hold exactly. Square roots are those of [`Surd`].
//!
//! What this cannot do (nested roots, sine of 1/7 of a turn) is left to [`crate::numeric`].

use crate::expression::{Expr, Function, radians};
use crate::surd::{Surd, factors};
use reward_sdk::rational::Rational;
use std::cell::Cell;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The formula has no value here: a division by zero, 0⁰.
    Undefined,
    /// The value cannot be computed exactly.
    Unsupported,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// Whole numbers of some 30 bits, of both signs.
    Any,
    /// ± twelfth powers, so that roots of variables are rational.
    Roots,
    /// Small natural numbers: for factorials.
    Natural,
}

/// Roots of variables are rational up to the twelfth, and turns are measured in twelfths of π.
pub(crate) const PARTS: i64 = 12;
const EXPONENT_MAX: i64 = 10_000;
const FACTORIAL_MAX: i64 = 2_000;
/// Extra cost of a power of a sum with roots.
const POWER_COST: u64 = 30_000;
/// What one evaluation may cost, in about the sandbox's fuel.
const COST_MAX: u64 = 3_000_000;

/// Signs of the variables at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signs {
    Positive,
    Negative,
    Mixed,
}

pub(crate) struct Point {
    seed: u64,
    domain: Domain,
    signs: Signs,
    /// Number of parts that angles and exponents are cut into: those that occur must be whole
    /// multiples of one part.
    pub parts: i64,
    cost: Cell<u64>,
}

/// What stands in an exponent: rational multiples of atoms, real and imaginary.
pub(crate) type Linear = BTreeMap<String, (Rational, Rational)>;

pub(crate) const ONE: &str = " one";
pub(crate) const PI: &str = " pi";
pub(crate) const LOG: &str = " log ";

pub(crate) fn supported<T>(value: Option<T>) -> Result<T, Stop> {
    value.ok_or(Stop::Unsupported)
}

impl Point {
    pub(crate) fn new(seed: u64, domain: Domain, signs: Signs) -> Point {
        Point {
            seed,
            domain,
            signs,
            parts: 1,
            cost: Cell::new(0),
        }
    }

    /// Returns the point with angles and exponents cut finer, into `parts` parts.
    pub(crate) fn cut(self, parts: i64) -> Point {
        Point { parts, ..self }
    }

    /// Cost of the evaluations so far, in about the sandbox's fuel.
    pub(crate) fn cost(&self) -> u64 {
        self.cost.get()
    }

    fn random(&self, key: &str) -> u64 {
        let mut hash = self.seed ^ 0x9e37_79b9_7f4a_7c15;
        for byte in key.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^ (hash >> 32)
    }

    /// A positive rational whose roots up to the twelfth are rational, and its twelfth root.
    pub(crate) fn free(&self, key: &str) -> Rational {
        Rational::integer(2 + (self.random(key) % 4_093) as i64)
    }

    /// The value of a variable.
    fn symbol(&self, name: &str) -> Option<Rational> {
        let random = self.random(name);
        let sign = match self.signs {
            Signs::Positive => 1,
            Signs::Negative => -1,
            Signs::Mixed => 1 - 2 * ((random >> 40) & 1) as i64,
        };
        match self.domain {
            Domain::Any => Some(Rational::integer(
                sign * (1_000 + (random % (1 << 30)) as i64),
            )),
            Domain::Roots => self
                .free(name)
                .power(PARTS)?
                .multiply(&Rational::integer(sign)),
            // Even, odd, then either.
            Domain::Natural => Some(Rational::integer(match self.signs {
                Signs::Positive => 8 + 2 * (random % 12) as i64,
                Signs::Negative => 7 + 2 * (random % 12) as i64,
                Signs::Mixed => 7 + (random % 23) as i64,
            })),
        }
    }

    pub(crate) fn value(&self, expr: &Expr) -> Result<Surd, Stop> {
        let found = self.value_of(expr)?;
        self.charge(&found)?;
        Ok(found)
    }

    pub(crate) fn charge(&self, found: &Surd) -> Result<(), Stop> {
        // Products of numbers of n words take about n² steps. Reducing a fraction goes bit by bit.
        let words = found.bits() / 32;
        let fractions = if found.is_whole() {
            0
        } else {
            4_000 + 2_000 * words.min(16) + 6 * words * words
        };
        let cost = self
            .cost
            .get()
            .saturating_add(2 * words * words + fractions + 1_000);
        self.cost.set(cost);
        if cost > COST_MAX {
            Err(Stop::Unsupported)
        } else {
            Ok(())
        }
    }

    /// Takes the root of a rational. In the domain of roots of variables, a root that is not real
    /// has no value.
    fn root(&self, value: &Rational, degree: u32) -> Result<Surd, Stop> {
        let imaginary = value.is_negative() && degree.is_multiple_of(2);
        if self.domain == Domain::Roots && imaginary {
            Err(Stop::Undefined)
        } else {
            root(value, degree)
        }
    }

    fn value_of(&self, expr: &Expr) -> Result<Surd, Stop> {
        match expr {
            Expr::Number(value) => Ok(Surd::rational(value.clone())),
            Expr::Symbol(name) => supported(self.symbol(name).map(Surd::rational)),
            Expr::Pi => supported(self.free(PI).power(PARTS).map(Surd::rational)),
            Expr::Euler => self.exponential(&BTreeMap::from([(
                ONE.to_string(),
                (Rational::integer(1), Rational::integer(0)),
            )])),
            Expr::Imaginary => Ok(Surd::imaginary()),
            Expr::Sum(terms) => {
                let mut sum = Surd::integer(0);
                for term in terms {
                    sum = supported(sum.add(&self.value(term)?))?;
                    self.charge(&sum)?;
                }
                Ok(sum)
            }
            Expr::Product(factors) => {
                let mut product = Surd::integer(1);
                for factor in factors {
                    product = supported(product.multiply(&self.value(factor)?))?;
                    self.charge(&product)?;
                }
                Ok(product)
            }
            Expr::Quotient(above, below) => {
                let (above, below) = (self.value(above)?, self.value(below)?);
                if below.is_zero() {
                    return Err(Stop::Undefined);
                }
                supported(below.inverse().and_then(|inverse| above.multiply(&inverse)))
            }
            Expr::Percent(inner) => supported(
                self.value(inner)?
                    .multiply(&Surd::rational(supported(Rational::integer(1).scale(-2))?)),
            ),
            Expr::Degrees(inner) | Expr::Quantity(inner, _) => self.value(inner),
            Expr::Root(inner, degree) => {
                let inner = supported(self.value(inner)?.to_rational())?;
                self.root(&inner, *degree)
            }
            Expr::Power(base, exponent) => self.power(base, exponent),
            Expr::Call(function, arguments) => self.call(*function, arguments),
            _ => Err(Stop::Unsupported),
        }
    }

    pub(crate) fn power(&self, base: &Expr, exponent: &Expr) -> Result<Surd, Stop> {
        if *base == Expr::Euler {
            return self.exponential(&supported(self.linear(exponent))?);
        }
        if exponent.symbols().is_empty() {
            let exponent = supported(self.value(exponent)?.to_rational())?;
            if let Some(whole) = exponent.to_i64() {
                let base = self.value(base)?;
                // So many bits the power will have: what is too large is not begun.
                let words = base.bits().saturating_mul(whole.unsigned_abs()) / 32;
                let affordable = words.saturating_mul(words).saturating_mul(2) <= COST_MAX;
                return match (base.is_zero(), whole) {
                    (true, ..=0) => Err(Stop::Undefined),
                    (_, whole) if whole.abs() <= EXPONENT_MAX && affordable => {
                        supported(base.power(whole))
                    }
                    _ => Err(Stop::Unsupported),
                };
            }
            let base = supported(self.value(base)?.to_rational())?;
            let degree = supported(
                exponent
                    .denominator()
                    .try_into()
                    .ok()
                    .filter(|&d: &u32| d <= 64),
            )?;
            let times = supported(
                i64::try_from(exponent.numerator())
                    .ok()
                    .filter(|times| times.abs() <= EXPONENT_MAX),
            )?;
            return supported(self.root(&base, degree)?.power(times));
        }
        // What is irrational or below zero has powers at whole numbers.
        if self.domain == Domain::Natural
            && let Some(times) = self
                .value(exponent)?
                .to_rational()
                .and_then(|times| times.to_i64())
            && times.abs() <= EXPONENT_MAX
        {
            self.cost.set(self.cost.get().saturating_add(POWER_COST));
            return self.power(base, &Expr::integer(times));
        }
        let linear = supported(self.linear(exponent))?;
        let mut product = Surd::integer(1);
        if let Expr::Symbol(name) = base {
            for (atom, (times, turned)) in &linear {
                supported(turned.is_zero().then_some(()))?;
                let factor = if atom == ONE {
                    let base = supported(self.symbol(name))?;
                    supported(times.to_i64().and_then(|times| base.power(times)))?
                } else {
                    supported(self.free_power(&format!("{name}^{atom}"), times))?
                };
                product = supported(product.multiply(&Surd::rational(factor)))?;
            }
            return Ok(product);
        }
        if !base.symbols().is_empty() {
            return Err(Stop::Unsupported);
        }
        let base = supported(
            self.value(base)?
                .to_rational()
                .filter(|base| !base.is_zero()),
        )?;
        if base.is_negative() {
            product = Surd::integer(self.alternating(&linear)?);
        }
        // 12^x = 2^{2x}·3^x
        let base = base.absolute();
        let mut primes = supported(factors(base.numerator()))?;
        primes.extend(
            supported(factors(base.denominator()))?
                .into_iter()
                .map(|(prime, times)| (prime, -times)),
        );
        for (prime, power) in primes {
            for (atom, (times, turned)) in &linear {
                supported(turned.is_zero().then_some(()))?;
                let times = supported(times.multiply(&Rational::integer(power)))?;
                let factor = if atom == ONE {
                    self.power(
                        &Expr::integer(i64::try_from(prime).unwrap_or(0)),
                        &Expr::Number(times),
                    )?
                } else {
                    Surd::rational(supported(
                        self.free_power(&format!("{prime}^{atom}"), &times),
                    )?)
                };
                product = supported(product.multiply(&factor))?;
            }
        }
        Ok(product)
    }

    /// (−1)ⁿ for whole n, as is customary: each letter in the exponent is even or odd.
    fn alternating(&self, exponent: &Linear) -> Result<i64, Stop> {
        let mut sign = 1;
        for (atom, (times, turned)) in exponent {
            let times = supported(times.to_i64().filter(|_| turned.is_zero()))?;
            let odd = match (atom.as_str(), self.signs) {
                (ONE, _) => true,
                (atom, _) if atom.starts_with(' ') => return Err(Stop::Unsupported),
                (_, Signs::Positive) => false,
                (_, Signs::Negative) => true,
                (atom, Signs::Mixed) => (self.random(&format!("odd {atom}")) >> 20) & 1 == 1,
            };
            if odd && times % 2 != 0 {
                sign = -sign;
            }
        }
        Ok(sign)
    }

    /// The atom's own value to a power that is a multiple of a part.
    pub(crate) fn free_power(&self, key: &str, exponent: &Rational) -> Option<Rational> {
        let times = exponent
            .multiply(&Rational::integer(self.parts))?
            .to_i64()?;
        self.free(key).power(times)
    }

    fn call(&self, function: Function, arguments: &[Expr]) -> Result<Surd, Stop> {
        let argument = supported(arguments.first())?;
        let whole = |expr: &Expr| -> Result<i64, Stop> {
            supported(
                self.value(expr)?
                    .to_rational()
                    .and_then(|value| value.to_i64()),
            )
        };
        let rational =
            |expr: &Expr| -> Result<Rational, Stop> { supported(self.value(expr)?.to_rational()) };
        match function {
            Function::Sin
            | Function::Cos
            | Function::Tan
            | Function::Cot
            | Function::Sec
            | Function::Csc => {
                let angle = supported(self.linear(&radians(argument)))?;
                // z = e^{ix}; cos x = (z + 1/z)/2, sin x = (z − 1/z)/2i.
                let turned: Linear = angle
                    .into_iter()
                    .map(|(atom, (re, im))| (atom, (im.negate(), re)))
                    .collect();
                let back = turned
                    .iter()
                    .map(|(atom, (re, im))| {
                        (atom.clone(), (re.clone().negate(), im.clone().negate()))
                    })
                    .collect();
                let (z, inverse) = (self.exponential(&turned)?, self.exponential(&back)?);
                // Their sum and difference have both denominators.
                self.charge(&z)?;
                self.charge(&inverse)?;
                let half = Surd::rational(supported(Rational::integer(5).scale(-1))?);
                let cos = supported(z.add(&inverse).and_then(|sum| sum.multiply(&half)))?;
                let sin =
                    supported(z.add(&inverse.negate()).and_then(|sum| {
                        sum.multiply(&half)?.multiply(&Surd::imaginary().negate())
                    }))?;
                let (above, below) = match function {
                    Function::Sin => return Ok(sin),
                    Function::Cos => return Ok(cos),
                    Function::Tan => (sin, cos),
                    Function::Cot => (cos, sin),
                    Function::Sec => (Surd::integer(1), cos),
                    _ => (Surd::integer(1), sin),
                };
                if below.is_zero() {
                    Err(Stop::Undefined)
                } else {
                    supported(below.inverse().and_then(|inverse| above.multiply(&inverse)))
                }
            }
            Function::Sinh | Function::Cosh | Function::Tanh => {
                let z = self.exponential(&supported(self.linear(argument))?)?;
                let inverse = supported(z.inverse())?;
                let half = Surd::rational(supported(Rational::integer(5).scale(-1))?);
                let cosh = supported(z.add(&inverse).and_then(|sum| sum.multiply(&half)))?;
                let sinh = supported(z.add(&inverse.negate()).and_then(|sum| sum.multiply(&half)))?;
                match function {
                    Function::Sinh => Ok(sinh),
                    Function::Cosh => Ok(cosh),
                    _ => supported(cosh.inverse().and_then(|inverse| sinh.multiply(&inverse))),
                }
            }
            Function::Ln => self.logarithm(argument),
            Function::Log => {
                let base = self.logarithm(argument)?;
                let argument = self.logarithm(supported(arguments.get(1))?)?;
                if base.is_zero() {
                    Err(Stop::Undefined)
                } else {
                    supported(
                        base.inverse()
                            .and_then(|inverse| argument.multiply(&inverse)),
                    )
                }
            }
            Function::Absolute => Ok(Surd::rational(rational(argument)?.absolute())),
            Function::Floor => {
                supported(Rational::big(rational(argument)?.floor()).map(Surd::rational))
            }
            Function::Ceiling => {
                supported(Rational::big(-rational(argument)?.negate().floor()).map(Surd::rational))
            }
            Function::Factorial => match whole(argument)? {
                n @ 0..=FACTORIAL_MAX => {
                    let mut product = Rational::integer(1);
                    for factor in 2..=n {
                        product = supported(product.multiply(&Rational::integer(factor)))?;
                    }
                    Ok(Surd::rational(product))
                }
                ..0 => Err(Stop::Undefined),
                _ => Err(Stop::Unsupported),
            },
            Function::Binomial => {
                let (n, k) = (whole(argument)?, whole(supported(arguments.get(1))?)?);
                if !(0..=EXPONENT_MAX).contains(&n) {
                    return Err(Stop::Unsupported);
                }
                if k < 0 {
                    return Err(Stop::Undefined);
                }
                let k = if k > n {
                    return Ok(Surd::integer(0));
                } else {
                    k.min(n - k)
                };
                supported((k <= FACTORIAL_MAX).then_some(()))?;
                let mut product = Rational::integer(1);
                for i in 0..k {
                    let factor =
                        supported(Rational::integer(n - i).divide(&Rational::integer(i + 1)))?;
                    product = supported(product.multiply(&factor))?;
                }
                Ok(Surd::rational(product))
            }
            Function::Gcd | Function::Lcm => {
                let mut all = arguments
                    .iter()
                    .map(&whole)
                    .collect::<Result<Vec<i64>, Stop>>()?
                    .into_iter();
                let mut result = all.next().unwrap_or(0);
                for value in all {
                    let (mut a, mut b) = (result, value);
                    while b != 0 {
                        (a, b) = (b, a.checked_rem(b).unwrap_or(0));
                    }
                    result = if function == Function::Gcd {
                        a
                    } else {
                        supported((result / a.max(1)).checked_mul(value))?
                    };
                }
                Ok(Surd::integer(supported(result.checked_abs())?))
            }
            Function::Max | Function::Min => {
                let all = arguments
                    .iter()
                    .map(rational)
                    .collect::<Result<Vec<Rational>, Stop>>()?;
                let found = if function == Function::Max {
                    all.into_iter().max()
                } else {
                    all.into_iter().min()
                };
                supported(found.map(Surd::rational))
            }
            _ => Err(Stop::Unsupported),
        }
    }

    /// ln of a positive rational, by its primes; the logarithms of primes are independent of each
    /// other.
    fn logarithm(&self, expr: &Expr) -> Result<Surd, Stop> {
        if *expr == Expr::Euler {
            return Ok(Surd::integer(1));
        }
        if let Expr::Power(base, exponent) = expr
            && **base == Expr::Euler
        {
            return self.value(exponent);
        }
        supported(expr.symbols().is_empty().then_some(()))?;
        // √2 = 2^{1/2}
        let (inner, share) = match expr {
            Expr::Root(inner, degree) => (
                &**inner,
                supported(Rational::integer(1).divide(&Rational::integer((*degree).into())))?,
            ),
            other => (other, Rational::integer(1)),
        };
        supported((!inner.any(&|e| matches!(e, Expr::Pi | Expr::Euler))).then_some(()))?;
        let value = supported(self.value(inner)?.to_rational())?;
        if value.is_zero() {
            return Err(Stop::Undefined);
        }
        supported((!value.is_negative()).then_some(()))?;
        let mut sum = Rational::integer(0);
        for (side, sign) in [(value.numerator(), 1), (value.denominator(), -1)] {
            for (prime, times) in supported(factors(side))? {
                let log = self.free(&format!("{LOG}{prime}"));
                sum = supported(
                    log.multiply(&Rational::integer(sign * times))
                        .and_then(|term| sum.add(&term)),
                )?;
            }
        }
        supported(sum.multiply(&share).map(Surd::rational))
    }
}

/// The n-th root of a rational; of negative ones the real root when n is odd.
fn root(value: &Rational, degree: u32) -> Result<Surd, Stop> {
    if degree == 1 {
        return Ok(Surd::rational(value.clone()));
    }
    if degree == 2 {
        return supported(Surd::root_of(value));
    }
    if value.is_negative() && degree.is_multiple_of(2) {
        return Err(Stop::Unsupported);
    }
    let exact = |side: &num_bigint::BigInt| {
        let root = side.nth_root(degree);
        (root.pow(degree) == *side).then_some(root)
    };
    match (exact(value.numerator()), exact(value.denominator())) {
        (Some(above), Some(below)) => supported(
            Rational::big(above)
                .and_then(|above| above.divide(&Rational::big(below)?))
                .map(Surd::rational),
        ),
        // ⁴√4 = √2
        _ if degree.is_multiple_of(2) => {
            let square = Surd::root_of(value).and_then(|root| root.to_rational());
            root(&supported(square)?, degree / 2)
        }
        _ => Err(Stop::Unsupported),
    }
}
