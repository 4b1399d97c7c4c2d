//! Numbers, durations, sizes and times as people read them.

use std::collections::BTreeMap;

/// Groups digits: `1,234,567`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number with three or four significant digits, without an exponent if a plain number is
/// as short.
pub(crate) fn number(x: f64) -> String {
    let size = x.abs();
    if !x.is_finite() {
        x.to_string()
    } else if size >= 1e15 || (size > 0.0 && size < 1e-3) {
        format!("{x:.2e}")
    } else if size >= 1000.0 {
        format!(
            "{}{}",
            if x < 0.0 { "-" } else { "" },
            thousands(size.round() as u64)
        )
    } else {
        let decimals = match size {
            100.0.. => 1,
            10.0.. => 2,
            0.1.. | 0.0 => 3,
            0.01.. => 4,
            _ => 5,
        };
        format!("{x:.decimals$}")
    }
}

/// Formats a share in `[0, 1]` as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Formats a duration: `850 ms`, `42 s`, `3m12s`, `2h05m`, `3d04h`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".into();
    }
    if seconds > 0.0 && seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Formats a size in bytes: `1.5 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    let mut size = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" {
                format!("{n} B")
            } else {
                format!("{size:.1} {unit}")
            };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// Formats milliseconds since the Unix epoch: `2026-11-23T19:22:05Z`.
pub(crate) fn time_of_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

pub(crate) fn time_of_s(seconds: u64) -> String {
    time_of_ms(seconds.saturating_mul(1000))
}

/// Formats seconds since the Unix epoch for lists: `2026-11-23 19:22Z`.
pub(crate) fn minute_of_s(seconds: u64) -> String {
    time_of_s(seconds)
        .chars()
        .take(16)
        .map(|c| if c == 'T' { ' ' } else { c })
        .chain(['Z'])
        .collect()
}

/// Year, month and day of a day count since 1970-01-01 (Howard Hinnant, "chrono-compatible
/// low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The metrics that people watch, by short name; missing ones are left out.
pub(crate) fn watched_metrics(metrics: &BTreeMap<String, f64>) -> Vec<(&'static str, String)> {
    const WATCHED: [(&str, &str); 5] = [
        ("reward", "reward"),
        ("kl", "kl"),
        ("completions/mean_length", "length"),
        ("perf/throughput", "tokens/s"),
        ("loss", "loss"),
    ];
    WATCHED
        .iter()
        .filter_map(|(name, short)| Some((*short, number(*metrics.get(*name)?))))
        .collect()
}

/// The metrics of an evaluation for a table or a line: the shares, the rewards' means, the length.
/// `-o json` has all of them.
pub(crate) fn watched_evals(
    metrics: &BTreeMap<String, f64>,
) -> impl Iterator<Item = (&String, f64)> {
    let is_reward = |name: &str| name.starts_with("rewards/") && name.ends_with("/mean");
    let is_end = |name: &str| name.ends_with("_ci_low") || name.ends_with("_ci_high");
    let is_watched = move |name: &str| {
        !is_end(name) && (is_share(name) || is_reward(name) || name == "completions/mean_length")
    };
    metrics
        .iter()
        .filter(move |(name, _)| is_watched(name))
        .map(|(name, value)| (name, *value))
}

fn is_share(name: &str) -> bool {
    ["accuracy", "pass@", "avg@", "cons@"]
        .iter()
        .any(|share| name.starts_with(share))
}

/// Formats a metric of an evaluation with the farther end of its 95 % confidence interval, if it
/// has one (`55.1 % ± 6.1 %`). Shares (`accuracy`, `pass@1`, `cons@4`, …) become percentages.
pub(crate) fn eval_metric(metrics: &BTreeMap<String, f64>, name: &str) -> String {
    let Some(value) = metrics.get(name) else {
        return "-".into();
    };
    let shown = |value: f64| {
        if is_share(name) {
            percent(value)
        } else {
            number(value)
        }
    };
    let end = |which: &str| metrics.get(&format!("{name}_ci_{which}"));
    match (end("low"), end("high")) {
        (Some(low), Some(high)) => format!(
            "{} ± {}",
            shown(*value),
            shown((value - low).max(high - value))
        ),
        _ => shown(*value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_or_four_digits() {
        let cases = [
            (0.0, "0.000"),
            (0.51234, "0.512"),
            (-0.25, "-0.250"),
            (0.0121, "0.0121"),
            (0.00312, "0.00312"),
            (12.3456, "12.35"),
            (123.456, "123.5"),
            (1523.4, "1,523"),
            (-1234567.0, "-1,234,567"),
            (3e-6, "3.00e-6"),
            (f64::NAN, "NaN"),
        ];
        for (x, text) in cases {
            assert_eq!(number(x), text);
        }
    }

    #[test]
    fn an_evaluations_number_is_shown_with_its_interval() {
        let pairs = [
            ("pass@1", 0.55078),
            ("pass@1_ci_low", 0.48955),
            ("pass@1_ci_high", 0.61052),
            ("avg@4", 0.5),
            ("rewards/format/mean", 1.25),
            ("rewards/format/mean_ci_low", 1.0),
            ("rewards/format/mean_ci_high", 1.5),
        ];
        let metrics = pairs
            .map(|(name, value)| (name.to_string(), value))
            .into_iter()
            .collect();
        assert_eq!(
            watched_evals(&metrics)
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            ["avg@4", "pass@1", "rewards/format/mean"]
        );
        let shown = ["pass@1", "avg@4", "rewards/format/mean", "cons@4"]
            .map(|name| eval_metric(&metrics, name));
        assert_eq!(shown, ["55.1 % ± 6.1 %", "50.0 %", "1.250 ± 0.250", "-"]);
    }

    #[test]
    fn durations_and_sizes_keep_two_units_at_most() {
        let cases = [
            (0.0, "0 s"),
            (0.25, "250 ms"),
            (59.4, "59 s"),
            (59.6, "1m00s"),
            (192.0, "3m12s"),
            (7500.0, "2h05m"),
            (273_600.0, "3d04h"),
            (f64::NAN, "?"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(3 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]
        );
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time_of_ms(0), "1970-01-01T00:00:00Z");
        assert_eq!(time_of_ms(951_827_696_789), "2000-02-29T12:34:56Z");
        assert_eq!(time_of_s(1_795_461_725), "2026-11-23T19:22:05Z");
        assert_eq!(minute_of_s(1_795_461_725), "2026-11-23 19:22Z");
        assert_eq!(time_of_s(4_107_542_399), "2100-02-28T23:59:59Z");
    }
}
