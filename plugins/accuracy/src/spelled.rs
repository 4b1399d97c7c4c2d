//! Numbers in words: `twenty-five`, `one hundred and twenty`, `three quarters`, `two and a half`;
//! [`chinese`] whole numbers.

use crate::fonts::FONTS;
use crate::qualifier;
use reward_sdk::number_words::{self, SCALES, SMALL, TENS};
use reward_sdk::units;

/// More words than any number below a trillion has.
const WORDS_MAX: usize = 24;
const BYTES_MAX: usize = 160;

/// A word that numbers are made of.
pub(crate) fn is_word(word: &str) -> bool {
    number_words::is_whole(word) || word == "half"
}

/// The numeral for a text that is a number in words, whole, be it in a `\text{…}`; `None` for any
/// other.
pub(crate) fn numeral(text: &str) -> Option<String> {
    let text = undressed(text.trim());
    if text.len() > BYTES_MAX || text.is_empty() {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let mut words: Vec<&str> = lower
        .split(|c: char| c.is_whitespace() || c == '-')
        .filter(|word| !word.is_empty())
        .collect();
    if words.len() > WORDS_MAX {
        return None;
    }
    let negative = matches!(words.first(), Some(&("minus" | "negative")));
    if negative {
        words.remove(0);
    }
    let sign = if negative { "-" } else { "" };
    let percent = match words.as_slice() {
        [.., "percent"] => 1,
        [.., "per", "cent"] => 2,
        _ => 0,
    };
    words.truncate(words.len() - percent);
    let value = match words.as_slice() {
        // `3 and a half`
        [whole, "and", part @ ..] if whole.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{whole} {}", fraction(part)?)
        }
        words => positive(words)?,
    };
    Some(format!(
        "{sign}{value}{}",
        if percent > 0 { "\\%" } else { "" }
    ))
}

/// `three quarters`, `two and a half`, `three point one four`, `twenty-five`.
fn positive(words: &[&str]) -> Option<String> {
    if let Some(found) = fraction(words) {
        return Some(found);
    }
    if let Some(at) = words.iter().rposition(|word| *word == "and")
        && let (Some(whole), Some(part)) = (
            cardinal(words.get(..at)?),
            words.get(at + 1..).and_then(fraction),
        )
    {
        return Some(format!("{whole} {part}"));
    }
    if let Some(at) = words.iter().position(|word| *word == "point") {
        let digits = words.get(at + 1..)?.iter().map(|word| {
            small(word)
                .filter(|digit| *digit < 10)
                .map(|digit| digit.to_string())
        });
        let digits = digits
            .collect::<Option<String>>()
            .filter(|digits| !digits.is_empty())?;
        return Some(format!("{}.{digits}", cardinal(words.get(..at)?)?));
    }
    cardinal(words).map(|value| value.to_string())
}

/// `half`, `three quarters`.
fn fraction(words: &[&str]) -> Option<String> {
    let (last, above) = words.split_last()?;
    let part = if *last == "halves" {
        "half"
    } else {
        last.strip_suffix('s').unwrap_or(last)
    };
    let below = number_words::parts_in_one(part)?;
    let one = matches!(above, ["a" | "an"]) || (above.is_empty() && *last == "half");
    let above = if one { 1 } else { cardinal(above)? };
    Some(format!("{above}/{below}"))
}

/// A number in words and its unit: `four weeks`, `\text{twenty-five dollars}` →
/// `25\text{ dollars}`; `half a dozen`, `a million`.
pub(crate) fn quantity(text: &str) -> Option<String> {
    let text = undressed(text.trim());
    if text.len() > BYTES_MAX
        || !text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == ' ' || c == '-')
    {
        return None;
    }
    // Of a known unit, or scaled: in `three blind mice` nothing is counted for sure.
    let of_unit = |number: &str, unit: &str| {
        let (scale, rest) = qualifier::read(unit.trim())?;
        let known = if rest.is_empty() {
            !scale.is_one()
        } else {
            units::read(&rest).is_some_and(|unit| unit.is_known() || !scale.is_one())
        };
        known.then(|| format!("{number}\\text{{ {}}}", unit.trim()))
    };
    let lower = text.to_ascii_lowercase();
    for (lead, number) in [
        ("half a ", "0.5"),
        ("half an ", "0.5"),
        ("a ", "1"),
        ("an ", "1"),
    ] {
        if lower.starts_with(lead)
            && let Some(found) = text
                .get(lead.len()..)
                .and_then(|unit| of_unit(number, unit))
        {
            return Some(found);
        }
    }
    (1..=WORDS_MAX).rev().find_map(|count| {
        let (end, _) = text.match_indices(' ').nth(count - 1)?;
        let (number, unit) = text.split_at_checked(end)?;
        // `eighteen hundred thousand` is no number in words.
        let scaled = unit
            .split_whitespace()
            .next()
            .is_some_and(|word| is_word(&word.to_ascii_lowercase()));
        of_unit(&numeral(number)?, unit).filter(|_| !scaled)
    })
}

/// Returns the inside of a text that is one `\text{…}`; other texts stay as they are, trimmed.
pub(crate) fn undressed(text: &str) -> &str {
    let inside = FONTS
        .iter()
        .find_map(|font| text.strip_prefix(font)?.strip_suffix('}'));
    inside
        .filter(|inside| !inside.contains(['{', '}']))
        .unwrap_or(text)
        .trim()
        .trim_end_matches('.')
}

/// `one thousand two hundred and thirty-four`: scales fall from left to right.
fn cardinal(words: &[&str]) -> Option<u64> {
    let mut total = 0u64;
    let mut limit = u64::MAX;
    let mut rest = words;
    loop {
        let end = rest
            .iter()
            .position(|word| SCALES.iter().any(|(name, _)| name == word));
        let (group, scale, after) = match end {
            Some(at) => {
                let scale = SCALES
                    .iter()
                    .find(|(name, _)| rest.get(at) == Some(name))?
                    .1;
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
        value = 100
            * if *hundreds == "a" {
                1
            } else {
                small(hundreds).filter(|n| (1..=9).contains(n))?
            };
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
    let ten = |word: &str| {
        TENS.iter()
            .position(|name| *name == word)
            .map(|at| 10 * (at as u64 + 2))
    };
    let tail = match rest {
        [one] => small(one).or_else(|| ten(one))?,
        [tens, ones] => ten(tens)? + small(ones).filter(|n| (1..=9).contains(n))?,
        _ => return None,
    };
    if tail == 0 && value > 0 {
        None
    } else {
        Some(value + tail)
    }
}

fn small(word: &str) -> Option<u64> {
    SMALL
        .iter()
        .position(|name| *name == word)
        .map(|at| at as u64)
}

/// `三`, `二十五`, `一百零三`, `两万`, `一亿二千万`.
pub(crate) fn chinese(text: &str) -> Option<u64> {
    const DIGITS: [char; 10] = ['零', '一', '二', '三', '四', '五', '六', '七', '八', '九'];
    const LENGTH_MAX: usize = 16;
    if text.is_empty() || text.chars().count() > LENGTH_MAX {
        return None;
    }
    // What stands before a `亿` and a `万` is a number below ten thousand of its own.
    for (name, size) in [('亿', 100_000_000), ('万', 10_000)] {
        if let Some((above, below)) = text.split_once(name) {
            let above = chinese(above).filter(|above| *above > 0)?;
            let mut rest = if below.is_empty() {
                0
            } else {
                chinese(below).filter(|below| *below < size)?
            };
            // `三万五` is 35,000, `三万零五` is 30,005.
            if (1..10).contains(&rest) && below.chars().count() == 1 {
                rest *= size / 10;
            }
            return above.checked_mul(size)?.checked_add(rest);
        }
    }
    let (mut section, mut digit) = (0u64, None);
    let mut zero = false;
    let mut unit_before = u64::MAX;
    for c in text.chars() {
        let value = if c == '两' {
            Some(2)
        } else {
            DIGITS
                .iter()
                .position(|known| *known == c)
                .map(|at| at as u64)
        };
        if let Some(value) = value {
            if digit.is_some_and(|before| before != 0) {
                return None;
            }
            zero |= value == 0;
            digit = Some(value);
            continue;
        }
        let unit = match c {
            '十' => 10,
            '百' => 100,
            '千' => 1_000,
            _ => return None,
        };
        if unit >= unit_before {
            return None;
        }
        unit_before = unit;
        section += unit * digit.take().unwrap_or(1).max(1);
    }
    // `三百五` is 350, `三百零五` is 305.
    let short = !zero && (100..=1_000).contains(&unit_before);
    Some(section + digit.unwrap_or(0) * if short { unit_before / 10 } else { 1 })
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
            ("two and a half", "2 1/2"),
            ("minus three and three quarters", "-3 3/4"),
            ("three point one four", "3.14"),
            ("fifty percent", "50\\%"),
            ("one hundred and five", "105"),
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
            "-",
        ] {
            assert_eq!(numeral(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_in_chinese() {
        for (text, value) in [
            ("三", 3),
            ("十二", 12),
            ("二十五", 25),
            ("一百零三", 103),
            ("两万", 20_000),
            ("三万五千", 35_000),
            ("三万五", 35_000),
            ("三百五", 350),
            ("三百零五", 305),
            ("一亿零三万", 100_030_000),
        ] {
            assert_eq!(super::chinese(text), Some(value), "{text}");
        }
        for text in ["", "三四", "十百", "甲", "万", "三亿五亿亿"] {
            assert_eq!(super::chinese(text), None, "{text}");
        }
    }
}
