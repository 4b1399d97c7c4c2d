//! Formulas that are another formula here than there: absolute values, greatest and least, roots of squares, and those that jump, ⌊x⌋.
//! That they agree at large random points says nothing of what lies between, so they are looked at there too.

use crate::equal::{Judge, Verdict};
use crate::expression::{Expr, Function};
use crate::numeric::constant_rational;
use crate::points::{Domain, Point, Signs, Stop};
use crate::steps::jumps;
use reward_sdk::rational::Rational;

/// Numbers of the formulas between which points are taken.
const NUMBERS_MAX: usize = 8;
const PLACES_MAX: usize = 24;
const POINTS_MIN: usize = 4;

/// Whether it is made of pieces that meet.
pub fn bends(expr: &Expr) -> bool {
    expr.any(&|e| match e {
        Expr::Call(Function::Absolute | Function::Max | Function::Min, arguments) => open(arguments),
        // `\arcsin(\sin x)` is x only near zero.
        Expr::Call(Function::Arcsin | Function::Arccos | Function::Arctan, arguments) => {
            let turns = |e: &Expr| matches!(e, Expr::Call(Function::Sin | Function::Cos | Function::Tan | Function::Cot, inner) if open(inner));
            arguments.iter().any(|argument| argument.any(&turns))
        }
        Expr::Root(inner, degree) => degree % 2 == 0 && inner.any(&|e| matches!(e, Expr::Power(..) | Expr::Product(_) | Expr::Sum(_))) && open(std::slice::from_ref(&**inner)),
        _ => false,
    })
}

fn open(arguments: &[Expr]) -> bool {
    arguments.iter().any(|argument| !argument.symbols().is_empty())
}

/// Whether they are made alike of the same pieces.
pub fn alike(judge: &Judge, a: &Expr, b: &Expr) -> bool {
    let mut known = Vec::new();
    let (a, b) = (named(judge, a, &mut known), named(judge, b, &mut known));
    !known.is_empty() && [&a, &b].iter().all(|expr| !jumps(expr) && !bends(expr)) && judge.equal(&a, &b) == Verdict::Equal
}

/// With a letter for each piece, for the same within the same letter.
fn named(judge: &Judge, expr: &Expr, known: &mut Vec<(Expr, Expr)>) -> Expr {
    // x^{1/2} is a root too.
    let root = match expr {
        Expr::Power(base, exponent) => constant_rational(exponent)
            .filter(|exponent| exponent.numerator() == &1.into())
            .and_then(|exponent| u32::try_from(exponent.denominator()).ok().filter(|degree| *degree > 1))
            .map(|degree| Expr::Root(base.clone(), degree)),
        _ => None,
    };
    let expr = root.as_ref().unwrap_or(expr);
    let inside = match expr {
        Expr::Call(Function::Floor | Function::Ceiling | Function::Absolute, arguments) => arguments.first(),
        Expr::Root(inside, _) => Some(&**inside),
        _ => None,
    };
    let Some(inside) = inside.filter(|inside| !inside.symbols().is_empty() && !jumps(inside) && !bends(inside)) else {
        return expr.map(&mut |child| named(judge, child, known));
    };
    let same = |(own, _): &&(Expr, Expr)| {
        let theirs = match (own, expr) {
            (Expr::Call(own, arguments), Expr::Call(function, _)) if own == function => arguments.first(),
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

/// Whether two formulas that agree at large points also do between the numbers that stand in them.
pub fn bending(judge: &Judge, a: &Expr, b: &Expr) -> Verdict {
    let places = between(a, b);
    let names = names(a, b);
    let points = if names.len() == 1 { places.len().min(PLACES_MAX) } else { PLACES_MAX / 2 };
    for at in 0..points {
        let place = |name: &str| {
            let position = names.iter().position(|known| known == name)?;
            let index = if names.len() == 1 {
                at
            } else {
                (judge.random(at as u64, position as u64) % places.len().max(1) as u64) as usize
            };
            places.get(index).cloned().map(Expr::Number)
        };
        // With roots, what is not real has no value.
        let point = Point::new(at as u64, Domain::Roots, Signs::Positive);
        let values = (point.value(&a.substitute(&place)), point.value(&b.substitute(&place)));
        if !judge.spend(point.cost()) {
            return if at < POINTS_MIN { Verdict::Undecided } else { Verdict::Equal };
        }
        match values {
            (Ok(x), Ok(y)) if x != y => return Verdict::Different,
            (Err(Stop::Unsupported), _) | (_, Err(Stop::Unsupported)) => {
                let (x, y) = (a.substitute(&place), b.substitute(&place));
                if judge.part(&x, &y) {
                    return Verdict::Different;
                }
            }
            _ => {}
        }
    }
    Verdict::Equal
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
        expr.children().into_iter().for_each(|child| collect(child, found));
    }
    let mut numbers = [-4, -1, 0, 1, 4].map(Rational::integer).to_vec();
    collect(a, &mut numbers);
    collect(b, &mut numbers);
    numbers.sort();
    numbers.dedup();
    let half = |pair: &[Rational]| pair.first()?.add(pair.last()?)?.divide(&Rational::integer(2));
    let mut places: Vec<Rational> = numbers.windows(2).filter_map(half).collect();
    for (end, step) in [(numbers.first(), -1), (numbers.last(), 1)] {
        places.extend(end.and_then(|end| end.add(&Rational::integer(step))));
    }
    places.extend(numbers);
    places.sort();
    // Far from each other first: there may not be enough left for all.
    const STRIDE: usize = 5;
    (0..STRIDE).flat_map(|start| places.iter().skip(start).step_by(STRIDE).cloned()).collect()
}
