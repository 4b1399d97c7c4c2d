//! Words by writing system, in what models write beside code and formulas.

use crate::names::is_name;
use std::collections::HashSet;
use unicode_script::{Script, UnicodeScript};

/// A word: a run of letters of one writing system, or one character of those whose characters stand
/// alone (Han, kana).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// The word as written, a slice of the text.
    pub text: &'a str,
    /// Its writing system.
    pub script: Script,
}

/// Finds the words of a text. Digits, punctuation and symbols separate words and are not words
/// themselves, nor are names of variables, functions and units ([`is_name`]). An apostrophe within
/// a word is part of it.
pub fn words(text: &str) -> Vec<Word<'_>> {
    let mut found: Vec<Word<'_>> = Vec::new();
    // Start and writing system of the word at hand.
    let mut open: Option<(usize, Script)> = None;
    let mut known = Known::new();
    let mut push = |start: usize, end: usize, script: Script| {
        let word = &text[start..end];
        if !is_name(word, script, &text[..start], &text[end..]) {
            found.push(Word { text: word, script });
        }
    };
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        // Most letters are ASCII's: their runs are passed over byte by byte.
        let (script, letter, next) = if byte.is_ascii_alphabetic() {
            let run = bytes[at..]
                .iter()
                .position(|byte| !byte.is_ascii_alphabetic());
            (
                Script::Latin,
                true,
                run.map_or(bytes.len(), |length| at + length),
            )
        } else if byte.is_ascii() {
            (Script::Common, false, at + 1)
        } else {
            let Some(character) = text[at..].chars().next() else {
                break;
            };
            let (script, letter) = known.of(character);
            (script, letter, at + character.len_utf8())
        };
        let mark = matches!(script, Script::Inherited);
        if let Some((start, own)) = open {
            let apostrophe = || {
                (byte == b'\'' || text[at..next] == *"’")
                    && text[next..].starts_with(char::is_alphabetic)
            };
            if (letter && script == own && !stands_alone(own)) || mark || apostrophe() {
                at = next;
                continue;
            }
            push(start, at, own);
            open = None;
        }
        if letter && !mark && script != Script::Common {
            open = Some((at, script));
        }
        at = next;
    }
    if let Some((start, script)) = open {
        push(start, text.len(), script);
    }
    found
}

/// A character's writing system, and whether it is a letter. Looking them up is a search in tables
/// of thousands of ranges, and texts repeat their characters.
struct Known {
    /// Non-ASCII characters seen, by their last bits.
    seen: [(char, Script, bool); Known::SEEN],
}

impl Known {
    const SEEN: usize = 256;

    fn new() -> Known {
        Known {
            seen: [('a', Script::Latin, true); Known::SEEN],
        }
    }

    fn of(&mut self, character: char) -> (Script, bool) {
        // Always there: the array has a place for every remainder.
        let Some(place) = self.seen.get_mut(character as usize % Known::SEEN) else {
            return (Script::Common, false);
        };
        if place.0 != character {
            *place = (character, character.script(), character.is_alphabetic());
        }
        (place.1, place.2)
    }
}

fn stands_alone(script: Script) -> bool {
    matches!(
        script,
        Script::Han | Script::Hiragana | Script::Katakana | Script::Bopomofo
    )
}

/// Removes what belongs to no language: fenced and quoted code, formulas between dollars or LaTeX's
/// brackets, LaTeX's commands, tags. The words of a formula stay: what stands in `\text{…}`, and
/// letters that no formula is made of.
pub fn prose(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    // Looked for once: what does not close here does not close further on.
    let mut never_closes = [false; BRACKETS.len()];
    while let Some(at) = rest
        .bytes()
        .position(|byte| matches!(byte, b'`' | b'$' | b'\\' | b'<'))
    {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let first = rest.as_bytes().first();
        let mut skipped = None;
        for ((open, close), never) in BRACKETS.iter().zip(&mut never_closes) {
            if !*never
                && skipped.is_none()
                && open.as_bytes().first() == first
                && rest.starts_with(open)
            {
                skipped =
                    enclosed(rest, open, close).map(|length| (length, !open.starts_with('`')));
                *never = skipped.is_none();
            }
        }
        let skipped = skipped.or_else(|| match first {
            Some(b'$') => formula(rest).map(|length| (length, true)),
            Some(b'\\') => command(rest).map(|length| (length, false)),
            Some(b'<') => tag(rest).map(|length| (length, false)),
            _ => None,
        });
        match skipped {
            Some((length, is_formula)) => {
                kept.push(' ');
                if is_formula {
                    words_of_formula(&rest[..length], &mut kept);
                }
                rest = &rest[length..];
            }
            None => {
                let length = rest.chars().next().map_or(rest.len(), char::len_utf8);
                kept.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
    }
    kept.push_str(rest);
    kept
}

const BRACKETS: [(&str, &str); 5] = [
    ("```", "```"),
    ("`", "`"),
    ("$$", "$$"),
    ("\\[", "\\]"),
    ("\\(", "\\)"),
];
/// Bytes of a formula between single dollars, and of a tag's name.
const FORMULA_MAX: usize = 400;
const TAG_MAX: usize = 32;

/// The start of a text, at most `bytes` long.
fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Length of `open … close` at the start of `text`.
fn enclosed(text: &str, open: &str, close: &str) -> Option<usize> {
    let inside = text.strip_prefix(open)?;
    Some(open.len() + inside.find(close)? + close.len())
}

/// Length of `$…$` on one line, with no white space just inside and no digit behind: prices are not
/// formulas.
fn formula(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('$')?;
    let line = head(inside, FORMULA_MAX).split('\n').next()?;
    let end = line.find('$')?;
    let (content, after) = (&line[..end], &inside[end + 1..]);
    let tight = !content.is_empty()
        && !content.starts_with(char::is_whitespace)
        && !content.ends_with(char::is_whitespace);
    (tight && !after.starts_with(|c: char| c.is_ascii_digit())).then_some(end + 2)
}

/// Length of a command: `\frac`, `\begin{align}`, …
fn command(text: &str) -> Option<usize> {
    let name = head(text.strip_prefix('\\')?, TAG_MAX);
    let letters = name
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(name.len());
    // The environment's name is not a word.
    let environment =
        if matches!(&name[..letters], "begin" | "end") && name[letters..].starts_with('{') {
            name[letters..].find('}').map_or(0, |end| end + 1)
        } else {
            0
        };
    (letters > 0).then_some(1 + letters + environment)
}

/// Appends the words of a formula: the texts in it, and runs of letters that are neither Latin nor
/// Greek.
fn words_of_formula(formula: &str, kept: &mut String) {
    const TEXTS: [&str; 5] = ["\\text{", "\\mbox{", "\\textbf{", "\\textit{", "\\textrm{"];
    if formula.is_ascii() && !formula.contains("\\text") && !formula.contains("\\mbox") {
        return;
    }
    let mut rest = formula;
    while let Some(character) = rest.chars().next() {
        if let Some(inside) = TEXTS.iter().find_map(|text| rest.strip_prefix(text)) {
            let end = inside.find('}').unwrap_or(inside.len());
            kept.push_str(&inside[..end]);
            kept.push(' ');
            rest = &inside[end..];
            continue;
        }
        if !character.is_ascii()
            && character.is_alphabetic()
            && !matches!(
                character.script(),
                Script::Latin | Script::Greek | Script::Common
            )
        {
            kept.push(character);
        }
        rest = &rest[character.len_utf8()..];
    }
    kept.push(' ');
}

/// Length of a tag: `<think>`, `</answer>`, …
fn tag(text: &str) -> Option<usize> {
    let inside = head(text.strip_prefix('<')?, TAG_MAX + 2);
    let end = inside.find('>')?;
    let name = inside[..end].trim_start_matches('/').trim_end_matches('/');
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    is_name.then_some(end + 2)
}

/// Writing systems of a language by its ISO 639-1 code; `None` for a code that is not in this list.
pub fn scripts_of(language: &str) -> Option<&'static [Script]> {
    Some(match language {
        "en" | "de" | "fr" | "es" | "it" | "pt" | "nl" | "sv" | "da" | "nb" | "no" | "fi"
        | "pl" | "cs" | "sk" | "hu" | "ro" | "tr" | "vi" | "id" | "ms" => &[Script::Latin],
        "zh" => &[Script::Han, Script::Bopomofo],
        "ja" => &[Script::Han, Script::Hiragana, Script::Katakana],
        "ko" => &[Script::Hangul, Script::Han],
        "ru" | "uk" | "bg" | "sr" => &[Script::Cyrillic],
        "ar" | "fa" | "ur" => &[Script::Arabic],
        "he" => &[Script::Hebrew],
        "el" => &[Script::Greek],
        "hi" | "mr" | "ne" => &[Script::Devanagari],
        "th" => &[Script::Thai],
        _ => return None,
    })
}

/// Share of the words that are in one of these writing systems, 0 to 1; `None` for a text without
/// words.
pub fn share(text: &str, scripts: &[Script]) -> Option<f64> {
    let words = words(text);
    let own = words
        .iter()
        .filter(|word| scripts.contains(&word.script))
        .count();
    (!words.is_empty()).then(|| own as f64 / words.len() as f64)
}

/// The writing system of most words; among equals the one that comes first. `None` for a text
/// without words.
pub fn dominant(text: &str) -> Option<Script> {
    let words = words(text);
    let count = |script: Script| words.iter().filter(|word| word.script == script).count();
    let mut seen = HashSet::new();
    let mut best: Option<(Script, usize)> = None;
    for script in words
        .iter()
        .map(|word| word.script)
        .filter(|script| seen.insert(*script))
    {
        let count = count(script);
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((script, count));
        }
    }
    best.map(|(script, _)| script)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        words(text).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn runs_of_letters_are_words_and_so_is_each_ideograph() {
        assert_eq!(
            texts("It's 42, don’t ask-me"),
            ["It's", "don’t", "ask", "me"]
        );
        assert_eq!(texts("答案是 x 和y2"), ["答", "案", "是", "和"]);
        assert_eq!(
            texts("Привет мир, naïve café"),
            ["Привет", "мир", "naïve", "café"]
        );
        assert_eq!(texts("한국어 문장"), ["한국어", "문장"]);
        assert_eq!(
            texts("cafe\u{301} be\u{301}be\u{301}"),
            ["cafe\u{301}", "be\u{301}be\u{301}"]
        );
        assert_eq!(texts(" 1+2=3 ... "), Vec::<&str>::new());
        assert_eq!(texts("смешаннаяmixed"), ["смешанная", "mixed"]);
    }

    #[test]
    fn code_formulas_and_tags_are_no_prose() {
        for (text, kept) in [
            ("a ```python\nfor x in y: pass\n``` b", "a   b"),
            ("use `let x` here", "use   here"),
            (
                "so $x + y$ is \\(a\\) and \\[b\\] or $$c\nd$$.",
                "so   is   and   or  .",
            ),
            (
                "it costs $5 and then $6 more",
                "it costs $5 and then $6 more",
            ),
            ("<think>yes</think> 1 < 2 > 0", " yes  1 < 2 > 0"),
            ("\\frac{a}{b} \\\\ end", " {a}{b} \\\\ end"),
            (
                "an open ` and an open $ stay",
                "an open ` and an open $ stay",
            ),
            ("so $x \\text{ 因为 } y$ is", "so   因为    is"),
            ("so $面积 = 5$ is", "so  面积  is"),
            ("\\begin{align} x \\end{align}", "  x  "),
        ] {
            assert_eq!(prose(text), kept, "{text}");
        }
    }

    #[test]
    fn shares_and_majorities() {
        assert_eq!(
            share("我们 think 是", scripts_of("zh").unwrap()),
            Some(0.75)
        );
        assert_eq!(share("12 + 3", scripts_of("en").unwrap()), None);
        assert_eq!(share("ひらがな漢字", scripts_of("ja").unwrap()), Some(1.0));
        assert_eq!(
            (
                dominant("ok 好"),
                dominant("好 ok"),
                dominant("好 ok yes"),
                dominant("7")
            ),
            (
                Some(Script::Latin),
                Some(Script::Han),
                Some(Script::Latin),
                None
            )
        );
        assert!(scripts_of("tlh").is_none());
    }

    #[test]
    fn hostile_text_ends() {
        for piece in ["`", "$", "<", "\\", "\\[", "\\(", "```", "$ ", "<a", "$x\n"] {
            let text = piece.repeat(100_001);
            assert!(prose(&text).len() <= 2 * text.len());
        }
    }
}
