//! Checks a document against the key table: unknown keys, wrong types and ranges are refused with
//! line, table and key; defaults are filled in.

use super::keys::{self, Default, Key, Kind, Table};
use crate::error::JobError;
use crate::limits::{NAMED_MAX, NUMBER_MAX, NUMBER_MIN, TABLES_MAX, TEXT_MAX_BYTES, TEXTS_MAX};
use r1d_proto::shown;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A parsed TOML text that still knows its lines.
pub struct Document<'a> {
    lines: Lines,
    root: DeTable<'a>,
}

impl<'a> Document<'a> {
    /// Parses TOML. The error is [`JobError::Syntax`], with the line.
    pub fn parse(text: &'a str) -> Result<Document<'a>, JobError> {
        let lines = Lines::of(text);
        let root = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, |span| lines.at(span));
            JobError::Syntax {
                line,
                message: shown::quote(&e.message().trim().replace('\n', "; ")),
            }
        })?;
        Ok(Document {
            lines,
            root: root.into_inner(),
        })
    }
}

/// Where each line of a text ends, so that a place is found without reading the text again.
#[derive(std::default::Default)]
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(
            text.bytes()
                .enumerate()
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(at, _)| at)
                .collect(),
        )
    }

    /// The line, from 1, in which a span begins.
    fn at(&self, span: Range<usize>) -> usize {
        self.0.partition_point(|end| *end < span.start) + 1
    }
}

/// Returns the document with every default filled in, each value of the kind that its key has (an
/// integer where a number is meant becomes a float). `files` are the top levels of all files, in
/// which an error looks for a key that the document does not have.
pub fn resolve(
    document: &Document<'_>,
    spec: &'static Table,
    files: &[&'static Table],
) -> Result<toml::Table, JobError> {
    let checker = Checker {
        lines: &document.lines,
        files,
    };
    checker.table(
        &document.root,
        spec,
        &Place {
            line: 1,
            table: "the top level".into(),
        },
    )
}

/// A table's place in the file: its first line, and its heading as a reader looks for it.
struct Place {
    line: usize,
    table: String,
}

impl Place {
    fn at(&self, line: usize) -> String {
        format!("line {line}, {}", self.table)
    }
}

struct Checker<'a> {
    lines: &'a Lines,
    files: &'a [&'static Table],
}

impl Checker<'_> {
    fn line(&self, span: Range<usize>) -> usize {
        self.lines.at(span)
    }

    fn table(
        &self,
        found: &DeTable<'_>,
        spec: &'static Table,
        place: &Place,
    ) -> Result<toml::Table, JobError> {
        let mut entries: Vec<_> = found.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut resolved = toml::Table::new();
        for (name, value) in entries {
            let line = self.line(name.span());
            let Some(key) = spec.key(name.get_ref()) else {
                return Err(unknown(name.get_ref(), spec, self.files, place.at(line)));
            };
            resolved.insert(
                key.name.into(),
                self.value(
                    value,
                    key,
                    &Place {
                        line,
                        table: place.table.clone(),
                    },
                )?,
            );
        }
        for key in spec
            .keys()
            .filter(|key| !resolved.contains_key(key.name))
            .collect::<Vec<_>>()
        {
            match key.default {
                Default::Required(fix) => {
                    return Err(JobError::Missing {
                        place: place.at(place.line),
                        key: key.name.into(),
                        fix: fix.into(),
                    });
                }
                Default::Value(literal) => {
                    let value = DeValue::parse(literal).map_err(|e| JobError::Syntax {
                        line: 0,
                        message: format!("default of `{}`: {}", key.name, e.message()),
                    })?;
                    // A default has no lines of its own: errors in it name the line of its table.
                    let inner = Checker {
                        lines: &Lines::default(),
                        files: self.files,
                    };
                    resolved.insert(
                        key.name.into(),
                        inner.value(
                            &value,
                            key,
                            &Place {
                                line: place.line,
                                table: place.table.clone(),
                            },
                        )?,
                    );
                }
                Default::Unset(_) => {}
            }
        }
        Ok(resolved)
    }

    fn value(
        &self,
        found: &Spanned<DeValue<'_>>,
        key: &Key,
        place: &Place,
    ) -> Result<toml::Value, JobError> {
        let wrong = || JobError::WrongType {
            place: place.at(place.line),
            key: key.name.into(),
            expected: match (&key.kind, found.get_ref()) {
                (Kind::Text, DeValue::String(_)) => "a string that is not empty".into(),
                _ => key.kind.expected(),
            },
            found: shown(found.get_ref()),
        };
        let value = found.get_ref();
        match &key.kind {
            Kind::Later(instead) => Err(JobError::NotInThisRelease {
                place: place.at(place.line),
                what: format!("`{}`", key.name),
                fix: format!(": {instead}"),
            }),
            Kind::Text | Kind::Path => {
                let found = text(value).filter(|t| !t.is_empty()).ok_or_else(wrong)?;
                at_most("bytes", found.len(), TEXT_MAX_BYTES, key, place)?;
                Ok(found.into())
            }
            Kind::Name => Ok(text(value).filter(|t| is_name(t)).ok_or_else(wrong)?.into()),
            Kind::Sha256 => {
                let is_hash = |t: &&str| t.len() == 64 && t.bytes().all(|b| b.is_ascii_hexdigit());
                Ok(text(value)
                    .filter(is_hash)
                    .ok_or_else(wrong)?
                    .to_ascii_lowercase()
                    .into())
            }
            Kind::Date => Ok(text(value).filter(|t| is_date(t)).ok_or_else(wrong)?.into()),
            Kind::OneOf(words) => Ok(text(value)
                .filter(|t| words.contains(t))
                .ok_or_else(wrong)?
                .into()),
            Kind::Bool => value.as_bool().map(toml::Value::Boolean).ok_or_else(wrong),
            Kind::Integer { min, max } => {
                let number = integer(value).ok_or_else(wrong)?;
                self.in_range(number >= *min && number <= *max, &number, key, place)?;
                Ok(number.into())
            }
            Kind::Float { min, max, above } => {
                let number = float(value).ok_or_else(wrong)?;
                let is_within = number >= *min && number <= *max && !(*above && number == *min);
                self.in_range(is_within, &shown::number(number), key, place)?;
                if is_lost(number) {
                    Err(JobError::OutOfRange {
                        place: place.at(place.line),
                        key: key.name.into(),
                        value: shown::number(number),
                        rule: format!(
                            "expected {}; nearer to 0 than {NUMBER_MIN:e} it is 0 in float32",
                            key.kind.expected()
                        ),
                    })
                } else {
                    Ok(number.into())
                }
            }
            Kind::AutoOrTexts if text(value) == Some("auto") => Ok("auto".into()),
            Kind::Texts | Kind::AutoOrTexts => {
                let found = texts(value).ok_or_else(wrong)?;
                at_most("strings", found.len(), TEXTS_MAX, key, place)?;
                at_most(
                    "bytes in one string",
                    found.iter().map(|text| text.len()).max().unwrap_or(0),
                    TEXT_MAX_BYTES,
                    key,
                    place,
                )?;
                Ok(toml::Value::Array(
                    found.into_iter().map(toml::Value::from).collect(),
                ))
            }
            Kind::WordOrScore(words) => word_or_score(value, words).ok_or_else(wrong),
            Kind::Json => value.as_table().and_then(json_table).ok_or_else(wrong),
            Kind::Table(spec) => {
                let place = Place {
                    line: place.line,
                    table: format!("[{}]", spec.path),
                };
                Ok(toml::Value::Table(self.table(
                    value.as_table().ok_or_else(wrong)?,
                    spec,
                    &place,
                )?))
            }
            Kind::Named(spec) => {
                let found = value.as_table().ok_or_else(wrong)?;
                at_most("tables", found.len(), NAMED_MAX, key, place)?;
                self.named(found, spec)
            }
            Kind::Tables(_) | Kind::Variants { .. } => {
                let found = value.as_array().ok_or_else(wrong)?;
                at_most("tables", found.len(), TABLES_MAX, key, place)?;
                self.tables(found, &wrong, |table, place| match &key.kind {
                    Kind::Variants { tag, variants } => variant(table, tag, variants, place),
                    Kind::Tables(spec) => Ok(*spec),
                    _ => Err(wrong()),
                })
            }
        }
    }

    fn in_range(
        &self,
        holds: bool,
        value: &dyn std::fmt::Display,
        key: &Key,
        place: &Place,
    ) -> Result<(), JobError> {
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

    fn named(&self, found: &DeTable<'_>, spec: &'static Table) -> Result<toml::Value, JobError> {
        let prefix = spec.path.trim_end_matches("NAME");
        let example = if prefix == "data." {
            "train"
        } else {
            "student"
        };
        let mut resolved = toml::Table::new();
        for (name, value) in found {
            let called = shown::quote(name.get_ref());
            let place = Place {
                line: self.line(name.span()),
                table: format!("[{prefix}{called}]"),
            };
            let wrong = |expected: String, found: String| JobError::WrongType {
                place: place.at(place.line),
                key: called.clone(),
                expected,
                found,
            };
            let table = value.get_ref().as_table().ok_or_else(|| {
                wrong(
                    format!(
                        "a table [{prefix}{called}] (it has a name of its own, as in \
                         [{prefix}{example}])"
                    ),
                    shown(value.get_ref()),
                )
            })?;
            if !is_name(name.get_ref()) {
                return Err(wrong(Kind::Name.expected(), "the table's name".into()));
            }
            resolved.insert(
                name.get_ref().to_string(),
                toml::Value::Table(self.table(table, spec, &place)?),
            );
        }
        Ok(toml::Value::Table(resolved))
    }

    fn tables(
        &self,
        found: &[Spanned<DeValue<'_>>],
        wrong: &dyn Fn() -> JobError,
        spec: impl Fn(&DeTable<'_>, &Place) -> Result<&'static Table, JobError>,
    ) -> Result<toml::Value, JobError> {
        let mut resolved = Vec::new();
        for (index, item) in found.iter().enumerate() {
            let table = item.get_ref().as_table().ok_or_else(wrong)?;
            let line = self.line(item.span());
            let spec = spec(
                table,
                &Place {
                    line,
                    table: called(table, "stage", index),
                },
            )?;
            let place = Place {
                line,
                table: called(table, spec.path, index),
            };
            resolved.push(toml::Value::Table(self.table(table, spec, &place)?));
        }
        Ok(toml::Value::Array(resolved))
    }
}

/// Names a table of an array as `[[stage]] "cold-start"`: by its name, plugin or data set, else by
/// its number.
fn called(table: &DeTable<'_>, path: &str, index: usize) -> String {
    let by = |key: &str| {
        table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .and_then(|(_, value)| text(value.get_ref()))
    };
    match by("name").or_else(|| by("plugin")).or_else(|| by("data")) {
        Some(name) => format!("[[{path}]] \"{}\"", shown::quote(name)),
        None => format!("[[{path}]] number {}", index + 1),
    }
}

fn at_most(
    what: &str,
    found: usize,
    limit: usize,
    key: &Key,
    place: &Place,
) -> Result<(), JobError> {
    if found <= limit {
        return Ok(());
    }
    let (place, value) = (place.at(place.line), format!("… ({found} {what})"));
    Err(JobError::OutOfRange {
        place,
        key: key.name.into(),
        value,
        rule: format!("expected at most {limit} {what}"),
    })
}

/// Returns the table of keys for the kind that the tag `tag` names.
fn variant(
    table: &DeTable<'_>,
    tag: &str,
    variants: &[(&'static str, &'static Table)],
    place: &Place,
) -> Result<&'static Table, JobError> {
    let known = variants
        .iter()
        .map(|(name, _)| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    let Some((_, value)) = table.iter().find(|(name, _)| name.get_ref() == tag) else {
        return Err(JobError::Missing {
            place: place.at(place.line),
            key: tag.into(),
            fix: format!("one of {known}"),
        });
    };
    let found = text(value.get_ref()).unwrap_or_default();
    variants
        .iter()
        .find(|(name, _)| *name == found)
        .map(|(_, table)| *table)
        .ok_or_else(|| JobError::WrongType {
            place: place.at(place.line),
            key: tag.into(),
            expected: format!("one of {known}"),
            found: shown(value.get_ref()),
        })
}

fn unknown(name: &str, spec: &Table, files: &[&'static Table], place: String) -> JobError {
    let renamed = keys::ALSO_KNOWN_AS
        .iter()
        .find(|(other, here)| *other == name && spec.key(here).is_some());
    let elsewhere = || {
        let all = files.iter().flat_map(|file| keys::tables(file));
        all.filter(|table| table.path == spec.path && !std::ptr::eq(*table, spec))
            .find(|table| table.key(name).is_some())
    };
    let hint = if let Some((_, here)) = renamed {
        format!("; here it is called `{here}`")
    } else if spec.path == "models.NAME" && ["dtype", "fp8"].contains(&name) {
        "; [model] says it for every model of the job".into()
    } else if let Some(other) = elsewhere() {
        format!(
            "; it belongs to {}",
            other.meaning.split(':').next().unwrap_or_default()
        )
    } else {
        // The comparison costs the product of both lengths, and no key is that long.
        match keys::nearest(&shown::quote(name), spec.keys().map(|key| key.name)) {
            Some(near) => format!("; the nearest known key is `{near}`"),
            None => String::new(),
        }
    };
    JobError::UnknownKey {
        place,
        key: shown::quote(name),
        hint,
    }
}

/// Whether `text` has 1 to 64 letters, digits, `-`, `_` and `.`, and begins with a letter or digit:
/// such a name is safe as part of a file name.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn text<'a>(value: &'a DeValue<'_>) -> Option<&'a str> {
    match value {
        DeValue::String(text) => Some(text),
        _ => None,
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    value
        .as_integer()
        .and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok())
}

fn float(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(number) => number.as_str().parse().ok(),
        _ => integer(value).map(|number| number as f64),
    }
}

/// Whether float32 would round the number, which is not 0, to 0.
fn is_lost(number: f64) -> bool {
    number != 0.0 && number.abs() < NUMBER_MIN
}

fn texts<'a>(value: &'a DeValue<'_>) -> Option<Vec<&'a str>> {
    value
        .as_array()?
        .iter()
        .map(|item| text(item.get_ref()))
        .collect()
}

fn word_or_score(value: &DeValue<'_>, words: &[&str]) -> Option<toml::Value> {
    if let Some(word) = text(value) {
        return words.contains(&word).then(|| word.into());
    }
    let table = value.as_table()?;
    let (name, score) = table.iter().next().filter(|_| table.len() == 1)?;
    let score = float(score.get_ref()).filter(|score| {
        name.get_ref() == "score" && score.abs() <= NUMBER_MAX && !is_lost(*score)
    })?;
    Some(toml::Value::Table(toml::Table::from_iter([(
        "score".to_string(),
        toml::Value::Float(score),
    )])))
}

/// The table as JSON would hold it; `None` for values that JSON lacks, such as dates and
/// infinities.
fn json_table(table: &DeTable<'_>) -> Option<toml::Value> {
    let entries = table
        .iter()
        .map(|(name, value)| Some((name.get_ref().to_string(), json_value(value.get_ref())?)));
    entries
        .collect::<Option<toml::Table>>()
        .map(toml::Value::Table)
}

fn json_value(value: &DeValue<'_>) -> Option<toml::Value> {
    match value {
        DeValue::String(text) => Some(text.to_string().into()),
        DeValue::Integer(_) => integer(value).map(toml::Value::Integer),
        DeValue::Float(_) => float(value)
            .filter(|number| number.is_finite())
            .map(toml::Value::Float),
        DeValue::Boolean(yes) => Some((*yes).into()),
        DeValue::Datetime(_) => None,
        DeValue::Array(items) => items
            .iter()
            .map(|item| json_value(item.get_ref()))
            .collect::<Option<Vec<_>>>()
            .map(toml::Value::Array),
        DeValue::Table(table) => json_table(table),
    }
}

/// The value as an error shows it.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.is_empty() => "an empty string".into(),
        DeValue::String(text) => {
            format!("the string {:?}", text.chars().take(60).collect::<String>())
        }
        DeValue::Integer(number) => format!("the integer {}", shown::quote(number.as_str())),
        DeValue::Float(number) => format!("the number {}", shown::quote(number.as_str())),
        DeValue::Boolean(yes) => format!("{yes}"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// Whether the text is `YYYY-MM-DD`, a day that the calendar has.
fn is_date(text: &str) -> bool {
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
