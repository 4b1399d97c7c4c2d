//! Finds a row's columns by the names that the job file gives them.

use crate::json::{Json, is_no_number};
use crate::message::{Message, Spoken};
use crate::row::Row;
use r1d_job::DataSource;

/// Columns that TRL reads by their names, whatever else a data set has.
const MESSAGES: &str = "messages";
const TOOLS: &str = "tools";
const CHAT_TEMPLATE_KWARGS: &str = "chat_template_kwargs";

/// Reads a row. An error says what is wrong with it, without its place.
pub fn row(columns: Json, source: &DataSource) -> Result<Row, String> {
    let Json::Object(mut columns) = columns else {
        return Err(format!("{}, expected columns by name", columns.kind()));
    };
    let mut row = Row::default();
    let whole = conversation_column(&columns, source);
    match &whole {
        Some(name) => {
            (row.messages, row.completion) =
                conversation(column(&columns, "messages", Some(name))?, name)?;
            row.prompt = row.messages.last().map(Message::text);
        }
        None => parts(&mut row, &columns, source)?,
    }
    row.chosen = said(&columns, "chosen", source.chosen.as_ref())?;
    row.rejected = said(&columns, "rejected", source.rejected.as_ref())?;
    row.label = number(
        column(&columns, "label", source.label.as_ref())?,
        &source.label,
        0.0..=1.0,
    )?;
    row.margin = number(
        column(&columns, "margin", source.margin.as_ref())?,
        &source.margin,
        0.0..=f64::MAX,
    )?;
    row.text = text(
        column(&columns, "text", source.text.as_ref())?,
        &source.text,
    )?;
    row.reference = plain(
        column(&columns, "reference", source.reference.as_ref())?,
        &source.reference,
    )?;
    row.domain = plain(
        column(&columns, "domain", source.domain.as_ref())?,
        &source.domain,
    )?;
    row.tools = match &source.tools {
        Some(_) => column(&columns, "tools", source.tools.as_ref())?.cloned(),
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

/// Reads a prompt and its completion, each from a column of its own.
fn parts(row: &mut Row, columns: &[(String, Json)], source: &DataSource) -> Result<(), String> {
    // Pairs may hold whole texts or conversations, and no prompt.
    let no_prompt = source.chosen.is_some() && !has(columns, &source.prompt);
    let prompt = source.prompt.as_ref().filter(|_| !no_prompt);
    match said(columns, "prompt", prompt)? {
        Some(Spoken::Text(text)) => row.prompt = Some(text),
        Some(Spoken::Messages(messages)) => {
            row.prompt = messages.last().map(Message::text);
            row.messages = messages;
        }
        None => {}
    }
    row.completion = said(columns, "completion", source.completion.as_ref())?;
    Ok(())
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

/// The value of the column that the job file names for `key`. A row without that column is an
/// error.
fn column<'a>(
    columns: &'a [(String, Json)],
    key: &str,
    name: Option<&String>,
) -> Result<Option<&'a Json>, String> {
    let Some(name) = name else { return Ok(None) };
    find(columns, name).map(Some).ok_or_else(|| {
        let present = columns
            .iter()
            .map(|(column, _)| format!("`{column}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let present = if present.is_empty() {
            "none".into()
        } else {
            present
        };
        format!("no column `{name}` (the `{key}` of the data set); the row's columns are {present}")
    })
}

/// Reads a column that is a text or a list of messages.
fn said(
    columns: &[(String, Json)],
    key: &str,
    name: Option<&String>,
) -> Result<Option<Spoken>, String> {
    match column(columns, key, name)? {
        Some(Json::List(items)) => Ok(Some(Spoken::Messages(messages(
            items,
            name.map_or("", String::as_str),
        )?))),
        other => Ok(text(other, &name.cloned())?.map(Spoken::Text)),
    }
}

fn messages(items: &[Json], name: &str) -> Result<Vec<Message>, String> {
    let wrong = |problem: String| {
        format!(
            "column `{name}` is a list, expected a string or a list of messages with `role` and \
             `content`: {problem}"
        )
    };
    if items.is_empty() {
        Err(wrong("it is empty".into()))
    } else {
        Message::list(items).map_err(wrong)
    }
}

/// Splits a conversation into its last message, if that is an assistant's, and all that precedes
/// it.
fn conversation(
    value: Option<&Json>,
    name: &str,
) -> Result<(Vec<Message>, Option<Spoken>), String> {
    let Some(Json::List(items)) = value else {
        let found = value.map_or("missing", Json::kind);
        return Err(format!(
            "column `{name}` is {found}, expected a list of messages with `role` and `content`"
        ));
    };
    let mut messages = messages(items, name)?;
    match messages.pop_if(|last| last.role() == "assistant") {
        Some(_) if messages.is_empty() => Err(format!(
            "column `{name}` is one message of the assistant's: nothing comes before it that it \
             could answer"
        )),
        Some(last) => Ok((messages, Some(Spoken::Messages(vec![last])))),
        None => Ok((messages, None)),
    }
}

/// Reads a column that must be text.
fn text(value: Option<&Json>, name: &Option<String>) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!(
            "column `{}` is {}, expected a string",
            name.as_deref().unwrap_or_default(),
            other.kind()
        )),
    }
}

/// Reads a column of text or numbers, which are taken as they are written. Null means that the row
/// has none.
fn plain(value: Option<&Json>, name: &Option<String>) -> Result<Option<String>, String> {
    match value {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Number(number)) if is_no_number(number) => {
            let name = name.as_deref().unwrap_or_default();
            Err(format!(
                "column `{name}` is {number}, which is no value: leave it empty (null), or leave \
                 the row out"
            ))
        }
        Some(Json::Number(number)) => Ok(Some(number.clone())),
        Some(Json::Bool(yes)) => Ok(Some(yes.to_string())),
        other => text(other, name),
    }
}

/// Reads a column that must be a number of the range; true and false are 1 and 0.
fn number(
    value: Option<&Json>,
    name: &Option<String>,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Option<f32>, String> {
    let Some(value) = value else { return Ok(None) };
    let number = match value {
        Json::Bool(yes) => Some(f64::from(u8::from(*yes))),
        Json::Number(number) => number.parse().ok(),
        _ => None,
    };
    match number.filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number as f32)),
        None => {
            let (name, top) = (name.as_deref().unwrap_or_default(), range.end());
            let range = if *top == f64::MAX {
                "of at least 0".into()
            } else {
                format!("from 0 to {top}")
            };
            let found = if let Json::Number(number) = value {
                number.clone()
            } else {
                value.kind().into()
            };
            Err(format!(
                "column `{name}` is {found}, expected a number {range}"
            ))
        }
    }
}
