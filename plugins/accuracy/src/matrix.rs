//! Matrices: sums, products, multiples and determinants worked out, so that what is compared is
//! entries.

use crate::expression::{Expr, Function};
use crate::token::Bracket;

type MatrixRows = Vec<Vec<Expr>>;

const ENTRIES_MAX: usize = 256;
const DETERMINANT_MAX: usize = 4;
/// The most nodes that a matrix's entries have together: each product adds up those of its factors,
/// many times over.
const SIZE_MAX: usize = 4_000;

/// Returns the expression with its matrices worked out; anything else stays unchanged.
pub(crate) fn resolved(expr: &Expr) -> Expr {
    let vectors = |e: &Expr| {
        matches!(e, Expr::Sum(all) | Expr::Product(all) if all.iter()
        .any(|part| matches!(part, Expr::Tuple(..))))
    };
    if !expr.any(&|e| matches!(e, Expr::Matrix(_)) || vectors(e)) {
        return expr.clone();
    }
    let expr = expr.map(&mut resolved);
    if let Some(vector) = vector(&expr) {
        return vector;
    }
    match &expr {
        Expr::Call(Function::Determinant, arguments) => match arguments.as_slice() {
            [Expr::Matrix(rows)] if is_small(rows) => determinant(rows).unwrap_or(expr),
            _ => expr,
        },
        Expr::Call(Function::Absolute, arguments) => match arguments.as_slice() {
            [Expr::Matrix(rows)] if is_small(rows) => determinant(rows).unwrap_or(expr),
            _ => expr,
        },
        Expr::Sum(terms) => sum(terms).map_or(expr, Expr::Matrix),
        Expr::Product(factors) => product(factors).map_or(expr, Expr::Matrix),
        Expr::Quotient(above, below) => match (&**above, &**below) {
            (Expr::Matrix(rows), below) if below.is_scalar() => {
                Expr::Matrix(scaled(rows, |entry| entry.over(below.clone())))
            }
            _ => expr,
        },
        Expr::Power(base, exponent) => match (&**base, &**exponent) {
            (Expr::Matrix(rows), Expr::Symbol(mark)) if mark == "T" => {
                transposed(rows).map_or(expr, Expr::Matrix)
            }
            _ => expr,
        },
        _ => expr,
    }
}

/// Sums and multiples of tuples: `(1, 0) + t(2, 3)`. A capital before a tuple names a point, other
/// letters may be functions.
fn vector(expr: &Expr) -> Option<Expr> {
    const SCALARS: [&str; 8] = ["t", "s", "k", "c", "r", "lambda", "mu", "alpha"];
    let parts = |expr: &Expr| match expr {
        Expr::Tuple(
            open @ (Bracket::Round | Bracket::Angle),
            close @ (Bracket::Round | Bracket::Angle),
            parts,
        ) if open == close
            && parts.iter().all(Expr::is_scalar)
            && !expr.any(&|e| *e == Expr::Infinity) =>
        {
            Some(parts.clone())
        }
        _ => None,
    };
    let total: Vec<Expr> = match expr {
        Expr::Product(factors) => {
            let (vectors, scalars): (Vec<&Expr>, Vec<&Expr>) =
                factors.iter().partition(|factor| parts(factor).is_some());
            let [vector] = vectors.as_slice() else {
                return None;
            };
            let scales = |factor: &&Expr| {
                factor.is_scalar()
                    && factor
                        .symbols()
                        .iter()
                        .all(|name| SCALARS.contains(&name.as_str()))
            };
            scalars.iter().all(scales).then_some(())?;
            let scale: Vec<Expr> = scalars.into_iter().cloned().collect();
            parts(vector)?
                .into_iter()
                .map(|part| Expr::Product([scale.clone(), vec![part]].concat()))
                .collect()
        }
        Expr::Sum(terms) => {
            let rows = terms.iter().map(parts).collect::<Option<MatrixRows>>()?;
            is_small(&rows).then_some(())?;
            let columns = transposed(&rows).filter(|_| {
                rows.iter()
                    .all(|row| Some(row.len()) == rows.first().map(Vec::len))
            })?;
            columns.into_iter().map(Expr::Sum).collect()
        }
        _ => return None,
    };
    Some(Expr::Tuple(Bracket::Round, Bracket::Round, total))
}

/// The rows of a matrix, also of one that is written as `[[1,2],[3,4]]`.
pub(crate) fn rows_of(expr: &Expr) -> Option<MatrixRows> {
    match expr {
        Expr::Matrix(rows) => Some(rows.clone()),
        Expr::Tuple(Bracket::Square, Bracket::Square, items) => {
            let rows: Option<MatrixRows> = items
                .iter()
                .map(|item| match item {
                    Expr::Tuple(Bracket::Square, Bracket::Square, row) => Some(row.clone()),
                    _ => None,
                })
                .collect();
            let rows = rows?;
            let width = rows.first()?.len();
            rows.iter().all(|row| row.len() == width).then_some(rows)
        }
        _ => None,
    }
}

fn is_small(rows: &MatrixRows) -> bool {
    rows.iter().flatten().map(Expr::size).sum::<usize>() <= SIZE_MAX
}

fn scaled(rows: &MatrixRows, f: impl Fn(Expr) -> Expr) -> MatrixRows {
    rows.iter()
        .map(|row| row.iter().cloned().map(&f).collect())
        .collect()
}

fn sum(terms: &[Expr]) -> Option<MatrixRows> {
    let mut terms = terms.iter().map(|term| match term {
        Expr::Matrix(rows) => Some(rows),
        _ => None,
    });
    let mut total = terms.next()??.clone();
    for term in terms {
        let term = term?;
        if term.len() != total.len() {
            return None;
        }
        for (row, other) in total.iter_mut().zip(term) {
            if row.len() != other.len() {
                return None;
            }
            for (entry, other) in row.iter_mut().zip(other) {
                *entry = Expr::Sum(vec![entry.clone(), other.clone()]);
            }
        }
    }
    Some(total)
}

fn product(factors: &[Expr]) -> Option<MatrixRows> {
    let mut total: Option<MatrixRows> = None;
    let mut scale = Vec::new();
    for factor in factors {
        match (factor, &total) {
            (Expr::Matrix(rows), None) => total = Some(rows.clone()),
            (Expr::Matrix(rows), Some(left)) => {
                total = Some(multiplied(left, rows).filter(is_small)?)
            }
            (scalar, _) if scalar.is_scalar() => scale.push(scalar.clone()),
            _ => return None,
        }
    }
    let total = total?;
    Some(if scale.is_empty() {
        total
    } else {
        scaled(&total, |entry| {
            Expr::Product(vec![Expr::Product(scale.clone()), entry])
        })
    })
}

fn multiplied(a: &MatrixRows, b: &MatrixRows) -> Option<MatrixRows> {
    let width = b.first()?.len();
    if a.first()?.len() != b.len() || a.len() * width * b.len() > ENTRIES_MAX {
        return None;
    }
    let entry = |row: &Vec<Expr>, column: usize| -> Option<Expr> {
        let terms = row
            .iter()
            .zip(b)
            .map(|(x, below)| Some(x.clone().times(below.get(column)?.clone())));
        Some(Expr::Sum(terms.collect::<Option<Vec<Expr>>>()?))
    };
    a.iter()
        .map(|row| (0..width).map(|column| entry(row, column)).collect())
        .collect()
}

fn transposed(rows: &MatrixRows) -> Option<MatrixRows> {
    let width = rows.first()?.len();
    (0..width)
        .map(|column| rows.iter().map(|row| row.get(column).cloned()).collect())
        .collect()
}

/// Expands the determinant along its first row; `None` for a matrix that is not square or is too
/// large.
fn determinant(rows: &MatrixRows) -> Option<Expr> {
    let size = rows.len();
    if size > DETERMINANT_MAX || rows.iter().any(|row| row.len() != size) {
        return None;
    }
    let (first, below) = rows.split_first()?;
    if below.is_empty() {
        return first.first().cloned();
    }
    let mut terms = Vec::new();
    for (column, entry) in first.iter().enumerate() {
        let minor: MatrixRows = below
            .iter()
            .map(|row| {
                row.iter()
                    .enumerate()
                    .filter(|(at, _)| *at != column)
                    .map(|(_, entry)| entry.clone())
                    .collect()
            })
            .collect();
        let term = entry.clone().times(determinant(&minor)?);
        terms.push(if column % 2 == 1 { term.negate() } else { term });
    }
    Some(Expr::Sum(terms))
}
