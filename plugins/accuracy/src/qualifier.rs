//! Words behind a number that change it: `2.5 million`, `3 dozen`, `5 ppm`, `5 per thousand`,
//! `5 degrees below zero`.
//!
//! What is known here is read as what it means. Other words that change a number are no unit
//! ([`units::changes_number`]), so that nothing is understood behind them; only the rest is what is
//! counted.
//!
//! [`units::changes_number`]: reward_sdk::units::changes_number

use crate::fonts::FONTS;
use reward_sdk::rational::Rational;

/// Words one after the other that change a number: `2 hundred thousand`.
const WORDS_MAX: usize = 3;

/// Words, and what a number before them is multiplied by, as a fraction. Longer ones come first.
const SCALES: &[(&str, (i64, i64))] = &[
    ("dozens of", (12, 1)),
    ("dozens", (12, 1)),
    ("dozen", (12, 1)),
    ("gross", (144, 1)),
    ("hundred", (100, 1)),
    ("thousand", (1_000, 1)),
    ("million", (1_000_000, 1)),
    ("billion", (1_000_000_000, 1)),
    ("trillion", (1_000_000_000_000, 1)),
    ("quadrillion", (1_000_000_000_000_000, 1)),
    ("lakh", (100_000, 1)),
    ("crore", (10_000_000, 1)),
    ("打", (12, 1)),
    ("万", (10_000, 1)),
    ("亿", (100_000_000, 1)),
    ("百万", (1_000_000, 1)),
    ("千万", (10_000_000, 1)),
    ("百亿", (10_000_000_000, 1)),
    ("千亿", (100_000_000_000, 1)),
    ("‰", (1, 1_000)),
    ("per hundred", (1, 100)),
    ("per cent", (1, 100)),
    ("per thousand", (1, 1_000)),
    ("per mille", (1, 1_000)),
    ("per mil", (1, 1_000)),
    ("permille", (1, 1_000)),
    ("promille", (1, 1_000)),
    ("per million", (1, 1_000_000)),
    ("per billion", (1, 1_000_000_000)),
    ("parts per hundred", (1, 100)),
    ("parts per thousand", (1, 1_000)),
    ("parts per million", (1, 1_000_000)),
    ("parts per billion", (1, 1_000_000_000)),
    ("parts per trillion", (1, 1_000_000_000_000)),
    ("ppm", (1, 1_000_000)),
    ("ppb", (1, 1_000_000_000)),
    ("ppt", (1, 1_000_000_000_000)),
    ("basis points", (1, 10_000)),
    ("basis point", (1, 10_000)),
    ("bps", (1, 10_000)),
    ("tenths", (1, 10)),
    ("tenth", (1, 10)),
    ("hundredths", (1, 100)),
    ("hundredth", (1, 100)),
    ("thousandths", (1, 1_000)),
    ("thousandth", (1, 1_000)),
    ("millionths", (1, 1_000_000)),
    ("millionth", (1, 1_000_000)),
    ("halves", (1, 2)),
    ("thirds", (1, 3)),
    ("fourths", (1, 4)),
    ("fifths", (1, 5)),
    ("sixths", (1, 6)),
    ("sevenths", (1, 7)),
    ("eighths", (1, 8)),
    ("ninths", (1, 9)),
];

/// What a number with these words behind it lies below.
const BELOW: [&str; 5] = [
    "below zero",
    "below 0",
    "below sea level",
    "below ground",
    "below ground level",
];

/// What the number before these words is multiplied by, and the words that are left: a unit, or
/// nothing. `\text{ million dollars}` → 1 000 000 and `\text{dollars}`.
pub(crate) fn read(text: &str) -> Option<(Rational, String)> {
    let font = FONTS.iter().find(|font| text.starts_with(**font));
    let inside = font
        .map_or(text, |font| text.get(font.len()..).unwrap_or_default())
        .trim_start();
    let mut rest = inside;
    let mut factor = Rational::integer(1);
    for _ in 0..WORDS_MAX {
        let Some(((above, below), after)) = SCALES
            .iter()
            .find_map(|(word, scale)| Some((*scale, behind(rest, word)?)))
        else {
            break;
        };
        factor = factor.multiply(&Rational::integer(above).divide(&Rational::integer(below))?)?;
        rest = after;
    }
    let braced = |rest: &str| match font {
        None => rest.trim().to_string(),
        Some(_) if rest.trim_start().starts_with('}') => rest
            .trim_start()
            .get(1..)
            .unwrap_or_default()
            .trim()
            .to_string(),
        Some(font) => format!("{font}{}", rest.trim()),
    };
    // Lower-case ASCII has the length that the text has.
    let lower = rest.to_ascii_lowercase();
    let end = lower
        .trim_end()
        .strip_suffix(if font.is_some() { "}" } else { "" })
        .unwrap_or(&lower)
        .trim_end()
        .trim_end_matches('.')
        .len();
    let below = BELOW
        .iter()
        .find_map(|words| lower.get(..end)?.strip_suffix(words).map(str::len));
    if let Some(kept) = below.filter(|kept| {
        rest.get(..*kept)
            .is_some_and(|kept| !kept.ends_with(char::is_alphabetic))
    }) {
        let closed = if font.is_some() { "}" } else { "" };
        return Some((
            factor.negate(),
            braced(&format!("{}{closed}", rest.get(..kept)?.trim_end())),
        ));
    }
    Some((
        factor,
        if rest.len() == inside.len() {
            text.to_string()
        } else {
            braced(rest)
        },
    ))
}

/// What follows a word, whole, at the start of the text, in whatever case.
fn behind<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let after = text
        .get(..word.len())
        .filter(|start| start.eq_ignore_ascii_case(word))
        .and(text.get(word.len()..))?;
    (!word.is_ascii() || !after.starts_with(char::is_alphabetic)).then(|| after.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_scale_or_turn_a_number() {
        for (text, above, below, rest) in [
            (r"\text{ million dollars}", 1_000_000, 1, r"\text{dollars}"),
            (r"\text{ dollars}", 1, 1, r"\text{ dollars}"),
            (r"\text{ ppm}", 1, 1_000_000, ""),
            ("parts per million", 1, 1_000_000, ""),
            ("per thousand people", 1, 1_000, "people"),
            ("hundred thousand", 100_000, 1, ""),
            (r"\text{ degrees below zero}", -1, 1, r"\text{degrees}"),
            ("below zero", -1, 1, ""),
            (
                r"^\circ \text{C below zero}",
                1,
                1,
                r"^\circ \text{C below zero}",
            ),
            ("tenths", 1, 10, ""),
            ("dozen eggs", 12, 1, "eggs"),
            ("millions", 1, 1, "millions"),
            ("万元", 10_000, 1, "元"),
        ] {
            let scale = Rational::integer(above)
                .divide(&Rational::integer(below))
                .unwrap();
            assert_eq!(read(text), Some((scale, rest.to_string())), "{text}");
        }
    }
}
