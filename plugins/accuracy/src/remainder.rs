//! A quotient and its remainder: `2 \text{ R } 3`, `2 remainder 3`, `商2余3`.

use crate::fonts::unfonted;

/// Longer texts are something else.
const BYTES_MAX: usize = 80;

/// Quotient and remainder, where a text is nothing but these.
pub(crate) fn read(text: &str) -> Option<(u64, u64)> {
    let marked =
        |text: &str| text.contains(['R', 'r', '余', '·', '⋯', '…']) || text.contains("\\cdots");
    if text.len() > BYTES_MAX || !marked(text) {
        return None;
    }
    let plain = unfonted(text)
        .replace("\\ ", " ")
        .replace("\\,", " ")
        .replace("\\quad", " ")
        .replace("\\cdots", "⋯⋯")
        .replace('…', "⋯");
    let mut words = words(&plain)?.into_iter().peekable();
    let skip = |words: &mut std::iter::Peekable<std::vec::IntoIter<Word>>, names: &[&str]| {
        while words
            .next_if(|word| matches!(word, Word::Name(name) if names.contains(&name.as_str())))
            .is_some()
        {}
    };
    skip(
        &mut words,
        &["the", "quotient", "商", "is", "of", "为", "是"],
    );
    let Some(Word::Number(quotient)) = words.next() else {
        return None;
    };
    skip(&mut words, &["and", "with", "a", "the"]);
    let Some(Word::Name(name)) = words.next() else {
        return None;
    };
    matches!(
        name.as_str(),
        "r" | "rem" | "remainder" | "余" | "余数" | "······" | "⋯⋯" | "⋯⋯⋯⋯"
    )
    .then_some(())?;
    skip(&mut words, &["of", "is", "为", "是"]);
    let Some(Word::Number(remainder)) = words.next() else {
        return None;
    };
    words.next().is_none().then_some((quotient, remainder))
}

enum Word {
    Number(u64),
    /// A word in lower case.
    Name(String),
}

fn words(text: &str) -> Option<Vec<Word>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let kind: fn(char) -> bool = match c {
            _ if c.is_ascii_digit() => |c| c.is_ascii_digit(),
            _ if c.is_alphabetic() => char::is_alphabetic,
            '·' | '⋯' => |c| matches!(c, '·' | '⋯'),
            _ if c.is_whitespace() || matches!(c, ',' | '.' | '=' | ':') => {
                rest = rest.get(c.len_utf8()..)?;
                continue;
            }
            _ => return None,
        };
        let (word, after) = rest.split_at(rest.find(|c| !kind(c)).unwrap_or(rest.len()));
        rest = after;
        found.push(if c.is_ascii_digit() {
            Word::Number(word.parse().ok()?)
        } else {
            Word::Name(word.to_lowercase())
        });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn quotients_and_remainders() {
        for text in [
            r"2 \text{ R } 3",
            "2 R 3",
            "2 R3",
            "2R3",
            "2 r 3",
            r"2 \text{ remainder } 3",
            "2 remainder 3",
            "2 with a remainder of 3",
            "2, remainder 3",
            "商2余3",
            "2余3",
            "2······3",
            "2……3",
            r"2 \cdots 3",
            r"2\cdots\cdots 3",
            "quotient 2, remainder 3",
            "The quotient is 2 and the remainder is 3",
            r"2\ \text{R}\ 3",
        ] {
            assert_eq!(read(text), Some((2, 3)), "{text}");
        }
        for text in [
            "2 3",
            "2",
            "R",
            "remainder 3",
            "2 R 3 R 4",
            "-2 R 3",
            "r = 3",
            "2 r",
            "2.5 R 3",
            "2, …, 3",
            "2…, 3",
        ] {
            assert_ne!(read(text), Some((2, 3)), "{text}");
        }
    }
}
