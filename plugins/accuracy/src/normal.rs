//! One form for formulas that are the same but for the order and the grouping of their parts: a sum
//! of products of powers, sorted.
//!
//! Quotients become powers, nested sums and products are opened, equal bases and equal terms are
//! put together, small products of sums are multiplied out, and arguments of functions are treated
//! alike; [`crate::laws`] has the functions. Two formulas with one form are equal, and nothing had
//! to be evaluated for it.
//!
//! **What a step may do.** A step may give a formula more points at which it has a value (`x/x` is
//! 1, `√x·√x` is x), and must not change a value that it had: `√(x²)` becomes |x|, never x. So two
//! formulas of one form agree wherever both have a real value.

use crate::expression::{Expr, Function};
use crate::laws;
use crate::numeric::constant_rational;
use crate::surd::factors;
use num_bigint::BigInt;
use reward_sdk::rational::Rational;
use std::cell::Cell;
use std::cmp::Ordering;

/// Products of sums with more terms than this stay products.
const TERMS_MAX: usize = 24;
/// Whole powers of one letter beyond this are opaque.
const EXPONENT_MAX: i64 = 64;
/// The most sums and products that are built for one formula.
const STEPS_MAX: u32 = 600;
/// The most levels of formulas within each other: the sandbox's stack is small.
const DEPTH_MAX: u32 = 24;
/// Factors of a number are looked for up to this.
const FACTORED_MAX: u64 = 1 << 32;

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

pub(crate) struct Normal {
    /// Letters that stand for whole numbers: those in the exponent of a number below zero.
    pub whole: Vec<String>,
    /// Whether an imaginary unit occurs: laws that need real values then do not hold.
    pub complex: bool,
    steps: Cell<u32>,
    depth: Cell<u32>,
}

/// Letters in the exponents of numbers below zero: `(-1)^{n+1}`.
fn alternating(expr: &Expr, found: &mut Vec<String>) {
    if let Expr::Power(base, exponent) = expr
        && base.symbols().is_empty()
        && constant_rational(base).is_some_and(|base| base.is_negative())
    {
        found.extend(exponent.symbols());
    }
    expr.children()
        .into_iter()
        .for_each(|child| alternating(child, found));
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
    /// Makes a sum of terms in any order: equal terms become one.
    fn of_terms(mut terms: Vec<Term>) -> Option<Sum> {
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

impl Normal {
    /// Starts the comparison of two formulas.
    pub(crate) fn of(a: &Expr, b: &Expr) -> Normal {
        let mut whole = Vec::new();
        for expr in [a, b] {
            alternating(expr, &mut whole);
        }
        let complex = a.any(&|e| *e == Expr::Imaginary) || b.any(&|e| *e == Expr::Imaginary);
        Normal {
            whole,
            complex,
            steps: Cell::new(0),
            depth: Cell::new(0),
        }
    }

    /// Number of steps that were taken so far.
    pub(crate) fn steps(&self) -> u32 {
        self.steps.get()
    }

    /// Counts a step; `None` once all steps are spent.
    pub(crate) fn step(&self) -> Option<()> {
        self.steps.set(self.steps.get() + 1);
        (self.steps.get() <= STEPS_MAX).then_some(())
    }

    /// Brings a formula to its form; `None` for a formula that is too large or not defined.
    #[inline(never)]
    pub(crate) fn sum(&self, expr: &Expr) -> Option<Sum> {
        self.step()?;
        if self.depth.get() >= DEPTH_MAX {
            return None;
        }
        self.depth.set(self.depth.get() + 1);
        let found = self.sum_within(expr);
        self.depth.set(self.depth.get() - 1);
        found
    }

    fn sum_within(&self, expr: &Expr) -> Option<Sum> {
        match expr {
            Expr::Number(value) => Some(Sum::constant(value.clone())),
            Expr::Pi | Expr::Euler | Expr::Imaginary | Expr::Symbol(_) => {
                Some(Sum::of(expr.clone()))
            }
            Expr::Sum(terms) => {
                let mut all = Vec::with_capacity(terms.len());
                for term in terms {
                    all.extend(self.sum(term)?.0);
                }
                Sum::of_terms(all)
            }
            Expr::Product(parts) => self.product(
                parts
                    .iter()
                    .map(|part| self.sum(part))
                    .collect::<Option<_>>()?,
            ),
            Expr::Quotient(above, below) => {
                let inverse =
                    self.power(&self.sum(below)?, &Sum::constant(Rational::integer(-1)))?;
                self.product(vec![self.sum(above)?, inverse])
            }
            Expr::Percent(inner) => self.sum(inner)?.scale(&Rational::integer(1).scale(-2)?),
            Expr::Degrees(inner) | Expr::Quantity(inner, _) => self.sum(inner),
            Expr::Root(inner, degree) => self.of_square(
                inner,
                &Rational::integer(1).divide(&Rational::integer((*degree).into()))?,
            ),
            Expr::Power(base, exponent) => match constant_rational(exponent) {
                Some(exponent) => self.of_square(base, &exponent),
                None => self.power(&self.sum(base)?, &self.sum(exponent)?),
            },
            Expr::Call(function, arguments) => laws::called(self, *function, arguments),
            _ => None,
        }
    }

    /// A power, √(u²) as |u| before u² is multiplied out.
    fn of_square(&self, base: &Expr, exponent: &Rational) -> Option<Sum> {
        let even = !self.complex && fraction(exponent).is_some_and(|(_, below)| below % 2 == 0);
        if even
            && let Expr::Power(inner, square) = base
            && let Some(square) = constant_rational(square)
                .filter(|square| square.to_i64().is_some_and(|square| square % 2 == 0))
        {
            let size = laws::absolute(self, &self.sum(inner)?)?;
            return self.power(&size, &Sum::constant(square.multiply(exponent)?));
        }
        self.power(&self.sum(base)?, &Sum::constant(exponent.clone()))
    }

    /// Multiplies sums: those of one term are merged into one term, the others become bases first,
    /// so that they can cancel.
    #[inline(never)]
    pub(crate) fn product(&self, parts: Vec<Sum>) -> Option<Sum> {
        let mut times = Rational::integer(1);
        let mut all = Vec::new();
        for mut part in parts {
            match part.0.len() {
                0 => return Some(part),
                1 => {
                    let term = part.0.pop()?;
                    times = times.multiply(&term.times)?;
                    all.extend(term.factors);
                }
                _ => {
                    let raised = self.whole_power(&part, 1)?;
                    times = times.multiply(&raised.times)?;
                    all.extend(raised.factors);
                }
            }
        }
        self.gathered(times, all)
    }

    /// A sum to a whole power as a number and powers: its numbers' common divisor, its letters',
    /// and what is left.
    fn whole_power(&self, sum: &Sum, exponent: i64) -> Option<Term> {
        let (mut content, mut rest) = sum.content()?;
        if rest.is_negative() {
            (content, rest) = (content.negate(), rest.negate());
        }
        let times = content.power(exponent)?;
        let raised = |factor: &Factor| {
            Some(Factor {
                base: factor.base.clone(),
                exponent: self.scaled(&factor.exponent, &Rational::integer(exponent))?,
            })
        };
        if let [only] = rest.0.as_slice() {
            return Some(Term {
                times,
                factors: only.factors.iter().map(raised).collect::<Option<_>>()?,
            });
        }
        let (common, rest) = self.common(rest)?;
        let mut found = common.iter().map(raised).collect::<Option<Vec<_>>>()?;
        found.push(Factor {
            base: rest.expr(),
            exponent: number(exponent),
        });
        Some(Term {
            times,
            factors: found,
        })
    }

    /// The factors that all terms have, by their least whole exponents, and the sum without them.
    pub(crate) fn common(&self, sum: Sum) -> Option<(Vec<Factor>, Sum)> {
        let Some((first, others)) = sum.0.split_first() else {
            return Some((Vec::new(), sum));
        };
        let whole = |factor: &Factor| match &factor.exponent {
            Expr::Number(value) => value.to_i64(),
            _ => None,
        };
        let mut common = Vec::new();
        for factor in &first.factors {
            let Some(mut least) = whole(factor) else {
                continue;
            };
            let mut everywhere = true;
            for other in others {
                match other
                    .factors
                    .iter()
                    .find(|own| own.base == factor.base)
                    .and_then(whole)
                {
                    Some(own) => least = least.min(own),
                    None => everywhere = false,
                }
            }
            if everywhere && least != 0 {
                common.push(Factor {
                    base: factor.base.clone(),
                    exponent: number(least),
                });
            }
        }
        if common.is_empty() {
            return Some((common, sum));
        }
        let mut terms = Vec::new();
        for term in &sum.0 {
            let mut all = term.factors.clone();
            for shared in &common {
                all.push(Factor {
                    base: shared.base.clone(),
                    exponent: self.scaled(&shared.exponent, &Rational::integer(-1))?,
                });
            }
            terms.extend(self.gathered(term.times.clone(), all)?.0);
        }
        let rest = terms
            .into_iter()
            .try_fold(Sum(Vec::new()), |sum, term| sum.add(&Sum(vec![term])))?;
        Some((common, rest))
    }

    /// Adds up the exponents of one base; then small whole powers of sums are multiplied out.
    #[inline(never)]
    fn gathered(&self, mut times: Rational, mut all: Vec<Factor>) -> Option<Sum> {
        self.step()?;
        let zero = number(0);
        let mut settled: Vec<Factor> = Vec::with_capacity(all.len());
        // Each round may set free other factors: 2^{3/2} is 2·2^{1/2}, |x|² is x².
        const ROUNDS_MAX: usize = 6;
        for _ in 0..ROUNDS_MAX {
            all.extend(std::mem::take(&mut settled));
            all.sort_by(|x, y| order(&x.base, &y.base));
            let mut free = Vec::new();
            for factor in std::mem::take(&mut all) {
                match settled.last_mut() {
                    Some(last) if last.base == factor.base => {
                        last.exponent = self.added(&last.exponent, &factor.exponent)?
                    }
                    _ => settled.push(factor),
                }
            }
            let mut kept = Vec::with_capacity(settled.len());
            for factor in std::mem::take(&mut settled) {
                if factor.exponent == zero {
                    continue;
                }
                match self.simplified(&factor)? {
                    Some((by, factors)) => {
                        times = times.multiply(&by)?;
                        free.extend(factors);
                    }
                    None => kept.push(factor),
                }
            }
            settled = kept;
            all = free;
            if all.is_empty() {
                break;
            }
        }
        if !all.is_empty() {
            return None;
        }
        if times.is_zero() {
            return Some(Sum(Vec::new()));
        }
        times = times.multiply(&self.rooted(&mut settled)?)?;
        self.unsigned(&mut settled)?;
        // (x + 1)·y
        let mut count = 1usize;
        let mut opened = Vec::new();
        for factor in &settled {
            if let (Expr::Sum(terms), Expr::Number(exponent)) = (&factor.base, &factor.exponent)
                && let Some(exponent) = exponent
                    .to_i64()
                    .filter(|exponent| (1..=EXPONENT_MAX).contains(exponent))
            {
                count = (0..exponent).fold(count, |count, _| count.saturating_mul(terms.len()));
                opened.push((factor.base.clone(), exponent));
            }
        }
        if opened.is_empty() || count > TERMS_MAX {
            return Some(Sum(vec![Term {
                times,
                factors: settled,
            }]));
        }
        settled.retain(|factor| {
            !opened.iter().any(|(base, exponent)| {
                factor.base == *base && factor.exponent == number(*exponent)
            })
        });
        let mut product = Sum(vec![Term {
            times,
            factors: settled,
        }]);
        for (base, exponent) in opened {
            let Expr::Sum(terms) = base else { return None };
            let base = terms
                .iter()
                .try_fold(Sum(Vec::new()), |sum, term| sum.add(&self.split(term)?))?;
            for _ in 0..exponent {
                product = self.multiplied(&product, &base)?;
            }
        }
        Some(product)
    }

    /// A term in normal form as it was before it became a formula.
    fn split(&self, expr: &Expr) -> Option<Sum> {
        let factor = |expr: &Expr| match expr {
            Expr::Power(base, exponent) => Factor {
                base: (**base).clone(),
                exponent: (**exponent).clone(),
            },
            other => Factor {
                base: other.clone(),
                exponent: number(1),
            },
        };
        let parts = match expr {
            Expr::Number(value) => return Some(Sum::constant(value.clone())),
            Expr::Product(parts) => parts.as_slice(),
            other => std::slice::from_ref(other),
        };
        let (times, parts) = match parts.split_first() {
            Some((Expr::Number(times), rest)) => (times.clone(), rest),
            _ => (Rational::integer(1), parts),
        };
        Some(Sum(vec![Term {
            times,
            factors: parts.iter().map(factor).collect(),
        }]))
    }

    fn multiplied(&self, a: &Sum, b: &Sum) -> Option<Sum> {
        let mut sum = Sum(Vec::new());
        for x in &a.0 {
            for y in &b.0 {
                let all = x.factors.iter().chain(&y.factors).cloned().collect();
                sum = sum.add(&self.gathered(x.times.multiply(&y.times)?, all)?)?;
            }
        }
        Some(sum)
    }

    /// √a·√b as √(ab): where the left side has a value, the right one has it too. The number that
    /// comes out of the root.
    fn rooted(&self, factors: &mut Vec<Factor>) -> Option<Rational> {
        let half = |factor: &Factor| match (&factor.base, &factor.exponent) {
            (Expr::Number(_) | Expr::Pi | Expr::Euler | Expr::Imaginary, _) => None,
            (_, Expr::Number(exponent)) => fraction(exponent)
                .filter(|(_, below)| *below == 2)
                .map(|(above, _)| above),
            _ => None,
        };
        let one = Rational::integer(1);
        if self.complex
            || factors
                .iter()
                .filter(|factor| half(factor).is_some())
                .count()
                < 2
        {
            return Some(one);
        }
        let (mut inside, mut rest) = (Vec::new(), Vec::new());
        for factor in factors.drain(..) {
            match half(&factor) {
                None => rest.push(factor),
                Some(above) => {
                    // x^{3/2} is |x|·√x.
                    rest.extend(laws::absolute_power(
                        self,
                        &factor.base,
                        &number(above - 1),
                    )?);
                    inside.push(self.sum(&factor.base)?);
                }
            }
        }
        let root = self.power(
            &self.product(inside)?,
            &Sum::constant(one.divide(&Rational::integer(2))?),
        )?;
        let [only] = root.0.as_slice() else {
            return None;
        };
        rest.extend(only.factors.iter().cloned());
        rest.retain(|factor| factor.exponent != number(0));
        rest.sort_by(|x, y| order(&x.base, &y.base));
        let mut together: Vec<Factor> = Vec::with_capacity(rest.len());
        for factor in rest {
            match together.last_mut() {
                Some(last) if last.base == factor.base => {
                    last.exponent = self.added(&last.exponent, &factor.exponent)?
                }
                _ => together.push(factor),
            }
        }
        *factors = together;
        Some(only.times.clone())
    }

    /// |x|·√x is x^{3/2}: there x is not below zero.
    fn unsigned(&self, factors: &mut Vec<Factor>) -> Option<()> {
        let rooted = |factors: &[Factor], base: &Expr| {
            factors.iter().position(|factor| {
                factor.base == *base
                    && matches!(&factor.exponent, Expr::Number(value) if fraction(value)
                        .is_some_and(|(_, below)| below % 2 == 0))
            })
        };
        let absolute = |factor: &Factor| match (&factor.base, &factor.exponent) {
            (Expr::Call(Function::Absolute, inside), Expr::Number(_)) => inside.first().cloned(),
            _ => None,
        };
        while let Some((at, other)) = factors
            .iter()
            .enumerate()
            .find_map(|(at, factor)| Some((at, rooted(factors, &absolute(factor)?)?)))
        {
            let exponent = self.added(&factors.get(at)?.exponent, &factors.get(other)?.exponent)?;
            factors.get_mut(other)?.exponent = exponent;
            factors.remove(at);
        }
        Some(())
    }

    /// What a power is besides: a number, and other powers. `None` inside where it is simple
    /// already.
    fn simplified(&self, factor: &Factor) -> Option<Option<(Rational, Vec<Factor>)>> {
        let one = || Rational::integer(1);
        let constant = match &factor.exponent {
            Expr::Number(value) => Some(value),
            _ => None,
        };
        match (&factor.base, constant) {
            (Expr::Imaginary, Some(exponent)) => {
                let Some(exponent) = exponent.to_i64() else {
                    return Some(None);
                };
                Some(match exponent.rem_euclid(4) {
                    0 => Some((one(), Vec::new())),
                    2 => Some((one().negate(), Vec::new())),
                    3 => Some((
                        one().negate(),
                        vec![Factor {
                            base: Expr::Imaginary,
                            exponent: number(1),
                        }],
                    )),
                    _ if exponent == 1 => None,
                    _ => Some((
                        one(),
                        vec![Factor {
                            base: Expr::Imaginary,
                            exponent: number(1),
                        }],
                    )),
                })
            }
            // (-1)^{3n+2} is (-1)^n.
            (Expr::Number(base), None) if base.is_negative() => {
                let reduced = self.parity(&factor.exponent)?;
                if reduced.expr() == factor.exponent {
                    return Some(None);
                }
                let (odd, rest) = laws::parted(&reduced)?;
                let sign = if odd.is_zero() { one() } else { one().negate() };
                let rest = rest.expr();
                let factors = if rest == number(0) {
                    Vec::new()
                } else {
                    vec![Factor {
                        base: factor.base.clone(),
                        exponent: rest,
                    }]
                };
                Some(Some((sign, factors)))
            }
            // 2^{n+3} is 8·2^n.
            (Expr::Number(base), _) => {
                let exponent = self.sum(&factor.exponent)?;
                let (constant, rest) = laws::parted(&exponent)?;
                let whole = Rational::big(constant.floor())?;
                if whole.is_zero() {
                    return Some(None);
                }
                let times = base.power(
                    whole
                        .to_i64()
                        .filter(|whole| whole.abs() <= 4 * EXPONENT_MAX)?,
                )?;
                let exponent = rest.add(&Sum::constant(constant.subtract(&whole)?))?.expr();
                let factors = if exponent == number(0) {
                    Vec::new()
                } else {
                    vec![Factor {
                        base: factor.base.clone(),
                        exponent,
                    }]
                };
                Some(Some((times, factors)))
            }
            (Expr::Call(Function::Absolute, inside), Some(exponent)) if !self.complex => {
                let Some(exponent) = exponent.to_i64().filter(|exponent| exponent % 2 == 0) else {
                    return Some(None);
                };
                let inside = self.sum(inside.first()?)?;
                let raised = self.whole_power(&inside, exponent)?;
                Some(Some((raised.times, raised.factors)))
            }
            _ => Some(None),
        }
    }

    #[inline(never)]
    pub(crate) fn scaled(&self, exponent: &Expr, by: &Rational) -> Option<Expr> {
        match exponent {
            Expr::Number(value) => value.multiply(by).map(Expr::Number),
            other => Some(self.sum(other)?.scale(by)?.expr()),
        }
    }

    #[inline(never)]
    fn added(&self, a: &Expr, b: &Expr) -> Option<Expr> {
        match (a, b) {
            (Expr::Number(x), Expr::Number(y)) => x.add(y).map(Expr::Number),
            _ => Some(self.sum(a)?.add(&self.sum(b)?)?.expr()),
        }
    }

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
    fn root(&self, base: &Sum, exponent: &Rational, (above, below): (i64, i64)) -> Option<Sum> {
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
                        found.extend(laws::absolute_power(
                            self,
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
    fn odd(&self, inside: Vec<Factor>, negative: bool, exponent: &Rational) -> Option<Vec<Factor>> {
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
                    found.extend(laws::absolute_power(
                        self,
                        &factor.base,
                        &Expr::Number(squared),
                    )?);
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
    fn raised(&self, base: &Sum, exponent: &Sum) -> Option<Sum> {
        let symbolic = exponent.expr();
        let one = Rational::integer(1);
        if base.0.is_empty() {
            return None;
        }
        // x^{ln y} is e^{ln x · ln y}, and so is y^{ln x}.
        let logarithmic = symbolic.any(&|e| matches!(e, Expr::Call(Function::Ln, _)));
        if logarithmic && !self.complex && *base != Sum::of(Expr::Euler) {
            let logarithm = laws::logarithm(self, base)?;
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
    fn to_sum(&self, base: &Expr, exponent: &Sum) -> Option<Vec<Factor>> {
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
    fn half_turns(&self, term: &Term) -> Option<Sum> {
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
    fn numeral(&self, value: &Rational, exponent: &Expr) -> Option<Vec<Factor>> {
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
    fn even(&self, exponent: &Expr) -> bool {
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
    fn parity(&self, exponent: &Expr) -> Option<Sum> {
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
}

fn whole(exponent: &Expr) -> Option<i64> {
    match exponent {
        Expr::Number(value) => value.to_i64(),
        _ => None,
    }
}

/// Even powers and numbers above zero, and sums of such: never below zero.
fn squares(expr: &Expr) -> bool {
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
