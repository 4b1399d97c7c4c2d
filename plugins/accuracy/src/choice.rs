//! Multiple choice: the letters that an answer chooses.

use crate::verdicts;
use reward_sdk::number::unwrap;
use std::collections::BTreeSet;

/// Answers in more words than this are essays, not choices.
const BYTES_MAX: usize = 600;

/// The letters that a text chooses, upper case: `B`, `(b)`, `\text{(B)}`, `B.`, `B: 12`, `the
/// answer is B`, `A, C`, and what sentences say ([`verdicts`]); `None` when it does not say which.
pub(crate) fn read(text: &str) -> Option<BTreeSet<char>> {
    written(text).or_else(|| verdicts::chosen(&plain(text)?))
}

/// Returns the text without fonts and other markup around it; `None` for a text that is too long.
fn plain(text: &str) -> Option<String> {
    if text.len() > BYTES_MAX {
        return None;
    }
    let mut plain = unwrap(text).to_string();
    // Most texts have no font, and looking for each of them costs more than all that follows.
    if ["\\text", "\\math", "\\left", "\\right"]
        .iter()
        .any(|command| plain.contains(command))
    {
        for command in [
            "\\text", "\\textbf", "\\mathrm", "\\mathbf", "\\textrm", "\\mathit", "\\left",
            "\\right",
        ] {
            for bracket in ['{', '(', ')'] {
                plain = plain.replace(
                    &format!("{command}{bracket}"),
                    bracket.encode_utf8(&mut [0; 4]),
                );
            }
        }
    }
    let plain: String = plain
        .chars()
        .map(|c| {
            if matches!(c, '{' | '}' | '$' | '*' | '"' | '`' | '\\' | '“' | '”') {
                ' '
            } else {
                c
            }
        })
        .collect();
    let plain = plain.trim().trim_end_matches(['.', '!']).trim();
    Some(
        plain
            .strip_prefix('\'')
            .and_then(|rest| rest.strip_suffix('\''))
            .unwrap_or(plain)
            .to_string(),
    )
}

/// The letters that are a text's own, without a sentence around them: `B`, `(B)`, `A, C`,
/// `B. twelve`.
pub(crate) fn written(text: &str) -> Option<BTreeSet<char>> {
    let plain = plain(text)?;
    letters_alone(&plain).or_else(|| leading(&plain))
}

/// Two or more letters that are written as choices are: capitals up to H.
pub(crate) fn several(text: &str) -> Option<BTreeSet<char>> {
    let capitals = |letters: &BTreeSet<char>| {
        letters.len() > 1 && letters.iter().all(|letter| ('A'..='H').contains(letter))
    };
    let written = text.bytes().filter(u8::is_ascii_uppercase).count();
    let read = if written > 1 { read(text) } else { None };
    read.filter(|letters| capitals(letters) && written == letters.len())
}

/// Reads a text of letters and what stands between them, and nothing else: `B`, `(B)`,
/// `A, C and D`, `AC`.
fn letters_alone(text: &str) -> Option<BTreeSet<char>> {
    let words: Vec<&str> = text
        .split(|c: char| {
            c.is_whitespace()
                || matches!(c, ',' | ';' | '(' | ')' | '[' | ']' | '.' | '&' | '/' | ':')
        })
        .filter(|word| !word.is_empty())
        .collect();
    let mut found = BTreeSet::new();
    let single = words.len() == 1;
    for word in &words {
        let mut letters = word.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) if letter.is_ascii_alphabetic() => {
                found.insert(letter.to_ascii_uppercase());
            }
            _ if word.eq_ignore_ascii_case("and") => {}
            // `ACD`, in order, as sets of choices are written.
            _ if single
                && word.len() <= 6
                && word.chars().all(|c| ('A'..='H').contains(&c))
                && word
                    .as_bytes()
                    .windows(2)
                    .all(|pair| pair.first() < pair.last()) =>
            {
                found.extend(word.chars());
            }
            _ => return None,
        }
    }
    (!found.is_empty()).then_some(found)
}

/// `B) twelve`, `(B) twelve`, `B. twelve`, `B: twelve`, `B - twelve`, where what follows is what
/// the letter stands for.
fn leading(text: &str) -> Option<BTreeSet<char>> {
    let inside = text.strip_prefix(['(', '[']);
    let rest = inside.unwrap_or(text);
    let letter = rest.chars().next().filter(char::is_ascii_alphabetic)?;
    let after = rest.get(1..)?;
    let said = if inside.is_some() {
        after.strip_prefix([')', ']'])
    } else {
        let dashed = || {
            [" - ", " – "]
                .iter()
                .find_map(|dash| after.strip_prefix(dash))
                .filter(|_| letter.is_ascii_uppercase())
        };
        after.strip_prefix([')', '.', ':']).or_else(dashed)
    };
    said.filter(|said| !verdicts::speaks_of_choices(said))
        .map(|_| BTreeSet::from([letter.to_ascii_uppercase()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(text: &str) -> Option<String> {
        read(text).map(|letters| letters.into_iter().collect())
    }

    #[test]
    fn letters_in_their_dresses() {
        for text in [
            "B",
            "b",
            "(B)",
            "B.",
            "B)",
            r"\text{(B)}",
            r"\textbf{(B) }12",
            r"\text{B}",
            "**B**",
            "$B$",
            "B: 12",
            "(B) 12",
            "The answer is B.",
            "the correct answer is (B)",
            "Option B",
            "Answer: B",
            "The correct option is option B",
            "B - twelve",
            r"\mathrm{B}",
            r"\textbf{B}",
            "The correct option is B.",
            "The correct choice is (B).",
            "B is correct.",
            "B is the right answer",
            "B, since 3 > 2",
            "B because A is too small",
            "B (twelve)",
            "(B), as A and C are wrong",
            "I choose B.",
            "So the answer must be B",
            "Therefore, B",
            "My answer is option (B): twelve",
            "the answer is b",
            "Not A but B",
            "B, not C",
            "A is wrong, so B",
            "A and C are incorrect; B is correct.",
            "It isn't A, it's B",
            "选项B",
            "正确答案是B",
            "故选B",
            "因此选择B。",
            "B选项正确",
            "B正确",
            "B项是正确的",
            "A错误，B正确",
            "不选A，选B",
            "本题答案为(B)",
            "故本题选B，A、C错误",
            "选B，A、C、D均错误",
        ] {
            assert_eq!(read_as(text).as_deref(), Some("B"), "{text}");
        }
        assert_eq!(read_as("A, C").as_deref(), Some("AC"));
        assert_eq!(read_as("C and A").as_deref(), Some("AC"));
        assert_eq!(read_as("ACD").as_deref(), Some("ACD"));
        for text in ["故选AC", "选AC。", "故选：AC。", "答案为AC", "故选A、C"] {
            assert_eq!(read_as(text).as_deref(), Some("AC"), "{text}");
        }
        for text in ["不选AC", "故选CAB", "选BAD计划"] {
            assert_eq!(read_as(text), None, "{text}");
        }
    }

    #[test]
    fn what_does_not_say_which() {
        for text in [
            "",
            "12",
            "B or C",
            "Both of them",
            "The answer is not clear",
            "A dog",
            "I think",
            "NO",
            "Either B or C",
            "neither A nor B",
            "B is wrong",
            "The answer is not B",
            "The answer isn't B.",
            "B is not correct",
            "(B) is incorrect",
            "B. is wrong",
            "The wrong option is B",
            "(A) 3 (B) 4",
            "A) 3 B) 4 C) 5",
            "The answer is A. The answer is B.",
            "Maybe B",
            "B might be correct",
            "B, or C",
            "B could be right, but so could C",
            "It cannot be B",
            "anything except B",
            "not B",
            "B is correct. No, C is correct.",
            "The answer is a number",
            "不选B",
            "B错误",
            "B不正确",
            "答案不是B",
            "A或B",
            "排除B",
        ] {
            assert_eq!(read_as(text), None, "{text}");
        }
    }
}
