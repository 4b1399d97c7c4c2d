//! Step functions: formulas with ⌊ ⌋ and ⌈ ⌉ differ at single points, where what they round is a
//! whole number. Those points are looked at, and both sides of them; what repeats itself is looked
//! at for a whole period, which decides.

use crate::breaks::{bends, jumps, rounded};
use crate::comparison::{Comparison, Verdict};
use crate::expression::{Expr, Function};
use crate::normal::Normal;
use crate::numeric::constant_rational;
use crate::points::{Domain, Point, Signs, Stop};
use crate::terms::{Sum, number};
use reward_sdk::rational::Rational;

/// The most points at which two formulas are compared.
const POINTS_MAX: usize = 200;
/// A degree above this is not followed.
const DEGREE_MAX: u32 = 6;
/// Number of whole numbers, and of fractions, at which formulas that are not known to repeat
/// themselves are compared.
const SAMPLES: i64 = 40;
/// Letters that stand for whole numbers by custom.
const WHOLE: [&str; 9] = ["n", "m", "k", "j", "l", "p", "q", "N", "M"];

/// A letter, and whether it stands for whole numbers.
struct StepLetter {
    name: String,
    whole: bool,
}

/// A part of a formula that is rounded, in a form in which what is rounded in it again is opaque.
struct Rounded {
    form: Sum,
    nested: bool,
}

/// Compares two formulas that jump: at whole numbers of what they round, and between those, for a
/// whole period.
pub(crate) fn jumping(judge: &Comparison, a: &Expr, b: &Expr) -> Verdict {
    let names = {
        let mut names = a.symbols();
        names.extend(b.symbols());
        names.sort();
        names.dedup();
        names
    };
    let Some(parts) = all_rounded(a, b) else {
        return sampled(judge, a, b, &names);
    };
    // A whole number is not rounded: where a letter alone is, it stands for any number.
    let custom = |name: &String| WHOLE.contains(&name.as_str());
    let useless = |part: &Rounded| {
        let whole = part.form.0.iter().all(|term| term.times.to_i64().is_some());
        !part.nested
            && whole
            && part.form.is_polynomial()
            && part.form.expr().symbols().iter().all(custom)
    };
    let any: Vec<String> = parts
        .iter()
        .filter(|part| useless(part))
        .flat_map(|part| part.form.expr().symbols())
        .collect();
    let letters: Vec<StepLetter> = names
        .iter()
        .map(|name| StepLetter {
            name: name.clone(),
            whole: custom(name) && !any.contains(name),
        })
        .collect();
    let degree = degree(a).and_then(|x| Some((x, degree(b)?))).map(|(x, y)| {
        if divides(a) || divides(b) {
            x + y
        } else {
            x.max(y)
        }
    });
    let degree = degree.filter(|degree| *degree <= DEGREE_MAX);
    // What bends outside, or grows in no known way, is no more than sampled.
    if degree.is_none() && (bends(a) || bends(b) || letters.iter().any(|letter| !letter.whole)) {
        return sampled(judge, a, b, &names);
    }
    let mut places = Vec::new();
    for letter in &letters {
        match of_letter(&parts, letter, degree, letters.len() - 1) {
            Some(found) => places.push(found),
            None => return sampled(judge, a, b, &names),
        }
    }
    let count = places
        .iter()
        .fold(1usize, |count, found| count.saturating_mul(found.len()));
    if count > POINTS_MAX {
        return sampled(judge, a, b, &names);
    }
    for at in 0..count {
        let mut left = at;
        let mut point = Vec::new();
        for found in &places {
            point.extend(found.get(left % found.len().max(1)).cloned());
            left /= found.len().max(1);
        }
        match at_point(judge, a, b, &names, &point) {
            Verdict::Equal => {}
            other => return other,
        }
    }
    Verdict::Equal
}

/// Compares at one point. Where one of the formulas has no value, they do not differ.
fn at_point(
    judge: &Comparison,
    a: &Expr,
    b: &Expr,
    names: &[String],
    point: &[Rational],
) -> Verdict {
    let place = |name: &str| {
        names
            .iter()
            .position(|known| known == name)
            .and_then(|at| point.get(at))
            .cloned()
            .map(Expr::Number)
    };
    let (x, y) = (a.substitute(&place), b.substitute(&place));
    let exact = Point::new(0, Domain::Any, Signs::Positive);
    let plain = |expr: &Expr| {
        !expr.any(&|e| {
            matches!(e, Expr::Pi | Expr::Euler)
                || matches!(e, Expr::Call(function, _) if function.is_transcendental())
        })
    };
    if plain(&x) && plain(&y) {
        let values = (exact.value(&x), exact.value(&y));
        if !judge.spend(exact.cost()) {
            return Verdict::Undecided;
        }
        match values {
            (Ok(x), Ok(y)) => return Verdict::of(x == y),
            (Err(Stop::Undefined), _) | (_, Err(Stop::Undefined)) => return Verdict::Equal,
            _ => {}
        }
    }
    let (x, y) = (folded(&x), folded(&y));
    match judge.equal(&x, &y) {
        // Nothing differs from what has no value.
        Verdict::Different if !judge.part(&x, &y) => Verdict::Undecided,
        verdict => verdict,
    }
}

/// Works out the parts that are rational: what jumps at 2 needs to know that √4 is 2.
fn folded(expr: &Expr) -> Expr {
    let inner = expr.map(&mut folded);
    constant_rational(&inner).map_or(inner, Expr::Number)
}

/// Returns everything that is rounded in either formula.
fn all_rounded(a: &Expr, b: &Expr) -> Option<Vec<Rounded>> {
    fn collect(normal: &Normal, expr: &Expr, found: &mut Vec<Rounded>) -> Option<()> {
        if let Some(inside) = rounded(expr)
            && !inside.symbols().is_empty()
        {
            found.push(Rounded {
                form: normal.sum(inside)?,
                nested: jumps(inside),
            });
        }
        expr.children()
            .into_iter()
            .try_for_each(|child| collect(normal, child, found))
    }
    let normal = Normal::of(a, b);
    let mut found = Vec::new();
    collect(&normal, a, &mut found)?;
    collect(&normal, b, &mut found)?;
    Some(found)
}

/// The degree of a formula in its letters, of numerator and denominator together, what it rounds
/// taken for what is rounded; `None` for what is no rational function of those.
fn degree(expr: &Expr) -> Option<u32> {
    match expr {
        Expr::Number(_) | Expr::Pi | Expr::Euler => Some(0),
        Expr::Symbol(_) => Some(1),
        Expr::Sum(all) => all
            .iter()
            .try_fold(0, |most, part| Some(degree(part)?.max(most))),
        Expr::Product(all) => all
            .iter()
            .try_fold(0u32, |sum, part| Some(sum + degree(part)?)),
        Expr::Quotient(above, below) => Some(degree(above)? + degree(below)?),
        Expr::Power(base, exponent) => {
            match constant_rational(exponent).and_then(|exponent| exponent.to_i64()) {
                Some(times @ -6..=6) => Some(degree(base)? * u32::try_from(times.abs()).ok()?),
                // (−1)ⁿ
                _ if **base == number(-1)
                    && !exponent.any(&|e| {
                        matches!(e, Expr::Quotient(..) | Expr::Percent(_) | Expr::Call(..))
                            || matches!(e, Expr::Number(value) if value.to_i64().is_none())
                    }) =>
                {
                    Some(0)
                }
                _ => None,
            }
        }
        Expr::Call(Function::Floor | Function::Ceiling, inside) => degree(inside.first()?),
        _ => None,
    }
}

/// Whether there is a letter in a divisor.
fn divides(expr: &Expr) -> bool {
    expr.any(&|e| match e {
        Expr::Quotient(_, below) => !below.symbols().is_empty(),
        Expr::Power(_, exponent) => {
            constant_rational(exponent).is_some_and(|exponent| exponent.is_negative())
        }
        _ => false,
    })
}

fn least_common_multiple(a: i64, b: i64) -> Option<i64> {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1))
        .checked_mul(b)
        .filter(|value| *value <= POINTS_MAX as i64)
}

/// The values of one letter that tell: for a whole one a period, often enough for the degree; else
/// whole numbers of all that is rounded and what lies between. `None` where these are not known.
fn of_letter(
    parts: &[Rounded],
    letter: &StepLetter,
    degree: Option<u32>,
    others: usize,
) -> Option<Vec<Rational>> {
    let own = |part: &&Rounded| part.form.expr().symbols().contains(&letter.name);
    let times = i64::from(degree.unwrap_or(2)) + 1;
    let mut period = if letter.whole { 2 } else { 1 };
    // What is rounded again repeats itself as often less.
    let mut again = 1i64;
    let mut mixed = false;
    let mut slopes: Vec<(Rational, Rational)> = Vec::new();
    for part in parts.iter().filter(own) {
        // What is rounded again jumps where its inside does, if nothing else is in it.
        if part.nested {
            let bare = |e: &Expr| matches!(e, Expr::Symbol(name) if *name == letter.name);
            let outside = part
                .form
                .0
                .iter()
                .any(|term| term.factors.iter().any(|factor| bare(&factor.base)));
            (!outside || letter.whole).then_some(())?;
        }
        let mut slope = None;
        for term in &part.form.0 {
            let below = i64::try_from(term.times.denominator()).ok()?;
            if letter.whole {
                period = least_common_multiple(period, below)?;
            }
            let [factor] = term.factors.as_slice() else {
                // A constant, or several letters: whole ones repeat all the same.
                let letters = term
                    .factors
                    .iter()
                    .all(|factor| matches!(factor.base, Expr::Symbol(_)));
                (term.factors.is_empty() || (letter.whole && letters)).then_some(())?;
                continue;
            };
            match &factor.base {
                Expr::Symbol(name) if *name == letter.name => {
                    if !letter.whole {
                        (factor.exponent == number(1)).then_some(())?;
                        slope = Some(term.times.clone());
                    }
                }
                Expr::Symbol(_) => mixed = true,
                Expr::Call(Function::Floor, _) if factor.exponent == number(1) && part.nested => {
                    again = again
                        .checked_mul(below)
                        .filter(|again| *again <= POINTS_MAX as i64)?;
                }
                _ => return None,
            }
            let whole = matches!(&factor.exponent, Expr::Number(exponent) if exponent.to_i64()
                .is_some_and(|exponent| exponent > 0));
            whole.then_some(())?;
        }
        if let Some(slope) = slope {
            period = least_common_multiple(period, i64::try_from(slope.denominator()).ok()?)?;
            let constant = part
                .form
                .0
                .iter()
                .find(|term| term.factors.is_empty())
                .map_or(number_of(0), |term| term.times.clone());
            slopes.push((slope, constant));
        }
    }
    period = period.checked_mul(again)?;
    if letter.whole {
        let last = period
            .checked_mul(times)
            .filter(|last| *last <= POINTS_MAX as i64)?;
        // Without a degree a period is no proof, so more of them are looked at.
        let last = last.max(if degree.is_some() { 8 } else { SAMPLES });
        return Some(
            (0..last)
                .map(|value| number_of(value + 1 - last / 2))
                .collect(),
        );
    }
    // Where αx + β is whole, from 0 up to the period.
    let mut breaks = vec![number_of(0)];
    for (slope, constant) in &slopes {
        let steps = slope
            .clone()
            .absolute()
            .multiply(&number_of(period))?
            .to_i64()?;
        (steps <= POINTS_MAX as i64).then_some(())?;
        let first = Rational::big(constant.floor())?;
        for step in 0..=steps {
            let whole = first.add(&number_of(if slope.is_negative() { -step } else { step }))?;
            for whole in [whole.clone(), whole.add(&number_of(1))?] {
                let at = whole.subtract(constant)?.divide(slope)?;
                let turns = Rational::big(at.divide(&number_of(period))?.floor())?;
                breaks.push(at.subtract(&turns.multiply(&number_of(period))?)?);
            }
        }
    }
    breaks.sort();
    breaks.dedup();
    // With other letters only whether it is whole counts, and on which side it is not.
    let shifts = match others {
        0 => times,
        1 => times.min(2),
        _ => 1,
    };
    // x + y is also whole where neither is.
    let inside = if mixed { 3 } else { times };
    let mut found = Vec::new();
    let end = number_of(period);
    for (at, here) in breaks.iter().enumerate() {
        let next = breaks.get(at + 1).unwrap_or(&end);
        let width = next.subtract(here)?;
        for shift in 0..shifts {
            // Some below zero.
            let turn = number_of(period * (shift * 3 - 2));
            found.push(here.add(&turn)?);
            for inner in 0..if mixed {
                inside
            } else {
                (times - shift).max(1)
            } {
                let share = number_of(inner + 1).divide(&number_of(inside + 1))?;
                found.push(here.add(&width.multiply(&share)?)?.add(&turn)?);
            }
        }
    }
    Some(found)
}

fn number_of(value: i64) -> Rational {
    Rational::integer(value)
}

/// Compares formulas that are not known to repeat themselves: sample points can show that they
/// differ, but not that they are equal.
fn sampled(judge: &Comparison, a: &Expr, b: &Expr, names: &[String]) -> Verdict {
    let mut places = Vec::new();
    for value in 0..SAMPLES {
        places.push(number_of(value - 6));
        let half = number_of(2 * value - 15).divide(&number_of(2 + value % 3));
        places.extend(half);
    }
    for power in [64, 100, 121, 128, 1_000, 1_024, 1_023, 1_025, 4_095, 10_000] {
        places.push(number_of(power));
    }
    places.extend((2..8).filter_map(|below| number_of(1).divide(&number_of(below))));
    for at in 0..places.len() {
        let value = |position: usize| {
            let index = if names.len() == 1 {
                at
            } else {
                (judge.random(at as u64, position as u64) % places.len() as u64) as usize
            };
            places.get(index).cloned().unwrap_or(number_of(1))
        };
        let whole = |name: &String| WHOLE.contains(&name.as_str());
        let point: Vec<Rational> = names
            .iter()
            .enumerate()
            .map(|(position, name)| {
                let value = value(position);
                if whole(name) {
                    Rational::big(value.floor())
                        .unwrap_or(number_of(1))
                        .absolute()
                } else {
                    value
                }
            })
            .collect();
        if at_point(judge, a, b, names, &point) == Verdict::Different {
            return Verdict::Different;
        }
    }
    Verdict::Undecided
}
