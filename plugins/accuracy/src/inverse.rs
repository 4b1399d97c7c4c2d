//! Roots, powers and logarithms that variables stand in, undone: `\sqrt{x - 1} < 3`, `2^x > 8`,
//! `\ln x \ge 1`, `\sqrt{x^2 + y^2} = 5`. A condition is solved for the value of the root first,
//! then for what stands in it.

use crate::comparison::Comparison;
use crate::expression::{Expr, Function};
use crate::linear::linear;
use crate::numeric::constant_rational;
use crate::real_set::{Piece, RealSet};
use crate::token::Relation;
use reward_sdk::rational::Rational;
use std::cmp::Ordering;

/// The name of a root's value: no answer can write it.
const VALUE: &str = " value";
/// The largest whole logarithm that is searched for, of either sign.
const WHOLE_MAX: i64 = 64;

/// Solves the comparison of a formula with zero for a variable, within a number of steps: what is
/// left when a function is undone may have further ones in it.
pub(crate) type Solver<'s> = dyn Fn(&Expr, Relation, &str, u32) -> Option<RealSet> + 's;

enum Inverted {
    Root(u32),
    /// A power of this constant base.
    Power(Expr),
    Logarithm(Expr),
}

/// A root, power or logarithm of something with variables in it.
struct Monotone {
    whole: Expr,
    inner: Expr,
    kind: Inverted,
}

impl Monotone {
    /// Returns the first in a formula, innermost first.
    fn find(formula: &Expr) -> Option<Monotone> {
        if let Some(deeper) = formula.children().into_iter().find_map(Monotone::find) {
            return Some(deeper);
        }
        let constant = |expr: &Expr| expr.symbols().is_empty();
        let (inner, kind) = match formula {
            Expr::Root(inner, degree) => (&**inner, Inverted::Root(*degree)),
            Expr::Power(base, exponent) if constant(base) => {
                (&**exponent, Inverted::Power((**base).clone()))
            }
            Expr::Power(base, exponent) => {
                let exponent =
                    constant_rational(exponent).filter(|value| value.numerator() == &1.into())?;
                (
                    &**base,
                    Inverted::Root(
                        exponent
                            .denominator()
                            .try_into()
                            .ok()
                            .filter(|degree| (2..=64).contains(degree))?,
                    ),
                )
            }
            Expr::Call(Function::Ln, arguments) => {
                (arguments.first()?, Inverted::Logarithm(Expr::Euler))
            }
            Expr::Call(Function::Log, arguments) => match arguments.as_slice() {
                [base, argument] if constant(base) => (argument, Inverted::Logarithm(base.clone())),
                _ => return None,
            },
            _ => return None,
        };
        (!constant(inner)).then(|| Monotone {
            whole: formula.clone(),
            inner: inner.clone(),
            kind,
        })
    }

    /// Whether the function falls where its argument grows; `None` for a base that no power or
    /// logarithm has, or whose sign is not known.
    fn falls(&self, judge: &Comparison) -> Option<bool> {
        let (Inverted::Power(base) | Inverted::Logarithm(base)) = &self.kind else {
            return Some(false);
        };
        if judge.sign(base)? != Ordering::Greater {
            return None;
        }
        match judge.sign(&base.clone().minus(Expr::integer(1)))? {
            Ordering::Equal => None,
            sign => Some(sign == Ordering::Less),
        }
    }

    /// Solves `f(x) = value` for x. `Some(None)`: f never takes the value; `None`: the value's sign
    /// is not known.
    fn undone(&self, judge: &Comparison, value: &Expr) -> Option<Option<Expr>> {
        let sign = judge.sign(value)?;
        Some(match &self.kind {
            Inverted::Root(degree) if degree.is_multiple_of(2) && sign == Ordering::Less => None,
            Inverted::Root(degree) => {
                Some(value.clone().raised_to(Expr::integer(i64::from(*degree))))
            }
            Inverted::Power(_) if sign != Ordering::Greater => None,
            Inverted::Power(base) => Some(logarithm(base, value)),
            Inverted::Logarithm(_) if sign == Ordering::Equal => Some(Expr::integer(1)),
            Inverted::Logarithm(base) => Some(base.clone().raised_to(value.clone())),
        })
    }

    /// Returns the values of the variable at which the function has one of `values`; `None` where
    /// they are not found.
    fn preimage(
        &self,
        judge: &Comparison,
        values: &RealSet,
        variable: &str,
        steps: u32,
        solve: &Solver<'_>,
    ) -> Option<RealSet> {
        let falls = self.falls(judge)?;
        let inside = |relation: Relation, end: &Expr| {
            let relation = if falls { relation.mirrored() } else { relation };
            solve(
                &self.inner.clone().minus(end.clone()),
                relation,
                variable,
                steps,
            )
        };
        let domain = match &self.kind {
            Inverted::Root(degree) if degree.is_multiple_of(2) => {
                solve(&self.inner, Relation::GreaterOrEqual, variable, steps)?
            }
            Inverted::Logarithm(_) => solve(&self.inner, Relation::Greater, variable, steps)?,
            _ => RealSet::all(),
        };
        let mut found = RealSet::nothing();
        for Piece { low, high } in &values.pieces {
            let mut here = domain.clone();
            // Below a value that it never has there is none: they all are below the least.
            if let Some(value) = &high.value {
                let Some(end) = self.undone(judge, value)? else {
                    continue;
                };
                here = here.intersection(
                    &inside(
                        if high.closed {
                            Relation::LessOrEqual
                        } else {
                            Relation::Less
                        },
                        &end,
                    )?,
                    judge,
                )?;
            }
            if let Some(value) = &low.value
                && let Some(end) = self.undone(judge, value)?
            {
                here = here.intersection(
                    &inside(
                        if low.closed {
                            Relation::GreaterOrEqual
                        } else {
                            Relation::Greater
                        },
                        &end,
                    )?,
                    judge,
                )?;
            }
            found = found.union(here, judge)?;
        }
        Some(found)
    }
}

/// Solves a comparison with zero of a formula that has a root, power or logarithm of its variable;
/// `None` also for a formula without one.
pub(crate) fn solved(
    judge: &Comparison,
    formula: &Expr,
    relation: Relation,
    variable: &str,
    steps: u32,
    solve: &Solver<'_>,
) -> Option<RealSet> {
    let found = Monotone::find(formula)?;
    let steps = steps.checked_sub(1)?;
    let outer = replaced(formula, &found.whole);
    if outer.symbols() == [VALUE] {
        let values = solve(&outer, relation, VALUE, steps)?;
        return found.preimage(judge, &values, variable, steps, solve);
    }
    // √u < v
    let Inverted::Root(degree) = found.kind else {
        return None;
    };
    let (slope, constant) = linear(judge, &outer, VALUE)?;
    let relation = match judge.sign(&slope)? {
        Ordering::Equal => return None,
        Ordering::Less => relation.mirrored(),
        Ordering::Greater => relation,
    };
    let (inner, bound) = (found.inner, root_of(slope, constant));
    let at = |formula: &Expr, relation: Relation| solve(formula, relation, variable, steps);
    let power = inner
        .clone()
        .minus(bound.clone().raised_to(Expr::integer(i64::from(degree))));
    if !degree.is_multiple_of(2) {
        return at(&power, relation);
    }
    let domain = at(&inner, Relation::GreaterOrEqual)?;
    let met = match relation {
        Relation::Less | Relation::LessOrEqual | Relation::Equal => {
            at(&power, relation)?.intersection(&at(&bound, Relation::GreaterOrEqual)?, judge)?
        }
        Relation::Greater | Relation::GreaterOrEqual | Relation::NotEqual => {
            at(&power, relation)?.union(at(&bound, Relation::Less)?, judge)?
        }
        Relation::Approximately | Relation::Member => return None,
    };
    domain.intersection(&met, judge)
}

/// Returns a formula that vanishes exactly where another does, with its one root, power or
/// logarithm undone.
pub(crate) fn unrooted(judge: &Comparison, formula: &Expr) -> Option<Expr> {
    let found = Monotone::find(formula)?;
    found.falls(judge)?;
    let outer = replaced(formula, &found.whole);
    if outer.symbols() != [VALUE] {
        // `\ln y - 2x`: whatever the other side is, it is undone where every value is had.
        let base = match &found.kind {
            Inverted::Logarithm(base) => base,
            _ => return None,
        };
        let (slope, constant) = linear(judge, &outer, VALUE)?;
        (slope.symbols().is_empty() && judge.sign(&slope)? != Ordering::Equal).then_some(())?;
        return Some(
            found
                .inner
                .minus(power(judge, base, root_of(slope, constant))),
        );
    }
    let (slope, constant) = linear(judge, &outer, VALUE)?;
    (judge.sign(&slope)? != Ordering::Equal).then_some(())?;
    let undone = found.undone(judge, &root_of(slope, constant))??;
    Some(found.inner.minus(undone))
}

/// `e^{\ln x + 2}` as `x e^2`: logarithms to the same base come down.
fn power(judge: &Comparison, base: &Expr, exponent: Expr) -> Expr {
    const LOGARITHMS_MAX: usize = 4;
    let mut factors = Vec::new();
    let mut rest = exponent;
    for _ in 0..LOGARITHMS_MAX {
        let Some(found) = Monotone::find(&rest)
            .filter(|found| matches!(&found.kind, Inverted::Logarithm(own) if own == base))
        else {
            break;
        };
        let Some((slope, constant)) = linear(judge, &replaced(&rest, &found.whole), VALUE) else {
            break;
        };
        let Some(slope) = constant_rational(&slope) else {
            break;
        };
        factors.push(if slope.is_one() {
            found.inner
        } else {
            found.inner.raised_to(Expr::Number(slope))
        });
        rest = constant;
    }
    let last = base.clone().raised_to(rest);
    factors
        .into_iter()
        .fold(last, |product, factor| factor.times(product))
}

/// `2^x = 8^y` as `x \ln 2 - y \ln 8`: zero at the same points as the difference of two powers of
/// positive constants.
pub(crate) fn of_powers(judge: &Comparison, left: &Expr, right: &Expr) -> Option<Expr> {
    let exponent = |side: &Expr| match side {
        Expr::Power(base, exponent)
            if base.symbols().is_empty() && !exponent.symbols().is_empty() =>
        {
            (judge.sign(base)? == Ordering::Greater)
                .then(|| (**exponent).clone().times(logarithm(&Expr::Euler, base)))
        }
        _ => None,
    };
    Some(exponent(left)?.minus(exponent(right)?))
}

/// Returns the zero of a line with this slope and constant.
fn root_of(slope: Expr, constant: Expr) -> Expr {
    match constant_rational(&slope).and_then(|slope| Rational::integer(-1).divide(&slope)) {
        Some(factor) if factor.is_one() => constant,
        Some(factor) => constant_rational(&constant)
            .and_then(|constant| constant.multiply(&factor))
            .map_or_else(
                || Expr::Number(factor.clone()).times(constant.clone()),
                Expr::Number,
            ),
        None => constant.negate().over(slope),
    }
}

fn replaced(formula: &Expr, whole: &Expr) -> Expr {
    if formula == whole {
        Expr::Symbol(VALUE.into())
    } else {
        formula.map(&mut |child| replaced(child, whole))
    }
}

/// Returns the logarithm of `value` to `base`, as a whole number where it is one of at most
/// `WHOLE_MAX`.
fn logarithm(base: &Expr, value: &Expr) -> Expr {
    let whole = || {
        let (base, value) = (constant_rational(base)?, constant_rational(value)?);
        let mut power = Rational::integer(1);
        for exponent in 0..=WHOLE_MAX {
            if power == value {
                return Some(exponent);
            }
            if power.multiply(&value)?.is_one() {
                return Some(-exponent);
            }
            power = power.multiply(&base)?;
        }
        None
    };
    match (whole(), base) {
        (Some(whole), _) => Expr::integer(whole),
        (None, Expr::Euler) => Expr::call(Function::Ln, value.clone()),
        (None, base) => Expr::Call(Function::Log, vec![base.clone(), value.clone()]),
    }
}
