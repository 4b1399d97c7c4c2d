//! Writes values as Python does, so that a template shows numbers, lists and objects as under
//! jinja2.

use minijinja::value::{Enumerator, Kwargs, Object, ObjectExt, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt;
use std::sync::Arc;

use crate::json::Json;

/// `repr` of a float: the shortest digits that read back as this float, with an exponent below 1e-4
/// and from 1e16 on.
pub fn float_text(value: f64) -> String {
    shortest(value, |text| {
        text.parse::<f64>().is_ok_and(|again| again == value)
    })
}

/// The shortest digits that `is_same` accepts for `value`, written as Python writes a float.
pub fn shortest(value: f64, is_same: impl Fn(&str) -> bool) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    // Seventeen digits distinguish every float from its neighbours.
    let digits = (0..17)
        .map(|places| format!("{value:.places$e}"))
        .find(|text| is_same(text));
    let text = digits.unwrap_or_else(|| format!("{value:e}"));
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa
        .strip_prefix('-')
        .map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    let written = if !(-4..16).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        format!(
            "{first}{point}{rest}e{}{:02}",
            if exponent < 0 { '-' } else { '+' },
            exponent.abs()
        )
    } else if exponent < 0 {
        format!("0.{}{digits}", "0".repeat((-exponent - 1) as usize))
    } else {
        let whole = exponent as usize + 1;
        match digits.split_at_checked(whole) {
            Some((whole, rest)) if !rest.is_empty() => format!("{whole}.{rest}"),
            _ => format!("{digits}{}.0", "0".repeat(whole - digits.len())),
        }
    };
    format!("{sign}{written}")
}

/// Converts a row's value to the template's.
pub fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(yes) => Value::from(*yes),
        Json::Number(number) => number_value(number),
        Json::Text(text) => Value::from(text.as_str()),
        Json::Bytes(_) => Value::from(json.to_string().trim_matches('"')),
        Json::List(items) => Value::from_object(List(items.iter().map(value).collect())),
        Json::Object(pairs) => object(
            pairs
                .iter()
                .map(|(key, item)| (key.clone(), value(item)))
                .collect(),
        ),
    }
}

/// Makes an object for templates, with its keys in this order.
pub fn object(pairs: Vec<(String, Value)>) -> Value {
    Value::from_object(Dict(pairs))
}

/// Makes a list for templates, which shows itself as Python's does.
pub fn list(items: Vec<Value>) -> Value {
    Value::from_object(List(items))
}

fn number_value(number: &str) -> Value {
    if let Ok(whole) = number.parse::<i64>() {
        return Value::from(whole);
    }
    if let Ok(whole) = number.parse::<i128>() {
        return Value::from(whole);
    }
    if !number.contains(['.', 'e', 'E']) && number.chars().any(|c| c.is_ascii_digit()) {
        return Value::from_object(Long(number.into()));
    }
    number
        .parse::<f64>()
        .map_or_else(|_| Value::from(number), Value::from)
}

/// A whole number of more than 128 bits, which can be shown but not computed with.
#[derive(Debug)]
struct Long(String);

impl Object for Long {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug)]
struct List(Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

/// The pairs of an object in their order. They are searched one by one, because objects are small.
#[derive(Debug)]
struct Dict(Vec<(String, Value)>);

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|this| {
            Box::new(this.0.iter().map(|(key, _)| Value::from(key.as_str())))
        })
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

/// `str` of a value.
pub fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => repr(value),
        _ => value.to_string(),
    }
}

/// `repr` of a value.
pub fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => repr_of_text(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float_text)
        }
        ValueKind::Seq => {
            let items: Vec<String> = value
                .try_iter()
                .into_iter()
                .flatten()
                .map(|item| repr(&item))
                .collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map if value.as_object().is_some() => {
            let pairs = pairs(value)
                .into_iter()
                .map(|(key, item)| format!("{}: {}", repr(&key), repr(&item)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

fn pairs(value: &Value) -> Vec<(Value, Value)> {
    let keys = value.try_iter().into_iter().flatten();
    keys.map(|key| {
        let item = value.get_item(&key).unwrap_or_default();
        (key, item)
    })
    .collect()
}

fn repr_of_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut shown = String::from(quote);
    for char in text.chars() {
        match char {
            '\\' => shown.push_str("\\\\"),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            char if char == quote => shown.extend(['\\', char]),
            char if (char as u32) < 0x20
                || (0x7f..0xa1).contains(&(char as u32))
                || char == '\u{ad}' =>
            {
                shown.push_str(&format!("\\x{:02x}", char as u32))
            }
            '\u{2028}'
            | '\u{2029}'
            | '\u{200b}'..='\u{200f}'
            | '\u{feff}'
            | '\u{3000}'
            | '\u{2000}'..='\u{200a}' => shown.push_str(&format!("\\u{:04x}", char as u32)),
            char => shown.push(char),
        }
    }
    shown.push(quote);
    shown
}

/// How `tojson` writes: indentation, separators, order of keys, escapes.
pub struct JsonStyle {
    indent: Option<usize>,
    item: String,
    key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl JsonStyle {
    /// Reads the arguments of transformers' `tojson`.
    pub fn read(options: &Kwargs) -> Result<JsonStyle, Error> {
        let indent: Option<usize> = options.get("indent")?;
        let separators: Option<Value> = options
            .get::<Option<Value>>("separators")?
            .filter(|value| !value.is_none());
        let of = |index: usize| {
            separators
                .as_ref()?
                .get_item_by_index(index)
                .ok()?
                .as_str()
                .map(String::from)
        };
        let style = JsonStyle {
            indent,
            item: of(0).unwrap_or_else(|| {
                if indent.is_some() {
                    ",".into()
                } else {
                    ", ".into()
                }
            }),
            key: of(1).unwrap_or_else(|| ": ".into()),
            sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
            ensure_ascii: options
                .get::<Option<bool>>("ensure_ascii")?
                .unwrap_or(false),
        };
        options.assert_all_used()?;
        Ok(style)
    }
}

/// Writes JSON as Python's `json.dumps` does.
pub fn json_text(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut text = String::new();
    write_json(&mut text, value, style, 0)?;
    Ok(text)
}

fn write_json(
    text: &mut String,
    value: &Value,
    style: &JsonStyle,
    depth: usize,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::String => write_text(text, value.as_str().unwrap_or_default(), style),
        ValueKind::Number => match repr(value).as_str() {
            "nan" => text.push_str("NaN"),
            "inf" => text.push_str("Infinity"),
            "-inf" => text.push_str("-Infinity"),
            number => text.push_str(number),
        },
        ValueKind::Plain if value.downcast_object_ref::<Long>().is_some() => {
            text.push_str(&value.to_string())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_list(text, &items, style, depth)?;
        }
        ValueKind::Map => write_map(text, pairs(value), style, depth)?,
        other => {
            return Err(Error::new(
                ErrorKind::BadSerialization,
                format!("{other} is not JSON"),
            ));
        }
    }
    Ok(())
}

fn write_list(
    text: &mut String,
    items: &[Value],
    style: &JsonStyle,
    depth: usize,
) -> Result<(), Error> {
    text.push('[');
    for (index, item) in items.iter().enumerate() {
        text.push_str(if index > 0 { &style.item } else { "" });
        write_newline(text, style, depth + 1);
        write_json(text, item, style, depth + 1)?;
    }
    if !items.is_empty() {
        write_newline(text, style, depth);
    }
    text.push(']');
    Ok(())
}

fn write_map(
    text: &mut String,
    mut pairs: Vec<(Value, Value)>,
    style: &JsonStyle,
    depth: usize,
) -> Result<(), Error> {
    if style.sort_keys {
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    }
    text.push('{');
    for (index, (key, item)) in pairs.iter().enumerate() {
        text.push_str(if index > 0 { &style.item } else { "" });
        write_newline(text, style, depth + 1);
        let key = match key.kind() {
            ValueKind::None => "null".into(),
            ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
            _ => self::text(key),
        };
        write_text(text, &key, style);
        text.push_str(&style.key);
        write_json(text, item, style, depth + 1)?;
    }
    if !pairs.is_empty() {
        write_newline(text, style, depth);
    }
    text.push('}');
    Ok(())
}

/// Begins a line where the style has lines.
fn write_newline(text: &mut String, style: &JsonStyle, depth: usize) {
    if let Some(indent) = style.indent {
        text.push('\n');
        text.push_str(&" ".repeat(indent * depth));
    }
}

fn write_text(text: &mut String, value: &str, style: &JsonStyle) {
    let quoted = crate::json::quoted(value);
    if !style.ensure_ascii {
        text.push_str(&quoted);
        return;
    }
    for char in quoted.chars() {
        if char.is_ascii() {
            text.push(char)
        } else {
            char.encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| text.push_str(&format!("\\u{unit:04x}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with what CPython 3 prints.
    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (0.1, "0.1"),
            (3.0, "3.0"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (123456789012345.6, "123456789012345.6"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e100, "1e+100"),
            (2.5e-300, "2.5e-300"),
            (9007199254740993.0, "9007199254740992.0"),
            (5e-324, "5e-324"),
            (100.25, "100.25"),
        ];
        for (value, text) in cases {
            assert_eq!(float_text(value), text);
        }
        assert_eq!(
            (float_text(f64::NAN), float_text(f64::NEG_INFINITY)),
            ("nan".into(), "-inf".into())
        );
    }
}
