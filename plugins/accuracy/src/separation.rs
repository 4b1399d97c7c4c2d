//! How close to zero a constant formula of a given size may come without being zero.

use crate::expression::{Expr, Function, radians};
use crate::numeric::{Numeric, constant_rational};
use crate::points::{Domain, Point, Signs};

/// How many bits behind the point a constant formula must vanish to for its value to be zero.
///
/// For formulas of rationals and roots this is a theorem (Burnikel, Funke, Mehlhorn, Schirra,
/// Schmitt: A separation bound for real algebraic expressions, Algorithmica 55, 2009): with u and l
/// bounds of numerator and denominator and D the product of the roots' degrees, a value other than
/// zero is at least 1/(u^{D−1}·l). Transcendental functions enter it as if they were algebraic of
/// low degree, as van der Hoeven's witness conjecture has it: no formula comes closer to zero than
/// its size allows.
pub(crate) fn separation_bits(numeric: &Numeric<'_>, expr: &Expr) -> f64 {
    let mut bound = Separation {
        numeric,
        roots: Vec::new(),
        degree: 1.0,
        order: 1,
    };
    let (u, l) = bound.walk(expr);
    // Sines and cosines of parts of a turn are real numbers of the field of those roots of unity.
    let turns = if bound.order > 1 {
        (totient(least_common_multiple(bound.order, 4)) / 2).max(1)
    } else {
        1
    };
    let degree = bound.degree * turns as f64;
    (degree - 1.0).max(0.0) * u.max(0.0) + l.max(0.0) + 64.0
}

/// Formulas with more different roots are beyond any precision that is worth its cost.
const ROOTS_MAX: usize = 16;

struct Separation<'n, 'e> {
    numeric: &'n Numeric<'n>,
    roots: Vec<&'e Expr>,
    degree: f64,
    /// Least common multiple of the orders of all roots of unity.
    order: u64,
}

impl<'e> Separation<'_, 'e> {
    fn once(&mut self, root: &'e Expr, degree: f64) {
        if self.roots.len() >= ROOTS_MAX {
            self.degree = f64::INFINITY;
        } else if !self.roots.contains(&root) {
            self.roots.push(root);
            self.degree *= degree;
        }
    }

    /// Returns log₂ of u and l.
    fn walk(&mut self, expr: &'e Expr) -> (f64, f64) {
        match expr {
            Expr::Number(value) => (
                value.numerator().bits() as f64,
                value.denominator().bits().saturating_sub(1) as f64,
            ),
            Expr::Sum(terms) => {
                let mut sum: Option<(f64, f64)> = None;
                for term in terms {
                    let (u, l) = self.walk(term);
                    sum = Some(sum.map_or((u, l), |(su, sl)| ((su + l).max(u + sl) + 1.0, sl + l)));
                }
                sum.unwrap_or((0.0, 0.0))
            }
            Expr::Product(factors) => {
                let all: Vec<(f64, f64)> = factors.iter().map(|factor| self.walk(factor)).collect();
                all.into_iter()
                    .fold((0.0, 0.0), |(u, l), (fu, fl)| (u + fu, l + fl))
            }
            Expr::Quotient(above, below) => {
                let ((au, al), (bu, bl)) = (self.walk(above), self.walk(below));
                (au + bl, al + bu)
            }
            Expr::Root(inner, degree) => {
                let (u, l) = self.walk(inner);
                self.once(expr, f64::from(*degree));
                rooted(u, l, f64::from(*degree))
            }
            Expr::Power(base, exponent) => {
                let (u, l) = self.walk(base);
                match constant_rational(exponent) {
                    Some(exponent) => {
                        let below = exponent.denominator().bits() as f64;
                        let degree = exponent
                            .denominator()
                            .to_string()
                            .parse()
                            .unwrap_or(f64::MAX);
                        let times = exponent
                            .numerator()
                            .to_string()
                            .parse::<f64>()
                            .unwrap_or(f64::MAX);
                        let (u, l) = if below > 1.0 {
                            self.once(expr, degree);
                            rooted(u, l, degree)
                        } else {
                            (u, l)
                        };
                        let (u, l) = (u * times.abs(), l * times.abs());
                        if times < 0.0 { (l, u) } else { (u, l) }
                    }
                    None => {
                        let (eu, el) = self.walk(exponent);
                        self.once(expr, 2.0);
                        let size = self.numeric.value(expr).map_or(f64::MAX, |value| {
                            value.re.magnitude().max(value.im.magnitude()) as f64
                        });
                        (
                            u + eu + 16.0 + size.max(0.0),
                            l + el + 16.0 + (-size).max(0.0),
                        )
                    }
                }
            }
            Expr::Imaginary => {
                self.once(expr, 2.0);
                (0.0, 0.0)
            }
            Expr::Pi | Expr::Euler => (6.0, 4.0),
            Expr::Call(
                Function::Factorial
                | Function::Binomial
                | Function::Floor
                | Function::Ceiling
                | Function::Gcd
                | Function::Lcm,
                arguments,
            ) => {
                let sizes: Vec<(f64, f64)> = arguments
                    .iter()
                    .map(|argument| self.walk(argument))
                    .collect();
                let u: f64 = sizes.iter().map(|size| size.0).sum();
                (2f64.powf(u.min(12.0)) * u.max(1.0), 0.0)
            }
            Expr::Call(function, arguments) => {
                let trigonometric = matches!(
                    function,
                    Function::Sin
                        | Function::Cos
                        | Function::Tan
                        | Function::Cot
                        | Function::Sec
                        | Function::Csc
                );
                if trigonometric && let Some(order) = arguments.first().and_then(turn_order) {
                    self.order = least_common_multiple(self.order, order);
                    return (2.0, 2.0);
                }
                let sizes: Vec<(f64, f64)> = arguments
                    .iter()
                    .map(|argument| self.walk(argument))
                    .collect();
                let (u, l) = sizes
                    .into_iter()
                    .fold((0.0, 0.0), |(u, l), (au, al)| (u + au, l + al));
                if *function != Function::Absolute {
                    self.once(expr, 2.0);
                }
                (u + 8.0, l + 8.0)
            }
            other => {
                let sizes: Vec<(f64, f64)> = other
                    .children()
                    .into_iter()
                    .map(|child| self.walk(child))
                    .collect();
                sizes
                    .into_iter()
                    .fold((0.0, 8.0), |(u, l), (au, al)| (u + au, l + al))
            }
        }
    }
}

fn rooted(u: f64, l: f64, degree: f64) -> (f64, f64) {
    if u >= l {
        ((u + (degree - 1.0) * l) / degree, l)
    } else {
        (u, ((degree - 1.0) * u + l) / degree)
    }
}

/// The order of e^{iθ} as a root of unity, when θ is a rational part of a turn.
fn turn_order(angle: &Expr) -> Option<u64> {
    let turns = Expr::Quotient(Box::new(radians(angle)), Box::new(Expr::Pi));
    // With any value for π, a rational multiple of it divided by it is that rational.
    let values = [1, 2].map(|seed| {
        Point::new(seed, Domain::Any, Signs::Positive)
            .value(&turns)
            .ok()
            .and_then(|v| v.to_rational())
    });
    let [Some(first), Some(second)] = values else {
        return None;
    };
    let below = u64::try_from(first.denominator()).ok()?;
    (first == second && turns.symbols().is_empty() && below < 10_000).then_some(2 * below)
}

/// Euler's totient: how many numbers up to `value` have no divisor in common with it.
fn totient(value: u64) -> u64 {
    let (mut left, mut found, mut prime) = (value, value, 2);
    while prime * prime <= left && prime < 1 << 12 {
        if left.is_multiple_of(prime) {
            found = found / prime * (prime - 1);
            while left.is_multiple_of(prime) {
                left /= prime;
            }
        }
        prime += 1;
    }
    // What is left over is prime, or counted as if it were: a bound from above.
    if left > 1 {
        found / left * (left - 1)
    } else {
        found
    }
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b).min(1 << 40)
}
