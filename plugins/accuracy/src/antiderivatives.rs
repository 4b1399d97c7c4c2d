//! Antiderivatives, `\frac{x^3}{3} + C`: their constant may have another name, and another value.

use crate::comparison::{Comparison, Verdict};
use crate::expression::Expr;
use crate::token::Relation;

/// Names of the constant in a reference.
const CONSTANTS: [&str; 5] = ["C", "C_1", "C_0", "C'", "c"];
/// Further names of the constant in an answer.
const OTHERS: [&str; 4] = ["c_1", "c_0", "K", "k"];
/// Variables of integration.
const VARIABLES: [&str; 10] = ["x", "t", "u", "y", "z", "s", "r", "v", "theta", "w"];

/// Returns the answer in the reference's formula, where both are antiderivatives of one function.
pub(crate) fn resolved(judge: &Comparison, r: &Expr, a: Expr) -> Expr {
    let same = || {
        let (whole, answer) = (value(r)?, value(&a)?);
        let ((own, constant), (other, named)) = (
            parts(whole, &CONSTANTS)?,
            parts(answer, &[&CONSTANTS[..], &OTHERS].concat())?,
        );
        let letters = own.symbols();
        let integrated = letters
            .iter()
            .any(|name| VARIABLES.contains(&name.as_str()));
        let capital = letters
            .iter()
            .any(|name| name.starts_with(|c: char| c.is_ascii_uppercase()));
        let free = !letters.contains(&named) && !other.symbols().contains(&constant);
        // A reference's `c` may be a letter of the question.
        let meant = constant != "c" || named.starts_with(['c', 'C']);
        (integrated && !capital && free && meant).then_some(())?;
        (judge.equal(&own, &other) == Verdict::Equal || differ_by_a_constant(judge, &own, &other))
            .then(|| whole.clone())
    };
    let Some(same) = same() else { return a };
    match a {
        Expr::Relations(mut sides, relations) => {
            sides.pop();
            sides.push(same);
            Expr::Relations(sides, relations)
        }
        _ => same,
    }
}

/// Returns a formula, or the last side of an equation.
fn value(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Relations(sides, relations)
            if relations
                .iter()
                .all(|relation| *relation == Relation::Equal) =>
        {
            sides.last()
        }
        other => Some(other),
    }
}

/// Returns a sum without its constant, and the constant's name.
fn parts(expr: &Expr, names: &[&str]) -> Option<(Expr, String)> {
    let Expr::Sum(terms) = expr else { return None };
    let is_constant =
        |term: &&Expr| matches!(term, Expr::Symbol(name) if names.contains(&name.as_str()));
    let (constants, mut rest): (Vec<&Expr>, Vec<&Expr>) = terms.iter().partition(is_constant);
    let [Expr::Symbol(name)] = constants.as_slice() else {
        return None;
    };
    let rest = if rest.len() == 1 {
        rest.remove(0).clone()
    } else {
        Expr::Sum(rest.into_iter().cloned().collect())
    };
    (rest.is_scalar() && !rest.symbols().contains(name)).then(|| (rest, name.clone()))
}

/// Whether two formulas of one letter are the same distance apart everywhere: what they are at one
/// point.
fn differ_by_a_constant(judge: &Comparison, own: &Expr, other: &Expr) -> bool {
    let letters = own.symbols();
    let [letter] = letters.as_slice() else {
        return false;
    };
    let apart = own.clone().minus(other.clone());
    let within = Expr::integer(1).over(Expr::integer(3));
    other.symbols() == letters
        && [Expr::integer(0), within, Expr::integer(3)]
            .into_iter()
            .any(|place| {
                let there = apart.substitute(&|name| (name == letter).then(|| place.clone()));
                judge.equal(&apart, &there) == Verdict::Equal
            })
}
