//! Finds loops that no word ends: a punctuation mark again and again, a syllable in a word without
//! blanks.
//!
//! A stretch is a run of characters without a word's end in it, or one without a word. It is a loop
//! if more than half of its windows of [`WINDOW`] characters repeat earlier ones. The first
//! repetitions are allowed: rules, tables, leaders and long numbers repeat themselves too.

use crate::distinct;
use std::ops::Range;

/// Characters of a window, which are compared at once.
const WINDOW: usize = 8;
/// Shortest stretch that is examined, in characters.
pub(crate) const LENGTH_MIN: usize = 32;
/// Repeated windows that are allowed in a stretch.
const ALLOWED: usize = 24;
/// Most repeated windows that are allowed in a stretch of rules. The number grows from [`ALLOWED`]
/// with the text's words.
const ALLOWED_RULES_MAX: usize = 120;
/// Repeated windows that are allowed in a stretch of digits.
const ALLOWED_DIGITS: usize = 256;
/// Characters that are examined, in all stretches together.
const CHARS_MAX: usize = 1 << 16;

/// Windows that a text's loops add to its n-grams: those that repeat earlier ones beyond what is
/// allowed, and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loops {
    pub repeated: usize,
    pub all: usize,
}

pub(crate) fn loops(text: &str, stretches: &[Range<usize>], words: usize) -> Loops {
    let mut found = Loops::default();
    let mut left = CHARS_MAX;
    for stretch in stretches {
        let written = text.get(stretch.clone()).unwrap_or_default();
        let chars: Vec<char> = written
            .chars()
            .filter(|c| !c.is_whitespace())
            .take(left)
            .collect();
        left -= chars.len();
        let Some(windows) = (chars.len() + 1)
            .checked_sub(WINDOW)
            .filter(|windows| *windows > 0)
        else {
            continue;
        };
        let repeated = windows - distinct(&chars, WINDOW);
        let beyond = repeated.saturating_sub(allowed(&chars, words));
        if repeated * 2 > windows && beyond > 0 {
            found = Loops {
                repeated: found.repeated + beyond,
                all: found.all + windows,
            };
        }
    }
    found
}

fn allowed(chars: &[char], words: usize) -> usize {
    let most =
        |kind: fn(char) -> bool| chars.iter().filter(|c| kind(**c)).count() * 10 > chars.len() * 9;
    if most(|c| c.is_ascii_digit()) {
        ALLOWED_DIGITS
    } else if most(|c| "-=_*#~+|:.─━═│┃".contains(c)) {
        (4 * words).clamp(ALLOWED, ALLOWED_RULES_MAX)
    } else {
        ALLOWED
    }
}
