//! Names that texts of every language use: of variables, points, functions and units. They are nobody's words.

use unicode_script::Script;

/// Whether a run of letters is a name rather than a word, with the text before and behind it:
///
/// - one Latin or Greek letter: `x`, `θ`, the `r` of `πr²`;
/// - up to four capitals, as of points: `AB`, `△ABC`;
/// - a function or a unit: `sin`, `km`, `kWh`;
/// - two letters that no English word is, `xy`, and up to three in a formula: `2ab`, `abc = 6`.
pub fn is_name(word: &str, script: Script, before: &str, behind: &str) -> bool {
    const BYTES_MAX: usize = 12;
    if word.len() > BYTES_MAX || !matches!(script, Script::Latin | Script::Greek) {
        return false;
    }
    let mut letters = 0;
    let mut capitals = 0;
    for c in word.chars().filter(|c| !matches!(c, '\'' | '’')) {
        letters += 1;
        capitals += usize::from(c.is_ascii_uppercase());
    }
    match letters {
        0 | 1 => true,
        2..=4 if capitals == letters => true,
        2 if script == Script::Latin && !is_short_english(word.as_bytes()) => true,
        2 | 3 if in_formula(before, behind) => true,
        _ => is_function(word.as_bytes()) || is_unit(word.as_bytes()),
    }
}

fn is_short_english(word: &[u8]) -> bool {
    let [a, b] = word else { return false };
    matches!(
        [a.to_ascii_lowercase(), *b],
        [b'o', b'f' | b'r' | b'n' | b'h' | b'k']
            | [b't' | b's' | b'd' | b'g' | b'n', b'o']
            | [b'i', b'n' | b's' | b't' | b'f']
            | [b'b', b'e' | b'y']
            | [b'w' | b'h' | b'm', b'e']
            | [b'a', b's' | b't' | b'n' | b'm']
            | [b'm', b'y']
            | [b'u', b's' | b'p']
    )
}

/// Whether an operator, a relation or a digit stands beside a word.
fn in_formula(before: &str, behind: &str) -> bool {
    let sign = |c: char| {
        matches!(
            c,
            '=' | '+'
                | '<'
                | '>'
                | '^'
                | '*'
                | '_'
                | '×'
                | '·'
                | '÷'
                | '−'
                | '±'
                | '≤'
                | '≥'
                | '≠'
                | '≈'
                | '√'
                | '∈'
                | '∠'
                | '△'
                | '⊥'
                | '∥'
                | '²'
                | '³'
        )
    };
    let beside = |c: Option<char>| c.is_some_and(|c| sign(c) || c.is_ascii_digit());
    let space = |c: char| c == ' ';
    let last = before.trim_end_matches(space).chars().next_back();
    let next = behind.trim_start_matches(space).chars().next();
    // In `3 and`, `the 5`, a number beside a word is none of its formula.
    beside(before.chars().next_back()) || beside(behind.chars().next()) || last.is_some_and(sign) || next.is_some_and(sign)
}

fn is_function(word: &[u8]) -> bool {
    matches!(
        word,
        b"sin"
            | b"cos"
            | b"tan"
            | b"cot"
            | b"sec"
            | b"csc"
            | b"arcsin"
            | b"arccos"
            | b"arctan"
            | b"sinh"
            | b"cosh"
            | b"tanh"
            | b"log"
            | b"exp"
            | b"lim"
            | b"max"
            | b"min"
            | b"gcd"
            | b"lcm"
            | b"mod"
            | b"det"
            | b"sqrt"
            | b"sup"
            | b"inf"
            | b"deg"
            | b"sgn"
            | b"arg"
            | b"dim"
            | b"ker"
    )
}

fn is_unit(word: &[u8]) -> bool {
    matches!(
        word,
        b"kWh"
            | b"kPa"
            | b"MPa"
            | b"kHz"
            | b"MHz"
            | b"GHz"
            | b"mol"
            | b"kcal"
            | b"mph"
            | b"kmh"
            | b"rad"
            | b"ppm"
            | b"rpm"
            | b"lbs"
            | b"mmHg"
            | b"mAh"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_words() {
        for (before, word, behind) in [
            ("", "x", " = 3"),
            ("△", "ABC", ""),
            ("", "A'B'C'", ""),
            ("用了 42 ", "km", "，"),
            ("", "sin", " 30°"),
            ("在", "xy", "平面"),
            ("2", "abc", ""),
            ("体积 ", "abc", " = 6"),
            ("", "kWh", ""),
        ] {
            assert!(is_name(word, Script::Latin, before, behind), "{word}");
        }
        for word in ["α", "αβ"] {
            assert!(is_name(word, Script::Greek, "2", " = 1"), "{word}");
        }
    }

    #[test]
    fn words_are_no_names() {
        for word in ["is", "of", "think", "and", "the", "area", "therefore", "EQUALS", "Let", "café"] {
            assert!(!is_name(word, Script::Latin, "我们 ", " 是"), "{word}");
        }
        assert!(!is_name("γωνία", Script::Greek, "", "") && !is_name("και", Script::Greek, " ", " "));
        assert!(!is_name("и", Script::Cyrillic, "", "") && !is_name("是", Script::Han, "", ""));
    }
}
