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
use crate::numeric::constant_rational;
use crate::terms::{Factor, Sum, Term, fraction, number, order};
use reward_sdk::rational::Rational;
use std::cell::Cell;

/// Products of sums with more terms than this stay products.
const TERMS_MAX: usize = 24;
/// Whole powers of one letter beyond this are opaque.
pub(crate) const EXPONENT_MAX: i64 = 64;
/// The most sums and products that are built for one formula.
const STEPS_MAX: u32 = 600;
/// The most levels of formulas within each other: the sandbox's stack is small.
const DEPTH_MAX: u32 = 24;

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
            Expr::Call(function, arguments) => self.called(*function, arguments),
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
            let size = self.absolute(&self.sum(inner)?)?;
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
    pub(crate) fn whole_power(&self, sum: &Sum, exponent: i64) -> Option<Term> {
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
    pub(crate) fn gathered(&self, mut times: Rational, mut all: Vec<Factor>) -> Option<Sum> {
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
                    rest.extend(self.absolute_power(&factor.base, &number(above - 1))?);
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
                let (odd, rest) = reduced.parted()?;
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
                let (constant, rest) = exponent.parted()?;
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
}
