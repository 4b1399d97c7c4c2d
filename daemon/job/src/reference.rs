//! Documents that are generated from the key table: `r1ctl explain KEY`, the reference page, the
//! JSON schema of the job file.

use crate::daemon::DaemonConfig;
use crate::file::keys::{ALSO_KNOWN_AS, nearest, tables};
use crate::file::{Default, Key, Kind, Table, Tabled};
use crate::job::Job;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The files, each with its top level.
pub fn files() -> [(&'static str, &'static Table); 2] {
    [
        ("job.toml", Job::table()),
        ("r1d.toml", DaemonConfig::table()),
    ]
}

/// Returns what `r1ctl explain KEY` prints: every key of that name (or `table.key`, or a table) in
/// either file. The error names the nearest key.
pub fn explain(asked: &str) -> Result<String, String> {
    let mut text = String::new();
    for (file, root) in files() {
        for table in tables(root) {
            if !table.path.is_empty() && table.path.trim_end_matches(".NAME") == asked {
                let _ = writeln!(
                    text,
                    "[{}] in {file}\n  {}\n  keys: {}\n",
                    table.path,
                    table.meaning,
                    names(table)
                );
            }
            for key in table
                .keys()
                .filter(|key| key.name == asked || qualified(table, key) == asked)
            {
                let _ = writeln!(
                    text,
                    "{} in {file}{}\n  {}",
                    qualified(table, key),
                    variant(table),
                    key.meaning
                );
                let _ = writeln!(text, "  type:    {}", key.kind.expected());
                let _ = writeln!(text, "  default: {}\n", default_text(key));
            }
        }
    }
    if !text.is_empty() {
        return Ok(text.trim_end().to_string() + "\n");
    }
    let all: Vec<String> = files()
        .into_iter()
        .flat_map(|(_, root)| tables(root))
        .flat_map(|table| {
            table.keys().map(move |key| {
                if asked.contains('.') {
                    qualified(table, key)
                } else {
                    key.name.to_string()
                }
            })
        })
        .collect();
    let renamed = ALSO_KNOWN_AS
        .iter()
        .find(|(other, _)| *other == asked)
        .map(|(_, here)| *here);
    let near = renamed
        .or_else(|| nearest(asked, all.iter().map(String::as_str)))
        .unwrap_or_default();
    Err(format!(
        "there is no key `{asked}`; the nearest is `{near}`"
    ))
}

fn qualified(table: &Table, key: &Key) -> String {
    if table.path.is_empty() {
        key.name.into()
    } else {
        format!("{}.{}", table.path, key.name)
    }
}

fn names(table: &Table) -> String {
    table
        .keys()
        .map(|key| key.name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The stage kind of a table of the path `stage`, as a suffix; empty for other tables.
fn variant(table: &Table) -> String {
    match table.meaning.split_once(':') {
        Some((kind, _)) if kind.starts_with("kind =") => format!(", {kind}"),
        _ => String::new(),
    }
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
        "# Reference of job.toml and r1d.toml\n\nGenerated from the key table of `daemon/job`.\n",
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
        if let Default::Value(literal) = key.default
            && let Ok(Value::Object(parsed)) =
                toml::from_str::<Value>(&format!("value = {literal}"))
            && let Some(value) = parsed.get("value")
        {
            map.insert("default".into(), value.clone());
        }
    }
    schema
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
