//! Finds a row's columns by the names that the job file gives them.

use crate::json::{Json, is_no_number};
use crate::message::{Message, Spoken};
use crate::row::Row;
use r1d_job::DataSource;
use r1d_job::file::keys::nearest;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Columns that TRL reads by their names, whatever else a data set has.
const MESSAGES: &str = "messages";
const TOOLS: &str = "tools";
const CHAT_TEMPLATE_KWARGS: &str = "chat_template_kwargs";
/// Columns of public data sets that hold what a key stands for, most usual first.
const ALSO_CALLED: [(&str, &[&str]); 4] = [
    (
        "prompt",
        &["question", "problem", "query", "instruction", "input"],
    ),
    (
        "completion",
        &["response", "answer", "output", "solution", "target"],
    ),
    (
        "reference",
        &["answer", "ground_truth", "solution", "target", "label"],
    ),
    ("text", &["content", "document", "body"]),
];

/// Reads a row. An error says what is wrong with it, without its place.
pub fn row(columns: Json, source: &DataSource) -> Result<Row, String> {
    let Json::Object(mut columns) = columns else {
        return Err(format!("{}, expected columns by name", columns.kind()));
    };
    let mut row = Row::default();
    let whole = conversation_column(&columns, source);
    let read = Columns {
        row: &columns,
        source,
    };
    match &whole {
        Some(name) => {
            (row.messages, row.completion) = read.conversation(name)?;
            row.prompt = row.messages.last().map(Message::text);
        }
        None => read.parts(&mut row)?,
    }
    row.chosen = read.said("chosen", source.chosen.as_deref())?;
    row.rejected = read.said("rejected", source.rejected.as_deref())?;
    row.label = read.number("label", source.label.as_deref(), 0.0..=1.0)?;
    row.margin = read.number("margin", source.margin.as_deref(), 0.0..=f64::MAX)?;
    row.text = read.text("text", source.text.as_deref())?;
    row.reference = read.plain("reference", source.reference.as_deref())?;
    row.domain = read.plain("domain", source.domain.as_deref())?;
    row.tools = match &source.tools {
        Some(_) => read.column("tools", source.tools.as_deref())?.cloned(),
        None => find(&columns, TOOLS).cloned(),
    }
    .filter(|tools| *tools != Json::Null);
    row.chat_template_kwargs = find(&columns, CHAT_TEMPLATE_KWARGS)
        .filter(|kwargs| **kwargs != Json::Null)
        .cloned();
    for name in named(source).chain(&whole) {
        remove(&mut columns, name);
    }
    row.meta = (!columns.is_empty()).then(|| Json::Object(columns).to_string());
    Ok(row)
}

/// Whether the row has the column of this name.
fn has(columns: &[(String, Json)], name: &Option<String>) -> bool {
    name.as_ref()
        .is_some_and(|name| find(columns, name).is_some())
}

/// Name of the column of a whole conversation, which gives both the prompt and the completion.
fn conversation_column(columns: &[(String, Json)], source: &DataSource) -> Option<String> {
    if let Some(name) = &source.messages {
        return Some(name.clone());
    }
    let is_list = find(columns, MESSAGES).and_then(Json::as_list).is_some();
    let is_whole = source.prompt.is_some()
        && source.chosen.is_none()
        && !has(columns, &source.prompt)
        && is_list;
    is_whole.then(|| MESSAGES.into())
}

/// The columns, and parts of columns, that the job file names.
fn named(source: &DataSource) -> impl Iterator<Item = &String> {
    let names = [
        &source.messages,
        &source.prompt,
        &source.completion,
        &source.chosen,
        &source.rejected,
        &source.text,
        &source.reference,
        &source.domain,
        &source.label,
        &source.margin,
        &source.tools,
    ];
    names.into_iter().flatten()
}

/// Whether this column or a part of it is read, by a key of the job or because its name has a
/// meaning of its own.
pub fn is_used(column: &str, source: &DataSource) -> bool {
    let part = |name: &str| {
        name.strip_prefix(column)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    [MESSAGES, TOOLS, CHAT_TEMPLATE_KWARGS].contains(&column)
        || named(source).any(|name| part(name))
}

/// Finds the value of a column, or of a part of one by its path: `reward_model.ground_truth`,
/// `answers.0`. A column of the whole name takes precedence.
fn find<'a>(columns: &'a [(String, Json)], name: &str) -> Option<&'a Json> {
    if let Some((_, value)) = columns.iter().find(|(column, _)| column == name) {
        return Some(value);
    }
    name.match_indices('.').find_map(|(dot, _)| {
        let (first, rest) = (name.get(..dot)?, name.get(dot + 1..)?);
        let (_, value) = columns.iter().find(|(column, _)| column == first)?;
        match value {
            Json::Object(inner) => find(inner, rest),
            Json::List(items) => {
                let (index, deeper) = rest
                    .split_once('.')
                    .map_or((rest, None), |(index, deeper)| (index, Some(deeper)));
                let item = items.get(index.parse::<usize>().ok()?)?;
                match deeper {
                    None => Some(item),
                    Some(deeper) => find(item.as_object()?, deeper),
                }
            }
            _ => None,
        }
    })
}

/// Removes a column, or a part of one, from what is left for `meta`. An item of a list stays,
/// because the places of the items behind it would change.
fn remove(columns: &mut Vec<(String, Json)>, name: &str) {
    if let Some(place) = columns.iter().position(|(column, _)| column == name) {
        columns.remove(place);
        return;
    }
    for (dot, _) in name.match_indices('.') {
        let (Some(first), Some(rest)) = (name.get(..dot), name.get(dot + 1..)) else {
            continue;
        };
        let Some(place) = columns.iter().position(|(column, _)| column == first) else {
            continue;
        };
        let Some((_, Json::Object(inner))) = columns.get_mut(place) else {
            continue;
        };
        remove(inner, rest);
        if inner.is_empty() {
            columns.remove(place);
        }
        return;
    }
}

/// A row's columns, with the data set whose keys name them.
struct Columns<'a> {
    row: &'a [(String, Json)],
    source: &'a DataSource,
}

impl<'a> Columns<'a> {
    /// Reads a prompt and its completion, each from a column of its own.
    fn parts(&self, row: &mut Row) -> Result<(), String> {
        // Pairs may hold whole texts or conversations, and no prompt.
        let source = self.source;
        let no_prompt = source.chosen.is_some() && !has(self.row, &source.prompt);
        let prompt = source.prompt.as_deref().filter(|_| !no_prompt);
        match self.said("prompt", prompt)? {
            Some(Spoken::Text(text)) => row.prompt = Some(text),
            Some(Spoken::Messages(messages)) => {
                row.prompt = messages.last().map(Message::text);
                row.messages = messages;
            }
            None => {}
        }
        row.completion = self.said("completion", source.completion.as_deref())?;
        Ok(())
    }

    /// The value of the column that the job file names for `key`. A row without that column is an
    /// error.
    fn column(&self, key: &str, name: Option<&str>) -> Result<Option<&'a Json>, String> {
        let Some(name) = name else { return Ok(None) };
        let found = find(self.row, name).map(Some);
        found.ok_or_else(|| missing(self.row, key, name, self.source))
    }

    /// A column as an error calls it.
    fn called(&self, key: &str, name: &str) -> String {
        format!(
            "column `{name}` (the `{key}` of [data.{}])",
            self.source.name
        )
    }

    fn wrong(&self, key: &str, name: &str, problem: impl Display) -> String {
        format!("{} is {problem}", self.called(key, name))
    }

    /// Reads a column that is a text or a list of messages.
    fn said(&self, key: &str, name: Option<&str>) -> Result<Option<Spoken>, String> {
        match (self.column(key, name)?, name) {
            (Some(Json::List(items)), Some(name)) => {
                Ok(Some(Spoken::Messages(self.messages(items, key, name)?)))
            }
            _ => Ok(self.text(key, name)?.map(Spoken::Text)),
        }
    }

    fn messages(&self, items: &[Json], key: &str, name: &str) -> Result<Vec<Message>, String> {
        let wrong = |problem: String| {
            let expected = "a list, expected a string or a list of messages with `role` and \
                            `content`";
            self.wrong(key, name, format!("{expected}: {problem}"))
        };
        if items.is_empty() {
            Err(wrong("it is empty".into()))
        } else {
            Message::list(items).map_err(wrong)
        }
    }

    /// Splits a conversation into its last message, if that is an assistant's, and all that
    /// precedes it.
    fn conversation(&self, name: &str) -> Result<(Vec<Message>, Option<Spoken>), String> {
        let key = "messages";
        let value = self.column(key, Some(name))?;
        let Some(Json::List(items)) = value else {
            let found = value.map_or("missing", Json::kind);
            let expected = "a list of messages with `role` and `content`";
            return Err(self.wrong(key, name, format!("{found}, expected {expected}")));
        };
        let mut messages = self.messages(items, key, name)?;
        match messages.pop_if(|last| last.role() == "assistant") {
            Some(_) if messages.is_empty() => Err(self.wrong(
                key,
                name,
                "one message of the assistant's: nothing comes before it that it could answer",
            )),
            Some(last) => Ok((messages, Some(Spoken::Messages(vec![last])))),
            None => Ok((messages, None)),
        }
    }

    /// Reads a column that must be text.
    fn text(&self, key: &str, name: Option<&str>) -> Result<Option<String>, String> {
        match (self.column(key, name)?, name) {
            (Some(Json::Text(text)), _) => Ok(Some(text.clone())),
            (Some(other), Some(name)) => {
                Err(self.wrong(key, name, format!("{}, expected a string", other.kind())))
            }
            _ => Ok(None),
        }
    }

    /// Reads a column of text or numbers, which are taken as they are written. Null means that the
    /// row has none.
    fn plain(&self, key: &str, name: Option<&str>) -> Result<Option<String>, String> {
        match (self.column(key, name)?, name) {
            (Some(Json::Null), _) => Ok(None),
            (Some(Json::Number(number)), Some(name)) if is_no_number(number) => {
                let fix = "which is no value: leave it empty (null), or leave the row out";
                Err(self.wrong(key, name, format!("{number}, {fix}")))
            }
            (Some(Json::Number(number)), _) => Ok(Some(number.clone())),
            (Some(Json::Bool(yes)), _) => Ok(Some(yes.to_string())),
            _ => self.text(key, name),
        }
    }

    /// Reads a column that must be a number of the range; true and false are 1 and 0.
    fn number(
        &self,
        key: &str,
        name: Option<&str>,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, String> {
        let (Some(value), Some(name)) = (self.column(key, name)?, name) else {
            return Ok(None);
        };
        let number = match value {
            Json::Bool(yes) => Some(f64::from(u8::from(*yes))),
            Json::Number(number) => number.parse().ok(),
            _ => None,
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Ok(Some(number as f32));
        }
        let top = *range.end();
        let range = if top == f64::MAX {
            "of at least 0".into()
        } else {
            format!("from 0 to {top}")
        };
        let found = match value {
            Json::Number(number) => number,
            other => other.kind(),
        };
        Err(self.wrong(key, name, format!("{found}, expected a number {range}")))
    }
}

/// The error of a row without the column `name`, which `key` of the data set stands for, with the
/// column that is probably meant.
fn missing(row: &[(String, Json)], key: &str, name: &str, source: &DataSource) -> String {
    let data = &source.name;
    let is_free = |column: &&str| !is_used(column, source);
    let present = || row.iter().map(|(column, _)| column.as_str());
    let usual = ALSO_CALLED.iter().find(|(known, _)| *known == key);
    let usual = usual.map_or(&[][..], |(_, names)| names).iter().copied();
    let near = std::iter::once(key)
        .chain(usual)
        .find(|usual| present().any(|own| own == *usual))
        .or_else(|| nearest(name, present().filter(is_free)).filter(|near| is_near(name, near)));
    // A key that the job file leaves out names a column of its own name.
    let fix = match near {
        Some(near) if name == key => format!("; add {key} = \"{near}\" to [data.{data}]"),
        Some(near) => format!("; write {key} = \"{near}\" in [data.{data}]"),
        None => String::new(),
    };
    let present: Vec<String> = present().map(|column| format!("`{column}`")).collect();
    let present = if present.is_empty() {
        "none".into()
    } else {
        present.join(", ")
    };
    format!(
        "no column `{name}` (the `{key}` of [data.{data}]); the row's columns are {present}{fix}"
    )
}

/// Whether two names are so similar that one was probably meant by the other.
fn is_near(name: &str, other: &str) -> bool {
    strsim::jaro_winkler(name, other) > 0.7
}
