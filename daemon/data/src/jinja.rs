//! Sets minijinja up as transformers sets jinja2 up, so that the same template gives the same text.

use crate::concat;
use crate::python;
use chrono::{NaiveDate, NaiveDateTime};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters};

/// Most instructions of one rendering: a hundred times as many as a long conversation takes
/// (`LIM-1`).
const FUEL: u64 = 50_000_000;

/// The environment of every template of a job file, chat template or not. `strftime_now` gives
/// `date`; without a date the function does not exist.
pub fn environment(date: Option<NaiveDate>) -> Environment<'static> {
    let mut environment = Environment::new();
    // A template comes with a model, and may loop without end.
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    environment.add_filter(
        "tojson",
        |value: Value, options: Kwargs| -> Result<Value, Error> {
            let text = python::json_text(&value, &python::JsonStyle::read(&options)?)?;
            Ok(Value::from_safe_string(text))
        },
    );
    if let Some(at) = date.and_then(|date| date.and_hms_opt(0, 0, 0)) {
        environment.add_function("strftime_now", move |format: String| strftime(at, &format));
    }
    environment
}

/// The environment of chat templates: that of [`environment`] with jinja2's tests and Python's ways
/// of showing values. Undefined values are allowed.
pub fn chat_environment(date: Option<NaiveDate>) -> Environment<'static> {
    let mut environment = environment(date);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            Ok(out.write_str(&python::text(value))?)
        }
        _ => escape_formatter(out, state, value),
    });
    environment.add_filter("join", join);
    environment.add_function(concat::SHOWN, |value: Value| python::text(&value));
    environment.add_function(concat::ITERATED, with_items);
    environment.add_function(concat::SLICED, |value: Value| {
        if value.is_undefined() {
            Err(Error::new(
                ErrorKind::UndefinedError,
                "what is cut here is undefined",
            ))
        } else {
            with_items(value)
        }
    });
    add_filters_of_items(&mut environment);
    // An undefined value is empty in jinja2; minijinja refuses it here.
    for name in ["length", "count"] {
        environment.add_filter(name, |value: Value| {
            if value.is_undefined() {
                Ok(0)
            } else {
                filters::length(&value)
            }
        });
    }
    environment.add_filter("first", |value: Value| {
        if value.is_undefined() {
            Ok(value)
        } else {
            filters::first(&value)
        }
    });
    environment.add_filter("last", |value: Value| {
        if value.is_undefined() {
            Ok(value)
        } else {
            filters::last(value)
        }
    });
    environment.add_filter("string", |value: Value| python::text(&value));
    // In Python None has no iterator, and an undefined value has an empty one.
    environment.add_test("iterable", |value: Value| {
        !value.is_none()
            && (value.is_undefined()
                || value.kind() == ValueKind::String
                || value.try_iter().is_ok())
    });
    environment.add_test("sequence", |value: Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined
        )
    });
    environment.add_test("number", |value: Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    environment
}

/// Passes on a value that is iterated. Refuses None, which cannot be iterated in Python and is
/// empty in minijinja.
fn with_items(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        Err(Error::new(
            ErrorKind::InvalidOperation,
            "None is not iterable",
        ))
    } else {
        Ok(value)
    }
}

/// Wraps minijinja's filters that take None as empty, so that None gives jinja2's error. (Its
/// `map`, `select`, `reject` and similar filters take None as empty there too.)
fn add_filters_of_items(environment: &mut Environment<'static>) {
    macro_rules! add {
        ($($name:ident),*) => {
            $({
                const BUILT_IN: &str = concat!("__", stringify!($name));
                environment.add_filter(BUILT_IN, filters::$name);
                environment.add_filter(stringify!($name), |state: &State, value: Value,
                    options: Rest<Value>| {
                    let all: Vec<Value> = [with_items(value)?].into_iter().chain(options.0)
                        .collect();
                    state.apply_filter(BUILT_IN, &all)
                });
            })*
        };
    }
    add!(
        list, sort, unique, batch, slice, groupby, min, max, sum, reverse, dictsort, items
    );
}

/// Joins the items as Python shows them; `attribute` is looked up in each.
fn join(value: Value, between: Option<String>, options: Kwargs) -> Result<String, Error> {
    let between = options
        .get::<Option<String>>("d")?
        .or(between)
        .unwrap_or_default();
    let attribute: Option<String> = options.get("attribute")?;
    options.assert_all_used()?;
    let items = with_items(value)?.try_iter()?.map(|item| match &attribute {
        Some(path) => path
            .split('.')
            .try_fold(item, |item, name| item.get_attr(name))
            .map(|item| python::text(&item)),
        None => Ok(python::text(&item)),
    });
    Ok(items.collect::<Result<Vec<_>, _>>()?.join(&between))
}

/// A template's text as jinja2's lexer takes it: every end of a line is `\n`. (Both jinja2 and
/// minijinja leave out the last one.)
pub fn normalised(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Removes `{% generation %}`, which marks an assistant's text for loss masks. It exists only in an
/// extension of jinja2 by `transformers`.
pub fn without_generation_marks(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once("{%") {
        result.push_str(before);
        result.push_str("{%");
        let Some((inside, after)) = tag.split_once("%}") else {
            rest = tag;
            continue;
        };
        match inside.trim_matches(['-', '+']).trim() {
            "generation" => result.push_str(&inside.replace("generation", " if true ")),
            "endgeneration" => result.push_str(&inside.replace("endgeneration", " endif ")),
            _ => result.push_str(inside),
        }
        result.push_str("%}");
        rest = after;
    }
    result.push_str(rest);
    result
}

/// Writes a time without a zone as Python's `strftime` does in the C locale.
fn strftime(at: NaiveDateTime, format: &str) -> Result<String, Error> {
    use std::fmt::Write;
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, behind)) = rest.split_once('%') {
        text.push_str(before);
        let unpadded = behind.starts_with('-');
        let mut chars = behind.trim_start_matches('-').chars();
        let Some(letter) = chars.next() else {
            return Err(wrong_format(format));
        };
        rest = chars.as_str();
        match letter {
            'a' | 'A' | 'b' | 'B' | 'c' | 'd' | 'e' | 'h' | 'H' | 'I' | 'j' | 'm' | 'M' | 'p'
            | 'S' | 'u' | 'U' | 'w' | 'W' | 'x' | 'X' | 'y' | 'Y' | 'D' | 'F' | 'T' | 'R' | 'G'
            | 'V' | '%' => {
                let dash = if unpadded { "-" } else { "" };
                write!(text, "{}", at.format(&format!("%{dash}{letter}")))
                    .map_err(|_| wrong_format(format))?;
            }
            'f' => text.push_str("000000"),
            'z' | 'Z' => {}
            _ => return Err(wrong_format(format)),
        }
    }
    text.push_str(rest);
    Ok(text)
}

fn wrong_format(format: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("strftime_now({format:?}): not a format of a date that is known here"),
    )
}

/// The error and its line, without minijinja's own name for the template.
pub fn describe(error: &Error) -> String {
    if error.kind() == ErrorKind::UnknownFunction
        && error
            .detail()
            .is_some_and(|detail| detail.contains("strftime_now"))
    {
        return "the template asks for today's date (strftime_now), and the job says none: set \
                `date` at the top of the job file"
            .into();
    }
    let what = error.detail().map_or_else(
        || error.kind().to_string(),
        |detail| format!("{}: {detail}", error.kind()),
    );
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_writes_them() {
        let at = NaiveDate::from_ymd_opt(2024, 7, 4)
            .and_then(|day| day.and_hms_opt(0, 0, 0))
            .unwrap();
        for (format, text) in [
            ("%d %b %Y", "04 Jul 2024"),
            ("%B %-d, %Y", "July 4, 2024"),
            ("%Y-%m-%d %H:%M:%S.%f", "2024-07-04 00:00:00.000000"),
            ("%A, %j, 100%%%Z", "Thursday, 186, 100%"),
        ] {
            assert_eq!(strftime(at, format).unwrap(), text);
        }
        assert!(strftime(at, "%Q").is_err() && strftime(at, "100%").is_err());
    }
}
