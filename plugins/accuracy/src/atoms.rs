//! Formulas in normal form, with a letter of its own for each part that no exact value can be had
//! of: `e^{kt}`, `(1+r)^n`, `\ln(x+1)`, `\cos \omega t`. What is equal for all values of those
//! letters is equal.

use crate::expression::{Expr, Function};
use crate::normal::Normal;
use crate::terms::{Factor, Sum, Term, fraction, number};
use reward_sdk::rational::Rational;

/// The most letters in one comparison.
const LETTERS_MAX: usize = 24;
/// The highest power of a letter.
const POWER_MAX: i64 = 200;

/// What a letter stands for: a base to a product of letters, or a call.
struct Atom {
    base: Expr,
    exponent: Expr,
    /// Greatest common divisor of all its powers: each is a whole multiple of it.
    unit: Rational,
}

struct Atoms<'a> {
    normal: &'a Normal,
    known: Vec<Atom>,
    /// Whether two formulas that are written otherwise are equal.
    same: &'a dyn Fn(&Expr, &Expr) -> bool,
}

/// Returns both formulas with a letter for each part that has no exact value.
pub(crate) fn lettered(
    normal: &Normal,
    a: &Sum,
    b: &Sum,
    same: &dyn Fn(&Expr, &Expr) -> bool,
) -> Option<(Expr, Expr)> {
    let mut atoms = Atoms {
        normal,
        known: Vec::new(),
        same,
    };
    let (a, b) = (a.expr(), b.expr());
    // Once to see of which powers there are, and once to write them.
    atoms.written(&a)?;
    atoms.written(&b)?;
    Some((atoms.written(&a)?, atoms.written(&b)?))
}

fn greatest_common_divisor(a: &Rational, b: &Rational) -> Option<Rational> {
    let (mut x, mut y) = (a.clone().absolute(), b.clone().absolute());
    const STEPS_MAX: usize = 200;
    for _ in 0..STEPS_MAX {
        if y.is_zero() {
            return Some(x);
        }
        let times = Rational::big(x.divide(&y)?.floor())?;
        (x, y) = (y.clone(), x.subtract(&times.multiply(&y)?)?);
    }
    None
}

impl Atoms<'_> {
    /// A letter to the power that the exponent is of its unit.
    fn letter(&mut self, base: &Expr, exponent: &Expr, times: &Rational) -> Option<Expr> {
        let alike = |own: &Expr, other: &Expr| {
            own == other
                || match (own, other) {
                    (Expr::Call(f, x), Expr::Call(g, y)) => {
                        f == g
                            && x.len() == 1
                            && y.len() == 1
                            && x.iter().zip(y).all(|(x, y)| (self.same)(x, y))
                    }
                    (Expr::Sum(_), Expr::Sum(_)) => (self.same)(own, other),
                    _ => false,
                }
        };
        let at = match self
            .known
            .iter()
            .position(|atom| atom.exponent == *exponent && alike(&atom.base, base))
        {
            Some(at) => at,
            None => {
                (self.known.len() < LETTERS_MAX).then_some(())?;
                self.known.push(Atom {
                    base: base.clone(),
                    exponent: exponent.clone(),
                    unit: times.clone().absolute(),
                });
                self.known.len() - 1
            }
        };
        let atom = self.known.get_mut(at)?;
        atom.unit = greatest_common_divisor(&atom.unit, times)?;
        let power = times
            .divide(&atom.unit)?
            .to_i64()
            .filter(|power| power.abs() <= POWER_MAX)?;
        let letter = Expr::Symbol(format!(" atom {at}"));
        Some(if power == 1 {
            letter
        } else {
            letter.raised_to(number(power))
        })
    }

    fn written(&mut self, expr: &Expr) -> Option<Expr> {
        self.normal.step()?;
        Some(match expr {
            Expr::Sum(all) => Expr::Sum(
                all.iter()
                    .map(|part| self.written(part))
                    .collect::<Option<_>>()?,
            ),
            Expr::Product(all) => Expr::Product(
                all.iter()
                    .map(|part| self.written(part))
                    .collect::<Option<_>>()?,
            ),
            Expr::Power(base, exponent) => self.power(base, exponent)?,
            Expr::Call(Function::Sin | Function::Cos, arguments) => {
                let angle = self.normal.sum(arguments.first()?)?;
                self.call(expr, vec![self.linear(&angle)?])
            }
            Expr::Call(Function::Ln, arguments)
                if arguments
                    .iter()
                    .all(|argument| matches!(argument, Expr::Number(_))) =>
            {
                expr.clone()
            }
            Expr::Call(Function::Absolute, arguments) => {
                let inside = self.written(arguments.first()?)?;
                self.call(expr, vec![inside])
            }
            Expr::Call(
                Function::Factorial
                | Function::Binomial
                | Function::Gcd
                | Function::Lcm
                | Function::Max
                | Function::Min,
                _,
            ) => expr.clone(),
            Expr::Call(..) => self.letter(expr, &number(1), &Rational::integer(1))?,
            other => other.clone(),
        })
    }

    fn call(&self, expr: &Expr, arguments: Vec<Expr>) -> Expr {
        match expr {
            Expr::Call(function, _) => Expr::Call(*function, arguments),
            other => other.clone(),
        }
    }

    fn power(&mut self, base: &Expr, exponent: &Expr) -> Option<Expr> {
        let one = Rational::integer(1);
        if let Expr::Number(value) = exponent {
            let (_, below) = fraction(value)?;
            let plain = match base {
                Expr::Symbol(_) => 12 % below == 0,
                Expr::Number(_) => below <= 2,
                _ => below == 1,
            };
            return if plain {
                Some(self.written(base)?.raised_to(exponent.clone()))
            } else {
                self.letter(base, &number(1), value)
            };
        }
        if matches!(base, Expr::Number(value) if value.is_negative()) {
            return Some(base.clone().raised_to(exponent.clone()));
        }
        let sum = self.normal.sum(exponent)?;
        if self.normal.complex && *base == Expr::Euler {
            return Some(Expr::Euler.raised_to(self.linear(&sum)?));
        }
        let mut factors = Vec::new();
        for term in &sum.0 {
            factors.push(if term.factors.is_empty() {
                self.power(base, &Expr::Number(term.times.clone()))?
            } else {
                let monomial = Term {
                    times: one.clone(),
                    factors: term.factors.clone(),
                }
                .expr();
                self.letter(base, &monomial, &term.times)?
            });
        }
        Some(Expr::Product(factors))
    }

    /// An angle or exponent as multiples of letters: a product of letters becomes one.
    fn linear(&self, sum: &Sum) -> Option<Expr> {
        let mut terms = Vec::new();
        for term in &sum.0 {
            let (imaginary, rest): (Vec<Factor>, Vec<Factor>) =
                term.factors.iter().cloned().partition(|factor| {
                    factor.base == Expr::Imaginary && factor.exponent == number(1)
                });
            let single = match rest.as_slice() {
                [] => true,
                [only] => {
                    only.exponent == number(1)
                        && matches!(
                            only.base,
                            Expr::Symbol(_) | Expr::Pi | Expr::Call(Function::Ln, _)
                        )
                }
                _ => false,
            };
            if single {
                terms.push(term.expr());
                continue;
            }
            let letter = Expr::Symbol(format!(
                " {:?}",
                Term {
                    times: Rational::integer(1),
                    factors: rest
                }
                .expr()
            ));
            let mut product = vec![Expr::Number(term.times.clone())];
            product.extend(imaginary.iter().map(|_| Expr::Imaginary));
            product.push(letter);
            terms.push(Expr::Product(product));
        }
        Some(if terms.is_empty() {
            number(0)
        } else {
            Expr::Sum(terms)
        })
    }
}

/// What logarithms are multiplied by, and how often each argument's logarithm is taken.
type Group = (Vec<Factor>, Vec<(Rational, Expr)>);

/// Products of logarithms' arguments that must be 1 or −1 for two formulas to be equal, and what is
/// left without logarithms.
pub(crate) fn of_logarithms(difference: &Sum) -> Option<(Vec<Expr>, Expr)> {
    let mut rest = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    for term in &difference.0 {
        let log = term.factors.iter().position(|factor| {
            matches!(factor.base, Expr::Call(Function::Ln, _)) && factor.exponent == number(1)
        });
        let Some(at) = log else {
            rest.push(term.clone());
            continue;
        };
        let mut others = term.factors.clone();
        let Expr::Call(_, inside) = others.remove(at).base else {
            return None;
        };
        let part = (term.times.clone(), inside.into_iter().next()?);
        match groups.iter_mut().find(|(cofactor, _)| *cofactor == others) {
            Some((_, parts)) => parts.push(part),
            None => groups.push((others, vec![part])),
        }
    }
    if groups.is_empty() {
        return None;
    }
    let mut products = Vec::new();
    let mut rest = Sum(rest);
    for (cofactor, parts) in groups {
        let unit = parts
            .iter()
            .try_fold(Rational::integer(0), |unit, (times, _)| {
                greatest_common_divisor(&unit, times)
            })?;
        let mut factors = Vec::new();
        for (times, inside) in parts {
            let power = times
                .divide(&unit)?
                .to_i64()
                .filter(|power| power.abs() <= 12)?;
            factors.push(inside.raised_to(number(power)));
        }
        // ln u + x is ln(u·e^x).
        if cofactor.is_empty() && !rest.0.is_empty() {
            let exponent = std::mem::replace(&mut rest, Sum(Vec::new()))
                .scale(&Rational::integer(1).divide(&unit)?)?;
            factors.push(Expr::Euler.raised_to(exponent.expr()));
        }
        products.push(Expr::Product(factors));
    }
    Some((products, rest.expr()))
}
