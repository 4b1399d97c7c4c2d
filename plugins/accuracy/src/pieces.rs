//! Formulas that are another formula here than there: absolute values, greatest and least, roots of
//! squares, and those that jump, ⌊x⌋. That they agree at large random points says nothing of what
//! lies between, so they are looked at there too.

use crate::breaks::{bends, jumps};
use crate::comparison::{Comparison, Verdict};
use crate::expression::{Expr, Function};
use crate::numeric::constant_rational;
use crate::points::{Domain, Point, Signs, Stop};
use crate::polynomial::Fraction;
use reward_sdk::rational::Rational;

/// The most numbers of the formulas between which points are taken.
const NUMBERS_MAX: usize = 8;
const PLACES_MAX: usize = 24;
const POINTS_MIN: u64 = 6;
/// The most lines on which formulas of several letters are evaluated.
const LINES_MAX: usize = 4;
/// The letter that runs along a line.
const ALONG: &str = " along";

/// Whether two formulas are made alike of the same pieces.
pub(crate) fn alike(judge: &Comparison, a: &Expr, b: &Expr) -> bool {
    let mut known = Vec::new();
    let (a, b) = (named(judge, a, &mut known), named(judge, b, &mut known));
    !known.is_empty()
        && [&a, &b].iter().all(|expr| !jumps(expr) && !bends(expr))
        && judge.equal(&a, &b) == Verdict::Equal
}

/// Returns the formula with a letter for each piece; equal pieces get the same letter.
fn named(judge: &Comparison, expr: &Expr, known: &mut Vec<(Expr, Expr)>) -> Expr {
    // x^{1/2} is a root too.
    let root = match expr {
        Expr::Power(base, exponent) => constant_rational(exponent)
            .filter(|exponent| exponent.numerator() == &1.into())
            .and_then(|exponent| {
                u32::try_from(exponent.denominator())
                    .ok()
                    .filter(|degree| *degree > 1)
            })
            .map(|degree| Expr::Root(base.clone(), degree)),
        _ => None,
    };
    let expr = root.as_ref().unwrap_or(expr);
    let inside = match expr {
        Expr::Call(Function::Floor | Function::Ceiling | Function::Absolute, arguments) => {
            arguments.first()
        }
        Expr::Root(inside, _) => Some(&**inside),
        _ => None,
    };
    let Some(inside) =
        inside.filter(|inside| !inside.symbols().is_empty() && !jumps(inside) && !bends(inside))
    else {
        return expr.map(&mut |child| named(judge, child, known));
    };
    let same = |(own, _): &&(Expr, Expr)| {
        let theirs = match (own, expr) {
            (Expr::Call(own, arguments), Expr::Call(function, _)) if own == function => {
                arguments.first()
            }
            (Expr::Root(theirs, own), Expr::Root(_, degree)) if own == degree => Some(&**theirs),
            _ => None,
        };
        theirs.is_some_and(|theirs| judge.equal(theirs, inside) == Verdict::Equal)
    };
    if let Some((_, letter)) = known.iter().find(same) {
        return letter.clone();
    }
    if known.len() >= NUMBERS_MAX {
        return expr.clone();
    }
    let letter = Expr::Symbol(format!(" piece {}", known.len()));
    known.push((expr.clone(), letter.clone()));
    letter
}

/// Whether two formulas that agree at large points also do where they are made of other pieces:
/// along lines, at each point where a piece ends, between each two, and beyond.
pub(crate) fn bending(judge: &Comparison, a: &Expr, b: &Expr) -> Verdict {
    let names = names(a, b);
    let lines = if names.len() == 1 { 1 } else { LINES_MAX };
    let mut looked = 0;
    for line in 0..lines {
        // One letter runs, the others stand still or run along: where each starts, in halves, and
        // how fast it goes.
        let courses: Vec<(Rational, i64)> = (0..names.len())
            .map(|position| {
                let random = judge.random(line as u64, position as u64);
                let alone = names.len() == 1;
                let start = if alone { 0 } else { (random % 47) as i64 - 23 };
                let slope = if alone || position == line % names.len() {
                    1
                } else {
                    (random >> 16) as i64 % 3 - 1
                };
                (
                    Rational::decimal(&(5 * start.abs()).to_string(), 1, 0).map_or(
                        Rational::integer(start),
                        |half| {
                            if start < 0 { half.negate() } else { half }
                        },
                    ),
                    slope,
                )
            })
            .collect();
        let course = |name: &str| {
            names
                .iter()
                .position(|known| known == name)
                .and_then(|at| courses.get(at))
        };
        let running = |name: &str| {
            let (start, slope) = course(name)?;
            Some(Expr::Sum(vec![
                Expr::Number(start.clone()),
                Expr::integer(*slope).times(Expr::Symbol(ALONG.into())),
            ]))
        };
        for at in along(judge, &a.substitute(&running), &b.substitute(&running)) {
            let place = |name: &str| {
                let (start, slope) = course(name)?;
                start
                    .add(&at.multiply(&Rational::integer(*slope))?)
                    .map(Expr::Number)
            };
            let (x, y) = (a.substitute(&place), b.substitute(&place));
            // With roots, what is not real has no value.
            let point = Point::new(looked, Domain::Roots, Signs::Positive);
            let values = (point.value(&x), point.value(&y));
            if !judge.spend(point.cost()) {
                return if looked < POINTS_MIN {
                    Verdict::Undecided
                } else {
                    Verdict::Equal
                };
            }
            match values {
                (Ok(x), Ok(y)) if x != y => return Verdict::Different,
                (Ok(_), Ok(_)) => looked += 1,
                (Err(Stop::Unsupported), _) | (_, Err(Stop::Unsupported)) => {
                    match judge.parts(&x, &y) {
                        Some(true) => return Verdict::Different,
                        Some(false) => looked += 1,
                        None => {}
                    }
                }
                _ => {}
            }
        }
    }
    Verdict::Equal
}

/// Where the pieces of two formulas of one letter end, as far as that is known, what lies between
/// each two, and what lies beyond; else their numbers.
fn along(judge: &Comparison, a: &Expr, b: &Expr) -> Vec<Rational> {
    let mut known = true;
    let mut ends = Vec::new();
    for expr in [a, b] {
        known &= collected(judge, expr, &mut ends).is_some();
    }
    ends.sort();
    ends.dedup();
    let mut places = Vec::new();
    if let (Some(first), Some(last)) = (ends.first(), ends.last()) {
        for (end, sign) in [(first, -1), (last, 1)] {
            places.extend(
                [1, 7]
                    .iter()
                    .filter_map(|step| end.add(&Rational::integer(sign * step))),
            );
        }
        for pair in ends.windows(2) {
            let [low, high] = pair else { continue };
            let share = |above: i64| {
                let width = high
                    .subtract(low)?
                    .multiply(&Rational::integer(above).divide(&Rational::integer(5))?)?;
                low.add(&width)
            };
            places.extend([share(1), share(3)].into_iter().flatten());
        }
        places.extend(ends.iter().cloned());
        places.truncate(PLACES_MAX);
    }
    if !known || places.is_empty() {
        places.extend(between(a, b).into_iter().take(PLACES_MAX));
    }
    places
}

/// The values at which what stands between bars, under a root or in a comparison is zero; `None`
/// where they are not found.
fn collected(judge: &Comparison, expr: &Expr, found: &mut Vec<Rational>) -> Option<()> {
    let mut zeros = |inside: &Expr| -> Option<()> {
        if inside.symbols().is_empty() {
            return Some(());
        }
        let (_, zeros) = Fraction::of(inside, ALONG)?.zeros(judge)?;
        for zero in zeros {
            // What is irrational is looked at nearby.
            found.push(constant_rational(&zero.at).or_else(|| judge.near(&zero.at))?);
        }
        Some(())
    };
    let own = match expr {
        Expr::Call(Function::Absolute, arguments) => arguments.first().map_or(Some(()), &mut zeros),
        Expr::Call(Function::Max | Function::Min, arguments) => {
            arguments.iter().enumerate().try_for_each(|(at, argument)| {
                arguments
                    .iter()
                    .skip(at + 1)
                    .try_for_each(|other| zeros(&argument.clone().minus(other.clone())))
            })
        }
        // Of √(x²) it is where x is zero.
        Expr::Root(inside, _) => match &**inside {
            Expr::Power(base, _) => zeros(base),
            other => zeros(other),
        },
        Expr::Power(base, exponent)
            if constant_rational(exponent).is_some_and(|exponent| exponent.to_i64().is_none()) =>
        {
            zeros(base)
        }
        Expr::Quotient(_, below) => zeros(below),
        Expr::Call(Function::Arcsin | Function::Arccos | Function::Arctan, _) => None,
        _ => Some(()),
    };
    let inner = expr
        .children()
        .into_iter()
        .try_for_each(|child| collected(judge, child, found));
    own.and(inner)
}

fn names(a: &Expr, b: &Expr) -> Vec<String> {
    let mut names = a.symbols();
    names.extend(b.symbols());
    names.sort();
    names.dedup();
    names
}

/// The numbers of both formulas with either sign, what lies between each two, and what lies beyond.
fn between(a: &Expr, b: &Expr) -> Vec<Rational> {
    fn collect(expr: &Expr, found: &mut Vec<Rational>) {
        if found.len() > 2 * NUMBERS_MAX {
            return;
        }
        if let Expr::Number(value) = expr {
            found.extend([value.clone(), value.clone().negate()]);
        }
        expr.children()
            .into_iter()
            .for_each(|child| collect(child, found));
    }
    let mut numbers = [-4, -1, 0, 1, 4].map(Rational::integer).to_vec();
    collect(a, &mut numbers);
    collect(b, &mut numbers);
    numbers.sort();
    numbers.dedup();
    let half = |pair: &[Rational]| {
        pair.first()?
            .add(pair.last()?)?
            .divide(&Rational::integer(2))
    };
    let mut places: Vec<Rational> = numbers.windows(2).filter_map(half).collect();
    for (end, step) in [(numbers.first(), -1), (numbers.last(), 1)] {
        places.extend(end.and_then(|end| end.add(&Rational::integer(step))));
    }
    places.extend(numbers);
    places.sort();
    // Far from each other first: there may not be enough left for all.
    const STRIDE: usize = 5;
    (0..STRIDE)
        .flat_map(|start| places.iter().skip(start).step_by(STRIDE).cloned())
        .collect()
}
