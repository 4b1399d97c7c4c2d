//! Rules that dots stand for: `1 + 2 + \cdots + n`, `1 \cdot 3 \cdots 9`, `1, 2, \ldots, 10`. The
//! first terms and the last give the rule, if there is one.

use crate::comparison::{Comparison, Verdict};
use crate::expression::Expr;
use crate::numeric::constant_rational;
use reward_sdk::rational::Rational;

/// The index: no answer can write it.
pub(crate) const INDEX: &str = " index";
/// The most terms before the dots, and the most behind them without the last.
const TERMS_MAX: usize = 6;
/// The most nodes that all given terms have together.
const SIZE_MAX: usize = 200;
/// The highest power of a ratio of numbers.
const POWER_MAX: i64 = 64;

/// The terms `term(low)`, …, `term(high)`.
pub(crate) struct Progression {
    pub term: Expr,
    pub low: Expr,
    pub high: Expr,
}

/// Finds the rule for the terms before the dots, at least two, and those behind them.
pub(crate) fn read(judge: &Comparison, before: &[Expr], behind: &[Expr]) -> Option<Progression> {
    let (last, nearly) = behind.split_last()?;
    let size = before.iter().chain(behind).map(Expr::size).sum::<usize>();
    if before.len() < 2 || before.len() > TERMS_MAX || nearly.len() > TERMS_MAX || size > SIZE_MAX {
        return None;
    }
    let found = if last
        .symbols()
        .iter()
        .all(|name| before.iter().any(|term| term.symbols().contains(name)))
    {
        counted(before, last)
    } else {
        named(judge, before, last)
    }?;
    let fits = |(back, term): (i64, &Expr)| {
        let at = Expr::Sum(vec![found.high.clone(), Expr::integer(-back)]);
        judge.equal(&found.at(&at), term) == Verdict::Equal
    };
    (1..).zip(nearly.iter().rev()).all(fits).then_some(found)
}

impl Progression {
    pub(crate) fn at(&self, index: &Expr) -> Expr {
        self.term
            .substitute(&|name| (name == INDEX).then(|| index.clone()))
    }

    /// Returns each term as a number; `None` for more than `most` terms, and for bounds or terms
    /// that are not numbers.
    pub(crate) fn numbers(&self, most: usize) -> Option<Vec<Expr>> {
        let bound = |bound: &Expr| constant_rational(bound)?.to_i64();
        let (low, high) = (bound(&self.low)?, bound(&self.high)?);
        (usize::try_from(high.checked_sub(low)?).ok()? < most).then_some(())?;
        (low..=high)
            .map(|at| constant_rational(&self.at(&Expr::integer(at))).map(Expr::Number))
            .collect()
    }
}

/// Finds the rule from the last term as a formula of its letter: `2n - 1` behind 1, 3.
fn named(judge: &Comparison, before: &[Expr], last: &Expr) -> Option<Progression> {
    const STARTS: [i64; 5] = [1, 0, 2, 3, -1];
    let mut letters = last.symbols();
    letters.retain(|name| !before.iter().any(|term| term.symbols().contains(name)));
    let [letter] = letters.as_slice() else {
        return None;
    };
    let term = last.substitute(&|name| (name == letter).then(|| Expr::Symbol(INDEX.into())));
    STARTS.into_iter().find_map(|start| {
        let found = Progression {
            term: term.clone(),
            low: Expr::integer(start),
            high: Expr::Symbol(letter.clone()),
        };
        let fits = |(at, own): (i64, &Expr)| {
            judge.equal(&found.at(&Expr::integer(at)), own) == Verdict::Equal
        };
        (start..).zip(before).all(fits).then_some(found)
    })
}

/// Finds the rule for terms of one shape in which the numbers grow evenly,
/// `1^2 + 2^2 + \cdots + 10^2`, or, where the terms are only numbers, grow by one factor. `None`
/// also where both rules fit.
fn counted(before: &[Expr], last: &Expr) -> Option<Progression> {
    let mut steps = None;
    let evenly = shaped(&before.iter().collect::<Vec<&Expr>>(), last, &mut steps).zip(steps);
    let by_factor = factored(before, last);
    let (term, steps) = match (evenly, by_factor) {
        (Some(found), None) | (None, Some(found)) => found,
        // `2 + 4 + \cdots + 64`
        _ => return None,
    };
    Some(Progression {
        term,
        low: Expr::integer(0),
        high: Expr::integer(steps),
    })
}

/// The terms as one formula of the index, all numbers in it that differ growing evenly, and how
/// many steps away the last is.
fn shaped(before: &[&Expr], last: &Expr, steps: &mut Option<i64>) -> Option<Expr> {
    let first = *before.first()?;
    if before.iter().all(|term| *term == last) {
        return Some(first.clone());
    }
    let numbers: Option<Vec<&Rational>> = before
        .iter()
        .map(|term| match term {
            Expr::Number(value) => Some(value),
            _ => None,
        })
        .collect();
    if let (Some(numbers), Expr::Number(last)) = (numbers, last) {
        let [start, second, ..] = numbers.as_slice() else {
            return None;
        };
        let step = second.subtract(start)?;
        let even = numbers
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if b.subtract(a).as_ref() == Some(&step)));
        let away = last.subtract(start)?.divide(&step)?;
        let away = away
            .to_i64()
            .filter(|away| even && *away >= before.len() as i64)?;
        (*steps.get_or_insert(away) == away).then_some(())?;
        let line = Expr::Number(step).times(Expr::Symbol(INDEX.into()));
        return Some(Expr::Sum(vec![Expr::Number((*start).clone()), line]));
    }
    let shell = |expr: &Expr| expr.map(&mut |_| Expr::Infinity);
    let own = shell(first);
    if first.children().is_empty()
        || before.iter().any(|term| shell(term) != own)
        || shell(last) != own
    {
        return None;
    }
    let mut at = 0;
    let mut failed = false;
    let found = first.map(&mut |child| {
        let theirs: Option<Vec<&Expr>> = before
            .iter()
            .map(|term| term.children().get(at).copied())
            .collect();
        let found = theirs
            .zip(last.children().get(at))
            .and_then(|(theirs, last)| shaped(&theirs, last, steps));
        at += 1;
        failed |= found.is_none();
        found.unwrap_or_else(|| child.clone())
    });
    (!failed).then_some(found)
}

/// 2, 4, 8 up to 64.
fn factored(before: &[Expr], last: &Expr) -> Option<(Expr, i64)> {
    let number = |term: &Expr| {
        constant_rational(term).filter(|_| matches!(term, Expr::Number(_) | Expr::Quotient(..)))
    };
    let numbers = before
        .iter()
        .map(number)
        .collect::<Option<Vec<Rational>>>()?;
    let [start, second, ..] = numbers.as_slice() else {
        return None;
    };
    let (last, factor) = (number(last)?, second.divide(start)?);
    numbers
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a.multiply(&factor).as_ref() == Some(b)))
        .then_some(())?;
    let mut value = start.clone();
    for steps in 0..=POWER_MAX {
        if value == last {
            let power = Expr::Number(factor).raised_to(Expr::Symbol(INDEX.into()));
            return (steps >= before.len() as i64)
                .then(|| (Expr::Number(start.clone()).times(power), steps));
        }
        value = value.multiply(&factor)?;
    }
    None
}
