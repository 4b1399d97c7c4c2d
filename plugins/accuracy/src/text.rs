//! Answers in words.

use crate::expression::Expr;
use crate::fonts::{FONTS, unfonted};
use crate::spelled;
use reward_sdk::number;
use reward_sdk::rational::Rational;
use reward_sdk::units::{self, changes_number};
use std::collections::BTreeSet;

/// Whether a word is in a list. Not inlined: lists of words are searched in many places, and each
/// loop of its own is a loop in the component.
#[inline(never)]
pub(crate) fn is_in(list: &[&str], word: &str) -> bool {
    list.contains(&word)
}

/// Letters of a text that make it what it is: lower case, without punctuation and articles.
fn plain(text: &str) -> String {
    let mut words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    // `A, B` are two letters.
    let article = |word: &str, next: &str| {
        matches!(word, "the" | "all") || (matches!(word, "a" | "an") && next.chars().count() > 1)
    };
    if let [word, next, ..] = words.as_slice()
        && article(word, next)
    {
        words.remove(0);
    }
    words.join(" ")
}

/// A unit in brackets, as Chinese schools write it, without them: `3+5=8(个)`, `$3+5=8$(个)` →
/// `3+5=8个`.
pub(crate) fn with_bracketed_unit(text: &str) -> Option<String> {
    const CHARS_MAX: usize = 6;
    let (before, unit) = text.strip_suffix(')')?.rsplit_once('(')?;
    let value = number::unwrap(before);
    let han = |c: char| matches!(c, '\u{4e00}'..='\u{9fff}');
    let measure = !unit.is_empty()
        && unit.chars().count() <= CHARS_MAX
        && unit.chars().all(|c| han(c) || c == '/');
    let figures = value.ends_with(|c: char| c.is_ascii_digit() || c == '}') && !value.contains(han);
    (measure && figures).then(|| format!("{value}{unit}"))
}

/// Lists of two lengths with one unit, or a larger one behind, as lists: `10\text{ cm and }12\text{
/// cm}`; `3\text{ m and }5\text{ cm}` is a sum.
pub(crate) fn listed(text: &str) -> Option<String> {
    let at = text.find(" and")?;
    let (before, after) = text.split_at_checked(at)?;
    let behind = after.strip_prefix(" and")?.trim_start();
    let (closed, behind) = match behind.strip_prefix('}') {
        Some(behind) => (true, behind.trim_start()),
        None => (false, behind),
    };
    let unit = |part: &str, open: bool| {
        let start = part.find(|c: char| c.is_alphabetic() || c == '\\')?;
        let (value, unit) = part.split_at_checked(start)?;
        value
            .trim()
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
            .then_some(())?;
        (!value.trim().is_empty())
            .then(|| units::read(&format!("{unit}{}", if open { "}" } else { "" })))?
    };
    let (first, second) = (unit(before, closed)?, unit(behind, false)?);
    let factor = second
        .factor(&first)
        .filter(|_| first.is_known() && second.is_known())?;
    (factor >= Rational::integer(1))
        .then(|| format!("{before}{}, {behind}", if closed { "}" } else { "" }))
}

/// All real numbers but a few, as a set: `All real numbers except 1 and 2` →
/// `\mathbb{R}\setminus\{1, 2\}`.
pub(crate) fn all_but(text: &str) -> Option<String> {
    const BYTES_MAX: usize = 100;
    const ALL: [&str; 5] = [
        "all real numbers",
        "all reals",
        "all real values of x",
        "any real number",
        "all real x",
    ];
    const BUT: [&str; 4] = ["except", "other than", "excluding", "but"];
    if text.len() > BYTES_MAX || !text.contains("real") {
        return None;
    }
    let plain = unfonted(text).replace(['$', '~'], "");
    let lower = plain.to_ascii_lowercase();
    let rest = lower
        .strip_prefix("x can be ")
        .or_else(|| lower.strip_prefix("x is "))
        .unwrap_or(&lower);
    let rest = ALL
        .iter()
        .find_map(|all| rest.strip_prefix(all))?
        .trim_start_matches([',', ' ']);
    let rest = rest.strip_prefix("x ").unwrap_or(rest);
    let but = BUT
        .iter()
        .find_map(|but| rest.strip_prefix(but))?
        .trim_start();
    let but = but.strip_prefix("for ").unwrap_or(but);
    let values: Option<Vec<&str>> = but
        .split([',', ' '])
        .filter(|word| !word.is_empty() && !matches!(*word, "and" | "x" | "="))
        .map(|word| {
            Some(word.strip_prefix("x=").unwrap_or(word))
                .filter(|value| number::read(value).is_some_and(|value| value.unit.is_none()))
        })
        .collect();
    let values = values.filter(|values| !values.is_empty())?;
    Some(format!(
        "\\mathbb{{R}}\\setminus\\{{{}\\}}",
        values.join(", ")
    ))
}

/// A list without what is said to be rejected in it: `x=2 (rejected), x=5` → `x=5`; `None` where
/// nothing is, or all is.
pub(crate) fn without_rejected(text: &str) -> Option<String> {
    const SAID: [&str; 12] = [
        "rejected",
        "reject",
        "extraneous",
        "discarded",
        "discard",
        "invalid",
        "not valid",
        "not a solution",
        "extraneous solution",
        "舍去",
        "舍",
        "不合题意",
    ];
    let plain = unfonted(text);
    let rejected = |item: &str| {
        let said = item
            .trim()
            .trim_end_matches(['$', ' '])
            .strip_suffix(')')
            .and_then(|item| item.rsplit_once('('));
        said.is_some_and(|(value, said)| !value.trim().is_empty() && SAID.contains(&said.trim()))
    };
    let parts: Vec<&str> = plain
        .split([',', ';'])
        .flat_map(|part| part.split(" or "))
        .flat_map(|part| part.split(" and "))
        .collect();
    let left: Vec<&str> = parts
        .iter()
        .copied()
        .filter(|part| !rejected(part))
        .collect();
    (left.len() < parts.len() && !left.is_empty()).then(|| left.join(",").trim().to_string())
}

/// A share in words as a formula: `2 in 5` → `2/5`, `40\% of 1` → `40\%\cdot1`.
pub(crate) fn share(text: &str) -> Option<String> {
    const BYTES_MAX: usize = 60;
    if text.len() > BYTES_MAX || !(text.contains("in") || text.contains("of")) {
        return None;
    }
    let plain = unfonted(text).replace(['$', '~'], "");
    let in_words = plain.starts_with(|c: char| c.is_ascii_alphabetic());
    let whole = |text: &str| {
        let figures = || spelled::numeral(text.trim()).filter(|_| in_words);
        text.trim()
            .parse::<u64>()
            .ok()
            .or_else(|| figures()?.parse().ok())
    };
    if let Some((part, all)) = plain
        .split_once(" in ")
        .or_else(|| plain.split_once(" out of ").filter(|_| in_words))
    {
        let (part, all) = (whole(part)?, whole(all)?);
        return (part > 0 && part <= all).then(|| format!("{part}/{all}"));
    }
    let (part, all) = plain.split_once("of ")?;
    let part = part
        .trim_end()
        .strip_suffix('%')?
        .trim_end_matches('\\')
        .trim_end();
    let numeral = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_digit() || matches!(c, '.' | ','))
            && number::read(text).is_some()
    };
    (numeral(part) && numeral(all.trim())).then(|| format!("{part}\\% \\cdot {}", all.trim()))
}

/// A height as it is written with ticks: `5'6''` → `5 feet 6 inches`.
pub(crate) fn in_feet(text: &str) -> Option<String> {
    let (feet, inches) = text.split_once('\'')?;
    let inches = inches
        .strip_suffix("''")
        .or_else(|| inches.strip_suffix('"'))?
        .trim();
    let whole = |text: &str| {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(())
    };
    whole(feet)
        .and(whole(inches))
        .map(|()| format!("{feet} feet {inches} inches"))
}

/// Takes off a remark in brackets after a number: `7 \text{ (seven)}`,
/// `7 \text{ apples (in total)}`. Words that may change the number stay.
pub(crate) fn without_remark(text: &str) -> String {
    valued(text).unwrap_or_else(|| text.to_string())
}

/// What stands before a remark; `None` without one.
fn valued(text: &str) -> Option<String> {
    const CHANGES: [&str; 6] = ["excluded", "open", "closed", "am", "pm", "percent"];
    let braced = text.strip_suffix(")}");
    let (before, words) = braced
        .or_else(|| text.strip_suffix(')'))?
        .rsplit_once('(')?;
    let before = before.trim_end();
    let value = match (
        braced,
        FONTS.iter().find_map(|font| before.strip_suffix(font)),
    ) {
        (None, _) => before.to_string(),
        (Some(_), Some(value)) => value.trim_end().to_string(),
        // `7\text{ apples (in total)}`
        (Some(_), None) => {
            let (at, font) = FONTS
                .iter()
                .filter_map(|font| Some((before.rfind(font)?, font)))
                .max()?;
            (!before.get(at + font.len()..)?.contains(['{', '}'])).then(|| format!("{before}}}"))?
        }
    };
    let in_words = words
        .chars()
        .all(|c| c.is_alphabetic() || c == ' ' || c == '-')
        && words.chars().any(char::is_alphabetic);
    let numeral = value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '\\' | '.'))
        && value.contains(|c: char| c.is_ascii_digit());
    (in_words && numeral).then_some(())?;
    // A number in words is a remark on its own number only.
    if let Some(spelled) = spelled::numeral(words) {
        return number::read(&value)?
            .agrees_with(&number::read(&spelled)?)
            .then_some(value);
    }
    let changes = plain(words).split(' ').any(|word| {
        CHANGES.contains(&word)
            || changes_number(word)
            || (word.is_ascii() && word.chars().count() == 1)
    });
    (braced.is_some() && !changes).then_some(value)
}

/// The letters of an expression that may be a word: `\text{odd}`, `odd` read as a product of
/// variables.
pub(crate) fn letters(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Text(text) | Expr::Symbol(text) => Some(text.clone()),
        Expr::Euler => Some("e".into()),
        Expr::Imaginary => Some("i".into()),
        Expr::Product(factors) => factors
            .iter()
            .map(|factor| letters(factor).filter(|text| text.chars().count() == 1))
            .collect(),
        _ => None,
    }
}

/// The month, day and year of a date: `March 5`, `5 March 2024`, `the 5th of March`.
pub(crate) fn date(text: &str) -> Option<(usize, u32, Option<u32>)> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    const BYTES_MAX: usize = 60;
    if text.len() > BYTES_MAX {
        return None;
    }
    let plain = plain(&unfonted(text).replace(['\\', '~'], " "));
    let (mut month, mut day, mut year) = (None, None, None);
    for word in plain
        .split(' ')
        .filter(|word| !matches!(*word, "of" | "the"))
    {
        let name = MONTHS
            .iter()
            .position(|name| *name == word || (word.len() == 3 && name.starts_with(word)));
        let number = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let ending = word.get(number.len()..).unwrap_or_default();
        match (name, number.parse::<u32>()) {
            (Some(name), _) if month.is_none() => month = Some(name),
            (None, Ok(value))
                if day.is_none()
                    && (1..=31).contains(&value)
                    && matches!(ending, "" | "st" | "nd" | "rd" | "th") =>
            {
                day = Some(value);
            }
            (None, Ok(value)) if year.is_none() && number.len() == 4 && ending.is_empty() => {
                year = Some(value)
            }
            _ => return None,
        }
    }
    Some((month?, day?, year))
}

/// Whether a character is a circled number: `①`.
pub(crate) fn is_circled(c: char) -> bool {
    matches!(c, '①'..='⑳')
}

/// The statements that a text names by circled figures, `①③`, and by nothing else.
fn circled(text: &str) -> Option<BTreeSet<char>> {
    let mut left = text
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, ',' | '，' | '、' | '.'));
    let found: BTreeSet<char> = text.chars().filter(|c| is_circled(*c)).collect();
    (left.all(is_circled) && !found.is_empty()).then_some(found)
}

/// Whether two texts state the same.
pub(crate) fn same(a: &str, b: &str) -> bool {
    if let (Some(a), Some(b)) = (circled(a), circled(b)) {
        return a == b;
    }
    let (a, b) = (plain(a), plain(b));
    if a.is_empty() || b.is_empty() {
        return false;
    }
    let missing = |text: &str| {
        matches!(
            text,
            "dne" | "does not exist" | "limit does not exist" | "it does not exist"
        )
    };
    let (a, b) = (without_solutions(&a), without_solutions(&b));
    a == b
        || (missing(&a) && missing(&b))
        || a.replace(' ', "") == b.replace(' ', "")
        || (says_nothing(&a) && says_nothing(&b))
}

/// `infinitely many solutions` → `infinitely many`.
fn without_solutions(text: &str) -> String {
    let bare = [" solutions", " values", " answers"]
        .iter()
        .find_map(|what| text.strip_suffix(what))
        .unwrap_or(text);
    if bare.ends_with("infinitely many") {
        "infinitely many".into()
    } else {
        text.into()
    }
}

/// Whether a text states that there is no solution.
pub(crate) fn says_nothing(text: &str) -> bool {
    const SPELLINGS: [&str; 9] = [
        "no solution",
        "no solutions",
        "no real solution",
        "no real solutions",
        "none",
        "empty set",
        "there is no solution",
        "there are no solutions",
        "no such values exist",
    ];
    const SUBJECTS: [&str; 9] = [
        "equation",
        "this equation",
        "system",
        "this system",
        "inequality",
        "problem",
        "it",
        "system of equations",
        "given equation",
    ];
    let plain = plain(text);
    let stated = || {
        let (subject, nothing) = plain.split_once(" has ")?;
        (SUBJECTS.contains(&subject) && nothing.starts_with("no "))
            .then(|| SPELLINGS.contains(&nothing))
    };
    SPELLINGS.contains(&plain.as_str()) || stated() == Some(true)
}

/// Whether a text states that every real number is a solution.
pub(crate) fn says_all_reals(text: &str) -> bool {
    const SPELLINGS: [&str; 4] = ["all real numbers", "all reals", "all real", "real numbers"];
    SPELLINGS.contains(&plain(text).as_str())
}

/// Whether a text is a number in words. Such a text is neither a numeral nor a text to compare:
/// data that spell a number out are left out.
pub(crate) fn is_numeral(text: &str) -> bool {
    let plain = plain(text);
    !plain.is_empty()
        && plain
            .split(' ')
            .all(|word| spelled::is_word(word) || word == "and")
}
