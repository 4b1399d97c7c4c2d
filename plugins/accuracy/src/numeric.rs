//! Constant formulas as complex balls, and how close to zero a formula of a given size may come
//! without being zero.

use crate::ball::Ball;
use crate::elementary::{arc_tangent, exponential, logarithm, pi, sine_cosine};
use crate::expression::{Expr, Function, radians};
use crate::points::{Domain, Point, Signs};
use reward_sdk::rational::Rational;
use std::cell::Cell;
use std::cmp::Ordering;

/// Whole exponents are multiplied out up to this.
const EXPONENT_MAX: i64 = 1 << 20;
const FACTORIAL_MAX: i64 = 2_000;
/// What a function costs on top of its products, in about the sandbox's fuel.
const FUNCTION_COST: u64 = 60_000;
/// Roots of a higher degree are powers.
const DEGREE_MAX: i64 = 6;

#[derive(Clone, Debug)]
pub(crate) struct Complex {
    pub re: Ball,
    pub im: Ball,
}

impl Complex {
    pub(crate) fn real(re: Ball) -> Complex {
        Complex {
            re,
            im: Ball::integer(0),
        }
    }

    fn is_real(&self) -> bool {
        self.im.is_exact_zero()
    }

    /// Whether the value may be real: the ball of its imaginary part contains zero.
    pub(crate) fn may_be_real(&self) -> bool {
        self.im.contains_zero()
    }

    pub(crate) fn contains_zero(&self) -> bool {
        self.re.contains_zero() && self.im.contains_zero()
    }

    /// log₂ of an upper bound of the radius of either part.
    pub(crate) fn error(&self) -> i64 {
        self.re.error().max(self.im.error())
    }
}

/// Evaluates formulas to `bits` bits, until `budget` is spent.
pub(crate) struct Numeric<'a> {
    pub bits: u64,
    /// Whether roots and logarithms of negative numbers have no value.
    pub real: bool,
    pub budget: &'a Cell<u64>,
}

impl Numeric<'_> {
    /// Evaluates a formula. `None`: undefined, too large, too expensive, or not certain enough (a
    /// branch cut or a whole number within the error).
    pub(crate) fn value(&self, expr: &Expr) -> Option<Complex> {
        let words = self.bits / 32 + 4;
        let product = 1_000 + 6 * words * words;
        let cost = match expr {
            Expr::Call(..) | Expr::Power(..) => product * (self.bits / 2 + 32) + FUNCTION_COST,
            Expr::Pi | Expr::Euler => product * (self.bits / 2 + 32),
            Expr::Root(..) => product * 20,
            _ => product,
        };
        self.budget.set(self.budget.get().checked_sub(cost)?);
        let bits = self.bits;
        match expr {
            Expr::Number(value) => Some(Complex::real(Ball::rational(value, bits)?)),
            Expr::Pi => Some(Complex::real(pi(bits)?)),
            Expr::Euler => Some(Complex::real(exponential(&Ball::integer(1), bits)?)),
            Expr::Imaginary => Some(Complex {
                re: Ball::integer(0),
                im: Ball::integer(1),
            }),
            Expr::Sum(terms) => {
                let mut sum = Complex::real(Ball::integer(0));
                for term in terms {
                    sum = self.add(&sum, &self.value(term)?)?;
                }
                Some(sum)
            }
            Expr::Product(factors) => {
                let mut product = Complex::real(Ball::integer(1));
                for factor in factors {
                    product = self.multiply(&product, &self.value(factor)?)?;
                }
                Some(product)
            }
            Expr::Quotient(above, below) => self.divide(&self.value(above)?, &self.value(below)?),
            Expr::Percent(inner) => {
                self.divide(&self.value(inner)?, &Complex::real(Ball::integer(100)))
            }
            Expr::Degrees(inner) | Expr::Quantity(inner, _) => self.value(inner),
            Expr::Root(inner, degree) => self.root(&self.value(inner)?, *degree),
            Expr::Power(base, exponent) => self.power(base, exponent),
            Expr::Call(function, arguments) => self.call(*function, arguments),
            _ => None,
        }
    }

    fn add(&self, a: &Complex, b: &Complex) -> Option<Complex> {
        Some(Complex {
            re: a.re.add(&b.re, self.bits)?,
            im: a.im.add(&b.im, self.bits)?,
        })
    }

    fn multiply(&self, a: &Complex, b: &Complex) -> Option<Complex> {
        let bits = self.bits;
        if a.is_real() && b.is_real() {
            return Some(Complex::real(a.re.multiply(&b.re, bits)?));
        }
        Some(Complex {
            re: a
                .re
                .multiply(&b.re, bits)?
                .subtract(&a.im.multiply(&b.im, bits)?, bits)?,
            im: a
                .re
                .multiply(&b.im, bits)?
                .add(&a.im.multiply(&b.re, bits)?, bits)?,
        })
    }

    fn divide(&self, a: &Complex, b: &Complex) -> Option<Complex> {
        let bits = self.bits;
        if a.is_real() && b.is_real() {
            return Some(Complex::real(a.re.divide(&b.re, bits)?));
        }
        let norm = self.norm(b)?;
        let product = self.multiply(
            a,
            &Complex {
                re: b.re.clone(),
                im: b.im.clone().negate(),
            },
        )?;
        Some(Complex {
            re: product.re.divide(&norm, bits)?,
            im: product.im.divide(&norm, bits)?,
        })
    }

    /// |z|²
    fn norm(&self, z: &Complex) -> Option<Ball> {
        z.re.multiply(&z.re, self.bits)?
            .add(&z.im.multiply(&z.im, self.bits)?, self.bits)
    }

    /// The principal root; of negative reals the real one when the degree is odd.
    fn root(&self, z: &Complex, degree: u32) -> Option<Complex> {
        let bits = self.bits;
        if z.is_real() {
            let negative = z.re.middle < num_bigint::BigInt::ZERO && !z.re.contains_zero();
            if self.real && negative && degree.is_multiple_of(2) {
                return None;
            }
            return Some(match (negative, degree) {
                (false, _) => Complex::real(z.re.root(degree, bits)?),
                (true, 2) => Complex {
                    re: Ball::integer(0),
                    im: z.re.clone().negate().root(2, bits)?,
                },
                (true, odd) if odd % 2 == 1 => {
                    Complex::real(z.re.clone().negate().root(degree, bits)?.negate())
                }
                (true, _) => self.exponential(&self.divide(
                    &self.logarithm(z)?,
                    &Complex::real(Ball::integer(degree.into())),
                )?)?,
            });
        }
        self.exponential(&self.divide(
            &self.logarithm(z)?,
            &Complex::real(Ball::integer(degree.into())),
        )?)
    }

    fn exponential(&self, z: &Complex) -> Option<Complex> {
        let size = exponential(&z.re, self.bits)?;
        if z.is_real() {
            return Some(Complex::real(size));
        }
        let (sine, cosine) = sine_cosine(&z.im, self.bits)?;
        Some(Complex {
            re: size.multiply(&cosine, self.bits)?,
            im: size.multiply(&sine, self.bits)?,
        })
    }

    fn logarithm(&self, z: &Complex) -> Option<Complex> {
        let bits = self.bits;
        if z.is_real() && z.re.sign() == Some(Ordering::Greater) {
            return Some(Complex::real(logarithm(&z.re, bits)?));
        }
        if self.real {
            return None;
        }
        let size = logarithm(&self.norm(z)?, bits)?.scale(-1)?;
        Some(Complex {
            re: size,
            im: self.argument(z)?,
        })
    }

    /// The argument of z, in (−π, π]; `None` on the cut when it is not certain.
    fn argument(&self, z: &Complex) -> Option<Ball> {
        let bits = self.bits;
        let half_turn = pi(bits)?;
        match (z.re.sign(), z.im.sign()) {
            (Some(Ordering::Greater), _) => arc_tangent(&z.im.divide(&z.re, bits)?, bits),
            (_, Some(Ordering::Greater)) => half_turn
                .scale(-1)?
                .subtract(&arc_tangent(&z.re.divide(&z.im, bits)?, bits)?, bits),
            (_, Some(Ordering::Less)) => half_turn
                .scale(-1)?
                .negate()
                .subtract(&arc_tangent(&z.re.divide(&z.im, bits)?, bits)?, bits),
            (Some(Ordering::Less), Some(Ordering::Equal)) => Some(half_turn),
            _ => None,
        }
    }

    fn power(&self, base: &Expr, exponent: &Expr) -> Option<Complex> {
        let bits = self.bits;
        if let Some(exponent) = constant_rational(exponent) {
            let whole = exponent.to_i64().is_some();
            if *base == Expr::Euler && !whole {
                return self.exponential(&Complex::real(Ball::rational(&exponent, bits)?));
            }
            let base = self.value(base)?;
            // A root of a high degree costs more than a logarithm.
            if !whole
                && *exponent.denominator() > DEGREE_MAX.into()
                && base.is_real()
                && base.re.sign() == Some(Ordering::Greater)
            {
                let power =
                    logarithm(&base.re, bits)?.multiply(&Ball::rational(&exponent, bits)?, bits)?;
                return Some(Complex::real(exponential(&power, bits)?));
            }
            if let Some(whole) = exponent.to_i64() {
                if whole.abs() > EXPONENT_MAX {
                    return None;
                }
                let raised = self.whole_power(&base, whole.unsigned_abs())?;
                return if whole >= 0 {
                    Some(raised)
                } else {
                    self.divide(&Complex::real(Ball::integer(1)), &raised)
                };
            }
            let degree = u32::try_from(exponent.denominator())
                .ok()
                .filter(|d| *d <= 1_000)?;
            let times = i64::try_from(exponent.numerator())
                .ok()
                .filter(|times| times.abs() <= EXPONENT_MAX)?;
            let raised = self.whole_power(&self.root(&base, degree)?, times.unsigned_abs())?;
            return if times >= 0 {
                Some(raised)
            } else {
                self.divide(&Complex::real(Ball::integer(1)), &raised)
            };
        }
        let exponent = self.value(exponent)?;
        if *base == Expr::Euler {
            return self.exponential(&exponent);
        }
        let base = self.value(base)?;
        self.exponential(&self.multiply(&exponent, &self.logarithm(&base)?)?)
    }

    fn whole_power(&self, base: &Complex, mut exponent: u64) -> Option<Complex> {
        if base.is_real() {
            return Some(Complex::real(base.re.power(exponent, self.bits)?));
        }
        let mut base = base.clone();
        let mut result = Complex::real(Ball::integer(1));
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = self.multiply(&result, &base)?;
            }
            exponent >>= 1;
            if exponent > 0 {
                base = self.multiply(&base, &base)?;
            }
        }
        Some(result)
    }

    fn call(&self, function: Function, arguments: &[Expr]) -> Option<Complex> {
        let bits = self.bits;
        let first = arguments.first()?;
        let one = Complex::real(Ball::integer(1));
        let z = match function {
            Function::Sin
            | Function::Cos
            | Function::Tan
            | Function::Cot
            | Function::Sec
            | Function::Csc => self.value(&radians(first))?,
            _ => self.value(first)?,
        };
        match function {
            Function::Sin
            | Function::Cos
            | Function::Tan
            | Function::Cot
            | Function::Sec
            | Function::Csc => {
                let (sine, cosine) = self.sine_cosine(&z)?;
                match function {
                    Function::Sin => Some(sine),
                    Function::Cos => Some(cosine),
                    Function::Tan => self.divide(&sine, &cosine),
                    Function::Cot => self.divide(&cosine, &sine),
                    Function::Sec => self.divide(&one, &cosine),
                    _ => self.divide(&one, &sine),
                }
            }
            Function::Sinh | Function::Cosh | Function::Tanh => {
                let grown = self.exponential(&z)?;
                let shrunk = self.divide(&one, &grown)?;
                let minus = Complex {
                    re: shrunk.re.clone().negate(),
                    im: shrunk.im.clone().negate(),
                };
                let two = Complex::real(Ball::integer(2));
                let (difference, sum) = (self.add(&grown, &minus)?, self.add(&grown, &shrunk)?);
                match function {
                    Function::Sinh => self.divide(&difference, &two),
                    Function::Cosh => self.divide(&sum, &two),
                    _ => self.divide(&difference, &sum),
                }
            }
            Function::Arcsin | Function::Arccos if z.is_real() => {
                // asin x = 2·atan(x / (1 + √(1 − x²)))
                let cosine = Ball::integer(1)
                    .subtract(&z.re.multiply(&z.re, bits)?, bits)?
                    .root(2, bits)?;
                let tangent = z.re.divide(&cosine.add(&Ball::integer(1), bits)?, bits)?;
                let sine = arc_tangent(&tangent, bits)?.scale(1)?;
                Some(Complex::real(if function == Function::Arcsin {
                    sine
                } else {
                    pi(bits)?.scale(-1)?.subtract(&sine, bits)?
                }))
            }
            Function::Arctan if z.is_real() => Some(Complex::real(arc_tangent(&z.re, bits)?)),
            Function::Ln => self.logarithm(&z),
            Function::Log => self.divide(
                &self.logarithm(&self.value(arguments.get(1)?)?)?,
                &self.logarithm(&z)?,
            ),
            Function::Absolute if z.is_real() => Some(Complex::real(z.re.absolute())),
            Function::Absolute => Some(Complex::real(self.norm(&z)?.root(2, bits)?)),
            Function::RealPart => Some(Complex::real(z.re)),
            Function::ImaginaryPart => Some(Complex::real(z.im)),
            Function::Floor if z.is_real() => Some(Complex::real(Ball {
                middle: z.re.floor()?,
                ..Ball::integer(0)
            })),
            Function::Ceiling if z.is_real() => Some(Complex::real(Ball {
                middle: -z.re.negate().floor()?,
                ..Ball::integer(0)
            })),
            Function::Factorial => {
                let n = constant_rational(first)?
                    .to_i64()
                    .filter(|n| (0..=FACTORIAL_MAX).contains(n))?;
                let mut product = Ball::integer(1);
                for factor in 2..=n {
                    product = product.multiply(&Ball::integer(factor), bits)?;
                }
                Some(Complex::real(product))
            }
            _ => None,
        }
    }

    fn sine_cosine(&self, z: &Complex) -> Option<(Complex, Complex)> {
        if z.is_real() {
            let (sine, cosine) = sine_cosine(&z.re, self.bits)?;
            return Some((Complex::real(sine), Complex::real(cosine)));
        }
        // By e^{iz} and its inverse.
        let turned = self.exponential(&Complex {
            re: z.im.clone().negate(),
            im: z.re.clone(),
        })?;
        let back = self.divide(&Complex::real(Ball::integer(1)), &turned)?;
        let minus = Complex {
            re: back.re.clone().negate(),
            im: back.im.clone().negate(),
        };
        let two_i = Complex {
            re: Ball::integer(0),
            im: Ball::integer(2),
        };
        Some((
            self.divide(&self.add(&turned, &minus)?, &two_i)?,
            self.divide(&self.add(&turned, &back)?, &Complex::real(Ball::integer(2)))?,
        ))
    }
}

/// The value of a formula of rationals alone.
pub(crate) fn constant_rational(expr: &Expr) -> Option<Rational> {
    match expr {
        Expr::Number(value) => Some(value.clone()),
        Expr::Sum(_)
        | Expr::Product(_)
        | Expr::Quotient(..)
        | Expr::Percent(_)
        | Expr::Power(..)
        | Expr::Root(..)
            if expr.symbols().is_empty() =>
        {
            // Those have values of their own at a point, which are not theirs.
            let transcendental = |e: &Expr| match e {
                Expr::Pi | Expr::Euler => true,
                Expr::Call(function, _) => function.is_transcendental(),
                _ => false,
            };
            if !expr.any(&transcendental) {
                Point::new(0, Domain::Any, Signs::Positive)
                    .value(expr)
                    .ok()?
                    .to_rational()
            } else {
                None
            }
        }
        _ => None,
    }
}
