//! Elementary functions of balls: exponential, logarithm, sine and cosine, arc tangent.

use crate::ball::Ball;
use num_bigint::BigInt;

/// Bits by which arguments are made smaller before their series; each costs a squaring afterwards.
const REDUCTION_BITS: i64 = 8;
/// Roots taken before the logarithm's series: each costs as much as several of its terms.
const ROOTS: i64 = 3;
/// The most terms of a series.
const TERMS_MAX: i64 = 4_000;
/// Exponents of e and angles stay below 2 to the power of this.
const ARGUMENT_BITS_MAX: i64 = 20;

/// Σ of `first`, `first·factor/d(1)`, `first·factor²/(d(1)·d(2))`, … in fixed point of `work` bits,
/// for |x| below 1, and the number of terms. Each step cuts less than two units.
fn series(
    first: &BigInt,
    factor: &BigInt,
    divisor: impl Fn(i64) -> i64,
    work: u64,
) -> (BigInt, i64) {
    let (mut term, mut sum) = (first.clone(), first.clone());
    let mut n = 1;
    while term != BigInt::ZERO && n < TERMS_MAX {
        term = ((term * factor) >> work) / divisor(n);
        // Shifting rounds down, so a negative term ends at −1.
        if term == BigInt::from(-1) {
            term = BigInt::ZERO;
        }
        sum += &term;
        n += 1;
    }
    (sum, n)
}

/// Σ of ±x^{2k+1}/(2k+1) in fixed point.
fn odd_series(x: &BigInt, signs: bool, work: u64) -> (BigInt, i64) {
    let square = (x * x) >> work;
    let (mut power, mut sum) = (x.clone(), x.clone());
    let mut k = 1;
    while power != BigInt::ZERO && power != BigInt::from(-1) && k < TERMS_MAX {
        power = (power * &square) >> work;
        let part = &power / (2 * k + 1);
        if signs && k % 2 == 1 {
            sum -= part
        } else {
            sum += part
        }
        k += 1;
    }
    (sum, k)
}

/// Middle and radius in units of 2^−work.
fn fixed(x: &Ball, work: u64) -> Option<(BigInt, BigInt)> {
    let shift = x.exponent.checked_add(i64::try_from(work).ok()?)?;
    if shift >= 0 {
        return (shift < 1 << 16).then(|| (&x.middle << shift, &x.radius << shift));
    }
    let shift = shift.unsigned_abs();
    Some((&x.middle >> shift, (&x.radius >> shift) + 2))
}

/// A sum in fixed point, with the error of its steps and of what went in.
fn unfixed(sum: BigInt, steps: i64, error: BigInt, work: u64) -> Option<Ball> {
    Some(Ball {
        middle: sum,
        radius: error * 2 + (4 * steps + 8),
        exponent: -i64::try_from(work).ok()?,
    })
}

/// atan(1/n) = Σ ±1/((2k+1)·n^{2k+1}); with `signs` false the hyperbolic one.
fn arc_tangent_of_inverse(n: i64, signs: bool, bits: u64) -> Option<Ball> {
    let work = bits + 16;
    let mut term: BigInt = (BigInt::from(1) << work) / n;
    let mut sum = BigInt::ZERO;
    let mut k = 0i64;
    while term != BigInt::ZERO {
        let part: BigInt = &term / (2 * k + 1);
        sum += if signs && k % 2 == 1 { -part } else { part };
        term /= n * n;
        k += 1;
    }
    // Two divisions cut each term by less than 1.
    Some(Ball {
        middle: sum,
        radius: BigInt::from(2 * k + 4),
        exponent: -i64::try_from(work).ok()?,
    })
}

pub(crate) fn pi(bits: u64) -> Option<Ball> {
    let a = arc_tangent_of_inverse(5, true, bits + 8)?.scale(4)?;
    let b = arc_tangent_of_inverse(239, true, bits + 8)?.scale(2)?;
    a.subtract(&b, bits)
}

fn ln_two(bits: u64) -> Option<Ball> {
    arc_tangent_of_inverse(3, false, bits + 8)?.scale(1)
}

pub(crate) fn exponential(x: &Ball, bits: u64) -> Option<Ball> {
    if x.is_exact_zero() {
        return Some(Ball::integer(1));
    }
    if x.magnitude() > ARGUMENT_BITS_MAX {
        return None;
    }
    let work = bits + 64;
    // x = k·ln 2 + r
    let ln_two = ln_two(work)?;
    let k = x.divide(&ln_two, work)?.nearest()?;
    let shift = i64::try_from(&k).ok()?;
    let r = x
        .subtract(
            &Ball {
                middle: k,
                radius: BigInt::ZERO,
                exponent: 0,
            }
            .multiply(&ln_two, work)?,
            work,
        )?
        .scale(-REDUCTION_BITS)?;
    let (r, error) = fixed(&r, work)?;
    let (sum, steps) = series(&(BigInt::from(1) << work), &r, |n| n, work);
    let mut sum = unfixed(sum, steps, error, work)?;
    for _ in 0..REDUCTION_BITS {
        sum = sum.multiply(&sum, work)?;
    }
    sum.scale(shift)
}

/// Returns the natural logarithm of a ball above zero; `None` for any other ball.
pub(crate) fn logarithm(x: &Ball, bits: u64) -> Option<Ball> {
    if x.contains_zero() || x.middle < BigInt::ZERO {
        return None;
    }
    let work = bits + 64;
    // x = m·2^e with m near 1; ln m = 2^k · ln of its 2^k-th root.
    let shift = x.magnitude() - 1;
    let mut m = x.scale(-shift)?;
    for _ in 0..ROOTS {
        m = m.root(2, work)?;
    }
    let one = Ball::integer(1);
    let z = m.subtract(&one, work)?.divide(&m.add(&one, work)?, work)?;
    let (z, error) = fixed(&z, work)?;
    let (sum, steps) = odd_series(&z, false, work);
    let sum = unfixed(sum, steps, error, work)?;
    let ln_m = sum.scale(ROOTS + 1)?;
    ln_m.add(
        &ln_two(work)?.multiply(&Ball::integer(shift), work)?,
        bits + 32,
    )
}

/// Sine and cosine.
pub(crate) fn sine_cosine(x: &Ball, bits: u64) -> Option<(Ball, Ball)> {
    if x.is_exact_zero() {
        return Some((Ball::integer(0), Ball::integer(1)));
    }
    if x.magnitude() > ARGUMENT_BITS_MAX {
        return None;
    }
    let work = bits + 64;
    let turn = pi(work)?.scale(1)?;
    let k = x.divide(&turn, work)?.nearest()?;
    let r = x
        .subtract(
            &Ball {
                middle: k,
                radius: BigInt::ZERO,
                exponent: 0,
            }
            .multiply(&turn, work)?,
            work,
        )?
        .scale(-REDUCTION_BITS)?;
    let (r, error) = fixed(&r, work)?;
    let square: BigInt = -((&r * &r) >> work);
    let (sine, steps) = series(&r, &square, |n| 2 * n * (2 * n + 1), work);
    let (cosine, more) = series(
        &(BigInt::from(1) << work),
        &square,
        |n| (2 * n - 1) * 2 * n,
        work,
    );
    let mut sine = unfixed(sine, steps, error.clone(), work)?;
    let mut cosine = unfixed(cosine, more, error, work)?;
    for _ in 0..REDUCTION_BITS {
        let doubled = sine.multiply(&cosine, work)?.scale(1)?;
        let squared = cosine.multiply(&cosine, work)?.scale(1)?;
        cosine = squared.subtract(&Ball::integer(1), work)?;
        sine = doubled;
    }
    Some((sine, cosine))
}

pub(crate) fn arc_tangent(x: &Ball, bits: u64) -> Option<Ball> {
    if x.is_exact_zero() {
        return Some(x.clone());
    }
    let work = bits + 64;
    let one = Ball::integer(1);
    let mut r = x.clone();
    // atan x = 2·atan(x / (1 + √(1 + x²)))
    for _ in 0..REDUCTION_BITS {
        let root = r.multiply(&r, work)?.add(&one, work)?.root(2, work)?;
        r = r.divide(&root.add(&one, work)?, work)?;
    }
    let (r, error) = fixed(&r, work)?;
    let (sum, steps) = odd_series(&r, true, work);
    unfixed(sum, steps, error, work)?.scale(REDUCTION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reward_sdk::rational::Rational;

    /// Whether a ball holds the decimal, and is narrow.
    fn holds(ball: &Ball, digits: &str) -> bool {
        let decimals = digits
            .split_once('.')
            .map_or(0, |(_, fraction)| fraction.len());
        let negative = digits.starts_with('-');
        let value = Rational::decimal(&digits.replace(['.', '-'], ""), decimals, 0).unwrap();
        let value = Ball::rational(&if negative { value.negate() } else { value }, 256).unwrap();
        let gap = ball.subtract(&value, 256).unwrap();
        ball.error() < -100 && gap.magnitude() < -(3 * decimals as i64)
    }

    #[test]
    fn known_digits() {
        let ball = |above: i64, below: i64| {
            Ball::rational(
                &Rational::integer(above)
                    .divide(&Rational::integer(below))
                    .unwrap(),
                200,
            )
            .unwrap()
        };
        assert!(holds(
            &pi(200).unwrap(),
            "3.141592653589793238462643383279502884197"
        ));
        assert!(holds(
            &exponential(&ball(1, 1), 200).unwrap(),
            "2.718281828459045235360287471352662497757"
        ));
        assert!(holds(
            &exponential(&ball(-7, 2), 200).unwrap(),
            "0.030197383422318500739786292363619845072"
        ));
        assert!(holds(
            &logarithm(&ball(10, 1), 200).unwrap(),
            "2.302585092994045684017991454684364207601"
        ));
        assert!(holds(
            &logarithm(&ball(1, 3), 200).unwrap(),
            "-1.098612288668109691395245236922525704647"
        ));
        let (sine, cosine) = sine_cosine(&ball(100, 1), 200).unwrap();
        assert!(holds(&sine, "-0.506365641109758793656557610459785432065"));
        assert!(holds(&cosine, "0.862318872287683934101938513950842535510"));
        assert!(holds(
            &arc_tangent(&ball(5, 1), 200).unwrap(),
            "1.373400766945015860861271926444961148650"
        ));
        assert!(holds(
            &ball(2, 1).root(2, 200).unwrap(),
            "1.414213562373095048801688724209698078569"
        ));
        assert!(holds(
            &ball(2, 1).root(3, 200).unwrap(),
            "1.259921049894873164767210607278228350570"
        ));
    }
}
