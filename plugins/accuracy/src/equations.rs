//! Equations and inequalities: `x = 5` as the answer 5, `y = 2x + 1` as the line `2x − y + 1 = 0`.

use crate::applications::is_value;
use crate::comparison::{Comparison, Verdict};
use crate::expression::{Expr, Function};
use crate::inverse::{of_powers, unrooted};
use crate::token::Relation;
use std::cmp::Ordering;

/// Whether an expression only names something: `x`, `AB`, `f(x)`, `P(A)`, `|AB|`, `S_1 : S_2`,
/// `(x, y)`.
fn names(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) | Expr::Text(_) => true,
        Expr::Product(factors) => match factors.split_first() {
            // `(f \circ g)(x)`
            Some((product @ Expr::Product(_), [_])) => names(product),
            Some((Expr::Degrees(outer), rest)) => names(outer) && rest.iter().all(names),
            Some((Expr::Power(f, inverse), [_])) => {
                matches!(**f, Expr::Symbol(_)) && **inverse == Expr::integer(-1)
            }
            Some((Expr::Symbol(_) | Expr::Euler, rest)) => rest.iter().all(|factor| {
                names(factor)
                    || matches!(
                        factor,
                        Expr::Number(_)
                            | Expr::Tuple(..)
                            | Expr::Relations(..)
                            | Expr::Sum(_)
                            | Expr::Euler
                            | Expr::Imaginary
                    )
            }),
            _ => false,
        },
        Expr::Call(Function::Absolute, inner) => inner.iter().all(names),
        Expr::Call(_, arguments) => arguments
            .iter()
            .all(|argument| names(argument) || argument.symbols().len() == 1),
        Expr::Quotient(a, b) => names(a) && names(b),
        Expr::Ratio(parts) | Expr::Tuple(_, _, parts) => parts.iter().all(names),
        Expr::Power(base, exponent) => {
            names(base) && matches!(**exponent, Expr::Number(_)) && matches!(**base, Expr::Call(..))
        }
        Expr::Degrees(inner) => names(inner),
        Expr::Union(a, b) | Expr::Intersection(a, b) | Expr::Without(a, b) => names(a) && names(b),
        // `f(x) + g(x)`, not `x + y`.
        Expr::Sum(terms) => terms.iter().all(is_application),
        _ => false,
    }
}

/// `f(x)`, `-g(x)`, `P(A)`: a function's name and what it is applied to.
fn is_application(expr: &Expr) -> bool {
    const FUNCTIONS: [&str; 9] = ["f", "g", "h", "F", "G", "H", "P", "E", "n"];
    let value = |expr: &Expr| matches!(expr, Expr::Symbol(name) if is_value(name));
    if value(expr) {
        return true;
    }
    let Expr::Product(factors) = expr else {
        return false;
    };
    let factors = factors
        .strip_prefix(&[Expr::integer(-1)])
        .unwrap_or(factors);
    match factors {
        [only] if value(only) => true,
        [Expr::Symbol(name), _] => FUNCTIONS.contains(&name.trim_end_matches('\'')),
        [inner @ Expr::Product(_)] => is_application(inner),
        _ => false,
    }
}

/// Whether an expression asks for a value: no numbers in it but exponents and arguments. `x + y`,
/// `a^2 b`, not `2x`.
fn asks(expr: &Expr) -> bool {
    match expr {
        Expr::Sum(all) | Expr::Product(all) => {
            all.iter()
                .all(|item| asks(item) || *item == Expr::integer(-1))
                && !expr.symbols().is_empty()
        }
        Expr::Quotient(a, b) => asks(a) && asks(b),
        Expr::Power(base, _) => asks(base),
        Expr::Root(inner, _) => asks(inner),
        Expr::Call(_, arguments) => arguments
            .iter()
            .any(|argument| !argument.symbols().is_empty()),
        other => names(other),
    }
}

/// What an equation gives for what it names: the last exact side of `x = 5 + 6 = 11 \approx 11.0`.
/// As an answer an equation may also give the value of a formula (`x + y = 5`); as a reference it
/// then stands for itself.
pub(crate) fn assigned<'e>(
    judge: &Comparison,
    sides: &'e [Expr],
    relations: &[Relation],
    as_answer: bool,
) -> Option<&'e Expr> {
    if !relations
        .iter()
        .all(|relation| matches!(relation, Relation::Equal | Relation::Approximately))
    {
        return None;
    }
    let first = sides.first()?;
    // `A - B = \{1\}` gives a set.
    let named =
        names(first) || ((as_answer || matches!(sides.last(), Some(Expr::Set(_)))) && asks(first));
    // `2/3 \approx 0.67` is 2/3, `x \approx 0.67` is 0.67.
    let exact = relations
        .iter()
        .rposition(|relation| *relation == Relation::Equal)
        .map_or(if named { 1 } else { 0 }, |at| at + 1);
    let last = sides.get(exact)?;
    if named {
        return Some(last);
    }
    // `9 + 9 = 18`: true, and its value.
    let constant = sides
        .iter()
        .all(|side| side.is_scalar() && side.symbols().is_empty());
    let holds = constant
        && sides.iter().zip(relations).all(|(side, relation)| {
            *relation == Relation::Approximately || judge.equal(side, last) == Verdict::Equal
        });
    holds.then_some(last)
}

/// What an equation names.
pub(crate) fn name(sides: &[Expr]) -> Option<&Expr> {
    sides.first().filter(|first| names(first))
}

/// Whether two names may mean the same: `x_1` among the values of `x`.
pub(crate) fn same_name(a: &Expr, b: &Expr) -> bool {
    let indexed = |name: &Expr, other: &Expr| match (name, other) {
        (Expr::Symbol(name), Expr::Symbol(other)) => {
            name.split_once('_').is_some_and(|(stem, _)| stem == other)
        }
        _ => false,
    };
    a == b || indexed(a, b) || indexed(b, a)
}

/// Whether two single relations hold for the same values: their differences are proportional, or
/// solving for one variable gives the same function.
pub(crate) fn equivalent(
    judge: &Comparison,
    a: (&Expr, Relation, &Expr),
    b: (&Expr, Relation, &Expr),
) -> Verdict {
    let (left, right) = (
        a.0.clone().minus(a.2.clone()),
        b.0.clone().minus(b.2.clone()),
    );
    let as_written = || proportional(judge, (&left, a.1), (&right, b.1));
    let equation = |relation: Relation| matches!(relation, Relation::Equal | Relation::NotEqual);
    if !equation(a.1) || !equation(b.1) {
        return as_written();
    }
    let powers = |(left, _, right): (&Expr, Relation, &Expr)| of_powers(judge, left, right);
    let undone = (
        plain(judge, powers(a).unwrap_or(left.clone())),
        plain(judge, powers(b).unwrap_or(right.clone())),
    );
    // What is undone is looked at first: it is the cheaper one.
    if undone != (left.clone(), right.clone())
        && proportional(judge, (&undone.0, a.1), (&undone.1, b.1)) == Verdict::Equal
    {
        return Verdict::Equal;
    }
    as_written()
}

/// Whether two formulas that are compared with zero hold for the same values.
fn proportional(
    judge: &Comparison,
    (left, a): (&Expr, Relation),
    (right, b): (&Expr, Relation),
) -> Verdict {
    let names = |expr: &Expr| {
        let mut names = expr.symbols();
        names.sort();
        names
    };
    if !left.is_scalar() || !right.is_scalar() || names(left) != names(right) {
        return Verdict::Different;
    }
    let positive = if a == b {
        true
    } else if a == b.mirrored() {
        false
    } else {
        return Verdict::Different;
    };
    let symmetric = matches!(
        a,
        Relation::Equal | Relation::NotEqual | Relation::Approximately
    );
    let mut undecided = false;
    for seed in 0..3i64 {
        // Both at one point: if one is a multiple of the other, it is by this factor.
        let at = |name: &str| Some(Expr::integer(point(name, seed)).over(Expr::integer(8)));
        let (x, y) = (left.substitute(&at), right.substitute(&at));
        let (Some(sign_x), Some(sign_y)) = (judge.sign(&x), judge.sign(&y)) else {
            continue;
        };
        if sign_x == Ordering::Equal || sign_y == Ordering::Equal {
            if sign_x != sign_y {
                return Verdict::Different;
            }
            continue;
        }
        if !symmetric && (sign_x == sign_y) != positive {
            return Verdict::Different;
        }
        match judge.equal(&left.clone().times(y), &right.clone().times(x)) {
            Verdict::Equal => return Verdict::Equal,
            Verdict::Undecided => undecided = true,
            Verdict::Different => {}
        }
        break;
    }
    if !symmetric {
        return if undecided {
            Verdict::Undecided
        } else {
            Verdict::Different
        };
    }
    for variable in left.symbols() {
        let (Some(x), Some(y)) = (
            solved(judge, left, &variable),
            solved(judge, right, &variable),
        ) else {
            continue;
        };
        match judge.equal(&x, &y) {
            Verdict::Undecided => undecided = true,
            decided => return decided,
        }
    }
    if undecided {
        Verdict::Undecided
    } else {
        Verdict::Different
    }
}

/// Undoes what hides a formula's variables: `\sqrt{x^2 + y^2} - 5` becomes `x^2 + y^2 - 25`, which
/// is zero at the same points.
fn plain(judge: &Comparison, mut expr: Expr) -> Expr {
    const STEPS_MAX: usize = 2;
    for _ in 0..STEPS_MAX {
        if !expr.is_scalar() {
            break;
        }
        let Some(undone) = unrooted(judge, &expr) else {
            break;
        };
        expr = undone;
    }
    expr
}

/// The value of the variable at which an expression that is linear in it vanishes.
fn solved(judge: &Comparison, expr: &Expr, variable: &str) -> Option<Expr> {
    if !expr.symbols().iter().any(|name| name == variable) || expr.symbols().len() < 2 {
        return None;
    }
    let at = |value: i64| expr.substitute(&|name| (name == variable).then(|| Expr::integer(value)));
    let constant = at(0);
    // A product that vanishes also vanishes with its other factors.
    if judge.equal(&constant, &Expr::integer(0)) != Verdict::Different {
        return None;
    }
    let slope = at(1).minus(constant.clone());
    let line = slope.clone().times(Expr::Symbol(variable.to_string()));
    (judge.equal(expr, &Expr::Sum(vec![line, constant.clone()])) == Verdict::Equal)
        .then(|| constant.negate().over(slope))
}

/// Returns an odd number of eighths for each variable.
fn point(name: &str, seed: i64) -> i64 {
    let sum: i64 = name.bytes().map(i64::from).sum();
    2 * ((sum * 7 + seed * 29) % 40) + 11
}
