//! JSON whose numbers stay as they are written: integers may have any length, and `1.10` keeps its
//! zero.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most lists and objects inside each other; a deeper value is refused (`LIM-1`).
pub const DEPTH_MAX: usize = 128;

/// A value of JSON, or of a Parquet cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Json {
    /// JSON's null, or an empty cell.
    Null,
    /// True or false.
    Bool(bool),
    /// A number's digits, sign and exponent as the file has them, unconverted.
    Number(String),
    /// A string.
    Text(String),
    /// Bytes that are not UTF-8; written as base64.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Json>),
    /// An object. Keys are unique, in the order of their first occurrence.
    Object(Vec<(String, Json)>),
}

/// A problem with a text, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The problem, without its place.
    pub problem: String,
    /// The byte at which it was noticed, from 0.
    pub at: usize,
    /// Whether the text ends in the middle of the value, so that more text could complete it.
    pub is_cut: bool,
}

impl Json {
    /// Parses a text that is one value, with white space around it or not.
    pub fn parse(text: &str) -> Result<Json, JsonError> {
        let (value, end) = Json::parse_first(text)?;
        let rest = text.get(end..).unwrap_or_default();
        match rest.trim_start_matches(BLANKS) {
            "" => Ok(value),
            left => Err(JsonError {
                problem: "trailing characters".into(),
                at: text.len() - left.len(),
                is_cut: false,
            }),
        }
    }

    /// Parses the value that `text` begins with. Returns also the byte at which it ends.
    pub fn parse_first(text: &str) -> Result<(Json, usize), JsonError> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(wrong(text, &error)),
            None => {
                return Err(JsonError {
                    problem: "no value".into(),
                    at: text.len(),
                    is_cut: true,
                });
            }
        }
        // The syntax is valid from here on.
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        Ok((value, reader.at))
    }

    /// The string; `None` if the value is something else.
    pub fn as_text(&self) -> Option<&str> {
        if let Json::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// The list's items; `None` if the value is something else.
    pub fn as_list(&self) -> Option<&[Json]> {
        if let Json::List(items) = self {
            Some(items)
        } else {
            None
        }
    }

    /// The object's keys and values; `None` if the value is something else.
    pub fn as_object(&self) -> Option<&[(String, Json)]> {
        if let Json::Object(pairs) = self {
            Some(pairs)
        } else {
            None
        }
    }

    /// The value of an object's key; `None` without such a key, or if this is not an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.as_object()?
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// The kind of the value, as messages name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::Text(_) => "a string",
            Json::Bytes(_) => "bytes that are no text in UTF-8",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// Bytes that the value takes in memory, approximately.
    pub fn size(&self) -> u64 {
        let own = size_of::<Json>() as u64;
        own + match self {
            Json::Null | Json::Bool(_) => 0,
            Json::Number(text) | Json::Text(text) => text.len() as u64,
            Json::Bytes(bytes) => bytes.len() as u64,
            Json::List(items) => items.iter().map(Json::size).sum(),
            Json::Object(pairs) => pairs
                .iter()
                .map(|(key, value)| key.len() as u64 + value.size())
                .sum(),
        }
    }
}

/// JSON's white space.
const BLANKS: [char; 4] = [' ', '\n', '\r', '\t'];

/// Converts serde_json's error: its place becomes a byte, and words that Python writes but JSON
/// does not have are named.
fn wrong(text: &str, error: &serde_json::Error) -> JsonError {
    let before: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let at = before + error.column().saturating_sub(1);
    let what = error.to_string();
    let what = what
        .rsplit_once(" at line ")
        .map_or(what.as_str(), |(what, _)| what)
        .to_string();
    // serde_json stops at the first byte of a word, or behind it, if a value should begin there.
    let around = text.get(..).map_or("", |text| {
        text.get(floor(text, at.saturating_sub(2))..)
            .unwrap_or_default()
    });
    let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| {
        around
            .get(..12.min(around.len()))
            .is_some_and(|near| near.contains(word))
    });
    let problem = match word {
        Some(word) => format!("{word} is no JSON: write null, a number or a string"),
        None => match half_character(text, at) {
            Some(escape) if what.contains("hex escape") => {
                format!(
                    "{escape} is half of a surrogate pair and no character: write both halves, or \
                     leave it out"
                )
            }
            _ => what,
        },
    };
    JsonError {
        problem,
        at,
        is_cut: error.is_eof(),
    }
}

/// Length in bytes of `\uXXXX`.
const ESCAPE_BYTES: usize = 6;

/// The escape of half a surrogate pair at a place, or up to the length of another escape before it.
fn half_character(text: &str, at: usize) -> Option<&str> {
    let from = floor(text, at.saturating_sub(2 * ESCAPE_BYTES));
    let near = text.get(from..floor(text, (at + ESCAPE_BYTES).min(text.len())))?;
    near.match_indices("\\u")
        .filter_map(|(place, _)| near.get(place..place + ESCAPE_BYTES))
        .find(|escape| {
            let unit = escape
                .get(2..)
                .and_then(|digits| u16::from_str_radix(digits, 16).ok());
            unit.is_some_and(|unit| (0xd800..0xe000).contains(&unit))
        })
}

fn floor(text: &str, mut at: usize) -> usize {
    while at > 0 && !text.is_char_boundary(at) {
        at -= 1;
    }
    at.min(text.len())
}

/// Reads a text whose syntax has been checked.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space.
    fn next(&mut self) -> Option<u8> {
        while self
            .byte()
            .is_some_and(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t'))
        {
            self.at += 1;
        }
        self.byte()
    }

    fn error<T>(&self, problem: impl Into<String>) -> Result<T, JsonError> {
        Err(JsonError {
            problem: problem.into(),
            at: self.at,
            is_cut: false,
        })
    }

    fn value(&mut self, depth: usize) -> Result<Json, JsonError> {
        if depth > DEPTH_MAX {
            return self.error(format!(
                "lists and objects are nested deeper than {DEPTH_MAX}"
            ));
        }
        match self.next() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(_) => {
                let start = self.at;
                while self.byte().is_some_and(|byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
                }) {
                    self.at += 1;
                }
                match self.text.get(start..self.at).unwrap_or_default() {
                    "null" => Ok(Json::Null),
                    "true" => Ok(Json::Bool(true)),
                    "false" => Ok(Json::Bool(false)),
                    "" => self.error("expected value"),
                    number => Ok(Json::Number(number.into())),
                }
            }
            None => self.error("expected value"),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            match self.next() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::List(items));
                }
                Some(b',') => self.at += 1,
                Some(_) => items.push(self.value(depth + 1)?),
                None => return self.error("expected `]`"),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut pairs = Pairs::default();
        loop {
            match self.next() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Object(pairs.pairs));
                }
                Some(b',') => self.at += 1,
                Some(b'"') => {
                    let key = self.string()?;
                    self.next();
                    self.at += 1; // `:`
                    let value = self.value(depth + 1)?;
                    pairs.set(key, value);
                }
                _ => return self.error("expected a key"),
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        while let Some(byte) = self.byte() {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.at += 1;
                }
                _ => {}
            }
        }
        let quoted = self.text.get(start..self.at).unwrap_or_default();
        if escaped {
            serde_json::from_str(quoted).map_err(|error| {
                let at = start + error.column().saturating_sub(1);
                JsonError {
                    at,
                    ..wrong(quoted, &error)
                }
            })
        } else {
            Ok(quoted
                .get(1..quoted.len().saturating_sub(1))
                .unwrap_or_default()
                .into())
        }
    }
}

/// The pairs of an object: a repeated key replaces its value, as in Python.
#[derive(Default)]
struct Pairs {
    pairs: Vec<(String, Json)>,
    /// The index of each key, made when there are more than [`FEW_KEYS`].
    places: Option<std::collections::HashMap<String, usize>>,
}

/// Most keys that are searched one by one.
const FEW_KEYS: usize = 32;

impl Pairs {
    fn set(&mut self, key: String, value: Json) {
        if self.places.is_none() && self.pairs.len() >= FEW_KEYS {
            self.places = Some(
                self.pairs
                    .iter()
                    .enumerate()
                    .map(|(place, (key, _))| (key.clone(), place))
                    .collect(),
            );
        }
        let place = match &self.places {
            Some(places) => places.get(&key).copied(),
            None => self.pairs.iter().position(|(known, _)| *known == key),
        };
        match place.and_then(|place| self.pairs.get_mut(place)) {
            Some(pair) => pair.1 = value,
            None => {
                if let Some(places) = &mut self.places {
                    places.insert(key.clone(), self.pairs.len());
                }
                self.pairs.push((key, value));
            }
        }
    }
}

/// Writes compact JSON. A number that JSON does not have (a column of floats may have NaN) becomes
/// null.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(yes) => write!(f, "{yes}"),
            Json::Number(number) if is_no_number(number) => f.write_str("null"),
            Json::Number(number) => f.write_str(number),
            Json::Text(text) => f.write_str(&quoted(text)),
            Json::Bytes(bytes) => f.write_str(&quoted(&base64(bytes))),
            Json::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Json::Object(pairs) => {
                f.write_str("{")?;
                for (index, (key, value)) in pairs.iter().enumerate() {
                    write!(
                        f,
                        "{}{}:{value}",
                        if index > 0 { "," } else { "" },
                        quoted(key)
                    )?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Whether a number is NaN or infinite, which only a column of floats can have.
pub fn is_no_number(number: &str) -> bool {
    matches!(number, "nan" | "inf" | "-inf")
}

/// The text as a JSON string, quoted and escaped.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u32| DIGITS.get(value as usize & 63).copied().unwrap_or(b'=') as char;
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let value = three
            .iter()
            .fold(0u32, |value, byte| value << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            text.push(if place <= three.len() {
                digit(value >> (18 - 6 * place))
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_as_they_are_written() {
        let text = r#"{"a":717897987691852588770249,"b":1.10,"c":1e400,"d":-0,"e":[0.1,3E+2],"f":"ä\n\"\\"}"#;
        assert_eq!(Json::parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn a_key_that_comes_again_replaces_its_value() {
        assert_eq!(
            Json::parse(r#"{"a": 1, "b": 2, "a": 3}"#)
                .unwrap()
                .to_string(),
            r#"{"a":3,"b":2}"#
        );
        let many: String = (0..100).map(|i| format!("\"k{}\":{i},", i % 50)).collect();
        let many = Json::parse(&format!("{{{}}}", many.trim_end_matches(','))).unwrap();
        assert_eq!(
            (many.as_object().unwrap().len(), many.get("k7").unwrap()),
            (50, &Json::Number("57".into()))
        );
    }

    #[test]
    fn words_that_are_no_json_are_named() {
        for (text, word) in [
            ("{\"a\": NaN}", "NaN"),
            ("[1, -Infinity]", "-Infinity"),
            ("{\"a\":Infinity,\"b\":1}", "Infinity"),
        ] {
            assert!(
                Json::parse(text).unwrap_err().problem.starts_with(word),
                "{text}"
            );
        }
        assert_eq!(
            Json::parse("{\"a\": 1},").unwrap_err().problem,
            "trailing characters"
        );
        assert!(Json::parse("{\"a\": [1,").unwrap_err().is_cut);
        assert!(
            Json::parse(r#"{"a": "\ud800"}"#).is_err(),
            "half a character"
        );
        let deep = "[".repeat(DEPTH_MAX + 2) + &"]".repeat(DEPTH_MAX + 2);
        assert!(Json::parse(&deep).unwrap_err().problem.contains("deeper"));
    }

    #[test]
    fn bytes_are_written_as_base64() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(Json::Bytes(bytes.into()).to_string(), format!("{text:?}"));
        }
    }
}
