//! Inequalities in one variable → the set of reals that solves them. Absolute values by cases; then
//! linear ones with any constants, and rational functions with rational coefficients by the signs
//! between their roots ([`crate::polynomial`]); roots, powers and logarithms of the variable by
//! what they are the inverse of ([`crate::inverse`]).

use crate::comparison::Comparison;
use crate::expression::{Expr, Function, Joined, infinite};
use crate::inverse;
use crate::linear::linear;
use crate::polynomial::{Fraction, Zero};
use crate::real_set::{End, Piece, RealSet, UNBOUNDED};
use crate::token::{Bracket, Relation};
use std::cmp::Ordering;

/// The most absolute values of one inequality, each of which doubles the cases, and the most roots
/// and the like that are undone one after the other.
const STEPS_MAX: u32 = 3;

impl RealSet {
    /// The set that an expression stands for; `None` for what is no set of reals with constant
    /// ends.
    pub(crate) fn of(judge: &Comparison, expr: &Expr) -> Option<RealSet> {
        match expr {
            Expr::Reals => Some(RealSet::all()),
            Expr::Tuple(
                open @ (Bracket::Round | Bracket::Square),
                close @ (Bracket::Round | Bracket::Square),
                items,
            ) => {
                let [low, high] = items.as_slice() else {
                    return None;
                };
                let end = |value: &Expr, closed: bool, above: bool| -> Option<End> {
                    match infinite(value) {
                        Some(positive) => (positive == above).then_some(UNBOUNDED),
                        None => (value.is_scalar() && value.symbols().is_empty()).then(|| End {
                            value: Some(value.clone()),
                            closed,
                        }),
                    }
                };
                let piece = Piece {
                    low: end(low, *open == Bracket::Square, false)?,
                    high: end(high, *close == Bracket::Square, true)?,
                };
                piece.holds_something(judge)?.then(|| RealSet {
                    pieces: vec![piece],
                })
            }
            Expr::Set(items) => {
                let mut set = RealSet { pieces: Vec::new() };
                for item in items {
                    if !item.is_scalar()
                        || !item.symbols().is_empty()
                        || infinite(item).is_some()
                        || item.has_plus_minus()
                    {
                        return None;
                    }
                    set.pieces.extend(RealSet::point(item.clone()).pieces);
                }
                set.ordered(judge)
            }
            Expr::Union(a, b) => RealSet::of(judge, a)?.union(RealSet::of(judge, b)?, judge),
            Expr::Intersection(a, b) => {
                RealSet::of(judge, a)?.intersection(&RealSet::of(judge, b)?, judge)
            }
            Expr::Without(a, b) => RealSet::of(judge, a)?.without(&RealSet::of(judge, b)?, judge),
            Expr::Relations(sides, relations) => {
                solutions(judge, sides, relations).map(|(_, set)| set)
            }
            Expr::List(joined, items) => {
                let conditions = items.iter().all(|item| matches!(item, Expr::Relations(..)));
                let inequality = items.iter().any(|item| {
                    matches!(item, Expr::Relations(_, relations) if relations.iter()
                        .any(is_order))
                });
                if !conditions || !inequality {
                    return None;
                }
                let sets = items
                    .iter()
                    .map(|item| RealSet::of(judge, item))
                    .collect::<Option<Vec<RealSet>>>()?;
                let mut names = items.iter().map(subject);
                let first = names.next()?;
                names.all(|name| name == first).then_some(())?;
                if *joined != Joined::Or {
                    let mut all = RealSet::all();
                    for set in &sets {
                        all = all.intersection(set, judge)?;
                    }
                    // `x < 1, x > 2` can only mean either of them; with an `and` it is not known
                    // what is meant.
                    if !all.pieces.is_empty() {
                        return Some(all);
                    }
                    if *joined == Joined::And {
                        return None;
                    }
                }
                sets.into_iter()
                    .try_fold(RealSet::nothing(), |all, set| all.union(set, judge))
            }
            _ => None,
        }
    }
}

fn is_order(relation: &Relation) -> bool {
    !matches!(relation, Relation::Equal | Relation::Approximately)
}

/// What a condition is about: its only variable, or the formula that stands against constants.
pub(crate) fn subject(expr: &Expr) -> Option<Expr> {
    let Expr::Relations(sides, _) = expr else {
        return None;
    };
    if let [name] = expr.symbols().as_slice() {
        return Some(Expr::Symbol(name.clone()));
    }
    let mut open = sides.iter().filter(|side| !side.symbols().is_empty());
    let found = open.next()?;
    open.next().is_none().then(|| found.clone())
}

/// Returns the real solutions of a chain of relations about one thing, and that thing.
fn solutions(
    judge: &Comparison,
    sides: &[Expr],
    relations: &[Relation],
) -> Option<(Expr, RealSet)> {
    if let ([variable, set], [Relation::Member]) = (sides, relations) {
        return Some((variable.clone(), RealSet::of(judge, set)?));
    }
    let whole = Expr::Relations(sides.to_vec(), relations.to_vec());
    let variable = subject(&whole)?;
    let mut set = RealSet::all();
    for (pair, relation) in sides.windows(2).zip(relations) {
        let [left, right] = pair else { return None };
        set = set.intersection(&solution(judge, left, *relation, right, &variable)?, judge)?;
    }
    Some((variable, set))
}

fn solution(
    judge: &Comparison,
    left: &Expr,
    relation: Relation,
    right: &Expr,
    variable: &Expr,
) -> Option<RealSet> {
    let constant = |side: &Expr| side.is_scalar() && side.symbols().is_empty();
    if left == variable && constant(right) {
        return half_line(relation, right.clone());
    }
    if right == variable && constant(left) {
        return half_line(relation.mirrored(), left.clone());
    }
    let Expr::Symbol(name) = variable else {
        return None;
    };
    let difference = left.clone().minus(right.clone());
    if difference.is_scalar() {
        compared_with_zero(judge, &difference, relation, name, STEPS_MAX)
    } else {
        None
    }
}

/// Solves the comparison of a formula of one variable with zero.
fn compared_with_zero(
    judge: &Comparison,
    formula: &Expr,
    relation: Relation,
    variable: &str,
    steps: u32,
) -> Option<RealSet> {
    if matches!(relation, Relation::Approximately | Relation::Member) {
        return None;
    }
    if let Some(inner) = absolute(formula) {
        let steps = steps.checked_sub(1)?;
        let case = |sign: Relation, value: Expr| {
            let here = compared_with_zero(judge, inner, sign, variable, steps)?;
            here.intersection(
                &compared_with_zero(
                    judge,
                    &replaced(formula, inner, &value),
                    relation,
                    variable,
                    steps,
                )?,
                judge,
            )
        };
        let above = case(Relation::GreaterOrEqual, inner.clone())?;
        return above.union(case(Relation::Less, inner.clone().negate())?, judge);
    }
    if let Some(fraction) = Fraction::of(formula, variable)
        && let Some(zeros) = fraction.zeros(judge)
    {
        return between(judge, zeros, relation);
    }
    let solve = |formula: &Expr, relation: Relation, variable: &str, steps: u32| {
        compared_with_zero(judge, formula, relation, variable, steps)
    };
    if let Some(set) = inverse::solved(judge, formula, relation, variable, steps, &solve) {
        return Some(set);
    }
    let (slope, constant) = linear(judge, formula, variable)?;
    match judge.sign(&slope)? {
        Ordering::Equal => {
            let holds = holds(judge.sign(&constant)?, relation);
            Some(if holds {
                RealSet::all()
            } else {
                RealSet::nothing()
            })
        }
        sign => half_line(
            if sign == Ordering::Less {
                relation.mirrored()
            } else {
                relation
            },
            constant.negate().over(slope),
        ),
    }
}

/// The first absolute value in a formula that its variable is in.
fn absolute(formula: &Expr) -> Option<&Expr> {
    if let Expr::Call(Function::Absolute, arguments) = formula
        && let [inner] = arguments.as_slice()
        && !inner.symbols().is_empty()
        && absolute(inner).is_none()
    {
        return Some(inner);
    }
    formula.children().into_iter().find_map(absolute)
}

/// The formula with `|inner|` replaced.
fn replaced(formula: &Expr, inner: &Expr, value: &Expr) -> Expr {
    match formula {
        Expr::Call(Function::Absolute, arguments) if arguments.first() == Some(inner) => {
            value.clone()
        }
        other => other.map(&mut |child| replaced(child, inner, value)),
    }
}

fn holds(sign: Ordering, relation: Relation) -> bool {
    match relation {
        Relation::Less => sign == Ordering::Less,
        Relation::LessOrEqual => sign != Ordering::Greater,
        Relation::Greater => sign == Ordering::Greater,
        Relation::GreaterOrEqual => sign != Ordering::Less,
        Relation::Equal => sign == Ordering::Equal,
        Relation::NotEqual => sign != Ordering::Equal,
        Relation::Approximately | Relation::Member => false,
    }
}

/// Returns where a relation with zero holds, from the sign beyond the last zero (equal for what is
/// zero everywhere) and the zeros in order: the sign turns at each zero of odd order.
fn between(
    judge: &Comparison,
    (last_sign, zeros): (Ordering, Vec<Zero>),
    relation: Relation,
) -> Option<RealSet> {
    if last_sign == Ordering::Equal {
        return Some(if holds(last_sign, relation) {
            RealSet::all()
        } else {
            RealSet::nothing()
        });
    }
    let mut pieces = Vec::new();
    let mut sign = last_sign;
    let mut high = UNBOUNDED;
    for zero in zeros.into_iter().rev() {
        let end = End {
            value: Some(zero.at.clone()),
            closed: false,
        };
        if holds(sign, relation) {
            pieces.push(Piece {
                low: end.clone(),
                high,
            });
        }
        // At a pole it has no value.
        if !zero.pole && holds(Ordering::Equal, relation) {
            pieces.extend(RealSet::point(zero.at).pieces);
        }
        if zero.odd {
            sign = sign.reverse();
        }
        high = end;
    }
    if holds(sign, relation) {
        pieces.push(Piece {
            low: UNBOUNDED,
            high,
        });
    }
    pieces.reverse();
    RealSet { pieces }.ordered(judge)
}

fn half_line(relation: Relation, value: Expr) -> Option<RealSet> {
    if let Some(positive) = infinite(&value) {
        // `-\infty < x`
        let holds = match relation {
            Relation::Less | Relation::LessOrEqual => positive,
            Relation::Greater | Relation::GreaterOrEqual => !positive,
            _ => return None,
        };
        return holds.then(RealSet::all);
    }
    let end = |closed| End {
        value: Some(value.clone()),
        closed,
    };
    let piece = |low, high| RealSet {
        pieces: vec![Piece { low, high }],
    };
    Some(match relation {
        Relation::Less => piece(UNBOUNDED, end(false)),
        Relation::LessOrEqual => piece(UNBOUNDED, end(true)),
        Relation::Greater => piece(end(false), UNBOUNDED),
        Relation::GreaterOrEqual => piece(end(true), UNBOUNDED),
        Relation::Equal => RealSet::point(value),
        Relation::NotEqual => RealSet::point(value).complement(),
        Relation::Approximately | Relation::Member => return None,
    })
}
