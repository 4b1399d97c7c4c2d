//! Families that run through the integers, written otherwise: one as several with a longer period,
//! two signs as (−1)^k, intervals that are moved by a period.

use crate::compare::Compare;
use crate::comparison::{Comparison, Verdict};
use crate::expression::{Expr, Joined};
use crate::linear::linear;
use crate::numeric::constant_rational;
use crate::token::{Bracket, Relation};
use reward_sdk::rational::Rational;

/// The most members of one family within the longest period.
const MEMBERS_MAX: usize = 12;

/// The most periods that two members may be apart.
pub(crate) const PERIODS_MAX: i64 = 1_000_000;

/// Points or intervals, one each period.
#[derive(Clone)]
struct Part {
    brackets: Option<(Bracket, Bracket)>,
    step: Expr,
    /// The point, or both ends.
    ends: Vec<Expr>,
}

impl Compare<'_> {
    /// Whether two families are the same points or intervals.
    pub(crate) fn periodic(&self, r: &Expr, a: &Expr, parameter: &str) -> Verdict {
        let same = || {
            let (r, a) = (
                parts(self.judge, r, parameter)?,
                parts(self.judge, a, parameter)?,
            );
            let unit = r.first()?.step.clone();
            let ratios = r
                .iter()
                .chain(&a)
                .map(|part| ratio(self.judge, &part.step, &unit))
                .collect::<Option<Vec<_>>>()?;
            let period = ratios
                .iter()
                .try_fold(Rational::integer(1), |period, ratio| {
                    least_common_multiple(&period, ratio)
                })?;
            let whole = Expr::Number(period.clone()).times(unit);
            let (first, second) = ratios.split_at_checked(r.len())?;
            let (r, a) = (spread(r, first, &period)?, spread(a, second, &period)?);
            let covered = |xs: &[Part], ys: &[Part]| {
                xs.iter()
                    .all(|x| ys.iter().any(|y| apart(self.judge, x, y, &whole).is_some()))
            };
            Some(covered(&r, &a) && covered(&a, &r))
        };
        Verdict::of(same() == Some(true))
    }
}

/// The letters of what an answer gives, without the names of what it gives them for.
pub(crate) fn letters(expr: &Expr) -> Vec<String> {
    let mut found = expr.symbols();
    fn names(expr: &Expr, found: &mut Vec<String>) {
        if let Expr::Relations(sides, _) = expr {
            sides.iter().for_each(|side| {
                if let Expr::Symbol(name) = side {
                    found.retain(|other| other != name);
                }
            });
        }
        expr.children()
            .into_iter()
            .for_each(|child| names(child, found));
    }
    names(expr, &mut found);
    found
}

/// What a family is made of; `None` where it is something else.
fn parts(judge: &Comparison, expr: &Expr, parameter: &str) -> Option<Vec<Part>> {
    let several = |items: &[Expr]| {
        let found = items
            .iter()
            .map(|item| parts(judge, item, parameter))
            .collect::<Option<Vec<_>>>()?;
        Some(found.concat()).filter(|found| found.len() <= MEMBERS_MAX)
    };
    let interval = |brackets: (Bracket, Bracket), low: &Expr, high: &Expr| {
        let ((step, low), (other, high)) = (
            linear(judge, low, parameter)?,
            linear(judge, high, parameter)?,
        );
        let moves = judge.equal(&step, &other) == Verdict::Equal
            && judge.equal(&step, &Expr::integer(0)) == Verdict::Different;
        moves.then(|| {
            vec![Part {
                brackets: Some(brackets),
                step,
                ends: vec![low, high],
            }]
        })
    };
    match expr {
        // What is to hold together is no list of solutions.
        Expr::List(Joined::And, items)
            if items.iter().any(|item| {
                matches!(item,
                    Expr::Relations(_, relations) if !matches!(relations.as_slice(),
                    [Relation::Equal]))
            }) =>
        {
            None
        }
        Expr::List(_, items) | Expr::Set(items) => several(items),
        Expr::Union(a, b) => several(&[(**a).clone(), (**b).clone()]),
        Expr::Relations(sides, relations) => match (sides.as_slice(), relations.as_slice()) {
            ([Expr::Symbol(_), value], [Relation::Equal | Relation::Member]) => {
                parts(judge, value, parameter)
            }
            (
                [low, Expr::Symbol(name), high],
                [
                    left @ (Relation::Less | Relation::LessOrEqual),
                    right @ (Relation::Less | Relation::LessOrEqual),
                ],
            ) if name != parameter => {
                let bracket = |relation: &Relation| {
                    if *relation == Relation::Less {
                        Bracket::Round
                    } else {
                        Bracket::Square
                    }
                };
                interval((bracket(left), bracket(right)), low, high)
            }
            _ => None,
        },
        Expr::Tuple(
            open @ (Bracket::Round | Bracket::Square),
            close @ (Bracket::Round | Bracket::Square),
            ends,
        ) => match ends.as_slice() {
            [low, high] => interval((*open, *close), low, high),
            _ => None,
        },
        value if value.has_plus_minus() => several(&[value.signed(true), value.signed(false)]),
        value if value.any(&|e| alternates(e, parameter)) => several(&[
            of_parity(value, parameter, 0)?,
            of_parity(value, parameter, 1)?,
        ]),
        value if value.is_scalar() => {
            let (step, start) = linear(judge, value, parameter)?;
            let moves = judge.equal(&step, &Expr::integer(0)) == Verdict::Different;
            moves.then(|| {
                vec![Part {
                    brackets: None,
                    step,
                    ends: vec![start],
                }]
            })
        }
        _ => None,
    }
}

/// `(-1)^k`
fn alternates(expr: &Expr, parameter: &str) -> bool {
    matches!(expr, Expr::Power(base, exponent) if constant_rational(base)
        .is_some_and(|base| base == Rational::integer(-1)) && exponent.symbols() == [parameter])
}

/// Returns the formula with 2k or 2k + 1 for k, and with the signs that this gives.
fn of_parity(expr: &Expr, parameter: &str, parity: i64) -> Option<Expr> {
    let is = |name: &str| name == parameter;
    if let Expr::Power(_, exponent) = expr
        && alternates(expr, parameter)
    {
        let at = |value: i64| {
            constant_rational(&exponent.substitute(&|name| is(name).then(|| Expr::integer(value))))?
                .to_i64()
        };
        // The same for all even or all odd numbers: so it is for what grows by whole numbers.
        let (zero, one, two) = (at(0)?, at(1)?, at(2)?);
        (one - zero == two - one).then_some(())?;
        return Some(Expr::integer(
            if (if parity == 0 { zero } else { one }) % 2 == 0 {
                1
            } else {
                -1
            },
        ));
    }
    if let Expr::Symbol(name) = expr
        && is(name)
    {
        return Some(Expr::Sum(vec![
            Expr::integer(2).times(expr.clone()),
            Expr::integer(parity),
        ]));
    }
    let mut complete = true;
    let found = expr.map(&mut |child| {
        of_parity(child, parameter, parity).unwrap_or_else(|| {
            complete = false;
            child.clone()
        })
    });
    complete.then_some(found)
}

/// Returns the absolute ratio of one step to another; `None` unless it is a rational number other
/// than zero.
fn ratio(judge: &Comparison, step: &Expr, unit: &Expr) -> Option<Rational> {
    let found = judge
        .value_at_a_point(&step.clone().over(unit.clone()))
        .filter(|found| !found.is_zero())?;
    let equal =
        judge.equal(step, &Expr::Number(found.clone()).times(unit.clone())) == Verdict::Equal;
    equal.then(|| found.absolute())
}

fn least_common_multiple(a: &Rational, b: &Rational) -> Option<Rational> {
    (1..=MEMBERS_MAX as i64)
        .filter_map(|times| a.multiply(&Rational::integer(times)))
        .find(|multiple| {
            multiple
                .divide(b)
                .is_some_and(|times| times.to_i64().is_some())
        })
}

/// All members within a period.
fn spread(parts: Vec<Part>, ratios: &[Rational], period: &Rational) -> Option<Vec<Part>> {
    let mut found = Vec::new();
    for (part, ratio) in parts.into_iter().zip(ratios) {
        let count = period.divide(ratio)?.to_i64()?;
        for at in 0..count {
            let moved = |end: &Expr| {
                Expr::Sum(vec![
                    end.clone(),
                    Expr::integer(at).times(part.step.clone()),
                ])
            };
            found.push(Part {
                ends: part.ends.iter().map(moved).collect(),
                ..part.clone()
            });
        }
        if found.len() > 2 * MEMBERS_MAX {
            return None;
        }
    }
    Some(found)
}

/// How many periods two are apart.
fn apart(judge: &Comparison, x: &Part, y: &Part, period: &Expr) -> Option<i64> {
    (x.brackets == y.brackets && x.ends.len() == y.ends.len()).then_some(())?;
    let mut all = x.ends.iter().zip(&y.ends).map(|(x, y)| {
        let gap = x.clone().minus(y.clone());
        let periods = judge
            .value_at_a_point(&gap.clone().over(period.clone()))?
            .to_i64()
            .filter(|periods| periods.abs() <= PERIODS_MAX)?;
        (judge.equal(&gap, &Expr::integer(periods).times(period.clone())) == Verdict::Equal)
            .then_some(periods)
    });
    let first = all.next()??;
    all.all(|other| other == Some(first)).then_some(first)
}
