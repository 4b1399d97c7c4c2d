//! Whether two formulas are equal: exactly where that is possible, else by balls.

use crate::atoms;
use crate::ball::Ball;
use crate::breaks::{bends, jumps};
use crate::comparison::{Comparison, Verdict};
use crate::expression::{Expr, Function, infinite};
use crate::laws::has_bare_logarithm;
use crate::normal::Normal;
use crate::numeric::{Complex, Numeric};
use crate::pieces;
use crate::points::{Domain, Point, Signs, Stop};
use crate::separation::separation_bits;
use crate::steps;
use crate::terms::Sum;
use reward_sdk::rational::Rational;
use std::cmp::Ordering;

/// Bits of the first evaluation.
const BITS_FIRST: u64 = 128;
/// Bits of an evaluation that only finds differences.
const BITS_LOOK: u64 = 48;
/// Formulas that need more than this are left undecided.
const BITS_MAX: u64 = 2_400;
/// Points at which identities are checked, and those that are looked at to find them.
const POINTS_MIN: u32 = 2;
const POINTS_MAX: u32 = 8;
/// An exact evaluation that cost more is not tried in finer parts.
const COST_RETRIED_MAX: u64 = 500_000;
/// What a step towards the normal form costs.
const STEP_COST: u64 = 3_000;
/// What a comparison costs on top of its evaluations.
const COMPARISON_COST: u64 = 8_000;
const SIZE_MAX: usize = 1_500;

impl Comparison {
    pub(crate) fn equal(&self, a: &Expr, b: &Expr) -> Verdict {
        if a == b {
            return if defined(a) {
                Verdict::Equal
            } else {
                Verdict::Different
            };
        }
        if let (a, b) = (infinite(a), infinite(b))
            && (a.is_some() || b.is_some())
        {
            return Verdict::of(a == b);
        }
        if !a.is_scalar() || !b.is_scalar() || a.size() + b.size() > SIZE_MAX {
            return if a.is_scalar() && b.is_scalar() {
                Verdict::Undecided
            } else {
                Verdict::Different
            };
        }
        if !self.spend(COMPARISON_COST) {
            return Verdict::Undecided;
        }
        let forms = self.forms(a, b);
        if let Some((_, x, y)) = &forms {
            if x == y && self.real_somewhere(a, b) {
                return Verdict::Equal;
            }
            // Different polynomials.
            if x != y && x.is_polynomial() && y.is_polynomial() {
                return Verdict::Different;
            }
        }
        if jumps(a) || jumps(b) {
            return if pieces::alike(self, a, b) {
                Verdict::Equal
            } else {
                steps::jumping(self, a, b)
            };
        }
        let (verdict, everywhere) = match self.by_values(a, b, forms.as_ref()) {
            (Verdict::Undecided, _) => (self.by_residues(a, b), false),
            decided => decided,
        };
        if verdict == Verdict::Equal && !everywhere && (bends(a) || bends(b)) {
            return self.further(|| pieces::bending(self, a, b));
        }
        verdict
    }

    /// Whether two formulas without variables have real values that differ at a first look.
    pub(crate) fn part(&self, a: &Expr, b: &Expr) -> bool {
        self.parts(a, b) == Some(true)
    }

    /// Whether two formulas without variables differ at a first look; `None` where one of them has
    /// no real value, or no value that can be computed.
    pub(crate) fn parts(&self, a: &Expr, b: &Expr) -> Option<bool> {
        let numeric = Numeric {
            bits: BITS_LOOK,
            real: true,
            budget: &self.budget,
        };
        let (a, b) = (numeric.value(a)?, numeric.value(b)?);
        let apart = a.re.subtract(&b.re, BITS_LOOK)?;
        (a.may_be_real() && b.may_be_real())
            .then(|| apart.sign().is_some_and(|sign| sign != Ordering::Equal))
    }

    /// A rational number near a real constant.
    pub(crate) fn near(&self, expr: &Expr) -> Option<Rational> {
        let value = Numeric {
            bits: BITS_LOOK,
            real: true,
            budget: &self.budget,
        }
        .value(expr)?;
        let thousand = Ball::integer(1_000);
        let scaled = value.re.multiply(&thousand, BITS_LOOK)?.nearest()?;
        value
            .may_be_real()
            .then(|| Rational::big(scaled)?.divide(&Rational::integer(1_000)))
            .flatten()
    }

    /// The normal forms of two formulas; of numbers without letters, functions and roots there is
    /// no need of one.
    fn forms(&self, a: &Expr, b: &Expr) -> Option<(Normal, Sum, Sum)> {
        let parts = |e: &Expr| {
            matches!(
                e,
                Expr::Symbol(_)
                    | Expr::Call(..)
                    | Expr::Pi
                    | Expr::Euler
                    | Expr::Root(..)
                    | Expr::Power(..)
            )
        };
        (a.any(&parts) || b.any(&parts)).then_some(())?;
        let normal = Normal::of(a, b);
        let found = normal.sum(a).and_then(|x| Some((x, normal.sum(b)?)));
        self.spend(u64::from(normal.steps()) * STEP_COST);
        let (x, y) = found?;
        Some((normal, x, y))
    }

    /// Whether both formulas have a real value at one point. Equal normal forms do not show this,
    /// because they have logarithms of absolute values.
    fn real_somewhere(&self, a: &Expr, b: &Expr) -> bool {
        if !has_bare_logarithm(a) && !has_bare_logarithm(b) {
            return true;
        }
        let names = names(a, b);
        let numeric = Numeric {
            bits: BITS_LOOK,
            real: true,
            budget: &self.budget,
        };
        let real = |expr: &Expr| numeric.value(expr).is_some_and(|value| value.may_be_real());
        (0..2 * POINTS_MAX).any(|round| {
            let at = |name: &str| {
                names
                    .iter()
                    .position(|known| known == name)
                    .map(|at| self.sample(round, at as u64, false))
            };
            real(&a.substitute(&at)) && real(&b.substitute(&at))
        })
    }

    /// Compares with letters for the parts that have no exact value, and by the products of
    /// logarithms' arguments. `None` where that does not show the formulas to be equal: they may
    /// still be. Where it does, tells whether no piece is left in them that is another formula
    /// elsewhere.
    fn by_atoms(&self, normal: &Normal, x: &Sum, y: &Sum, (a, b): (&Expr, &Expr)) -> Option<bool> {
        let before = normal.steps();
        let same = |x: &Expr, y: &Expr| self.equal(x, y) == Verdict::Equal;
        let lettered = atoms::lettered(normal, x, y, &same);
        self.spend(u64::from(normal.steps() - before) * STEP_COST);
        let equal = |x: &Expr, y: &Expr| {
            [1, 2, 12]
                .iter()
                .find_map(|parts| self.exactly(x, y, *parts))
                == Some(Verdict::Equal)
        };
        let smooth = |x: &Expr, y: &Expr| !bends(x) && !bends(y);
        if let Some((x, y)) = lettered
            && equal(&x, &y)
        {
            return self.real_somewhere(a, b).then(|| smooth(&x, &y));
        }
        let (products, rest) = atoms::of_logarithms(&x.add(&y.clone().negate())?)?;
        // Their absolute value is 1.
        let unit = |product: &Expr| {
            [1, -1].into_iter().map(Expr::integer).any(|sign| {
                let Some((normal, x, y)) = self.forms(product, &sign) else {
                    return false;
                };
                x == y
                    || atoms::lettered(&normal, &x, &y, &same).is_some_and(|(x, y)| equal(&x, &y))
            })
        };
        let holds = same(&rest, &Expr::integer(0))
            && products.iter().all(unit)
            && self.real_somewhere(a, b);
        holds.then(|| products.iter().all(|product| smooth(product, &rest)))
    }

    /// Compares by values, and tells whether the verdict holds for all pieces of which the formulas
    /// are made.
    fn by_values(&self, a: &Expr, b: &Expr, forms: Option<&(Normal, Sum, Sum)>) -> (Verdict, bool) {
        // Whole multiples of angles first: halves and twelfths make for larger numbers.
        for parts in [1, 2, 12] {
            let before = self.budget.get();
            if let Some(verdict) = self.exactly(a, b, parts) {
                return (verdict, false);
            }
            // What was too large will not become smaller.
            if before - self.budget.get() > COST_RETRIED_MAX {
                break;
            }
        }
        if self.differ_at_a_look(a, b) {
            return (Verdict::Different, false);
        }
        if let Some((normal, x, y)) = forms
            && let Some(everywhere) = self.by_atoms(normal, x, y, (a, b))
        {
            return (Verdict::Equal, everywhere);
        }
        (self.numerically(a, b), false)
    }

    /// Compares modulo a prime what is too large for its value. Undecided unless
    /// [`Residues::value`] can evaluate both formulas.
    fn by_residues(&self, a: &Expr, b: &Expr) -> Verdict {
        let field = self.residues();
        match (field.value(a), field.value(b)) {
            (Some(x), Some(y)) => Verdict::of(x == y),
            _ => Verdict::Undecided,
        }
    }

    /// The sign of a real constant.
    pub(crate) fn sign(&self, expr: &Expr) -> Option<Ordering> {
        match infinite(expr) {
            Some(true) => return Some(Ordering::Greater),
            Some(false) => return Some(Ordering::Less),
            None => {}
        }
        if let Some(value) = crate::numeric::constant_rational(expr) {
            return Some(value.cmp(&Rational::integer(0)));
        }
        if self.equal(expr, &Expr::integer(0)) == Verdict::Equal {
            return Some(Ordering::Equal);
        }
        let value = Numeric {
            bits: BITS_FIRST,
            real: false,
            budget: &self.budget,
        }
        .value(expr)?;
        if value.may_be_real() {
            value.re.sign()
        } else {
            None
        }
    }

    /// The value at one seeded point, where that is a rational number.
    pub(crate) fn value_at_a_point(&self, expr: &Expr) -> Option<Rational> {
        let point = Point::new(self.seed, Domain::Any, Signs::Positive);
        let value = point.value(expr);
        if self.spend(point.cost()) {
            value.ok()?.to_rational()
        } else {
            None
        }
    }

    /// Compares by exact values at seeded points; `None` where these cannot be computed.
    fn exactly(&self, a: &Expr, b: &Expr, parts: i64) -> Option<Verdict> {
        let either = |wanted: &dyn Fn(&Expr) -> bool| a.any(wanted) || b.any(wanted);
        let symbols = either(&|e| matches!(e, Expr::Symbol(_)));
        let counts = either(&|e| {
            matches!(e,
                Expr::Call(Function::Factorial | Function::Binomial, arguments) if arguments.iter()
                .any(|a| !a.symbols().is_empty()))
        });
        let fraction =
            |e: &Expr| crate::numeric::constant_rational(e).is_some_and(|e| e.to_i64().is_none());
        let roots = either(&|e| match e {
            Expr::Root(inner, _) => !inner.symbols().is_empty(),
            Expr::Power(base, exponent) => !base.symbols().is_empty() && fraction(exponent),
            _ => false,
        });
        // ((1 + √5)/2)ⁿ
        let surds = either(&|e| {
            matches!(e, Expr::Power(base, exponent) if **base != Expr::Euler && base.symbols()
                .is_empty() && !exponent.symbols().is_empty()
                && crate::numeric::constant_rational(base).is_none()
                && !base.any(&|e| matches!(e, Expr::Pi | Expr::Euler | Expr::Call(..))))
        });
        let domain = if counts || surds {
            Domain::Natural
        } else if symbols && roots && !either(&|e| *e == Expr::Imaginary) {
            Domain::Roots
        } else {
            Domain::Any
        };
        let constant =
            !symbols && !either(&|e| matches!(e, Expr::Pi | Expr::Euler | Expr::Call(..)));
        let alternates = either(&|e| {
            matches!(e, Expr::Power(base, exponent) if !exponent.symbols().is_empty()
                && crate::numeric::constant_rational(base).is_some_and(|base| base.is_negative()))
        });
        let wanted = match (constant, alternates || surds) {
            (true, _) => 1,
            // Even and odd letters in all ways.
            (_, true) => POINTS_MAX - 2,
            (_, false) => POINTS_MIN + u32::from(domain == Domain::Roots),
        };
        let mut agreed = 0;
        for round in 0..POINTS_MAX {
            // All above zero, all below, then mixed: √(x²) is |x|.
            let signs = match round {
                0 => Signs::Positive,
                1 => Signs::Negative,
                _ => Signs::Mixed,
            };
            let point = Point::new(
                self.seed.wrapping_add(u64::from(round) * 0x9e37_79b9),
                domain,
                signs,
            )
            .cut(parts);
            let values = (point.value(a), point.value(b));
            if !self.spend(point.cost()) {
                return Some(Verdict::Undecided);
            }
            match values {
                // Binomials of more than there is are zero, whatever stands beside them.
                (Ok(x), Ok(y)) if x == y && counts && x.is_zero() && round + 1 < POINTS_MAX => {}
                (Ok(x), Ok(y)) if x == y => agreed += 1,
                (Ok(_), Ok(_)) => return Some(Verdict::Different),
                (Err(Stop::Unsupported), _) | (_, Err(Stop::Unsupported)) => return None,
                (Err(Stop::Undefined), _) | (_, Err(Stop::Undefined)) if constant => {
                    return Some(Verdict::Different);
                }
                _ => {}
            }
            if agreed == wanted {
                return Some(Verdict::Equal);
            }
        }
        if agreed > 0 && !alternates && !surds {
            Some(Verdict::Equal)
        } else {
            None
        }
    }

    /// Whether the values of two formulas differ at some point, at a precision that costs little.
    fn differ_at_a_look(&self, a: &Expr, b: &Expr) -> bool {
        let names = names(a, b);
        let complex = a.any(&|e| *e == Expr::Imaginary) || b.any(&|e| *e == Expr::Imaginary);
        let whole = counts(a) || counts(b);
        let rounds = if names.is_empty() { 1 } else { POINTS_MIN + 1 };
        (0..rounds).any(|round| {
            let value_of = |name: &str| {
                names
                    .iter()
                    .position(|known| known == name)
                    .map(|at| self.sample(round, at as u64, whole))
            };
            !complex && self.part(&a.substitute(&value_of), &b.substitute(&value_of))
        })
    }

    fn numerically(&self, a: &Expr, b: &Expr) -> Verdict {
        let names = names(a, b);
        if names.is_empty() {
            return self.constants(a, b, false).unwrap_or(Verdict::Undecided);
        }
        let complex = a.any(&|e| *e == Expr::Imaginary) || b.any(&|e| *e == Expr::Imaginary);
        let whole = counts(a) || counts(b);
        let mut agreed = 0;
        for round in 0..POINTS_MAX {
            let value_of = |name: &str| {
                names
                    .iter()
                    .position(|known| known == name)
                    .map(|at| self.sample(round, at as u64, whole))
            };
            let (x, y) = (a.substitute(&value_of), b.substitute(&value_of));
            match self.constants(&x, &y, !complex) {
                Some(Verdict::Equal) => agreed += 1,
                Some(Verdict::Different) => return Verdict::Different,
                _ => {}
            }
            if agreed == POINTS_MIN + 1 {
                return Verdict::Equal;
            }
        }
        if agreed >= POINTS_MIN {
            Verdict::Equal
        } else {
            Verdict::Undecided
        }
    }

    /// A small rational: above zero, below zero, between 0 and 1, larger than 1.
    fn sample(&self, round: u32, at: u64, whole: bool) -> Expr {
        let random = self.random(u64::from(round), at);
        if whole {
            return Expr::integer(3 + (random % 9) as i64);
        }
        let value = match round % 4 {
            0 => 9 + (random % 38) as i64,
            1 => -(3 + (random % 30) as i64),
            2 => 1 + (random % 14) as i64,
            _ => 17 + (random % 100) as i64,
        };
        Expr::integer(value).over(Expr::integer(16))
    }

    /// Compares two formulas without variables; `None` where one of them has no value, or no real
    /// value although `real` is set.
    fn constants(&self, a: &Expr, b: &Expr, real: bool) -> Option<Verdict> {
        let difference = a.clone().minus(b.clone());
        let look = |bits: u64| -> Option<Complex> {
            let numeric = Numeric {
                bits,
                real,
                budget: &self.budget,
            };
            if real {
                let (a, b) = (numeric.value(a)?, numeric.value(b)?);
                (a.may_be_real() && b.may_be_real()).then_some(())?;
                return Some(Complex::real(a.re.subtract(&b.re, bits)?));
            }
            numeric.value(&difference)
        };
        if !look(BITS_FIRST)?.contains_zero() {
            return Some(Verdict::Different);
        }
        let needed = separation_bits(
            &Numeric {
                bits: BITS_FIRST,
                real: false,
                budget: &self.budget,
            },
            &difference,
        );
        if !needed.is_finite() || needed > BITS_MAX as f64 {
            return Some(Verdict::Undecided);
        }
        let needed = needed as u64;
        // What is lost on the way is made up for once.
        for extra in [64, 256 + needed / 2] {
            let Some(value) = look(needed + extra) else {
                return Some(Verdict::Undecided);
            };
            if !value.contains_zero() {
                return Some(Verdict::Different);
            }
            if value.error() < -(needed as i64) {
                return Some(Verdict::Equal);
            }
        }
        Some(Verdict::Undecided)
    }

    /// Whether |a − b| is at most half of 10^-6 of the larger of 1 and |b|, which is what
    /// Math-Verify's rounding to six places comes to, and within six significant figures of b: two
    /// tiny numbers are not near each other for being tiny.
    pub(crate) fn close(&self, a: &Expr, b: &Expr) -> bool {
        let numeric = Numeric {
            bits: BITS_FIRST,
            real: false,
            budget: &self.budget,
        };
        let within = || -> Option<bool> {
            let (a, b) = (numeric.value(a)?, numeric.value(b)?);
            let gap = a.re.subtract(&b.re, BITS_FIRST)?.absolute();
            let scale = Ball::integer(2_000_000);
            let scaled = gap.multiply(&scale, BITS_FIRST)?;
            let size = b.re.clone().absolute();
            let bound = if size.subtract(&Ball::integer(1), BITS_FIRST)?.sign()
                == Some(Ordering::Greater)
            {
                size
            } else {
                Ball::integer(1)
            };
            let figures = b.re.clone().absolute().subtract(
                &gap.multiply(&Ball::integer(200_000), BITS_FIRST)?,
                BITS_FIRST,
            )?;
            if figures.sign() != Some(Ordering::Greater) {
                return Some(false);
            }
            Some(
                a.may_be_real()
                    && b.may_be_real()
                    && bound.subtract(&scaled, BITS_FIRST)?.sign() != Some(Ordering::Less),
            )
        };
        a.is_scalar() && b.is_scalar() && within().unwrap_or(false)
    }
}

/// Returns the letters of both formulas, each once.
fn names(a: &Expr, b: &Expr) -> Vec<String> {
    let mut names = a.symbols();
    for name in b.symbols() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Whether a formula has factorials or binomials, so that its letters are whole numbers.
fn counts(expr: &Expr) -> bool {
    expr.any(&|e| matches!(e, Expr::Call(Function::Factorial | Function::Binomial, _)))
}

/// Whether a formula has no division by a plain zero.
fn defined(expr: &Expr) -> bool {
    let zero =
        |expr: &Expr| crate::numeric::constant_rational(expr).is_some_and(|value| value.is_zero());
    !expr.any(&|e| matches!(e, Expr::Quotient(_, below) if zero(below)))
}
