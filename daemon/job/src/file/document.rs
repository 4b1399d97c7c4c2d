//! A parsed document that still knows its lines.

use crate::error::JobError;
use r1d_proto::shown;
use std::ops::Range;
use toml::de::DeTable;

/// A parsed TOML text that still knows its lines.
pub struct Document<'a> {
    pub(super) lines: Lines,
    pub(super) root: DeTable<'a>,
}

impl<'a> Document<'a> {
    /// Parses TOML. The error is [`JobError::Syntax`], with the line.
    pub fn parse(text: &'a str) -> Result<Document<'a>, JobError> {
        let lines = Lines::of(text);
        let root = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, |span| lines.at(span));
            let message = shown::quote(&e.message().trim().replace('\n', "; "));
            let message = match key_of(text.lines().nth(line - 1).unwrap_or_default()) {
                Some(key) => format!("`{}`: {message}", shown::quote(key)),
                None => message,
            };
            JobError::Syntax { line, message }
        })?;
        Ok(Document {
            lines,
            root: root.into_inner(),
        })
    }
}

/// The bare key that a line gives a value, `key = …`; `None` for other lines.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    Some(key.trim()).filter(|key| !key.is_empty() && key.chars().all(is_bare))
}

/// The ends of a text's lines: a place is found without reading the text again.
#[derive(Default)]
pub(super) struct Lines(Vec<usize>);

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
    pub(super) fn at(&self, span: Range<usize>) -> usize {
        self.0.partition_point(|end| *end < span.start) + 1
    }
}

/// A table's place in the file: its first line, and its heading as a reader looks for it.
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) table: String,
}

impl Place {
    /// The place of something in the table, as errors name it.
    pub(super) fn at(&self, line: usize) -> String {
        format!("line {line}, {}", self.table)
    }

    /// The place of a key of the table.
    pub(super) fn of_key(&self, line: usize) -> Place {
        Place {
            line,
            table: self.table.clone(),
        }
    }
}
