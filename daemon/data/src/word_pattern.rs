//! The patterns by which tokenizers find words, as automata: those that look at nothing behind a
//! word but for `\s+(?!\S)`, blanks up to the one that the next word begins with.
//!
//! Nearly all patterns of byte-level tokenizers end in `|\s+(?!\S)|\s+`. An automaton cannot look
//! ahead. It finds all blanks that follow each other, and if another character is behind them, the
//! last of several is given back: what backtracking comes to.

use regex_automata::hybrid::regex::{Cache, Regex};
use regex_automata::{Anchored, Input};
use std::ops::Range;
use std::str::Chars;

/// The pattern of GPT-2, which a byte-level pre-tokenizer has if it names no other.
pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const BLANKS_LAST: &str = r"|\s+(?!\S)|\s+";
const BLANKS: &str = r"\s+";

/// A pattern of words.
pub(crate) struct WordPattern {
    /// The pattern, and [`BLANKS`] behind it if it ended in [`BLANKS_LAST`].
    regex: Regex,
    has_blanks: bool,
}

impl WordPattern {
    /// Reads a pattern as the crate fancy-regex does; `None` if it may mean something else to an
    /// automaton.
    pub(crate) fn new(pattern: &str) -> Option<WordPattern> {
        let rest = pattern.strip_suffix(BLANKS_LAST);
        let words = rest.unwrap_or(pattern);
        let matches_nothing = || {
            let syntax = regex_syntax::parse(words).ok()?;
            Some(syntax.properties().minimum_len()? == 0)
        };
        if !is_plain(words) || matches_nothing()? {
            return None;
        }
        let regex = match rest {
            Some(words) => Regex::new_many(&[words, BLANKS]),
            None => Regex::new(words),
        };
        Some(WordPattern {
            regex: regex.ok()?,
            has_blanks: rest.is_some(),
        })
    }

    pub(crate) fn cache(&self) -> Cache {
        self.regex.create_cache()
    }

    /// The first word of `text` from a place on; `None` if the automaton gives up.
    pub(crate) fn find(
        &self,
        text: &str,
        at: usize,
        cache: &mut Cache,
    ) -> Option<Option<Range<usize>>> {
        let input = Input::new(text).range(at..);
        let mut found = None;
        if self.has_blanks {
            // A word mostly begins where the one before has ended, and its end says all.
            let here = input.clone().anchored(Anchored::Yes);
            found = self.regex.try_search(cache, &here).ok()?;
        }
        if found.is_none() {
            found = self.regex.try_search(cache, &input).ok()?;
        }
        let Some(found) = found else {
            return Some(None);
        };
        let (start, mut end) = (found.start(), found.end());
        if found.pattern().as_usize() == 1 && end < text.len() {
            let last = text.get(start..end)?.chars().next_back()?;
            if end - last.len_utf8() > start {
                end -= last.len_utf8();
            }
        }
        Some(Some(start..end))
    }
}

/// Whether a pattern has only what backtracking and automata understand alike: no possessive
/// repetition, no place (`^`, `\b`), no group but plain ones and those that ignore case, no escape
/// but for classes and characters.
fn is_plain(pattern: &str) -> bool {
    let mut chars = pattern.chars();
    // Whether the last thing was a repetition, after which `+` makes it possessive.
    let mut repeats = false;
    while let Some(c) = chars.next() {
        match c {
            '^' | '$' => return false,
            '+' if repeats => return false,
            '\\' if !is_plain_escape(&mut chars) => return false,
            '[' if !is_plain_class(&mut chars) => return false,
            '(' if chars.as_str().starts_with('?') => {
                let group = ["?:", "?i:"].into_iter();
                let group = group
                    .filter_map(|group| chars.as_str().strip_prefix(group))
                    .next();
                match group {
                    Some(inside) => chars = inside.chars(),
                    None => return false,
                }
            }
            _ => {}
        }
        repeats = matches!(c, '+' | '*' | '?' | '}');
    }
    true
}

/// Reads an escape behind its backslash.
fn is_plain_escape(chars: &mut Chars<'_>) -> bool {
    match chars.next() {
        Some('p' | 'P') => {
            // A class's name, in braces or of one letter.
            if chars.next() == Some('{') {
                return chars.any(|c| c == '}');
            }
            true
        }
        Some('s' | 'S' | 'd' | 'D' | 'w' | 'W' | 'r' | 'n' | 't') => true,
        Some(c) => c.is_ascii_punctuation() && c != '<' && c != '>',
        None => false,
    }
}

/// Reads a class of characters behind its opening bracket.
fn is_plain_class(chars: &mut Chars<'_>) -> bool {
    if chars.as_str().starts_with('^') {
        chars.next();
    }
    if chars.as_str().starts_with(']') {
        return false;
    }
    while let Some(c) = chars.next() {
        match c {
            ']' => return true,
            '[' => return false,
            '\\' if !is_plain_escape(chars) => return false,
            _ => {}
        }
    }
    false
}
