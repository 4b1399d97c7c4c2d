//! Exponents and angles at a point: e to a linear form, and with an imaginary one the points of the
//! circle.

use crate::expression::{Expr, Function};
use crate::points::{LOG, Linear, ONE, PARTS, PI, Point, Stop, supported};
use crate::surd::{Surd, factors};
use reward_sdk::rational::Rational;
use std::collections::BTreeMap;

/// The highest multiple of an angle's part.
const TURNS_MAX: i64 = 120;

impl Point {
    /// e to a linear form: for each atom its own value, its own point of the circle.
    pub(crate) fn exponential(&self, form: &Linear) -> Result<Surd, Stop> {
        let mut product = Surd::integer(1);
        for (atom, (times, turned)) in form {
            if !times.is_zero() {
                let factor = match atom.strip_prefix(LOG) {
                    Some(prime) => {
                        let prime: i64 = supported(prime.parse().ok())?;
                        self.power(&Expr::integer(prime), &Expr::Number(times.clone()))?
                    }
                    None => {
                        Surd::rational(supported(self.free_power(&format!("e^{atom}"), times))?)
                    }
                };
                product = supported(product.multiply(&factor))?;
            }
            if !turned.is_zero() {
                let whole = |parts: i64| {
                    supported(
                        turned
                            .multiply(&Rational::integer(parts))
                            .and_then(|turned| turned.to_i64()),
                    )
                };
                let factor = match atom.as_str() {
                    PI => supported(turn(whole(PARTS)?))?,
                    atom if atom.starts_with(LOG) => return Err(Stop::Unsupported),
                    atom => {
                        let times = whole(self.parts)?;
                        supported((times.abs() <= TURNS_MAX).then_some(()))?;
                        self.circle(atom, times)?
                    }
                };
                product = supported(product.multiply(&factor))?;
            }
        }
        Ok(product)
    }

    /// A power of a point of the rational circle, (1 + ti)² / (1 + t²): in whole numbers up to one
    /// division, because fractions grow.
    fn circle(&self, atom: &str, times: i64) -> Result<Surd, Stop> {
        let t = self.free(&format!("circle {atom}"));
        let one = Rational::integer(1);
        let norm = supported(t.multiply(&t).and_then(|square| square.add(&one)))?;
        let t = if times < 0 { t.negate() } else { t };
        let turned = supported(Surd::imaginary().multiply(&Surd::rational(t)))?;
        let above = supported(
            Surd::integer(1)
                .add(&turned)
                .and_then(|above| above.power(2 * times.abs())),
        )?;
        let below = supported(norm.power(times.abs()).and_then(|below| one.divide(&below)))?;
        self.charge(&above)?;
        supported(above.multiply(&Surd::rational(below)))
    }

    /// The formula as a linear form over atoms.
    pub(crate) fn linear(&self, expr: &Expr) -> Option<Linear> {
        let zero = || Rational::integer(0);
        match expr {
            Expr::Symbol(name) => Some(BTreeMap::from([(
                name.clone(),
                (Rational::integer(1), zero()),
            )])),
            Expr::Pi => Some(BTreeMap::from([(
                PI.to_string(),
                (Rational::integer(1), zero()),
            )])),
            Expr::Sum(terms) => {
                let mut sum = Linear::new();
                for term in terms {
                    for (atom, (re, im)) in self.linear(term)? {
                        let entry = sum.entry(atom).or_insert_with(|| (zero(), zero()));
                        *entry = (entry.0.add(&re)?, entry.1.add(&im)?);
                    }
                }
                Some(sum)
            }
            Expr::Product(factors) => {
                let mut form = None;
                let mut scale = (Rational::integer(1), zero());
                for factor in factors {
                    match self.complex(factor) {
                        Some(value) => scale = multiply(&scale, &value)?,
                        None if form.is_none() => form = Some(self.linear(factor)?),
                        None => return None,
                    }
                }
                let form = form.unwrap_or_else(|| {
                    BTreeMap::from([(ONE.to_string(), (Rational::integer(1), zero()))])
                });
                form.into_iter()
                    .map(|(atom, value)| Some((atom, multiply(&value, &scale)?)))
                    .collect()
            }
            Expr::Quotient(above, below) => {
                let below = self.complex(below).filter(|below| below.1.is_zero())?.0;
                let scale = (Rational::integer(1).divide(&below)?, zero());
                self.linear(above)?
                    .into_iter()
                    .map(|(atom, value)| Some((atom, multiply(&value, &scale)?)))
                    .collect()
            }
            Expr::Call(Function::Ln, arguments) => {
                let value = self
                    .complex(arguments.first()?)
                    .filter(|value| value.1.is_zero())?
                    .0;
                let mut form = Linear::new();
                for (side, sign) in [(value.numerator(), 1), (value.denominator(), -1)] {
                    for (prime, times) in factors(side)? {
                        form.insert(
                            format!("{LOG}{prime}"),
                            (Rational::integer(sign * times), zero()),
                        );
                    }
                }
                Some(form)
            }
            other => self
                .complex(other)
                .map(|value| BTreeMap::from([(ONE.to_string(), value)])),
        }
    }

    /// The value of a constant that is a complex rational.
    fn complex(&self, expr: &Expr) -> Option<(Rational, Rational)> {
        if *expr == Expr::Imaginary {
            return Some((Rational::integer(0), Rational::integer(1)));
        }
        let constant = !expr.any(&|e| {
            matches!(
                e,
                Expr::Symbol(_) | Expr::Pi | Expr::Euler | Expr::Imaginary | Expr::Call(..)
            )
        });
        let value = if constant {
            self.value(expr).ok()?.to_rational()?
        } else {
            return None;
        };
        Some((value, Rational::integer(0)))
    }
}

fn multiply(a: &(Rational, Rational), b: &(Rational, Rational)) -> Option<(Rational, Rational)> {
    Some((
        a.0.multiply(&b.0)?.subtract(&a.1.multiply(&b.1)?)?,
        a.0.multiply(&b.1)?.add(&a.1.multiply(&b.0)?)?,
    ))
}

/// e^{iπk/12}
fn turn(twelfths: i64) -> Option<Surd> {
    let root = |n: i64| Surd::root_of(&Rational::integer(n));
    let half = Rational::integer(5).scale(-1)?;
    let quarter = Surd::rational(half.multiply(&half)?);
    let half = Surd::rational(half);
    let k = twelfths.rem_euclid(24);
    let cosine = |k: i64| -> Option<Surd> {
        let folded = if k > 12 { 24 - k } else { k };
        let (folded, negative) = if folded > 6 {
            (12 - folded, true)
        } else {
            (folded, false)
        };
        let value = match folded {
            0 => Surd::integer(1),
            1 => root(6)?.add(&root(2)?)?.multiply(&quarter)?,
            2 => root(3)?.multiply(&half)?,
            3 => root(2)?.multiply(&half)?,
            4 => half.clone(),
            5 => root(6)?.add(&root(2)?.negate())?.multiply(&quarter)?,
            _ => Surd::integer(0),
        };
        Some(if negative { value.negate() } else { value })
    };
    let sine = cosine((k + 18).rem_euclid(24))?;
    cosine(k)?.add(&sine.multiply(&Surd::imaginary())?)
}
