//! Multiple choice: the letters that an answer chooses.

use reward_sdk::number::unwrap;
use std::collections::BTreeSet;

/// Answers in more words than this are essays, not choices.
const BYTES_MAX: usize = 600;

/// The letters that a text chooses, upper case: `B`, `(b)`, `\text{(B)}`, `B.`, `B: 12`, `the answer is B`, `A, C`; `None` when it
/// does not say which.
pub fn read(text: &str) -> Option<BTreeSet<char>> {
    if text.len() > BYTES_MAX {
        return None;
    }
    let mut plain = unwrap(text).to_string();
    for command in ["\\text", "\\textbf", "\\mathrm", "\\mathbf", "\\textrm", "\\mathit", "\\left", "\\right"] {
        // Longest first would be tidier; what is left of `\textbf` is cut below.
        plain =
            plain.replace(&format!("{command}{{"), "{").replace(&format!("{command}("), "(").replace(&format!("{command})"), ")");
    }
    let plain: String =
        plain.chars().map(|c| if matches!(c, '{' | '}' | '$' | '*' | '"' | '\'' | '`' | '\\') { ' ' } else { c }).collect();
    let plain = plain.trim().trim_end_matches('.').trim();
    letters_alone(plain).or_else(|| leading(plain)).or_else(|| announced(plain))
}

/// Two or more letters that are written as choices are: capitals up to H.
pub fn several(text: &str) -> Option<BTreeSet<char>> {
    let capitals = |letters: &BTreeSet<char>| letters.len() > 1 && letters.iter().all(|letter| ('A'..='H').contains(letter));
    let written = text.chars().filter(char::is_ascii_uppercase).count();
    read(text).filter(|letters| capitals(letters) && written == letters.len())
}

/// Nothing but letters and what stands between them: `B`, `(B)`, `A, C and D`, `AC`.
fn letters_alone(text: &str) -> Option<BTreeSet<char>> {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')' | '[' | ']' | '.' | '&' | '/' | ':'))
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
                && word.as_bytes().windows(2).all(|pair| pair.first() < pair.last()) =>
            {
                found.extend(word.chars());
            }
            _ => return None,
        }
    }
    (!found.is_empty()).then_some(found)
}

/// `B) twelve`, `(B) twelve`, `B. twelve`, `B: twelve`, `B - twelve`.
fn leading(text: &str) -> Option<BTreeSet<char>> {
    let inside = text.strip_prefix(['(', '[']);
    let rest = inside.unwrap_or(text);
    let letter = rest.chars().next().filter(char::is_ascii_alphabetic)?;
    let after = rest.get(1..)?;
    let marked = if inside.is_some() {
        after.starts_with([')', ']'])
    } else {
        after.starts_with([')', '.', ':'])
            || (letter.is_ascii_uppercase() && (after.starts_with(" - ") || after.starts_with(" – ")))
    };
    marked.then(|| BTreeSet::from([letter.to_ascii_uppercase()]))
}

/// `the correct answer is B`, `option (C)`: one letter only.
fn announced(text: &str) -> Option<BTreeSet<char>> {
    const MARKS: [&str; 7] = ["选", "answer is", "answer:", "option", "choice", "answer", "choose"];
    let lower = text.to_ascii_lowercase();
    let (mark, at) = MARKS.iter().find_map(|mark| Some((mark, lower.rfind(mark)?)))?;
    let rest = text.get(at + mark.len()..)?.trim_start_matches(|c: char| c.is_whitespace() || c == ':').trim_start();
    let rest = ["option ", "choice "].iter().find_map(|lead| rest.strip_prefix(lead)).unwrap_or(rest);
    letters_alone(rest.trim_end_matches('.')).filter(|found| found.len() == 1).or_else(|| leading(rest))
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
        ] {
            assert_eq!(read_as(text).as_deref(), Some("B"), "{text}");
        }
        assert_eq!(read_as("A, C").as_deref(), Some("AC"));
        assert_eq!(read_as("C and A").as_deref(), Some("AC"));
        assert_eq!(read_as("ACD").as_deref(), Some("ACD"));
    }

    #[test]
    fn what_does_not_say_which() {
        for text in ["", "12", "B or C", "Both of them", "The answer is not clear", "A dog", "I think", "NO"] {
            assert_eq!(read_as(text), None, "{text}");
        }
    }
}
