//! The schema of JSON documents, as far as examples show it: each path with the types seen there.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Objects whose keys are data, not fields.
const MAPS: [&str; 2] = ["metrics", "memory"];

pub(crate) fn shape(documents: &[Value]) -> String {
    let mut paths: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for document in documents {
        walk("", document, &mut paths);
    }
    paths
        .iter()
        .map(|(path, types)| {
            format!(
                "{path}: {}\n",
                Vec::from_iter(types.iter().copied()).join(" | ")
            )
        })
        .collect()
}

fn walk(path: &str, value: &Value, paths: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    paths
        .entry(if path.is_empty() {
            ".".into()
        } else {
            path.into()
        })
        .or_default()
        .insert(kind);
    match value {
        Value::Array(items) => items
            .iter()
            .for_each(|item| walk(&format!("{path}[]"), item, paths)),
        Value::Object(fields) => {
            let is_map = MAPS.iter().any(|map| path.ends_with(map));
            for (name, field) in fields {
                walk(
                    &format!("{path}.{}", if is_map { "*" } else { name }),
                    field,
                    paths,
                );
            }
        }
        _ => {}
    }
}
