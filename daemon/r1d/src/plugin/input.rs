//! The lines of `plugin score`: completions as JSON objects.
//!
//! ```json
//! {"prompt": "What is 6 * 7?", "completion": "<answer>42</answer>", "reference": "42"}
//! ```
//! `reference`, `tokens`, `finish`, `group` and `meta` are optional; null is absent. What else a line has is left out, with a warning.

use super::PluginError;
use r1d_proto::rollout::FinishReason;
use r1d_rewards::{Completion, Member};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

const LINE_BYTES_MAX: u64 = 16 << 20;
/// All lines together: they are read before the first is judged, so that a bad line costs no half result.
const INPUT_BYTES_MAX: u64 = 2 << 30;
/// Unknown keys that are warned of.
const UNKNOWN_MAX: usize = 8;
const KEYS: [&str; 7] = ["prompt", "completion", "reference", "tokens", "finish", "group", "meta"];

/// All lines of a file (`-`: of standard input). Empty lines at its end are none; elsewhere they are an error, as every line has a verdict.
pub fn read(path: &Path) -> Result<Vec<Member>, PluginError> {
    let mut unknown = BTreeMap::new();
    let members = lines(path, |line, object| member(line, object, &mut unknown))?;
    for (key, line) in unknown {
        eprintln!("warning: {}, line {line}: unknown key {key:?} is left out; the keys are {}", path.display(), KEYS.join(", "));
    }
    Ok(members)
}

/// Each line, from 1, as a JSON object.
pub fn lines<T>(path: &Path, mut take: impl FnMut(usize, Map<String, Value>) -> Result<T, String>) -> Result<Vec<T>, PluginError> {
    let failed = |source| PluginError::Read { path: path.into(), source };
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(std::io::stdin()) } else { Box::new(File::open(path).map_err(failed)?) };
    let mut reader = BufReader::new(source.take(INPUT_BYTES_MAX + 1));
    let (mut taken, mut bytes, mut empty) = (Vec::new(), 0u64, None);
    for number in 1.. {
        let wrong = |problem: String| PluginError::Line { path: path.into(), line: number, problem };
        let mut line = Vec::new();
        let read = reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).map_err(failed)? as u64;
        if read == 0 {
            break;
        }
        bytes += read;
        if read > LINE_BYTES_MAX {
            return Err(wrong(format!("longer than {} MiB", LINE_BYTES_MAX >> 20)));
        }
        if bytes > INPUT_BYTES_MAX {
            return Err(wrong(format!("the file is larger than {} GiB: split it", INPUT_BYTES_MAX >> 30)));
        }
        let line = std::str::from_utf8(&line).map_err(|e| wrong(format!("not UTF-8: {e}")))?.trim();
        if line.is_empty() {
            empty = empty.or(Some(number));
            continue;
        }
        if let Some(empty) = empty {
            return Err(PluginError::Line { path: path.into(), line: empty, problem: "is empty: write a JSON object".into() });
        }
        let object = match serde_json::from_str(line).map_err(|e| wrong(format!("not JSON: {e}")))? {
            Value::Object(object) => object,
            other => return Err(wrong(format!("{}, write a JSON object", kind(&other)))),
        };
        taken.push(take(number, object).map_err(wrong)?);
    }
    Ok(taken)
}

fn member(line: usize, mut object: Map<String, Value>, unknown: &mut BTreeMap<String, usize>) -> Result<Member, String> {
    let prompt = text(&mut object, "prompt")?.ok_or("`prompt` is missing")?;
    let completion = text(&mut object, "completion")?.ok_or("`completion` is missing")?;
    let tokens = match taken(&mut object, "tokens") {
        None => 0,
        Some(value) => {
            let tokens = value.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
            tokens.ok_or_else(|| format!("`tokens` is {}: write a number of tokens from 0", shown(&value)))?
        }
    };
    let finish = match text(&mut object, "finish")?.as_deref() {
        None | Some("stop") => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some(other) => return Err(format!("`finish` is {other:?}: write \"stop\" or \"length\"")),
    };
    let group = match taken(&mut object, "group") {
        None => line.to_string(),
        Some(Value::String(group)) => format!("{group:?}"),
        Some(Value::Number(group)) => group.to_string(),
        Some(other) => return Err(format!("`group` is {}: write a number or a string", kind(&other))),
    };
    let meta = match taken(&mut object, "meta") {
        None => None,
        Some(meta @ Value::Object(_)) => Some(meta.to_string()),
        Some(other) => return Err(format!("`meta` is {}: write an object", kind(&other))),
    };
    let reference = text(&mut object, "reference")?;
    // What is left: each is warned of once.
    for (key, _) in object.into_iter().take(UNKNOWN_MAX.saturating_sub(unknown.len())) {
        unknown.entry(key).or_insert(line);
    }
    let completion = Completion { id: line as u64, prompt, text: completion, reference, tokens, finish, meta };
    Ok(Member { completion, group })
}

/// Null is absent.
fn taken(object: &mut Map<String, Value>, key: &str) -> Option<Value> {
    object.remove(key).filter(|value| !value.is_null())
}

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
