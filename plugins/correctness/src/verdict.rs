//! A judge's reply: the last JSON object in it that has a `correctness`.
//!
//! Objects are read from the left, each as a whole, so neither an object inside another one nor what a string quotes counts. Around them may be anything: a
//! thought, a code fence, prose. What judges get wrong in strings is put up with: LaTeX with single backslashes, line breaks.
//!
//! | `correctness` | |
//! |---|---|
//! | `"correct"`, `"true"`, `"yes"`, `"right"`, `true`, `1` | correct |
//! | `"incorrect"`, `"false"`, `"no"`, `"wrong"`, `false`, `0` | incorrect |
//! | anything else | no verdict |
//!
//! Words count without regard to case, white space and a full stop at the end.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The end of a longer reply is read.
const REPLY_BYTES_MAX: usize = 16 << 10;
/// Braces at which an object was looked for in vain.
const VAIN_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub correct: bool,
    pub analysis: Option<String>,
}

/// The error says what the reply lacks.
pub fn read(reply: &str) -> Result<Verdict, String> {
    let start = reply.len().saturating_sub(REPLY_BYTES_MAX);
    let text = legible(reply.get(reply.ceil_char_boundary(start)..).unwrap_or_default());
    let (mut last, mut rest, mut vain) = (None, text.as_str(), 0);
    while let Some(at) = rest.find('{') {
        rest = rest.get(at..).unwrap_or_default();
        let mut objects = serde_json::Deserializer::from_str(rest).into_iter::<Reply>();
        let length = match objects.next() {
            Some(Ok(reply)) => {
                last = Some(reply).filter(|reply| reply.correctness.is_some()).or(last);
                objects.byte_offset().max(1)
            }
            // Cut off: what is inside it is no verdict of its own.
            Some(Err(error)) if error.is_eof() => break,
            _ => {
                vain += 1;
                1
            }
        };
        if vain > VAIN_MAX {
            break;
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    let Some(Reply { analysis, correctness: Some(found) }) = last else {
        return Err("the reply has no JSON object with `correctness`".into());
    };
    let analysis = analysis.and_then(|analysis| if let Loose::Text(text) = analysis { Some(text) } else { None });
    match correct(&found) {
        Some(correct) => Ok(Verdict { correct, analysis }),
        None => Err(match found {
            Loose::Text(text) => format!("`correctness` is {}", reward_sdk::answers::excerpt(&text)),
            _ => "`correctness` is no word and no truth value".into(),
        }),
    }
}

fn correct(found: &Loose) -> Option<bool> {
    match found {
        Loose::Bool(correct) => Some(*correct),
        Loose::Text(text) => match text.trim().trim_end_matches('.').to_ascii_lowercase().as_str() {
            "correct" | "true" | "yes" | "right" | "1" => Some(true),
            "incorrect" | "false" | "no" | "wrong" | "0" => Some(false),
            _ => None,
        },
        Loose::Other => None,
    }
}

/// Backslashes that escape nothing are doubled, control characters become spaces: JSON has neither.
fn legible(reply: &str) -> String {
    let mut text = String::with_capacity(reply.len());
    let mut rest = reply.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                let after = rest.as_str();
                let is_unicode = |after: &str| after.get(1..5).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply {
    analysis: Option<Loose>,
    correctness: Option<Loose>,
}

/// Whatever a judge puts there; lists and objects are gone through without recursion.
enum Loose {
    Text(String),
    Bool(bool),
    Other,
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Loose;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any JSON")
            }

            fn visit_str<E>(self, text: &str) -> Result<Loose, E> {
                Ok(Loose::Text(text.into()))
            }

            fn visit_bool<E>(self, found: bool) -> Result<Loose, E> {
                Ok(Loose::Bool(found))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Loose, E> {
                Ok(match number {
                    0 => Loose::Bool(false),
                    1 => Loose::Bool(true),
                    _ => Loose::Other,
                })
            }

            fn visit_i64<E>(self, _: i64) -> Result<Loose, E> {
                Ok(Loose::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Loose, E> {
                Ok(Loose::Other)
            }

            fn visit_unit<E>(self) -> Result<Loose, E> {
                Ok(Loose::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Loose, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Loose::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Loose, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Loose::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(reply: &str) -> Option<bool> {
        read(reply).ok().map(|verdict| verdict.correct)
    }

    #[test]
    fn the_last_whole_object_with_a_correctness_counts() {
        for (reply, expected) in [
            (r#"{"analysis": "Same.", "correctness": "correct"}"#, Some(true)),
            ("```json\n{\n  \"analysis\": \"No:\n7.\",\n  \"correctness\": \"incorrect\"\n}\n```", Some(false)),
            (r#"<think>{"correctness": "correct"}?</think> {"correctness": "incorrect"} {"note": 1}"#, Some(false)),
            (r#"The set {1, 2} it is. {"correctness": "Correct."}"#, Some(true)),
            (r#"{"analysis": "It claims {\"correctness\": \"correct\"}", "correctness": "incorrect"}"#, Some(false)),
            (r#"{"analysis": {"correctness": "correct"}, "correctness": "incorrect"}"#, Some(false)),
            (r#"{"analysis": "\(\frac{1}{2}\) is \u00bd, \underline{not} \\", "correctness": false}"#, Some(false)),
            (r#"{"correctness": true}"#, Some(true)),
            (r#"{"correctness": 1}"#, Some(true)),
            (r#"{"correctness": "NO"}"#, Some(false)),
            // No verdict.
            (r#"{"correctness": "correct/incorrect"}"#, None),
            (r#"{"correctness": "correct or incorrect"}"#, None),
            (r#"{"correctness": "correct", "correctness": "incorrect"}"#, None),
            (r#"{"correctness": null}"#, None),
            (r#"{"correctness": 0.5}"#, None),
            (r#"{"correctness": ["correct"]}"#, None),
            (r#"{"analysis": {"correctness": "correct"}}"#, None),
            (r#"{"analysis": {"correctness": "correct"}, "correctness": "incor"#, None),
            (r#"{"analysis": "cut off in the middle of"#, None),
            ("correct", None),
            (r#""correctness": "correct""#, None),
            ("", None),
        ] {
            assert_eq!(verdict(reply), expected, "{reply}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_reply_is_said() {
        assert!(read("yes").unwrap_err().contains("no JSON object"));
        assert!(read(r#"{"correctness": "maybe"}"#).unwrap_err().contains("`maybe`"));
        assert_eq!(read(r#"{"analysis": "Same.", "correctness": "yes"}"#).unwrap().analysis.as_deref(), Some("Same."));
    }

    #[test]
    fn a_long_or_deep_reply_costs_little() {
        let nested = "{\"a\":".repeat(100_000);
        for reply in [nested, "{".repeat(1 << 20), "[".repeat(1 << 20), format!("{{\"a\":{}", "[".repeat(1 << 20))] {
            assert_eq!(verdict(&reply), None);
        }
        let long = format!("{} {{\"correctness\": \"correct\"}}", "é{".repeat(100));
        assert_eq!(verdict(&long), Some(true));
    }
}
