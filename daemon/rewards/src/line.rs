//! Reads a completion to be judged from a line of JSON, for tools that work through a file.
//!
//! ```json
//! {"prompt": "What is 6 * 7?", "completion": "<answer>42</answer>", "reference": "42"}
//! ```
//! `reference`, `tokens`, `finish`, `group` and `meta` are optional; null is absent.

use crate::cases::Member;
use crate::completion::Completion;
use r1d_proto::rollout::FinishReason;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Number of unknown keys that are reported.
const UNKNOWN_MAX: usize = 8;
/// The keys of a line.
pub const KEYS: [&str; 7] = [
    "prompt",
    "completion",
    "reference",
    "tokens",
    "finish",
    "group",
    "meta",
];

/// Parses a line as a JSON object.
pub fn object(line: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(line).map_err(|e| format!("not JSON: {e}"))? {
        Value::Object(object) => Ok(object),
        other => Err(format!("{}, write a JSON object", kind(&other))),
    }
}

/// Returns the completion that line `line` holds; without `group` it is in a group of its own.
/// `unknown` gets every other key of the object, with the line that had it first.
pub fn member(
    line: usize,
    mut object: Map<String, Value>,
    unknown: &mut BTreeMap<String, usize>,
) -> Result<Member, String> {
    let prompt = text(&mut object, "prompt")?.ok_or("`prompt` is missing")?;
    let completion = text(&mut object, "completion")?.ok_or("`completion` is missing")?;
    let tokens = match taken(&mut object, "tokens") {
        None => 0,
        Some(value) => {
            let tokens = value.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
            tokens.ok_or_else(|| {
                format!(
                    "`tokens` is {}: write a number of tokens from 0",
                    shown(&value)
                )
            })?
        }
    };
    let finish = match text(&mut object, "finish")?.as_deref() {
        None | Some("stop") => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some(other) => {
            return Err(format!(
                "`finish` is {other:?}: write \"stop\" or \"length\""
            ));
        }
    };
    let group = match taken(&mut object, "group") {
        None => line.to_string(),
        Some(Value::String(group)) => format!("{group:?}"),
        Some(Value::Number(group)) => group.to_string(),
        Some(other) => {
            return Err(format!(
                "`group` is {}: write a number or a string",
                kind(&other)
            ));
        }
    };
    let meta = match taken(&mut object, "meta") {
        None => None,
        Some(meta @ Value::Object(_)) => Some(meta.to_string()),
        Some(other) => return Err(format!("`meta` is {}: write an object", kind(&other))),
    };
    let reference = text(&mut object, "reference")?;
    // The keys that are left are unknown; each is warned about once.
    for (key, _) in object
        .into_iter()
        .take(UNKNOWN_MAX.saturating_sub(unknown.len()))
    {
        unknown.entry(key).or_insert(line);
    }
    let completion = Completion {
        id: line as u64,
        prompt,
        text: completion,
        reference,
        tokens,
        finish,
        meta,
    };
    Ok(Member { completion, group })
}

/// Takes a value out of the object; null counts as absent.
fn taken(object: &mut Map<String, Value>, key: &str) -> Option<Value> {
    object.remove(key).filter(|value| !value.is_null())
}

/// Takes a string out of the object; another type is an error.
pub fn text(object: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match taken(object, key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("`{key}` is {}: write a string", kind(&other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => kind(other).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Member, String> {
        member(7, object(line)?, &mut BTreeMap::new())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let Member { completion, group } =
            read(r#"{"prompt": "p", "completion": "c", "reference": null}"#).unwrap();
        assert_eq!(
            (
                completion.id,
                completion.tokens,
                completion.finish,
                group.as_str()
            ),
            (7, 0, FinishReason::Stop, "7")
        );
        assert_eq!((completion.reference, completion.meta), (None, None));
    }

    #[test]
    fn a_groups_number_is_not_its_name() {
        let group = |value: &str| {
            read(&format!(
                r#"{{"prompt": "", "completion": "", "group": {value}}}"#
            ))
            .map(|member| member.group)
        };
        assert_ne!(group("1"), group("\"1\""));
        assert!(group("[1]").unwrap_err().contains("a list"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, what) in [
            ("[]", "a list"),
            (r#"{"completion": ""}"#, "`prompt`"),
            (r#"{"prompt": ""}"#, "`completion`"),
            (r#"{"prompt": 1, "completion": ""}"#, "`prompt`"),
            (
                r#"{"prompt": "", "completion": "", "tokens": -1}"#,
                "`tokens` is -1",
            ),
            (
                r#"{"prompt": "", "completion": "", "finish": "eos"}"#,
                "`finish`",
            ),
            (
                r#"{"prompt": "", "completion": "", "meta": "{}"}"#,
                "`meta`",
            ),
        ] {
            assert!(read(line).unwrap_err().contains(what), "{line}");
        }
    }
}
