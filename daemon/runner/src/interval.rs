//! 95 % confidence intervals of an evaluation's numbers, each a mean over rows.
//!
//! The rows are a sample of all the problems that the data set could hold, so they alone are
//! counted: completions of one row are not independent of each other, and their mean is one
//! observation (Miller 2024, "Adding Error Bars to Evals", 2.2). If each row's value is 0 or 1 the
//! interval is Wilson's, which is right for few rows and for shares of 0 and 1, where the normal
//! one has no width; otherwise it is the normal one, `mean ± 1.96 · std / √rows`.

use crate::advantages::{mean, std};

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Returns the lower and upper end of the interval for the mean of one value per row; `None` if
/// there are too few rows. `bounds` are the smallest and largest possible value.
pub fn interval(values: &[f64], bounds: (f64, f64)) -> Option<(f64, f64)> {
    if !values.is_empty()
        && bounds == (0.0, 1.0)
        && values.iter().all(|value| *value == 0.0 || *value == 1.0)
    {
        return Some(wilson(values));
    }
    if values.len() < 2 {
        return None;
    }
    let (mean, half) = (mean(values), Z * std(values) / (values.len() as f64).sqrt());
    Some(((mean - half).max(bounds.0), (mean + half).min(bounds.1)))
}

/// Wilson's score interval (1927) for the share of ones among `values`.
fn wilson(values: &[f64]) -> (f64, f64) {
    let (n, share) = (values.len() as f64, mean(values));
    let square = Z * Z;
    let centre = (share + square / (2.0 * n)) / (1.0 + square / n);
    let half = Z / (1.0 + square / n) * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<(f64, f64)>, expected: (f64, f64)) {
        let (low, high) = found.unwrap();
        assert!(
            (low - expected.0).abs() < 1e-6 && (high - expected.1).abs() < 1e-6,
            "{low} {high}"
        );
    }

    /// The formula of Brown, Cai and DasGupta 2001, eq. 4, worked out in double precision
    /// elsewhere.
    #[test]
    fn shares_of_rows_that_say_yes_or_no_get_wilsons() {
        let rows = |yes: usize, n: usize| {
            (0..n)
                .map(|i| f64::from(u8::from(i < yes)))
                .collect::<Vec<_>>()
        };
        close(interval(&rows(8, 10), (0.0, 1.0)), (0.490_162, 0.943_318));
        close(interval(&rows(0, 20), (0.0, 1.0)), (0.0, 0.161_125));
        close(interval(&rows(50, 100), (0.0, 1.0)), (0.403_832, 0.596_168));
    }

    #[test]
    fn other_values_get_the_normal_one_within_their_bounds() {
        // std of 0, ½, 1, ½ is 1/√6 = 0.408248; half of the width 1.959964 · 0.408248 / 2.
        close(
            interval(&[0.0, 0.5, 1.0, 0.5], (0.0, 1.0)),
            (0.099_925, 0.900_075),
        );
        close(interval(&[0.0, 0.25, 1.0], (0.0, 1.0)), (0.0, 1.0));
        let (low, high) = interval(&[-2.0, 3.0], (f64::NEG_INFINITY, f64::INFINITY)).unwrap();
        assert!(low < -4.0 && high > 5.0, "without bounds: {low} {high}");
        assert_eq!(interval(&[0.5], (0.0, 1.0)), None);
        assert_eq!(interval(&[], (0.0, 1.0)), None);
    }
}
