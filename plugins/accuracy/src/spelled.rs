//! Numbers in words: `twenty-five`, `one hundred and twenty`, `three quarters`, `二十五`.

use crate::text::FONTS;
use reward_sdk::units;

/// More words than any number below a trillion has.
const WORDS_MAX: usize = 24;
const BYTES_MAX: usize = 160;

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const SCALES: [(&str, u64); 3] = [("thousand", 1_000), ("million", 1_000_000), ("billion", 1_000_000_000)];
const PARTS: [(&str, u64); 10] = [
    ("half", 2),
    ("third", 3),
    ("quarter", 4),
    ("fourth", 4),
    ("fifth", 5),
    ("sixth", 6),
    ("seventh", 7),
    ("eighth", 8),
    ("ninth", 9),
    ("tenth", 10),
];

/// A word that numbers are made of.
pub fn is_word(word: &str) -> bool {
    SMALL.contains(&word)
        || TENS.contains(&word)
        || SCALES.iter().any(|(name, _)| *name == word)
        || ["hundred", "half"].contains(&word)
}

/// The numeral for a text that is a number in words, whole, be it in a `\text{…}`; `None` for any other.
pub fn numeral(text: &str) -> Option<String> {
    let text = undressed(text.trim());
    if text.len() > BYTES_MAX || text.is_empty() {
        return None;
    }
    if let Some((below, above)) = text.split_once("分之") {
        // `一又五分之四` is 1 and 4/5.
        let (whole, below) = below.split_once('又').map_or((Some(0), below), |(whole, below)| (chinese(whole), below));
        let (above, below) = (chinese(above)?, chinese(below).filter(|below| *below > 0)?);
        return Some(format!("{}/{below}", whole?.checked_mul(below)?.checked_add(above)?));
    }
    if let Some(value) = chinese(text) {
        return Some(value.to_string());
    }
    let lower = text.to_ascii_lowercase();
    let mut words: Vec<&str> = lower.split(|c: char| c.is_whitespace() || c == '-').filter(|word| !word.is_empty()).collect();
    if words.len() > WORDS_MAX {
        return None;
    }
    let negative = matches!(words.first(), Some(&("minus" | "negative")));
    if negative {
        words.remove(0);
    }
    let sign = if negative { "-" } else { "" };
    if let Some((last, above)) = words.split_last() {
        let below = PARTS
            .iter()
            .find(|(name, _)| last.strip_suffix('s').unwrap_or(last) == *name || (*last == "halves" && *name == "half"));
        if let Some((_, below)) = below {
            let above = if matches!(above, [] | ["a"] | ["an"]) && *last == "half" { 1 } else { cardinal(above)? };
            return Some(format!("{sign}{above}/{below}"));
        }
    }
    cardinal(&words).map(|value| format!("{sign}{value}"))
}

/// A number in words and its unit: `four weeks`, `\text{twenty-five dollars}` → `25\text{ dollars}`.
pub fn quantity(text: &str) -> Option<String> {
    let text = undressed(text.trim());
    if text.len() > BYTES_MAX || !text.chars().all(|c| c.is_ascii_alphabetic() || c == ' ' || c == '-') {
        return None;
    }
    (1..=WORDS_MAX).rev().find_map(|count| {
        let (end, _) = text.match_indices(' ').nth(count - 1)?;
        let (number, unit) = text.split_at_checked(end)?;
        let (number, unit) = (numeral(number)?, unit.trim());
        units::read(unit).filter(units::Unit::is_known).map(|_| format!("{number}\\text{{ {unit}}}"))
    })
}

/// Without one `\text{…}`.
fn undressed(text: &str) -> &str {
    let inside = FONTS.iter().find_map(|font| text.strip_prefix(font)?.strip_suffix('}'));
    inside.filter(|inside| !inside.contains(['{', '}'])).unwrap_or(text).trim().trim_end_matches('.')
}

/// `one thousand two hundred and thirty-four`: scales fall from left to right.
fn cardinal(words: &[&str]) -> Option<u64> {
    let mut total = 0u64;
    let mut limit = u64::MAX;
    let mut rest = words;
    loop {
        let end = rest.iter().position(|word| SCALES.iter().any(|(name, _)| name == word));
        let (group, scale, after) = match end {
            Some(at) => {
                let scale = SCALES.iter().find(|(name, _)| rest.get(at) == Some(name))?.1;
                (rest.get(..at)?, scale, rest.get(at + 1..)?)
            }
            None => (rest, 1, Default::default()),
        };
        if scale >= limit {
            return None;
        }
        limit = scale;
        let value = below_thousand(group, total > 0)?;
        if value == 0 && (scale > 1 || total > 0) {
            return None;
        }
        total += value * scale;
        if after.is_empty() {
            return Some(total);
        }
        rest = after;
    }
}

/// `two hundred and thirty-four`; with something before it also `and four`.
fn below_thousand(words: &[&str], follows: bool) -> Option<u64> {
    let mut rest = words;
    let mut value = 0;
    if let [hundreds, "hundred", after @ ..] = rest {
        value = 100 * if *hundreds == "a" { 1 } else { small(hundreds).filter(|n| (1..=9).contains(n))? };
        rest = after;
        if rest.is_empty() {
            return Some(value);
        }
    }
    if let ["and", after @ ..] = rest
        && (value > 0 || follows)
    {
        rest = after;
    }
    let ten = |word: &str| TENS.iter().position(|name| *name == word).map(|at| 10 * (at as u64 + 2));
    let tail = match rest {
        [one] => small(one).or_else(|| ten(one))?,
        [tens, ones] => ten(tens)? + small(ones).filter(|n| (1..=9).contains(n))?,
        _ => return None,
    };
    if tail == 0 && value > 0 { None } else { Some(value + tail) }
}

fn small(word: &str) -> Option<u64> {
    SMALL.iter().position(|name| *name == word).map(|at| at as u64)
}

/// `三`, `二十五`, `一百零三`, `两万`.
fn chinese(text: &str) -> Option<u64> {
    const DIGITS: [char; 10] = ['零', '一', '二', '三', '四', '五', '六', '七', '八', '九'];
    const LENGTH_MAX: usize = 16;
    if text.chars().count() > LENGTH_MAX {
        return None;
    }
    let (mut total, mut section, mut digit) = (0u64, 0u64, None);
    let mut unit_before = u64::MAX;
    for c in text.chars() {
        let value = if c == '两' { Some(2) } else { DIGITS.iter().position(|known| *known == c).map(|at| at as u64) };
        if let Some(value) = value {
            if digit.is_some_and(|before| before != 0) {
                return None;
            }
            digit = Some(value);
            continue;
        }
        let unit = match c {
            '十' => 10,
            '百' => 100,
            '千' => 1_000,
            '万' => {
                total = (total + section + digit.take().unwrap_or(0)).checked_mul(10_000).filter(|total| *total > 0)?;
                (section, unit_before) = (0, u64::MAX);
                continue;
            }
            _ => return None,
        };
        if unit >= unit_before {
            return None;
        }
        unit_before = unit;
        section += unit * digit.take().unwrap_or(1).max(1);
    }
    (!text.is_empty()).then(|| total + section + digit.unwrap_or(0))
}

/// The number's name that a text begins with, as a number, and what follows: `\text{ million dollars}` → 1 000 000, `\text{ dollars}`.
pub fn scale(text: &str) -> (i64, String) {
    const NAMES: [(&str, i64); 9] = [
        ("dozens", 12),
        ("dozen", 12),
        ("hundred", 100),
        ("thousand", 1_000),
        ("million", 1_000_000),
        ("billion", 1_000_000_000),
        ("trillion", 1_000_000_000_000),
        ("万", 10_000),
        ("亿", 100_000_000),
    ];
    let font = FONTS.iter().find(|font| text.starts_with(**font));
    let inside = font.map_or(text, |font| text.get(font.len()..).unwrap_or_default()).trim_start();
    for (name, value) in NAMES {
        let Some(after) = inside.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name)).and(inside.get(name.len()..))
        else {
            continue;
        };
        if name.is_ascii() && after.starts_with(char::is_alphabetic) {
            continue;
        }
        let after = match font {
            None => after.trim().to_string(),
            Some(_) if after.trim_start().starts_with('}') => after.trim_start().get(1..).unwrap_or_default().trim().to_string(),
            Some(font) => format!("{font}{}", after.trim()),
        };
        return (value, after);
    }
    (1, text.to_string())
}

#[cfg(test)]
mod tests {
    use super::numeral;

    #[test]
    fn numbers_in_words() {
        for (text, value) in [
            ("three", "3"),
            (r"\text{Twenty-five}", "25"),
            ("twenty five", "25"),
            ("zero", "0"),
            ("one hundred", "100"),
            ("a hundred and one", "101"),
            ("one thousand two hundred thirty-four", "1234"),
            ("two million and five", "2000005"),
            ("minus seven", "-7"),
            ("one half", "1/2"),
            ("half", "1/2"),
            ("three quarters", "3/4"),
            ("two-thirds", "2/3"),
            ("三", "3"),
            ("十二", "12"),
            ("二十五", "25"),
            ("一百零三", "103"),
            ("两万", "20000"),
            ("二分之一", "1/2"),
            ("一又五分之四", "9/5"),
        ] {
            assert_eq!(numeral(text).as_deref(), Some(value), "{text}");
        }
    }

    #[test]
    fn other_words() {
        for text in [
            "",
            "even",
            "one two",
            "and one",
            "hundred",
            "twenty zero",
            "one and two",
            "three or four",
            "thousand million",
            "third place",
            "five eleven",
            "zero hundred",
            "five apples",
            "三四",
            "十百",
            "甲",
            "-",
        ] {
            assert_eq!(numeral(text), None, "{text}");
        }
    }
}
