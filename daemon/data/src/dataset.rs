//! Rows of JSONL and Parquet files through a job's column mapping.

use crate::error::DataError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use r1d_job::DataSource;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Bytes of files that one data set may have: its rows are kept in memory (`LIM-1`).
pub const FILES_MAX_BYTES: u64 = 32 << 30;

/// One row, through the data set's column mapping.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The prompt column's text; of a list of messages, the last one's.
    pub prompt: Option<String>,
    /// The prompt column where it is a list of messages; else empty.
    pub messages: Vec<Message>,
    pub completion: Option<String>,
    pub chosen: Option<String>,
    pub rejected: Option<String>,
    /// 0 to 1.
    pub label: Option<f32>,
    pub margin: Option<f32>,
    pub text: Option<String>,
    pub reference: Option<String>,
    pub domain: Option<String>,
    /// The other columns: a JSON object, or `None` where there are none.
    pub meta: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// All rows of a data set, in memory.
#[derive(Debug)]
pub struct DataSet {
    name: String,
    rows: Vec<Row>,
}

impl DataSet {
    /// Reads and checks every row. Errors name file, line and column.
    pub fn open(source: &DataSource) -> Result<DataSet, DataError> {
        let files = files(source)?;
        let sizes = files.iter().map(|file| Ok(std::fs::metadata(file).map_err(|e| DataError::read(file, e))?.len()));
        let bytes: u64 = sizes.sum::<Result<u64, DataError>>()?;
        if bytes > FILES_MAX_BYTES {
            let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
            let problem = format!("{:.1} GiB of files, the limit is {:.0}: split the data set", gib(bytes), gib(FILES_MAX_BYTES));
            return Err(DataError::Source { name: source.name.clone(), problem });
        }
        let mut rows = Vec::new();
        for file in &files {
            match format_of(file) {
                Some(Format::Jsonl) => read_jsonl(file, source, &mut rows)?,
                Some(Format::Parquet) => read_parquet(file, source, &mut rows)?,
                None => {
                    let problem =
                        format!("{} is neither JSONL nor Parquet: its name must end in .jsonl, .json or .parquet", file.display());
                    return Err(DataError::Source { name: source.name.clone(), problem });
                }
            }
        }
        if rows.is_empty() {
            return Err(DataError::Source { name: source.name.clone(), problem: format!("{} has no row", source.path.display()) });
        }
        Ok(DataSet { name: source.name.clone(), rows })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of rows, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "an empty data set is refused when it is opened")]
    pub fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row, `index` taken modulo the number of rows.
    pub fn row(&self, index: u64) -> &Row {
        &self.rows[(index % self.len()) as usize]
    }
}

/// The files of a data set: one, or all that a glob matches, sorted by name.
pub fn files(source: &DataSource) -> Result<Vec<PathBuf>, DataError> {
    let problem = |problem: String| DataError::Source { name: source.name.clone(), problem };
    let text = source.path.to_string_lossy();
    if source.path.exists() || !text.contains(['*', '?', '[']) {
        return Ok(vec![source.path.clone()]);
    }
    let matches = glob::glob(&text).map_err(|e| problem(format!("{text} is not a pattern: {e}")))?;
    let mut files = matches.collect::<Result<Vec<_>, _>>().map_err(|e| {
        let path = e.path().to_path_buf();
        DataError::read(&path, e.into())
    })?;
    files.sort();
    if files.is_empty() {
        return Err(problem(format!("no file matches {text}")));
    }
    Ok(files)
}

enum Format {
    Jsonl,
    Parquet,
}

fn format_of(file: &Path) -> Option<Format> {
    match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "jsonl" | "json" | "ndjson" => Some(Format::Jsonl),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

fn read_jsonl(file: &Path, source: &DataSource, rows: &mut Vec<Row>) -> Result<(), DataError> {
    let reader = BufReader::new(std::fs::File::open(file).map_err(|e| DataError::read(file, e))?);
    for (index, line) in reader.lines().enumerate() {
        let at = |problem: String| DataError::Row { path: file.into(), line: index as u64 + 1, problem };
        let line = line.map_err(|e| {
            if e.kind() == std::io::ErrorKind::InvalidData { at("not UTF-8".into()) } else { DataError::read(file, e) }
        })?;
        // Some editors put a byte order mark before the first line.
        let line = line.trim_start_matches('\u{feff}');
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(line).map_err(|e| at(format!("not JSON: {}", without_line(&e))))?;
        let Value::Object(columns) = value else {
            return Err(at(format!("{}, expected a JSON object per line (columns by name)", kind_of(&value))));
        };
        rows.push(row(columns, source).map_err(at)?);
    }
    Ok(())
}

/// serde_json counts lines inside the one line that it was given.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

fn read_parquet(file: &Path, source: &DataSource, rows: &mut Vec<Row>) -> Result<(), DataError> {
    let broken = |e: parquet::errors::ParquetError| DataError::Parquet { path: file.into(), problem: e.to_string() };
    let reader = SerializedFileReader::new(std::fs::File::open(file).map_err(|e| DataError::read(file, e))?).map_err(broken)?;
    for (index, record) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        let at = |problem: String| DataError::Row { path: file.into(), line: index as u64 + 1, problem };
        match record.map_err(broken)?.to_json_value() {
            Value::Object(columns) => rows.push(row(columns, source).map_err(at)?),
            other => return Err(at(format!("{}, expected columns by name", kind_of(&other)))),
        }
    }
    Ok(())
}

/// A row's columns by what the job file calls them. The error says what is wrong with the row.
fn row(mut columns: Map<String, Value>, source: &DataSource) -> Result<Row, String> {
    // Pairs may hold whole texts, and no prompt.
    let no_prompt = source.chosen.is_some() && source.prompt.as_ref().is_some_and(|name| !columns.contains_key(name));
    let prompt = source.prompt.as_ref().filter(|_| !no_prompt).cloned();
    let (prompt, messages) = match column(&columns, "prompt", &prompt)? {
        Some(Value::Array(items)) => {
            let messages = messages(items, source.prompt.as_deref().unwrap_or_default())?;
            (messages.last().map(|message| message.content.clone()), messages)
        }
        other => (text(other, &source.prompt)?, Vec::new()),
    };
    let completion = |key: &str, name: &Option<String>| match column(&columns, key, name)? {
        Some(Value::Array(items)) => match messages_of_one(items, name.as_deref().unwrap_or_default())? {
            Some(message) => Ok(Some(message.content)),
            None => Err(format!("a {key} of several messages: give it as one, the others belong to the prompt")),
        },
        other => text(other, name),
    };
    let row = Row {
        prompt,
        messages,
        completion: completion("completion", &source.completion)?,
        chosen: completion("chosen", &source.chosen)?,
        rejected: completion("rejected", &source.rejected)?,
        label: number(column(&columns, "label", &source.label)?, &source.label, 0.0..=1.0)?,
        margin: number(column(&columns, "margin", &source.margin)?, &source.margin, 0.0..=f64::MAX)?,
        text: text(column(&columns, "text", &source.text)?, &source.text)?,
        reference: plain(column(&columns, "reference", &source.reference)?, &source.reference)?,
        domain: plain(column(&columns, "domain", &source.domain)?, &source.domain)?,
        meta: None,
    };
    let texts =
        [&source.prompt, &source.completion, &source.chosen, &source.rejected, &source.text, &source.reference, &source.domain];
    for name in texts.into_iter().chain([&source.label, &source.margin]).flatten() {
        columns.shift_remove(name);
    }
    let meta = (!columns.is_empty()).then(|| Value::Object(columns).to_string());
    Ok(Row { meta, ..row })
}

/// The value of the column that the job file names for `key`; an error where the row has no such column.
fn column<'a>(columns: &'a Map<String, Value>, key: &str, name: &Option<String>) -> Result<Option<&'a Value>, String> {
    let Some(name) = name else { return Ok(None) };
    columns.get(name).map(Some).ok_or_else(|| {
        let present = columns.keys().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ");
        let present = if present.is_empty() { "none".into() } else { present };
        format!("no column `{name}` (the `{key}` of the data set); the row's columns are {present}")
    })
}

/// A column that must be text.
fn text(value: Option<&Value>, name: &Option<String>) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("column `{}` is {}, expected a string", name.as_deref().unwrap_or_default(), kind_of(other))),
    }
}

/// A column whose numbers are taken as they are written; null is a row without one.
fn plain(value: Option<&Value>, name: &Option<String>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(Value::Bool(yes)) => Ok(Some(yes.to_string())),
        other => text(other, name),
    }
}

/// A column that must be a number of the range; true and false are 1 and 0.
fn number(value: Option<&Value>, name: &Option<String>, range: std::ops::RangeInclusive<f64>) -> Result<Option<f32>, String> {
    let Some(value) = value else { return Ok(None) };
    let number = value.as_bool().map(|yes| f64::from(u8::from(yes))).or_else(|| value.as_f64());
    match number.filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number as f32)),
        None => {
            let (name, top) = (name.as_deref().unwrap_or_default(), range.end());
            let range = if *top == f64::MAX { "of at least 0".into() } else { format!("from 0 to {top}") };
            let found = if value.is_number() { value.to_string() } else { kind_of(value).into() };
            Err(format!("column `{name}` is {found}, expected a number {range}"))
        }
    }
}

fn messages(items: &[Value], name: &str) -> Result<Vec<Message>, String> {
    let wrong = || format!("column `{name}` is a list, expected a string or a list of messages with `role` and `content`");
    let messages =
        items.iter().map(|item| serde_json::from_value(item.clone())).collect::<Result<Vec<Message>, _>>().map_err(|_| wrong())?;
    if messages.is_empty() { Err(wrong()) } else { Ok(messages) }
}

fn messages_of_one(items: &[Value], name: &str) -> Result<Option<Message>, String> {
    let mut all = messages(items, name)?;
    Ok(if all.len() == 1 { all.pop() } else { None })
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
