//! Sums and products: finite ones with whole bounds written out, `\sum_{k=1}^{3} k^2`; other sums
//! in closed form where there is one: polynomials of the index, `\sum_{k=1}^{n} k`, geometric
//! series, `\sum_{k=0}^{\infty} \frac{k}{2^k}`, and rational functions whose terms cancel
//! ([`crate::telescope`]).

use crate::comparison::Comparison;
use crate::expression::{Expr, Function};
use crate::numeric::constant_rational;
use crate::parser::Parser;
use crate::progression::{self, Progression};
use crate::telescope;
use crate::token::{Bracket, Kind, Relation};
use reward_sdk::rational::Rational;

/// The most sums of one answer that are written out: the others are letters.
const SERIES_MAX: u32 = 8;
const TERMS_MAX: i64 = 64;
/// The most nodes that all terms have together.
const SIZE_MAX: usize = 1_000;
/// The highest degree of a polynomial that is summed in closed form.
const DEGREE_MAX: u32 = 8;

impl Parser<'_> {
    /// The sign has been read. What is not written out is a letter like any other: two sums are
    /// equal where they are written alike.
    pub(crate) fn series(&mut self, name: &str) -> Option<Expr> {
        self.series += 1;
        if self.series > SERIES_MAX {
            return Some(Expr::Symbol(name.to_string()));
        }
        let start = self.at;
        match self.nested(|parser| parser.summed(name == "sum")) {
            Some(found) => Some(found),
            None => {
                self.at = start;
                Some(Expr::Symbol(name.to_string()))
            }
        }
    }

    fn summed(&mut self, sum: bool) -> Option<Expr> {
        (self.eat(&Kind::Underscore) && self.eat(&Kind::Open(Bracket::Group))).then_some(())?;
        let Kind::Word(index) = self.peek()?.clone() else {
            return None;
        };
        self.at += 1;
        (index.len() == 1 && self.eat(&Kind::Relation(Relation::Equal))).then_some(())?;
        let low = self.sum()?;
        (self.eat(&Kind::Close(Bracket::Group)) && self.eat(&Kind::Caret)).then_some(())?;
        let high = self.exponent()?;
        let body = self.term()?;
        // `a_k` is not the same for every k, and nobody knows which it is.
        let indexed = |e: &Expr| {
            matches!(e, Expr::Symbol(name) if name.split_once('_')
            .is_some_and(|(_, below)| below.contains(index)))
        };
        if body.any(&indexed) {
            return None;
        }
        total(&self.judge, sum, &body, index, (low, high))
    }

    /// Returns the value of `1 + 2 + \cdots + n`, given by the terms before the dots and those
    /// behind them. Factors give a product.
    pub(crate) fn dotted(&mut self, sum: bool, before: &[Expr], behind: &[Expr]) -> Option<Expr> {
        self.series += 1;
        (self.series <= SERIES_MAX).then_some(())?;
        let Progression { term, low, high } = progression::read(&self.judge, before, behind)?;
        total(&self.judge, sum, &term, progression::INDEX, (low, high))
    }
}

/// The sum, else the product, of the body for each value of the index.
fn total(
    judge: &Comparison,
    sum: bool,
    body: &Expr,
    index: &str,
    (low, high): (Expr, Expr),
) -> Option<Expr> {
    let whole = |expr: &Expr| {
        constant_rational(expr)
            .filter(|value| value.denominator() == &1.into())?
            .to_i64()
    };
    if let (Some(low), Some(high)) = (whole(&low), whole(&high)) {
        let terms = high.checked_sub(low)?.checked_add(1)?;
        if (1..=TERMS_MAX).contains(&terms)
            && body.size() * usize::try_from(terms).ok()? <= SIZE_MAX
        {
            let terms = (low..=high)
                .map(|value| with(body, index, &Expr::integer(value)))
                .collect();
            return Some(if sum {
                Expr::Sum(terms)
            } else {
                Expr::Product(terms)
            });
        }
        (terms > 0).then_some(())?;
    }
    let series = Series { index, low };
    (series.is_free(&series.low) && series.is_free(&high)).then_some(())?;
    if !sum {
        let counts =
            is_index(body, index) && series.low == Expr::integer(1) && high != Expr::Infinity;
        return counts.then(|| Expr::call(Function::Factorial, high));
    }
    series.closed(body, &high).or_else(|| {
        let name = progression::INDEX;
        telescope::closed(
            judge,
            &with(body, index, &Expr::Symbol(name.into())),
            name,
            &series.low,
            &high,
        )
    })
}

struct Series<'i> {
    index: &'i str,
    low: Expr,
}

impl Series<'_> {
    fn is_free(&self, expr: &Expr) -> bool {
        !expr.any(&|e| is_index(e, self.index))
    }

    fn at(&self, body: &Expr, value: &Expr) -> Expr {
        with(body, self.index, value)
    }

    /// `f(low + m)` as a polynomial in m by its differences at the lower bound, times a power
    /// `r^m`: Σ C(m, j) is C(n, j + 1) for m < n, and Σ C(m, j) r^m is r^j / (1 − r)^{j+1} for all
    /// m.
    fn closed(&self, body: &Expr, high: &Expr) -> Option<Expr> {
        let (degree, ratio) = self.shape(body)?;
        let one = || Expr::integer(1);
        let steps = |count: u32| -> Expr {
            Expr::Sum(vec![self.low.clone(), Expr::integer(i64::from(count))])
        };
        // The values f(low + j) without the power.
        let values: Vec<Expr> = (0..=degree)
            .map(|j| match &ratio {
                None => self.at(body, &steps(j)),
                Some(ratio) => self
                    .at(body, &steps(j))
                    .over(ratio.clone().raised_to(Expr::integer(i64::from(j)))),
            })
            .collect();
        let differences = differences(values)?;
        match (ratio, high) {
            (None, Expr::Infinity) => None,
            (Some(ratio), Expr::Infinity) => {
                // A ratio with letters in it is taken to be small enough, as whoever writes the sum
                // does.
                if ratio.symbols().is_empty() && !small(&ratio)? {
                    return None;
                }
                let terms = differences.into_iter().zip(0..).map(|(difference, j)| {
                    let below = one().minus(ratio.clone()).raised_to(Expr::integer(j + 1));
                    difference
                        .times(ratio.clone().raised_to(Expr::integer(j)))
                        .over(below)
                });
                Some(Expr::Sum(terms.collect()))
            }
            (None, high) => {
                let count = Expr::Sum(vec![high.clone(), self.low.clone().negate(), one()]);
                let terms = differences.into_iter().zip(0..).map(|(difference, j)| {
                    let factors = (0..=j).map(|i| {
                        count
                            .clone()
                            .minus(Expr::integer(i))
                            .over(Expr::integer(i + 1))
                    });
                    Expr::Product(std::iter::once(difference).chain(factors).collect())
                });
                Some(Expr::Sum(terms.collect()))
            }
            (Some(ratio), high) if degree == 0 => {
                let exponent = Expr::Sum(vec![high.clone(), self.low.clone().negate(), one()]);
                let above = ratio.clone().raised_to(exponent).minus(one());
                Some(
                    self.at(body, &self.low)
                        .times(above)
                        .over(ratio.minus(one())),
                )
            }
            _ => None,
        }
    }

    /// A formula as a polynomial in the index, by its degree, times a power `r^index`, by its r.
    fn shape(&self, body: &Expr) -> Option<(u32, Option<Expr>)> {
        if self.is_free(body) {
            return Some((0, None));
        }
        let found = match body {
            e if is_index(e, self.index) => (1, None),
            Expr::Sum(terms) => {
                let mut degree = 0;
                for term in terms {
                    let (here, None) = self.shape(term)? else {
                        return None;
                    };
                    degree = degree.max(here);
                }
                (degree, None)
            }
            Expr::Product(factors) => {
                let mut all = (0, None);
                for factor in factors {
                    let (degree, ratio) = self.shape(factor)?;
                    all = (all.0 + degree, product(all.1, ratio));
                }
                all
            }
            Expr::Quotient(above, below) => {
                let (above, (0, below)) = (self.shape(above)?, self.shape(below)?) else {
                    return None;
                };
                (
                    above.0,
                    product(above.1, below.map(|ratio| Expr::integer(1).over(ratio))),
                )
            }
            Expr::Power(base, exponent) if self.is_free(base) => {
                let (1, None) = self.shape(exponent)? else {
                    return None;
                };
                let slope = self
                    .at(exponent, &Expr::integer(1))
                    .minus(self.at(exponent, &Expr::integer(0)));
                let slope = constant_rational(&slope).map_or(slope, Expr::Number);
                (
                    0,
                    Some(if slope == Expr::integer(1) {
                        (**base).clone()
                    } else {
                        (**base).clone().raised_to(slope)
                    }),
                )
            }
            Expr::Power(base, exponent) => {
                let (degree, ratio) = self.shape(base)?;
                let times = constant_rational(exponent)?
                    .to_i64()
                    .and_then(|times| u32::try_from(times).ok())?;
                match ratio {
                    None => (degree.checked_mul(times)?, None),
                    Some(ratio) if degree == 0 => {
                        (0, Some(ratio.raised_to(Expr::integer(i64::from(times)))))
                    }
                    Some(_) => return None,
                }
            }
            _ => return None,
        };
        (found.0 <= DEGREE_MAX).then_some(found)
    }
}

fn product(a: Option<Expr>, b: Option<Expr>) -> Option<Expr> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.times(b)),
        (one, other) => one.or(other),
    }
}

/// f(0), then the first of each row of differences; `None` where they grow too large.
fn differences(mut row: Vec<Expr>) -> Option<Vec<Expr>> {
    let simple = |expr: Expr| constant_rational(&expr).map_or(expr, Expr::Number);
    let mut found = Vec::with_capacity(row.len());
    while let Some(first) = row.first() {
        if row.iter().map(Expr::size).sum::<usize>() > SIZE_MAX {
            return None;
        }
        found.push(simple(first.clone()));
        row = row
            .windows(2)
            .filter_map(|pair| Some(simple(pair.last()?.clone().minus(pair.first()?.clone()))))
            .collect();
    }
    Some(found)
}

/// Whether |r| < 1; `None` for what is not rational.
fn small(ratio: &Expr) -> Option<bool> {
    let ratio = constant_rational(ratio)?;
    let size = if ratio.is_negative() {
        ratio.negate()
    } else {
        ratio
    };
    Some(size < Rational::integer(1))
}

fn is_index(expr: &Expr, index: &str) -> bool {
    match expr {
        Expr::Imaginary => index == "i",
        Expr::Symbol(name) => name == index,
        _ => false,
    }
}

/// `i` is an index here, and no imaginary unit.
fn with(body: &Expr, index: &str, value: &Expr) -> Expr {
    if is_index(body, index) {
        value.clone()
    } else {
        body.map(&mut |child| with(child, index, value))
    }
}
