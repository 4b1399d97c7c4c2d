//! Vectors by i, j, k: `2\mathbf{i} - \mathbf{j}` as `\langle 2, -1 \rangle`.

use crate::expression::Expr;
use crate::token::Bracket;

/// What [`crate::commands`] calls the unit vectors.
pub(crate) const UNITS: [&str; 3] = ["unit i", "unit j", "unit k"];

/// A reference and an answer with what they say by i, j, k as tuples, where one of them is a
/// vector; else with i, j, k as letters.
pub(crate) fn resolved(r: Expr, a: Expr) -> (Expr, Expr) {
    let units = |expr: &Expr| {
        expr.any(&|e| matches!(e, Expr::Symbol(name) if UNITS.contains(&name.as_str())))
    };
    let in_letters = (is_vector(&r) && by_letters(&a)) || (is_vector(&a) && by_letters(&r));
    if !(units(&r) || units(&a) || in_letters) {
        return (r, a);
    }
    let has = |index: usize| {
        let named = |expr: &Expr| expr.any(&|e| axis(e) == Some(index));
        named(&r) || named(&a)
    };
    // `3 + 4\mathbf{i}` is a complex number.
    if !has(1) && !has(2) && !is_vector(&r) && !is_vector(&a) {
        return (lettered(&r), lettered(&a));
    }
    let three = has(2)
        || [&r, &a].into_iter().any(|expr| {
            expr.any(&|e| matches!(e, Expr::Tuple(_, _, parts) if parts.len() == 3))
                || rows(expr) == Some(3)
        });
    let length = if three { 3 } else { 2 };
    let column = rows(&r).is_some() || rows(&a).is_some();
    (vector(&r, length, column), vector(&a, length, column))
}

/// Whether something is given as a tuple or a column somewhere in it.
fn is_vector(expr: &Expr) -> bool {
    rows(expr).is_some()
        || expr.any(&|e| matches!(e, Expr::Tuple(_, _, parts) if matches!(parts.len(), 2 | 3)))
}

/// Rows of a column.
fn rows(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Matrix(rows) if rows.iter().all(|row| row.len() == 1) => Some(rows.len()),
        Expr::Relations(sides, _) => sides.last().and_then(rows),
        _ => None,
    }
}

/// `2i - j` without fonts: j is among its letters, and nothing but multiples of i, j, k in it.
fn by_letters(expr: &Expr) -> bool {
    match expr {
        Expr::Relations(sides, _) => sides.last().is_some_and(by_letters),
        expr => expr.is_scalar() && expr.any(&|e| axis(e) == Some(1)) && components(expr).is_some(),
    }
}

/// Returns which of i, j, k a formula is; `None` for any other.
fn axis(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Imaginary => Some(0),
        Expr::Symbol(name) => match name.as_str() {
            "j" => Some(1),
            "k" => Some(2),
            name => UNITS.iter().position(|unit| *unit == name),
        },
        _ => None,
    }
}

fn vector(expr: &Expr, length: usize, column: bool) -> Expr {
    if !expr.any(&|e| axis(e).is_some()) {
        return expr.clone();
    }
    if !expr.is_scalar() {
        return expr.map(&mut |child| vector(child, length, column));
    }
    match components(expr) {
        Some(parts) if column => Expr::Matrix(
            parts
                .into_iter()
                .take(length)
                .map(|part| vec![part])
                .collect(),
        ),
        Some(parts) => Expr::Tuple(
            Bracket::Angle,
            Bracket::Angle,
            parts.into_iter().take(length).collect(),
        ),
        None => lettered(expr),
    }
}

/// Returns the formula with i, j, k as letters again.
fn lettered(expr: &Expr) -> Expr {
    match expr {
        Expr::Symbol(name) => match UNITS.iter().position(|unit| unit == name) {
            Some(0) => Expr::Imaginary,
            Some(1) => Expr::Symbol("j".into()),
            Some(_) => Expr::Symbol("k".into()),
            None => expr.clone(),
        },
        other => other.map(&mut lettered),
    }
}

/// What a sum of multiples of i, j, k has of each; `None` for anything else.
fn components(expr: &Expr) -> Option<[Expr; 3]> {
    let zero = || Expr::integer(0);
    if let Some(own) = axis(expr) {
        let mut parts = [zero(), zero(), zero()];
        *parts.get_mut(own)? = Expr::integer(1);
        return Some(parts);
    }
    let scaled = |parts: [Expr; 3], by: &dyn Fn(Expr) -> Expr| {
        parts.map(|part| if part == zero() { part } else { by(part) })
    };
    match expr {
        Expr::Sum(terms) => {
            let mut sums: [Vec<Expr>; 3] = Default::default();
            for term in terms {
                for (sum, part) in sums.iter_mut().zip(components(term)?) {
                    sum.extend(Some(part).filter(|part| *part != zero()));
                }
            }
            Some(sums.map(|mut sum| match sum.len() {
                0 => zero(),
                1 => sum.remove(0),
                _ => Expr::Sum(sum),
            }))
        }
        Expr::Product(factors) => {
            let (vectors, scalars): (Vec<&Expr>, Vec<&Expr>) = factors
                .iter()
                .partition(|factor| factor.any(&|e| axis(e).is_some()));
            let [only] = vectors.as_slice() else {
                return None;
            };
            let scalars: Vec<Expr> = scalars.into_iter().cloned().collect();
            Some(scaled(components(only)?, &|part| {
                Expr::Product(scalars.iter().cloned().chain([part]).collect())
            }))
        }
        Expr::Quotient(above, below) if !below.any(&|e| axis(e).is_some()) => {
            Some(scaled(components(above)?, &|part| {
                part.over((**below).clone())
            }))
        }
        _ => None,
    }
}
