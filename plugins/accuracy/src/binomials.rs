//! Binomials by the signs of schools: `C_5^2`, `C_n^k`, `{}_nC_k`, `C(n, k)`, and `A_n^2` for
//! choices in order.

use crate::expression::{Expr, Function};
use crate::token::Bracket;

/// `C_5^2`, the choices of 2 out of 5, and `A_5^2` or `P_5^2`, those in order; out of n too.
pub(crate) fn chosen(name: &Expr, count: &Expr) -> Option<Expr> {
    let Expr::Symbol(name) = name else {
        return None;
    };
    let (letter, of) = name.split_once('_')?;
    let whole = match count {
        Expr::Number(count) => Some(count.to_i64().filter(|count| *count >= 0)?),
        _ => None,
    };
    let of = match (of.parse::<i64>(), whole) {
        (Ok(of), Some(count)) => (count <= of).then(|| Expr::integer(of))?,
        // `C_1` is a constant.
        (Ok(of), None) => {
            (of > 2 && letter == "C" && is_count(count)).then(|| Expr::integer(of))?
        }
        (Err(_), _) => {
            (letter != "P" && (whole.is_some() || is_count(count))).then(|| indexed(of))??
        }
    };
    let factorial = |value: Expr| Expr::call(Function::Factorial, value);
    match letter {
        "C" => Some(Expr::Call(Function::Binomial, vec![of, count.clone()])),
        "A" | "P" => Some(factorial(of.clone()).over(factorial(of.minus(count.clone())))),
        _ => None,
    }
}

/// What stands below, `5`, `n`, `2n`, `n+1`: a number, or a sum of multiples of n and m.
pub(crate) fn indexed(index: &str) -> Option<Expr> {
    let mut terms = Vec::new();
    for term in index
        .split_inclusive(['+', '-'])
        .scan(false, |negative, part| {
            let own = *negative;
            *negative = part.ends_with('-');
            Some((own, part.trim_end_matches(['+', '-'])))
        })
    {
        let (negative, term) = term;
        let digits = term.trim_end_matches(['n', 'm']);
        let count = if digits.is_empty() {
            1
        } else {
            digits.parse::<i64>().ok()?
        };
        let mut factors = vec![Expr::integer(if negative { -count } else { count })];
        factors.extend(
            term.chars()
                .skip(digits.len())
                .map(|letter| Expr::Symbol(letter.to_string())),
        );
        (!term.is_empty()).then(|| {
            terms.push(if factors.len() == 1 {
                factors.remove(0)
            } else {
                Expr::Product(factors)
            })
        })?;
    }
    match terms.len() {
        0 => None,
        1 => terms.pop(),
        _ => Some(Expr::Sum(terms)),
    }
}

/// Whether a formula in letters may count what is chosen; other letters may mark a transpose.
pub(crate) fn is_count(count: &Expr) -> bool {
    let letters = count.symbols();
    let letter = |name: &String| matches!(name.as_str(), "k" | "r" | "i" | "j" | "m" | "n");
    count.is_scalar() && !letters.is_empty() && letters.iter().all(letter)
}

/// Returns both formulas with `C(n, k)` as a binomial. `C(3, 0)` is a point, unless it is the
/// answer and the reference has no points.
pub(crate) fn resolved(r: Expr, a: Expr) -> (Expr, Expr) {
    let points = |expr: &Expr| expr.any(&|e| matches!(e, Expr::Tuple(..)));
    let (in_r, in_a) = (points(&r), points(&a));
    let named = |numbers: bool, expr: Expr, has: bool| {
        if has {
            with_binomials(&expr, numbers)
        } else {
            expr
        }
    };
    (
        named(
            a.any(&|e| matches!(e, Expr::Call(Function::Binomial, _))),
            r,
            in_r,
        ),
        named(!in_r, a, in_a),
    )
}

fn with_binomials(expr: &Expr, numbers: bool) -> Expr {
    let Expr::Product(factors) = expr else {
        return expr.map(&mut |child| with_binomials(child, numbers));
    };
    let mut found: Vec<Expr> = Vec::with_capacity(factors.len());
    for factor in factors {
        let chosen = match (found.last(), factor) {
            (Some(Expr::Symbol(name)), Expr::Tuple(Bracket::Round, Bracket::Round, parts))
                if name == "C" =>
            {
                match parts.as_slice() {
                    [of, count] => {
                        let letters = of.symbols();
                        let counted = letters
                            .iter()
                            .all(|name| matches!(name.as_str(), "n" | "m"));
                        let number = |e: &Expr| matches!(e, Expr::Number(_));
                        let counts = if letters.is_empty() {
                            numbers && number(of)
                        } else {
                            counted
                        };
                        (counts && (number(count) || is_count(count)))
                            .then(|| (of.clone(), count.clone()))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        match chosen {
            Some((of, count)) => {
                found.pop();
                found.push(Expr::Call(Function::Binomial, vec![of, count]));
            }
            None => found.push(with_binomials(factor, numbers)),
        }
    }
    if found.len() == 1 {
        found.remove(0)
    } else {
        Expr::Product(found)
    }
}
