//! The values of a document, as the kinds of keys have them.

use crate::limits::{NUMBER_MAX, NUMBER_MIN};
use toml::Value;
use toml::de::{DeTable, DeValue};

/// Whether `text` has 1 to 64 letters, digits, `-`, `_` and `.`, and begins with a letter or digit:
/// such a name is safe as part of a file name.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The text of a string; `None` for other values.
pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Option<&'a str> {
    match value {
        DeValue::String(text) => Some(text),
        _ => None,
    }
}

/// The number of an integer; `None` for other values.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    value
        .as_integer()
        .and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok())
}

pub(super) fn float(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(number) => number.as_str().parse().ok(),
        _ => integer(value).map(|number| number as f64),
    }
}

/// Whether float32 would round the number, which is not 0, to 0.
pub(super) fn is_lost(number: f64) -> bool {
    number != 0.0 && number.abs() < NUMBER_MIN
}

pub(super) fn texts<'a>(value: &'a DeValue<'_>) -> Option<Vec<&'a str>> {
    value
        .as_array()?
        .iter()
        .map(|item| text(item.get_ref()))
        .collect()
}

pub(super) fn word_or_score(value: &DeValue<'_>, words: &[&str]) -> Option<Value> {
    if let Some(word) = text(value) {
        return words.contains(&word).then(|| word.into());
    }
    let table = value.as_table()?;
    let (name, score) = table.iter().next().filter(|_| table.len() == 1)?;
    let score = float(score.get_ref()).filter(|score| {
        name.get_ref() == "score" && score.abs() <= NUMBER_MAX && !is_lost(*score)
    })?;
    Some(Value::Table(toml::Table::from_iter([(
        "score".to_string(),
        Value::Float(score),
    )])))
}

/// The table as JSON would hold it; `None` for values that JSON lacks, such as dates and
/// infinities.
pub(super) fn json_table(table: &DeTable<'_>) -> Option<Value> {
    let entries = table
        .iter()
        .map(|(name, value)| Some((name.get_ref().to_string(), json_value(value.get_ref())?)));
    entries.collect::<Option<toml::Table>>().map(Value::Table)
}

fn json_value(value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::String(text) => Some(text.to_string().into()),
        DeValue::Integer(_) => integer(value).map(Value::Integer),
        DeValue::Float(_) => float(value)
            .filter(|number| number.is_finite())
            .map(Value::Float),
        DeValue::Boolean(yes) => Some((*yes).into()),
        DeValue::Datetime(_) => None,
        DeValue::Array(items) => items
            .iter()
            .map(|item| json_value(item.get_ref()))
            .collect::<Option<Vec<_>>>()
            .map(Value::Array),
        DeValue::Table(table) => json_table(table),
    }
}

/// Whether the text is `YYYY-MM-DD`, a day that the calendar has.
pub(super) fn is_date(text: &str) -> bool {
    let is_digits = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut parts = text.split('-');
    let (Some(year), Some(month), Some(day), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    if !is_digits(year, 4) || !is_digits(month, 2) || !is_digits(day, 2) {
        return false;
    }
    let (Ok(year), Ok(month), Ok(day)) = (
        year.parse::<u32>(),
        month.parse::<u32>(),
        day.parse::<u32>(),
    ) else {
        return false;
    };
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}
