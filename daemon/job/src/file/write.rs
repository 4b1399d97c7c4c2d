//! Writing of tables.

use super::keys::{Kind, Table};
use r1d_proto::shown;
use toml::Value;

/// What is written into a table.
pub(crate) trait Write {
    /// Writes the settings by their keys, every default filled in.
    fn write(&self, to: &mut toml::Table);
}

/// Sets a key; one without a value stays out.
pub(crate) fn put(to: &mut toml::Table, key: &str, value: Option<Value>) {
    to.extend(value.map(|value| (key.to_string(), value)));
}

/// Returns a table as text, in the order of its keys: plain values first, then the tables below it.
pub(crate) fn text(table: &toml::Table, spec: &'static Table) -> String {
    let mut text = String::new();
    document(&mut text, table, spec, "");
    text
}

/// Writes a table in the order of its keys: plain values first, then the tables below it.
fn document(text: &mut String, table: &toml::Table, spec: &'static Table, path: &str) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_string()
        } else {
            format!("{path}.{name}")
        }
    };
    for key in spec.keys() {
        if let Some(value) = table.get(key.name)
            && !is_section(&key.kind)
        {
            text.push_str(&format!("{} = {}\n", key.name, plain(value)));
        }
    }
    for key in spec.keys().filter(|key| is_section(&key.kind)) {
        match (&key.kind, table.get(key.name)) {
            (Kind::Table(spec), Some(Value::Table(inner))) => section(
                text,
                inner,
                spec,
                &format!("[{}]", below(key.name)),
                &below(key.name),
            ),
            (Kind::Named(spec), Some(Value::Table(named))) => {
                for (name, inner) in named
                    .iter()
                    .filter_map(|(name, value)| Some((name, value.as_table()?)))
                {
                    // A name that holds dots is quoted.
                    let name = if name.contains('.') {
                        format!("{name:?}")
                    } else {
                        name.clone()
                    };
                    let path = format!("{}.{name}", below(key.name));
                    section(text, inner, spec, &format!("[{path}]"), &path);
                }
            }
            (kind, Some(Value::Array(items))) => {
                for inner in items.iter().filter_map(Value::as_table) {
                    if let Some(spec) = spec_of(kind, inner) {
                        section(
                            text,
                            inner,
                            spec,
                            &format!("[[{}]]", below(key.name)),
                            &below(key.name),
                        );
                    }
                }
            }
            _ => {}
        }
    }
}

/// A value as people write it: 1e-8, and not a row of zeros.
fn plain(value: &Value) -> String {
    match value {
        Value::Float(number) if shown::number(*number).contains('e') => shown::number(*number),
        value => value.to_string(),
    }
}

fn section(text: &mut String, table: &toml::Table, spec: &'static Table, header: &str, path: &str) {
    text.push_str(&format!("\n{header}\n"));
    document(text, table, spec, path);
}

/// Whether the kind is written under a header of its own. A reward's limits are short: they stay in
/// line.
fn is_section(kind: &Kind) -> bool {
    match kind {
        Kind::Table(table) => !table.path.ends_with(".limits"),
        Kind::Named(_) | Kind::Tables(_) | Kind::Variants { .. } => true,
        _ => false,
    }
}

fn spec_of(kind: &Kind, table: &toml::Table) -> Option<&'static Table> {
    match kind {
        Kind::Tables(spec) => Some(spec),
        Kind::Variants { tag, variants } => {
            let found = table.get(*tag)?.as_str()?;
            variants
                .iter()
                .find(|(name, _)| *name == found)
                .map(|(_, spec)| *spec)
        }
        _ => None,
    }
}
