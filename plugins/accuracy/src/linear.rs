//! Formulas that are linear in a letter.

use crate::comparison::{Comparison, Verdict};
use crate::expression::Expr;

/// Slope and constant of a formula that is linear in the variable.
pub(crate) fn linear(judge: &Comparison, expr: &Expr, variable: &str) -> Option<(Expr, Expr)> {
    if !expr.is_scalar() {
        return None;
    }
    if let Some(found) = as_written(expr, variable) {
        return Some(found);
    }
    let at = |value: i64| expr.substitute(&|name| (name == variable).then(|| Expr::integer(value)));
    let constant = at(0);
    let slope = at(1).minus(constant.clone());
    let line = slope.clone().times(Expr::Symbol(variable.to_string()));
    (judge.equal(expr, &Expr::Sum(vec![line, constant.clone()])) == Verdict::Equal)
        .then_some((slope, constant))
}

/// Reads slope and constant off a sum of multiples as it is written, which costs nothing.
fn as_written(expr: &Expr, variable: &str) -> Option<(Expr, Expr)> {
    let free = |expr: &Expr| !expr.any(&|e| matches!(e, Expr::Symbol(name) if name == variable));
    let zero = || Expr::integer(0);
    if free(expr) {
        return Some((zero(), expr.clone()));
    }
    match expr {
        Expr::Symbol(_) => Some((Expr::integer(1), zero())),
        Expr::Sum(terms) => {
            let parts = terms
                .iter()
                .map(|term| as_written(term, variable))
                .collect::<Option<Vec<(Expr, Expr)>>>()?;
            let (slopes, constants): (Vec<Expr>, Vec<Expr>) = parts.into_iter().unzip();
            Some((sum(slopes), sum(constants)))
        }
        Expr::Product(factors) => {
            let (with, without): (Vec<&Expr>, Vec<&Expr>) =
                factors.iter().partition(|factor| !free(factor));
            let [only] = with.as_slice() else { return None };
            let (slope, constant) = as_written(only, variable)?;
            let scaled = |value: Expr| {
                let factors = without.iter().map(|factor| (*factor).clone());
                if value == zero() {
                    value
                } else {
                    Expr::Product(factors.chain([value]).collect())
                }
            };
            Some((scaled(slope), scaled(constant)))
        }
        Expr::Quotient(above, below) if free(below) => {
            let (slope, constant) = as_written(above, variable)?;
            Some((
                slope.over((**below).clone()),
                if constant == zero() {
                    constant
                } else {
                    constant.over((**below).clone())
                },
            ))
        }
        _ => None,
    }
}

fn sum(mut terms: Vec<Expr>) -> Expr {
    terms.retain(|term| *term != Expr::integer(0));
    match terms.len() {
        0 => Expr::integer(0),
        1 => terms.remove(0),
        _ => Expr::Sum(terms),
    }
}
