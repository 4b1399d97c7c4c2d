//! Checks a document against the keys of its tables: unknown keys, wrong types and ranges are
//! refused with line, table and key; defaults are filled in.

use super::document::{Document, Lines, Place};
use super::keys::{Default, Key, Kind, Table};
use super::plain::{is_name, text};
use super::unknown::unknown;
use super::value::{self, at_most, shown, wrong};
use crate::error::JobError;
use crate::limits::{NAMED_MAX, TABLES_MAX};
use r1d_proto::shown as safe;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

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
    let place = Place {
        line: 1,
        table: "the top level".into(),
    };
    checker.table(&document.root, spec, &place)
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
            let value = self.value(value, key, &place.of_key(line))?;
            resolved.insert(key.name.into(), value);
        }
        let left_out: Vec<&Key> = spec
            .keys()
            .filter(|key| !resolved.contains_key(key.name))
            .collect();
        for key in left_out {
            if let Some(value) = self.default(key, place)? {
                resolved.insert(key.name.into(), value);
            }
        }
        Ok(resolved)
    }

    /// The value of a key that is left out; `None`: it stays out.
    fn default(&self, key: &Key, place: &Place) -> Result<Option<toml::Value>, JobError> {
        let literal = match key.default {
            Default::Unset(_) => return Ok(None),
            Default::Value(literal) => literal,
            Default::Required(fix) => {
                return Err(JobError::Missing {
                    place: place.at(place.line),
                    key: key.name.into(),
                    fix: fix.into(),
                });
            }
        };
        let value = DeValue::parse(literal).map_err(|e| JobError::Syntax {
            line: 0,
            message: format!("default of `{}`: {}", key.name, e.message()),
        })?;
        // A default has no lines of its own: errors in it name the line of its table.
        let inner = Checker {
            lines: &Lines::default(),
            files: self.files,
        };
        inner
            .value(&value, key, &place.of_key(place.line))
            .map(Some)
    }

    fn value(
        &self,
        found: &Spanned<DeValue<'_>>,
        key: &Key,
        place: &Place,
    ) -> Result<toml::Value, JobError> {
        let value = found.get_ref();
        let wrong = || wrong(value, key, place);
        match &key.kind {
            Kind::Table(spec) => {
                let place = Place {
                    line: place.line,
                    table: format!("[{}]", spec.path),
                };
                let found = value.as_table().ok_or_else(wrong)?;
                Ok(toml::Value::Table(self.table(found, spec, &place)?))
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
            _ => value::check(value, key, place),
        }
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
            let called = safe::quote(name.get_ref());
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
            let table = self.table(table, spec, &place)?;
            resolved.insert(name.get_ref().to_string(), toml::Value::Table(table));
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
            let place = |path: &str| Place {
                line,
                table: called(table, path, index),
            };
            let spec = spec(table, &place("stage"))?;
            let table = self.table(table, spec, &place(spec.path))?;
            resolved.push(toml::Value::Table(table));
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
        Some(name) => format!("[[{path}]] \"{}\"", safe::quote(name)),
        None => format!("[[{path}]] number {}", index + 1),
    }
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
