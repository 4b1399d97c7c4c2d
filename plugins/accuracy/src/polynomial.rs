//! Rational functions of one variable with rational coefficients, and their real zeros and poles in
//! order.

use crate::comparison::Comparison;
use crate::expression::Expr;
use crate::numeric::constant_rational;
use num_bigint::BigInt;
use reward_sdk::rational::Rational;
use std::cmp::Ordering;

const DEGREE_MAX: usize = 12;
/// Rational zeros are looked for among the fractions of divisors of numbers up to this.
const COEFFICIENT_MAX: u64 = 1_000_000;
const CANDIDATES_MAX: usize = 2_000;
/// 2⁶¹ − 1
const PRIME: i64 = (1 << 61) - 1;

/// Coefficients, the constant first; the last is not zero. Empty for 0.
#[derive(Clone, Debug, PartialEq)]
struct Polynomial(Vec<Rational>);

/// One polynomial over another, not reduced: where the lower one vanishes there is no value.
#[derive(Clone, Debug)]
pub(crate) struct Fraction {
    above: Polynomial,
    below: Polynomial,
}

/// A zero or pole.
#[derive(Clone, Debug)]
pub(crate) struct Zero {
    pub at: Expr,
    /// Whether the sign on its other side is another one.
    pub odd: bool,
    pub pole: bool,
}

impl Polynomial {
    fn new(mut coefficients: Vec<Rational>) -> Option<Polynomial> {
        while coefficients.last().is_some_and(Rational::is_zero) {
            coefficients.pop();
        }
        (coefficients.len() <= DEGREE_MAX + 1).then_some(Polynomial(coefficients))
    }

    fn constant(value: Rational) -> Polynomial {
        Polynomial(if value.is_zero() {
            Vec::new()
        } else {
            vec![value]
        })
    }

    fn add(&self, other: &Polynomial) -> Option<Polynomial> {
        let zero = Rational::integer(0);
        let length = self.0.len().max(other.0.len());
        let sum = (0..length).map(|at| {
            self.0
                .get(at)
                .unwrap_or(&zero)
                .add(other.0.get(at).unwrap_or(&zero))
        });
        Polynomial::new(sum.collect::<Option<_>>()?)
    }

    fn multiply(&self, other: &Polynomial) -> Option<Polynomial> {
        if self.0.len() + other.0.len() > DEGREE_MAX + 2 {
            return None;
        }
        let mut product =
            vec![Rational::integer(0); (self.0.len() + other.0.len()).saturating_sub(1)];
        for (i, x) in self.0.iter().enumerate() {
            for (j, y) in other.0.iter().enumerate() {
                let sum = product.get_mut(i + j)?;
                *sum = sum.add(&x.multiply(y)?)?;
            }
        }
        Polynomial::new(product)
    }

    fn at(&self, value: &Rational) -> Option<Rational> {
        self.0
            .iter()
            .rev()
            .try_fold(Rational::integer(0), |sum, coefficient| {
                sum.multiply(value)?.add(coefficient)
            })
    }

    fn degree(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// Divides by x − value; `None` where that leaves a remainder.
    fn deflated(&self, value: &Rational) -> Option<Polynomial> {
        let mut quotient = Vec::new();
        let mut carry = Rational::integer(0);
        for coefficient in self.0.iter().rev() {
            carry = carry.multiply(value)?.add(coefficient)?;
            quotient.push(carry.clone());
        }
        quotient.pop().filter(Rational::is_zero)?;
        quotient.reverse();
        Polynomial::new(quotient)
    }

    /// Each real zero and how often it is one; `None` where they are not found.
    fn zeros(&self, judge: &Comparison) -> Option<Vec<(Expr, usize)>> {
        let mut rest = self.clone();
        let mut found = Vec::new();
        let mut take = |rest: &mut Polynomial, value: &Rational| {
            let mut times = 0;
            while rest.degree() > 0
                && let Some(smaller) = rest.deflated(value)
            {
                *rest = smaller;
                times += 1;
            }
            if times > 0 {
                found.push((Expr::Number(value.clone()), times));
            }
        };
        take(&mut rest, &Rational::integer(0));
        if rest.degree() > 2 {
            for candidate in rest.candidates()? {
                take(&mut rest, &candidate);
            }
        }
        match rest.0.as_slice() {
            [] | [_] => {}
            [c, b] => found.push((Expr::Number(c.divide(b)?.negate()), 1)),
            [c, b, a] => found.extend(quadratic(a, b, c)?),
            // In x².
            [c, p, b, q, a] if p.is_zero() && q.is_zero() => {
                for (square, times) in quadratic(a, b, c)? {
                    if judge.sign(&square)? == Ordering::Greater {
                        let root = Expr::Root(Box::new(square), 2);
                        found.extend([(root.clone().negate(), times), (root, times)]);
                    }
                }
            }
            _ => return None,
        }
        Some(found)
    }

    /// The rational numbers that can be zeros: fractions p/q of a divisor of the first coefficient
    /// and one of the last, once all are whole. Those at which the value is no multiple of a large
    /// prime are left out.
    fn candidates(&self) -> Option<Vec<Rational>> {
        let mut common = BigInt::from(1);
        for coefficient in &self.0 {
            let below = coefficient.denominator();
            common = &common * below / greatest_common_divisor(common.clone(), below.clone());
            if common > BigInt::from(COEFFICIENT_MAX) {
                return None;
            }
        }
        let whole = self
            .0
            .iter()
            .map(|coefficient| coefficient.multiply(&Rational::big(common.clone())?))
            .collect::<Option<Vec<_>>>()?;
        let residues: Vec<i128> = whole
            .iter()
            .map(|coefficient| {
                i128::try_from(
                    coefficient.numerator() / coefficient.denominator() % BigInt::from(PRIME),
                )
                .ok()
            })
            .collect::<Option<_>>()?;
        let bounded = |coefficient: &Rational| {
            u64::try_from(coefficient.clone().absolute().to_i64()?)
                .ok()
                .filter(|value| *value <= COEFFICIENT_MAX)
        };
        let (above, below) = (
            divisors(bounded(whole.first()?)?),
            divisors(bounded(whole.last()?)?),
        );
        if above.len() * below.len() > CANDIDATES_MAX {
            return None;
        }
        let mut found = Vec::new();
        for p in above {
            for q in &below {
                for p in [p, -p] {
                    // Σ aᵢ pⁱ qⁿ⁻ⁱ, by Horner's rule.
                    let mut power = 1i128;
                    let mut value = 0i128;
                    for residue in residues.iter().rev() {
                        value = (value * i128::from(p) + residue * power) % i128::from(PRIME);
                        power = power * i128::from(*q) % i128::from(PRIME);
                    }
                    if value == 0 {
                        found.push(Rational::integer(p).divide(&Rational::integer(*q))?);
                    }
                }
            }
        }
        Some(found)
    }
}

fn greatest_common_divisor(mut a: BigInt, mut b: BigInt) -> BigInt {
    while b != BigInt::from(0) {
        (a, b) = (b.clone(), a % b);
    }
    a
}

fn divisors(value: u64) -> Vec<i64> {
    let mut found = Vec::new();
    let mut divisor = 1;
    while divisor * divisor <= value {
        if value.is_multiple_of(divisor) {
            found.push(divisor as i64);
            if divisor * divisor != value {
                found.push((value / divisor) as i64);
            }
        }
        divisor += 1;
    }
    found
}

/// Real zeros of ax² + bx + c.
fn quadratic(a: &Rational, b: &Rational, c: &Rational) -> Option<Vec<(Expr, usize)>> {
    let inner = b
        .multiply(b)?
        .subtract(&a.multiply(c)?.multiply(&Rational::integer(4))?)?;
    let centre = b.clone().negate();
    let twice = a.multiply(&Rational::integer(2))?;
    if inner.is_zero() {
        return Some(vec![(Expr::Number(centre.divide(&twice)?), 2)]);
    }
    if inner.is_negative() {
        return Some(Vec::new());
    }
    let root = Expr::Root(Box::new(Expr::Number(inner)), 2);
    let zero = |root: Expr| {
        let value =
            Expr::Sum(vec![Expr::Number(centre.clone()), root]).over(Expr::Number(twice.clone()));
        constant_rational(&value).map_or(value, Expr::Number)
    };
    Some(vec![(zero(root.clone()), 1), (zero(root.negate()), 1)])
}

impl Fraction {
    /// Reads a rational function of the variable alone with rational coefficients; `None` for
    /// anything else.
    pub(crate) fn of(expr: &Expr, variable: &str) -> Option<Fraction> {
        let one = || Polynomial::constant(Rational::integer(1));
        if expr.symbols().is_empty() {
            return Some(Fraction {
                above: Polynomial::constant(constant_rational(expr)?),
                below: one(),
            });
        }
        match expr {
            Expr::Symbol(name) if name == variable => Some(Fraction {
                above: Polynomial(vec![Rational::integer(0), Rational::integer(1)]),
                below: one(),
            }),
            Expr::Sum(terms) => terms.iter().try_fold(
                Fraction {
                    above: Polynomial(Vec::new()),
                    below: one(),
                },
                |sum, term| {
                    let term = Fraction::of(term, variable)?;
                    if sum.below == term.below {
                        return Some(Fraction {
                            above: sum.above.add(&term.above)?,
                            below: sum.below,
                        });
                    }
                    let above = sum
                        .above
                        .multiply(&term.below)?
                        .add(&term.above.multiply(&sum.below)?)?;
                    Some(Fraction {
                        above,
                        below: sum.below.multiply(&term.below)?,
                    })
                },
            ),
            Expr::Product(factors) => factors.iter().try_fold(
                Fraction {
                    above: one(),
                    below: one(),
                },
                |product, factor| {
                    let factor = Fraction::of(factor, variable)?;
                    Some(Fraction {
                        above: product.above.multiply(&factor.above)?,
                        below: product.below.multiply(&factor.below)?,
                    })
                },
            ),
            Expr::Quotient(above, below) => {
                let (above, below) = (
                    Fraction::of(above, variable)?,
                    Fraction::of(below, variable)?,
                );
                if below.above.0.is_empty() || below.below.degree() > 0 {
                    return None;
                }
                Some(Fraction {
                    above: above.above.multiply(&below.below)?,
                    below: above.below.multiply(&below.above)?,
                })
            }
            Expr::Power(base, exponent) => {
                let times = constant_rational(exponent)?
                    .to_i64()
                    .filter(|times| (1..=DEGREE_MAX as i64).contains(times))?;
                let base = Fraction::of(base, variable)?;
                (1..times).try_fold(base.clone(), |power, _| {
                    Some(Fraction {
                        above: power.above.multiply(&base.above)?,
                        below: power.below.multiply(&base.below)?,
                    })
                })
            }
            _ => None,
        }
    }

    /// The poles, all simple and rational, and the coefficient of each: c / (x − pole). `None` for
    /// any other function.
    pub(crate) fn simple_parts(&self, judge: &Comparison) -> Option<Vec<(Rational, Rational)>> {
        if self.above.0.len() >= self.below.0.len() {
            return None;
        }
        let zeros = self.below.zeros(judge)?;
        (zeros.len() == self.below.degree()).then_some(())?;
        let leading = self.below.0.last()?;
        let poles = zeros
            .into_iter()
            .map(|(at, times)| match at {
                Expr::Number(pole) if times == 1 => Some(pole),
                _ => None,
            })
            .collect::<Option<Vec<Rational>>>()?;
        poles
            .iter()
            .map(|pole| {
                let slope = poles
                    .iter()
                    .filter(|other| *other != pole)
                    .try_fold(leading.clone(), |slope, other| {
                        slope.multiply(&pole.subtract(other)?)
                    })?;
                Some((pole.clone(), self.above.at(pole)?.divide(&slope)?))
            })
            .collect()
    }

    /// The sign beyond the last zero or pole, and all of them in order.
    pub(crate) fn zeros(&self, judge: &Comparison) -> Option<(Ordering, Vec<Zero>)> {
        if self.above.0.is_empty() {
            return (self.below.degree() == 0).then_some((Ordering::Equal, Vec::new()));
        }
        let leading =
            |polynomial: &Polynomial| polynomial.0.last().map(|value| value.is_negative());
        let negative = leading(&self.above)? != leading(&self.below)?;
        let mut ordered: Vec<Zero> = Vec::new();
        for (polynomial, pole) in [(&self.above, false), (&self.below, true)] {
            for (at, times) in polynomial.zeros(judge)? {
                let mut place = ordered.len();
                let mut same = false;
                for (index, other) in ordered.iter().enumerate() {
                    match judge.sign(&at.clone().minus(other.at.clone()))? {
                        Ordering::Greater => continue,
                        Ordering::Equal => same = true,
                        Ordering::Less => {}
                    }
                    place = index;
                    break;
                }
                let odd = times % 2 == 1;
                match ordered.get_mut(place).filter(|_| same) {
                    Some(zero) => (zero.odd, zero.pole) = (zero.odd != odd, zero.pole || pole),
                    None => ordered.insert(place, Zero { at, odd, pole }),
                }
            }
        }
        Some((
            if negative {
                Ordering::Less
            } else {
                Ordering::Greater
            },
            ordered,
        ))
    }
}
