//! Checks the value of a key that is no table.

use super::document::Place;
use super::keys::{Key, Kind};
use super::plain::{
    float, integer, is_date, is_lost, is_name, is_sha256, json_table, text, texts, word_or_score,
};
use crate::error::JobError;
use crate::limits::{NUMBER_MIN, TEXT_MAX_BYTES, TEXTS_MAX};
use r1d_proto::shown as safe;
use std::fmt::Display;
use toml::Value;
use toml::de::DeValue;

/// Returns the value in the form that the key's kind has.
pub(super) fn check(found: &DeValue<'_>, key: &Key, place: &Place) -> Result<Value, JobError> {
    let taken: Option<Value> = match &key.kind {
        Kind::Later(instead) => {
            return Err(JobError::NotInThisRelease {
                place: place.at(place.line),
                what: format!("`{}`", key.name),
                fix: format!(": {instead}"),
            });
        }
        Kind::Text | Kind::Path => {
            let text = text(found).filter(|text| !text.is_empty());
            at_most(
                "bytes",
                text.map_or(0, str::len),
                TEXT_MAX_BYTES,
                key,
                place,
            )?;
            text.map(Value::from)
        }
        Kind::Name => text(found).filter(|text| is_name(text)).map(Value::from),
        Kind::Sha256 => text(found)
            .filter(|text| is_sha256(text))
            .map(|text| text.to_ascii_lowercase().into()),
        Kind::Date => text(found).filter(|text| is_date(text)).map(Value::from),
        Kind::OneOf(words) => text(found).filter(|t| words.contains(t)).map(Value::from),
        Kind::Bool => found.as_bool().map(Value::Boolean),
        Kind::Integer { min, max } => integer(found)
            .map(|number| whole(number, (*min, *max), key, place))
            .transpose()?,
        Kind::Float { min, max, above } => float(found)
            .map(|number| real(number, (*min, *max), *above, key, place))
            .transpose()?,
        Kind::AutoOrTexts if text(found) == Some("auto") => Some("auto".into()),
        Kind::Texts | Kind::AutoOrTexts => texts(found)
            .map(|texts| listed(texts, key, place))
            .transpose()?,
        Kind::WordOrScore(words) => word_or_score(found, words),
        Kind::Json => found.as_table().and_then(json_table),
        Kind::Table(_) | Kind::Tables(_) | Kind::Variants { .. } | Kind::Named(_) => None,
    };
    taken.ok_or_else(|| wrong(found, key, place))
}

/// The error of a value that is of another kind than the key's.
pub(super) fn wrong(found: &DeValue<'_>, key: &Key, place: &Place) -> JobError {
    JobError::WrongType {
        place: place.at(place.line),
        key: key.name.into(),
        expected: match (&key.kind, found) {
            (Kind::Text, DeValue::String(_)) => "a string that is not empty".into(),
            _ => key.kind.expected(),
        },
        found: shown(found),
    }
}

fn whole(number: i64, (min, max): (i64, i64), key: &Key, place: &Place) -> Result<Value, JobError> {
    in_range(number >= min && number <= max, &number, key, place)?;
    Ok(number.into())
}

fn real(
    number: f64,
    (min, max): (f64, f64),
    above: bool,
    key: &Key,
    place: &Place,
) -> Result<Value, JobError> {
    let is_within = number >= min && number <= max && !(above && number == min);
    in_range(is_within, &safe::number(number), key, place)?;
    if !is_lost(number) {
        return Ok(number.into());
    }
    Err(JobError::OutOfRange {
        place: place.at(place.line),
        key: key.name.into(),
        value: safe::number(number),
        rule: format!(
            "expected {}; nearer to 0 than {NUMBER_MIN:e} it is 0 in float32",
            key.kind.expected()
        ),
    })
}

fn in_range(holds: bool, value: &dyn Display, key: &Key, place: &Place) -> Result<(), JobError> {
    if holds {
        return Ok(());
    }
    Err(JobError::OutOfRange {
        place: place.at(place.line),
        key: key.name.into(),
        value: value.to_string(),
        rule: format!("expected {}", key.kind.expected()),
    })
}

fn listed(texts: Vec<&str>, key: &Key, place: &Place) -> Result<Value, JobError> {
    at_most("strings", texts.len(), TEXTS_MAX, key, place)?;
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    at_most("bytes in one string", longest, TEXT_MAX_BYTES, key, place)?;
    Ok(texts
        .into_iter()
        .map(Value::from)
        .collect::<Vec<_>>()
        .into())
}

/// Refuses a value that has more than `limit` of something.
pub(super) fn at_most(
    what: &str,
    found: usize,
    limit: usize,
    key: &Key,
    place: &Place,
) -> Result<(), JobError> {
    if found <= limit {
        return Ok(());
    }
    Err(JobError::OutOfRange {
        place: place.at(place.line),
        key: key.name.into(),
        value: format!("… ({found} {what})"),
        rule: format!("expected at most {limit} {what}"),
    })
}

/// The value as an error shows it.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.is_empty() => "an empty string".into(),
        DeValue::String(text) => {
            format!("the string {:?}", text.chars().take(60).collect::<String>())
        }
        DeValue::Integer(number) => format!("the integer {}", safe::quote(number.as_str())),
        DeValue::Float(number) => format!("the number {}", safe::quote(number.as_str())),
        DeValue::Boolean(yes) => format!("{yes}"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
