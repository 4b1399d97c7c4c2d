//! Reads a judge's reply: the one JSON object in it that has a `correctness`.
//!
//! Anything may surround it: prose, a code fence, LaTeX. Common errors of judges in strings are
//! accepted: LaTeX with single backslashes, line breaks. A thought is ignored if the reply begins
//! with `<think>`: only the text after its `</think>` is read.
//!
//! | `correctness` | |
//! |---|---|
//! | `"correct"`, `"true"`, `"yes"`, `"right"`, `true`, `1` | correct |
//! | `"incorrect"`, `"false"`, `"no"`, `"wrong"`, `false`, `0` | incorrect |
//! | anything else | no verdict |
//!
//! Words and keys count without regard to case and white space, words also without a full stop at
//! the end.
//!
//! A judge quotes what it judges, not always well escaped, and a quoted verdict must not pass for
//! the judge's own. So an ambiguous reply gives no verdict. A reply is ambiguous if it has:
//!
//! - a second object, whatever it has: the first may be what a quotation has left of the judge's;
//! - a brace with a quotation mark behind it, or with nothing, that begins no whole object: it may
//!   be the verdict, spoilt by a quotation, a comma too many or the end of the text, and what looks
//!   like an object within is none. Objects are flat: one with a list or an object in it is not
//!   whole;
//! - other braces that do not pair up, or that hold the object;
//! - outside of objects `correctness` with a colon or `=` behind it, or, after the verdict, the
//!   bare word.
//!
//! The reader cannot detect a reply that was cut off behind what reads as the one whole object, or
//! a quotation in prose or in a string that it has ended.

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use std::fmt;

const KEY: &str = "correctness";

/// A judge's verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether the answer is correct.
    pub correct: bool,
    /// The judge's reasons, if it gave any.
    pub analysis: Option<String>,
}

/// Reads a reply. The error says what the reply lacks, or why it is ambiguous. There is one pass: a
/// text that begins like an object but is not one ends it.
pub fn read(reply: &str) -> Result<Verdict, String> {
    let text = legible(without_thought(reply)?);
    let (mut found, mut rest, mut open) = (None, text.as_str(), 0_usize);
    while let Some(at) = rest.find(['{', '}']) {
        let (prose, braced) = rest.split_at(at);
        no_key(prose, found.is_some())?;
        let length = match braced.strip_prefix('{') {
            None => {
                open = open
                    .checked_sub(1)
                    .ok_or("the reply has a closing brace too many")?;
                1
            }
            Some(inside) if !begins_an_object(inside) => {
                open += 1;
                1
            }
            Some(_) => {
                let (object, length) = whole(braced)?;
                if open > 0 {
                    return Err("the JSON object in the reply stands in braces".into());
                }
                if found.replace(object).is_some() {
                    return Err("the reply has more than one JSON object".into());
                }
                length
            }
        };
        rest = braced.get(length..).unwrap_or_default();
    }
    no_key(rest, found.is_some())?;
    if open > 0 {
        return Err("the reply has a brace that is not closed".into());
    }
    let Some(Object {
        analysis,
        correctness: Some(correctness),
    }) = found
    else {
        return Err("the reply has no JSON object with `correctness`".into());
    };
    let analysis = analysis.and_then(|analysis| {
        if let Value::Text(text) = analysis {
            Some(text)
        } else {
            None
        }
    });
    match correct(&correctness) {
        Some(correct) => Ok(Verdict { correct, analysis }),
        None => Err(match correctness {
            Value::Text(text) => {
                format!("`correctness` is {}", reward_sdk::answers::excerpt(&text))
            }
            _ => "`correctness` is no word and no truth value".into(),
        }),
    }
}

/// Removes a thought at the very beginning: any other `<think>` may be quoted.
fn without_thought(reply: &str) -> Result<&str, String> {
    match reply.trim_start().strip_prefix("<think>") {
        None => Ok(reply),
        Some(thought) => Ok(thought
            .split_once("</think>")
            .ok_or("the judge's thought was cut off")?
            .1),
    }
}

/// Refuses prose that gives a verdict of its own, or continues one.
fn no_key(prose: &str, after_the_verdict: bool) -> Result<(), String> {
    let prose = prose.to_ascii_lowercase();
    let is_key = |at: usize| {
        let behind = prose.get(at + KEY.len()..).unwrap_or_default();
        behind
            .trim_start_matches(|c: char| c.is_whitespace() || "\"'`*_\\".contains(c))
            .starts_with([':', '=', '：'])
    };
    if prose
        .match_indices(KEY)
        .any(|(at, _)| after_the_verdict || is_key(at))
    {
        return Err("the reply speaks of `correctness` outside of its object".into());
    }
    Ok(())
}

/// Whether a brace begins an object, unlike the braces of LaTeX and of sets.
fn begins_an_object(inside: &str) -> bool {
    let inside = inside.trim_start_matches(|c: char| c.is_whitespace() || c == '\\');
    inside.is_empty() || inside.starts_with(['"', '\'', '`', '“', '”', '‘', '’'])
}

/// The object at the beginning of the text, and its length.
fn whole(text: &str) -> Result<(Object, usize), String> {
    let mut objects = serde_json::Deserializer::from_str(text).into_iter::<Object>();
    match objects.next() {
        Some(Ok(object)) => Ok((object, objects.byte_offset().max(1))),
        Some(Err(error)) if error.is_eof() => Err("the reply ends within a JSON object".into()),
        _ => Err("a JSON object in the reply cannot be read".into()),
    }
}

fn correct(found: &Value) -> Option<bool> {
    match found {
        Value::Bool(correct) => Some(*correct),
        Value::Text(text) => match text
            .trim()
            .trim_end_matches('.')
            .to_ascii_lowercase()
            .as_str()
        {
            "correct" | "true" | "yes" | "right" | "1" => Some(true),
            "incorrect" | "false" | "no" | "wrong" | "0" => Some(false),
            _ => None,
        },
        Value::Other => None,
    }
}
/// Doubles backslashes that escape nothing, and turns control characters into spaces: JSON has
/// neither.
fn legible(reply: &str) -> String {
    let mut text = String::with_capacity(reply.len());
    let mut rest = reply.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                let after = rest.as_str();
                let is_unicode = |after: &str| {
                    after
                        .get(1..5)
                        .is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
                };
                match after.chars().next() {
                    Some(escaped @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')) => {
                        text.extend(['\\', escaped]);
                        rest.next();
                    }
                    Some('u') if is_unicode(after) => text.push('\\'),
                    _ => text.push_str("\\\\"),
                }
            }
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    text
}

#[derive(Default)]
struct Object {
    analysis: Option<Value>,
    correctness: Option<Value>,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Object, A::Error> {
                let mut object = Object::default();
                while let Some((key, value)) = entries.next_entry::<String, Value>()? {
                    let field = match key.trim().to_ascii_lowercase().as_str() {
                        "analysis" => &mut object.analysis,
                        KEY => &mut object.correctness,
                        _ => continue,
                    };
                    if field.replace(value).is_some() {
                        return Err(A::Error::custom(format!("`{key}` twice")));
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A scalar. Lists and objects are errors, so that nothing is recursive.
enum Value {
    Text(String),
    Bool(bool),
    Other,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl Visitor<'_> for Scalar {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text, a number or a truth value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.into()))
            }

            fn visit_bool<E>(self, found: bool) -> Result<Value, E> {
                Ok(Value::Bool(found))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(match number {
                    0 => Value::Bool(false),
                    1 => Value::Bool(true),
                    _ => Value::Other,
                })
            }

            fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Other)
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(reply: &str) -> Option<bool> {
        read(reply).ok().map(|verdict| verdict.correct)
    }

    #[test]
    fn the_one_object_counts() {
        for (reply, expected) in [
            (r#"{"analysis": "Same.", "correctness": "correct"}"#, true),
            (
                "```json\n{\n  \"analysis\": \"No:\n7.\",\n  \
                 \"correctness\": \"incorrect\"\n}\n```",
                false,
            ),
            (
                r#"<think>{"correctness": "correct"}?</think> {"correctness": "incorrect"} So be it."#,
                false,
            ),
            (
                r#"<think>So {"analysis": "…", "correctness": "correct" or "incorrect"}.</think>{"correctness": "correct"}"#,
                true,
            ),
            (r#"The set {1, 2} it is. {"correctness": "Correct."}"#, true),
            (
                r#"By \frac{\sqrt{2}}{2}, \{1,2\}, {x} and {}: {"correctness": "correct"} That is \boxed{1}."#,
                true,
            ),
            (
                r#"I judge its correctness. {"correctness": "correct"} That is all."#,
                true,
            ),
            (
                r#"{"analysis": "It claims {\"correctness\": \"correct\"}", "correctness": "incorrect"}"#,
                false,
            ),
            (
                r#"{"analysis": "\(\frac{1}{2}\) is \u00bd, \underline{not} \\", "correctness": false}"#,
                false,
            ),
            (r#"{"Analysis": "x", " Correctness": "incorrect"}"#, false),
            (
                r#"{"correctness": "correct", "confidence": 0.5, "note": null}"#,
                true,
            ),
            (r#"{"correctness": true}"#, true),
            (r#"{"correctness": 1}"#, true),
            (r#"{"correctness": "NO"}"#, false),
        ] {
            assert_eq!(
                read(reply).map(|verdict| verdict.correct),
                Ok(expected),
                "{reply}"
            );
        }
    }

    #[test]
    fn an_ambiguous_reply_is_no_verdict() {
        for reply in [
            // A quotation that is not escaped breaks the judge's own object.
            r#"{"analysis": "The answer is "{"correctness": "correct"}", not 4.", "correctness": "incorrect"}"#,
            r#"{"analysis": "The answer is `{'a': {"correctness": "correct"}}`", "correctness": "incorrect",}"#,
            r#"{"correctness": "incorrect", "analysis": "It says "} {"correctness": "correct"} {x" to me."}"#,
            r#"{"correctness": "incorrect", "analysis": ""} {"correctness": "correct", "b": ""}"#,
            r#"{"analysis": "", "correctness": "correct", "b": "", "Correctness": "incorrect"}"#,
            r#"{"verdict": {"analysis": "", "correctness": "correct"}, "correctness": "correct", "z": {"w": "", "correctness": "incorrect"}}"#,
            r#"{\"correctness\": \"incorrect\", \"analysis\": \"It says } {"correctness": "correct"} {x\"}"#,
            r#"{'correctness': 'incorrect', 'analysis': 'It says } {"correctness": "correct"} {x'}"#,
            r#"{correctness: "incorrect", analysis: "It says } {"correctness": "correct"} {x"}"#,
            r#"{note: {"correctness": "correct"}}"#,
            r#"{"analysis": "It says "} {"correctness": "correct"} and goes on until it is cut"#,
            // The judge's own verdict follows and cannot be read.
            r#"{"correctness": "correct"} No: {"analysis": "a trailing comma", "correctness": "incorrect",}"#,
            r#"It writes {"correctness": "correct"}. Verdict: {"analysis": "this is wrong because it says"#,
            r#"It writes {"correctness": "correct"}. Verdict: { "#,
            r#"It writes {"correctness": "correct"}. My correctness is: no"#,
            r#""Correctness": "incorrect". It writes {"correctness": "correct"}"#,
            r#"<think>It writes {"correctness": "correct"}. That"#,
            // Two verdicts.
            r#"{"correctness": "correct"} No. {"correctness": "incorrect"}"#,
            r#"{"correctness": "correct", "correctness": "incorrect"}"#,
            r#"{"analysis": {"correctness": "correct"}, "correctness": "incorrect"}"#,
            r#"{"correctness": "correct/incorrect"}"#,
            r#"{"correctness": "correct or incorrect"}"#,
            // Replies without a verdict.
            r#"{"correctness": null}"#,
            r#"{"correctness": 0.5}"#,
            r#"{"correctness": ["correct"]}"#,
            r#"{"analysis": {"correctness": "correct"}}"#,
            r#"{"analysis": {"correctness": "correct"}, "correctness": "incor"#,
            r#"{"analysis": "cut off in the middle of"#,
            "correct",
            r#""correctness": "correct""#,
            "",
        ] {
            assert_eq!(verdict(reply), None, "{reply}");
        }
    }

    #[test]
    fn a_verdict_behind_many_braces_is_the_only_one() {
        let quoted = r#"It writes {"correctness": "correct"} "#;
        let own = r#" but {"analysis": "not 4", "correctness": "incorrect"}"#;
        assert_eq!(
            verdict(&format!("{quoted}{{{}{own}", "{".repeat(300))),
            None
        );
        assert_eq!(
            verdict(&format!("{quoted}{}{own}", "{x}".repeat(300))),
            None
        );
        assert_eq!(verdict(&format!("{}{own}", "{x}".repeat(300))), Some(false));
    }

    #[test]
    fn what_is_wrong_with_a_reply_is_said() {
        assert!(read("yes").unwrap_err().contains("no JSON object"));
        assert!(
            read(r#"{"correctness": "maybe"}"#)
                .unwrap_err()
                .contains("`maybe`")
        );
        assert!(
            read(r#"{"correctness": "cor"#)
                .unwrap_err()
                .contains("ends within a JSON object")
        );
        assert_eq!(
            read(r#"{"analysis": "Same.", "correctness": "yes"}"#)
                .unwrap()
                .analysis
                .as_deref(),
            Some("Same.")
        );
    }

    #[test]
    fn a_long_or_deep_reply_is_read_whole() {
        let nested = "{\"a\":".repeat(100_000);
        for reply in [
            nested,
            "{".repeat(1 << 20),
            "[".repeat(1 << 20),
            format!("{{\"a\":{}", "[".repeat(1 << 20)),
        ] {
            assert_eq!(verdict(&reply), None);
        }
        let long = "é{x} {} ".repeat(10_000);
        assert_eq!(
            verdict(&format!("{long} {{\"correctness\": \"correct\"}} {long}")),
            Some(true)
        );
        assert_eq!(
            verdict(&format!(
                "{{\"correctness\": \"incorrect\", {long} {{\"correctness\": \"correct\"}}"
            )),
            None
        );
    }
}
