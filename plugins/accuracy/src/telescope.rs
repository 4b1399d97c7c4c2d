//! Sums of which all but a few terms cancel: `\sum_{k=1}^{n} \frac{1}{k(k+1)}`, finite and
//! infinite.

use crate::comparison::Comparison;
use crate::expression::Expr;
use crate::numeric::constant_rational;
use crate::polynomial::Fraction;
use reward_sdk::rational::Rational;

/// The largest distance of two poles: as many terms are left at either end.
const APART_MAX: i64 = 32;

/// The sum of a rational function of the index from `low` to `high`, in closed form: of its simple
/// fractions those whose poles are whole numbers apart cancel, where their coefficients sum to
/// zero. `None` where they do not.
pub(crate) fn closed(
    judge: &Comparison,
    body: &Expr,
    index: &str,
    low: &Expr,
    high: &Expr,
) -> Option<Expr> {
    let low = constant_rational(low).filter(|low| low.denominator() == &1.into())?;
    let mut parts = Fraction::of(body, index)?.simple_parts(judge)?;
    // No value where the sum runs over a pole.
    let met = |pole: &Rational| pole.denominator() == &1.into() && *pole >= low;
    if parts.is_empty() || parts.iter().any(|(pole, _)| met(pole)) {
        return None;
    }
    let infinite = *high == Expr::Infinity;
    let mut terms = Vec::new();
    while let Some((pole, coefficient)) = parts.pop() {
        let mut family = vec![(0i64, coefficient)];
        let mut others = Vec::new();
        for (other, coefficient) in parts {
            let apart = pole.subtract(&other)?;
            if apart.denominator() == &1.into() {
                family.push((
                    apart.to_i64().filter(|apart| apart.abs() <= APART_MAX)?,
                    coefficient,
                ));
            } else {
                others.push((other, coefficient));
            }
        }
        parts = others;
        let total = family
            .iter()
            .try_fold(Rational::integer(0), |total, (_, coefficient)| {
                total.add(coefficient)
            })?;
        total.is_zero().then_some(())?;
        // Each counted from the one that lies farthest to the right.
        let least = family.iter().map(|(apart, _)| *apart).min()?;
        let pole = pole.subtract(&Rational::integer(least))?;
        for (apart, coefficient) in &family {
            for step in 0..apart - least {
                // − c / (low + step − pole), + c / (high + step + 1 − pole)
                let below = low.add(&Rational::integer(step))?.subtract(&pole)?;
                terms.push(Expr::Number(coefficient.divide(&below)?.negate()));
                if !infinite {
                    let shift = Rational::integer(step + 1).subtract(&pole)?;
                    let below = Expr::Sum(vec![high.clone(), Expr::Number(shift)]);
                    terms.push(Expr::Number(coefficient.clone()).over(below));
                }
            }
        }
    }
    let sum = Expr::Sum(terms);
    Some(constant_rational(&sum).map_or(sum, Expr::Number))
}
