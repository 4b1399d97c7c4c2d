//! Documents that are generated from the key table: `r1ctl explain KEY`, the reference page, the
//! JSON schema of the job file.

use crate::daemon::DaemonConfig;
use crate::file::keys::{ALSO_KNOWN_AS, nearest, tables};
use crate::file::{Default, Key, Kind, Table, Tabled};
use crate::job::Job;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt::{self, Write};

/// The files, each with its top level.
pub fn files() -> [(&'static str, &'static Table); 2] {
    [
        ("job.toml", Job::table()),
        ("r1d.toml", DaemonConfig::table()),
    ]
}

/// Most keys that an error names.
const NAMED_MAX: usize = 12;

/// A key of a file, with the table that has it.
type Found = (&'static str, &'static Table, &'static Key);

/// What there is to say of a key or table: what `r1ctl explain KEY` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    /// The tables of that path.
    pub tables: Vec<TableExplanation>,
    /// The keys of that name or path, each once for all kinds of stage of which the same holds.
    pub keys: Vec<KeyExplanation>,
}

/// A table of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableExplanation {
    /// The file: `job.toml` or `r1d.toml`.
    pub file: &'static str,
    /// The table's path, with `NAME` where the user chooses a name.
    pub path: &'static str,
    /// What it is.
    pub meaning: &'static str,
    /// Names of its keys, in the order in which they are written.
    pub keys: Vec<&'static str>,
}

/// A key of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyExplanation {
    /// The file: `job.toml` or `r1d.toml`.
    pub file: &'static str,
    /// The key's path: that of its table, and its name.
    pub path: String,
    /// The key's name.
    pub key: &'static str,
    /// The kinds of stage that have it; empty if its table is of no kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<&'static str>,
    /// The values that it takes, in words.
    pub takes: String,
    /// The values that it takes, as a JSON schema; absent if they are tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Whether it must be given.
    pub required: bool,
    /// Its value if it is left out; absent if it has none then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// What holds if it is left out, where that is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unset: Option<&'static str>,
    /// The unit of its number; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    /// What it means.
    pub meaning: &'static str,
    /// What holds if it is left out, in words.
    #[serde(skip)]
    default_text: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.tables.iter().map(TableExplanation::to_string);
        let texts: Vec<String> = tables
            .chain(self.keys.iter().map(KeyExplanation::to_string))
            .collect();
        f.write_str(&texts.join("\n"))
    }
}

impl fmt::Display for TableExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableExplanation {
            file,
            path,
            meaning,
            keys,
        } = self;
        let keys = keys.join(", ");
        writeln!(f, "[{path}] in {file}\n  {meaning}\n  keys: {keys}")
    }
}

impl fmt::Display for KeyExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.path, self.file)?;
        if !self.kinds.is_empty() {
            let kinds: Vec<String> = self.kinds.iter().map(|kind| format!("{kind:?}")).collect();
            write!(f, ", kind = {}", kinds.join(", "))?;
        }
        writeln!(
            f,
            "\n  {}\n  type:    {}\n  default: {}",
            self.meaning, self.takes, self.default_text
        )
    }
}

/// Explains every key of that name (or `table.key`, or a table) in either file; without one, the
/// only key whose name contains it. The error names those that do, if they are few, or the nearest
/// key.
pub fn explain(asked: &str) -> Result<Explanation, String> {
    let asked = asked.trim_matches(['[', ']', '`', ' ']);
    let keys = keys_called(asked);
    let tables = tables_called(asked, keys.is_empty());
    if !(tables.is_empty() && keys.is_empty()) {
        return Ok(Explanation { tables, keys });
    }
    let no_key = format!("there is no key `{asked}`");
    let renamed = ALSO_KNOWN_AS.iter().find(|(other, _)| *other == asked);
    if let Some((_, here)) = renamed {
        return Err(format!("{no_key}; the nearest is `{here}`"));
    }
    let names: BTreeSet<String> = all_keys()
        .map(|(_, table, key)| {
            if asked.contains('.') {
                qualified(table, key)
            } else {
                key.name.to_string()
            }
        })
        .collect();
    let names = || names.iter().map(String::as_str);
    let with_it: Vec<&str> = match asked {
        "" => Vec::new(),
        asked => names().filter(|name| name.contains(asked)).collect(),
    };
    match with_it.as_slice() {
        [only] => Ok(Explanation {
            tables: Vec::new(),
            keys: keys_called(only),
        }),
        [_, .., _] if with_it.len() <= NAMED_MAX => Err(format!(
            "{no_key}; it is part of `{}`",
            with_it.join("`, `")
        )),
        _ => {
            let near = nearest(asked, names()).unwrap_or_default();
            Err(format!("{no_key}; the nearest is `{near}`"))
        }
    }
}

fn all_keys() -> impl Iterator<Item = Found> {
    files().into_iter().flat_map(|(file, root)| {
        let tables = tables(root).into_iter();
        tables.flat_map(move |table| table.keys().map(move |key| (file, table, key)))
    })
}

/// Whether `asked` is the path, with a name or nothing where the path has `NAME`: `data.path` and
/// `data.train.path` are `data.NAME.path`.
fn is_path(path: &str, asked: &str) -> bool {
    let is_same = |(part, asked): (&str, &str)| part == asked || part == "NAME";
    path.replace(".NAME", "") == asked
        || path.split('.').count() == asked.split('.').count()
            && path.split('.').zip(asked.split('.')).all(is_same)
}

/// The tables of this path; none if there is none. `with_any_name`: where the path has `NAME`, any
/// name will do.
fn tables_called(asked: &str, with_any_name: bool) -> Vec<TableExplanation> {
    let mut found = Vec::new();
    let called = |table: &&'static Table| {
        let own = table.path.trim_end_matches(".NAME");
        !own.is_empty()
            && (own == asked || table.path == asked || with_any_name && is_path(table.path, asked))
    };
    for (file, root) in files() {
        for table in tables(root).into_iter().filter(called) {
            let table = TableExplanation {
                file,
                path: table.path,
                meaning: table.meaning,
                keys: table.keys().map(|key| key.name).collect(),
            };
            // Kinds of stage share tables below them.
            if !found.contains(&table) {
                found.push(table);
            }
        }
    }
    found
}

/// The keys of this name or path, once for all kinds of stage of which the same holds; none if
/// there is none.
fn keys_called(asked: &str) -> Vec<KeyExplanation> {
    let mut found: Vec<KeyExplanation> = Vec::new();
    let called =
        |(_, table, key): &Found| key.name == asked || is_path(&qualified(table, key), asked);
    for (file, table, key) in all_keys().filter(called) {
        let explained = key_explanation(file, table, key);
        let same = |other: &&mut KeyExplanation| {
            let kinds = explained.kinds.clone();
            KeyExplanation {
                kinds,
                ..(*other).clone()
            } == explained
        };
        match found.iter_mut().find(same) {
            Some(other) => other.kinds.extend(kind_of(table)),
            None => found.push(explained),
        }
    }
    found
}

fn key_explanation(file: &'static str, table: &Table, key: &'static Key) -> KeyExplanation {
    KeyExplanation {
        file,
        path: qualified(table, key),
        key: key.name,
        kinds: kind_of(table).into_iter().collect(),
        takes: key.kind.expected(),
        schema: key.kind.tables().is_empty().then(|| kind_schema(&key.kind)),
        required: matches!(key.default, Default::Required(_)),
        default: default_value(key),
        unset: match key.default {
            Default::Unset(meaning) => Some(meaning),
            Default::Required(_) | Default::Value(_) => None,
        },
        unit: Some(key.unit).filter(|unit| !unit.is_empty()),
        meaning: key.meaning,
        default_text: default_text(key),
    }
}

fn qualified(table: &Table, key: &Key) -> String {
    if table.path.is_empty() {
        key.name.into()
    } else {
        format!("{}.{}", table.path, key.name)
    }
}

/// The stage kind of a table of the path `stage`; `None` for other tables.
fn kind_of(table: &Table) -> Option<&'static str> {
    let (kind, _) = table.meaning.split_once(':')?;
    Some(kind.strip_prefix("kind =")?.trim_matches([' ', '"']))
}

/// The stage kind of a table, as a suffix; empty for tables that are of no kind.
fn variant(table: &Table) -> String {
    kind_of(table).map_or_else(String::new, |kind| format!(", kind = {kind:?}"))
}

fn default_text(key: &Key) -> String {
    let unit = |value: &str| {
        if key.unit.is_empty() {
            value.to_string()
        } else {
            format!("{value} {}", key.unit)
        }
    };
    match key.default {
        Default::Required(_) => "none: it must be given".into(),
        Default::Value("{}") => "an empty table".into(),
        Default::Value("[]") => "none".into(),
        Default::Value(value) => unit(value),
        Default::Unset(meaning) => meaning.into(),
    }
}

/// Returns the reference page in Markdown.
pub fn page() -> String {
    let mut text = String::from(
        "# Reference of job.toml and r1d.toml\n\nEvery key: what it takes, and what holds where it \
         is left out. `r1ctl explain KEY` shows one of them.\n",
    );
    for (file, root) in files() {
        let _ = writeln!(text, "\n## {file}");
        for table in tables(root) {
            let heading = if table.path.is_empty() {
                "Top level".to_string()
            } else {
                format!("`[{}]`{}", table.path, variant(table))
            };
            let _ = writeln!(
                text,
                "\n### {heading}\n\n{}\n\n| key | type | default | unit | meaning \
                 |\n|---|---|---|---|---|",
                table.meaning
            );
            for key in table.keys() {
                let cell = |text: String| text.replace('|', "\\|");
                let (kind, default) = (cell(key.kind.expected()), cell(default_cell(key)));
                let _ = writeln!(
                    text,
                    "| `{}` | {kind} | {default} | {} | {} |",
                    key.name,
                    key.unit,
                    cell(key.meaning.into())
                );
            }
        }
    }
    text
}

fn default_cell(key: &Key) -> String {
    match key.default {
        Default::Required(_) => "required".into(),
        Default::Value(value) => format!("`{value}`"),
        Default::Unset(meaning) => meaning.into(),
    }
}

/// Returns the JSON schema (draft 2020-12) of `job.toml`.
pub fn job_schema() -> Value {
    let mut schema = table_schema(Job::table());
    if let Some(map) = schema.as_object_mut() {
        map.insert(
            "$schema".into(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        map.insert("title".into(), json!("job.toml of r1d"));
    }
    schema
}

fn table_schema(table: &'static Table) -> Value {
    let available = || {
        table
            .keys()
            .filter(|key| !matches!(key.kind, Kind::Later(_)))
    };
    let properties: Map<String, Value> = available()
        .map(|key| (key.name.to_string(), key_schema(key)))
        .collect();
    let required: Vec<&str> = available()
        .filter(|key| matches!(key.default, Default::Required(_)))
        .map(|key| key.name)
        .collect();
    json!({
        "type": "object",
        "description": table.meaning,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn key_schema(key: &'static Key) -> Value {
    let mut schema = kind_schema(&key.kind);
    if let Some(map) = schema.as_object_mut() {
        map.insert("description".into(), json!(key.meaning));
        if let Some(value) = default_value(key) {
            map.insert("default".into(), value);
        }
    }
    schema
}

/// The key's default, if that is a value.
fn default_value(key: &Key) -> Option<Value> {
    let Default::Value(literal) = key.default else {
        return None;
    };
    let parsed = toml::from_str::<Value>(&format!("value = {literal}"));
    parsed.ok()?.get("value").cloned()
}

fn kind_schema(kind: &'static Kind) -> Value {
    let mut schema = match kind {
        Kind::Text | Kind::Path => json!({ "type": "string", "minLength": 1 }),
        Kind::Name => json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$" }),
        Kind::Sha256 => json!({ "type": "string", "pattern": "^[0-9a-fA-F]{64}$" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Float {
            min,
            max,
            above: true,
        } => {
            json!({ "type": "number", "exclusiveMinimum": min, "maximum": max })
        }
        Kind::Float {
            min,
            max,
            above: false,
        } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::WordOrScore(words) => json!({ "anyOf": [{ "enum": words }, {
            "type": "object", "properties": { "score": { "type": "number" } }, "required": [
                "score"],
                "additionalProperties": false }] }),
        Kind::AutoOrTexts => {
            json!({ "anyOf": [{ "const": "auto" },
                { "type": "array", "items": { "type": "string" } }] })
        }
        Kind::Json => json!({ "type": "object" }),
        Kind::Date => json!({ "type": "string", "format": "date" }),
        Kind::Table(table) => table_schema(table),
        Kind::Tables(table) => json!({ "type": "array", "items": table_schema(table) }),
        Kind::Named(table) => {
            json!({ "type": "object", "additionalProperties": table_schema(table) })
        }
        Kind::Variants { tag, variants } => {
            json!({ "type": "array", "minItems": 1, "items": { "oneOf": variants
            .iter()
            .map(|(name, table)| variant_schema(tag, name, table))
            .collect::<Vec<_>>() } })
        }
        Kind::Later(_) => json!(false),
    };
    if let Some(map) = schema.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    schema
}

fn variant_schema(tag: &str, name: &str, table: &'static Table) -> Value {
    let mut schema = table_schema(table);
    schema["properties"][tag] = json!({ "const": name });
    schema
}
