//! Names that texts of every language use: of variables, points, functions and units. They are not
//! words of any language.

use unicode_script::Script;

/// Whether a run of letters is a name rather than a word, with the text before and behind it:
///
/// - one Latin or Greek letter: `x`, `θ`, the `r` of `πr²`;
/// - up to four capitals, as of points: `AB`, `△ABC`;
/// - a function or a unit: `sin`, `km`, `kWh`;
/// - functions glued to their arguments, `sinA`, `bcosC`, and chemical formulas, `NaOH`;
/// - two letters that no English word is, `xy`, and three in a formula: `2abc`, `abc = 6`.
///   Markdown's `*` and `_` make no formula.
pub(crate) fn is_name(word: &str, script: Script, before: &str, behind: &str) -> bool {
    match (script, word.as_bytes()) {
        (Script::Latin, [_]) => true,
        (Script::Latin, b"rank") if behind.starts_with('(') => true,
        (Script::Latin, bytes)
            if word.is_ascii() && (is_application(bytes) || is_compound(bytes)) =>
        {
            true
        }
        (Script::Latin, bytes) if word.is_ascii() => match bytes.len() {
            2 => !is_short_english(bytes) || is_capitals(bytes),
            3 => {
                is_capitals(bytes)
                    || is_function(bytes)
                    || is_unit(bytes)
                    || in_formula(before, behind)
            }
            4..=6 => is_capitals(bytes) || is_function(bytes) || is_unit(bytes),
            7 | 8 => is_capitals(bytes),
            _ => false,
        },
        (Script::Latin | Script::Greek, bytes) if bytes.len() <= OTHER_BYTES_MAX => {
            match word.chars().count() {
                1 => true,
                2 => script == Script::Latin || in_formula(before, behind),
                3 => in_formula(before, behind),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether a word is functions glued to a letter before and one behind: `sinA`, `bcosC`,
/// `sinBcosC`; of small letters only x and y stand behind one, because `cost` and `since` are
/// words.
fn is_application(word: &[u8]) -> bool {
    const FUNCTIONS: [&[u8]; 12] = [
        b"sin", b"cos", b"tan", b"cot", b"sec", b"csc", b"log", b"ctg", b"tg", b"ln", b"lg",
        b"arctan",
    ];
    const BYTES_MAX: usize = 24;
    // The first letters rule out most words.
    let begins = |word: &[u8]| {
        matches!(
            word,
            [b's', b'i' | b'e', ..]
                | [b'c', b'o' | b's' | b't', ..]
                | [b't', b'a' | b'g', ..]
                | [b'l', b'o' | b'n' | b'g', ..]
                | [b'a', b'r', ..]
        )
    };
    if word.len() > BYTES_MAX || !(begins(word) || word.get(1..).is_some_and(begins)) {
        return false;
    }
    if !word
        .iter()
        .any(|byte| byte.is_ascii_uppercase() || matches!(byte, b'x' | b'y'))
    {
        return false;
    }
    let applied = |word: &[u8]| -> Option<usize> {
        let name = FUNCTIONS.iter().find(|name| word.starts_with(name))?;
        word.get(name.len())
            .filter(|byte| byte.is_ascii_uppercase() || matches!(byte, b'x' | b'y'))?;
        Some(name.len() + 1)
    };
    let mut rest = word;
    while !rest.is_empty() {
        let behind = applied(rest).or_else(|| applied(rest.get(1..)?).map(|length| length + 1));
        let Some(behind) = behind else { return false };
        rest = rest.get(behind..).unwrap_or_default();
    }
    !word.is_empty()
}

/// Whether a word is two or more symbols of the elements that chemistry at school knows: `HCl`,
/// `NaOH`, the `SO` of `H2SO4`.
fn is_compound(word: &[u8]) -> bool {
    const ELEMENTS: [&str; 43] = [
        "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S",
        "Cl", "Ar", "K", "Ca", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Br", "Kr", "Ag", "Sn",
        "I", "Xe", "Cs", "Ba", "Pt", "Au", "Hg", "Pb", "Ra", "U", "Ti", "Cd",
    ];
    const BYTES_MAX: usize = 12;
    if !word.first().is_some_and(u8::is_ascii_uppercase) {
        return false;
    }
    let capitals = word.iter().filter(|byte| byte.is_ascii_uppercase()).count();
    if word.len() > BYTES_MAX || capitals < 2 || capitals == word.len() {
        return false;
    }
    let mut rest = word;
    while let Some(first) = rest.first() {
        let small = rest.get(1).is_some_and(u8::is_ascii_lowercase);
        let Some((symbol, after)) = rest.split_at_checked(if small { 2 } else { 1 }) else {
            return false;
        };
        if !first.is_ascii_uppercase()
            || !ELEMENTS.iter().any(|element| element.as_bytes() == symbol)
        {
            return false;
        }
        rest = after;
    }
    true
}

/// Most bytes of up to three letters that are not ASCII.
const OTHER_BYTES_MAX: usize = 9;

/// Whether a word is up to four capitals, with or without primes between them: `ABC`, `A'B'`.
fn is_capitals(word: &[u8]) -> bool {
    const LETTERS_MAX: usize = 4;
    word.iter()
        .all(|byte| byte.is_ascii_uppercase() || *byte == b'\'')
        && word.iter().filter(|byte| **byte != b'\'').count() <= LETTERS_MAX
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

/// Whether an operator, a relation or a digit stands beside a word. A digit behind a blank does not
/// count, as in `3 and` or `the 5`.
fn in_formula(before: &str, behind: &str) -> bool {
    let (last, next) = (before.as_bytes().last(), behind.as_bytes().first());
    if last.is_some_and(u8::is_ascii_digit) || next.is_some_and(u8::is_ascii_digit) {
        return true;
    }
    let (last, next) = match (last, next) {
        // Most words stand between two blanks and letters.
        (Some(b' '), Some(b' ')) => (
            before.as_bytes().get(before.len().wrapping_sub(2)),
            behind.as_bytes().get(1),
        ),
        other => other,
    };
    if [last, next]
        .into_iter()
        .flatten()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b',' | b'.' | b'\n'))
    {
        return false;
    }
    let sign = |c: char| {
        matches!(c, '=' | '+' | '<' | '>' | '^')
            || matches!(
                c,
                '×' | '·'
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
    before.trim_end_matches(' ').ends_with(sign) || behind.trim_start_matches(' ').starts_with(sign)
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
            | b"ctg"
            | b"arctg"
            | b"arcctg"
            | b"cosec"
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
            ("，", "sinA", "=3"),
            ("且", "bcosC", "+"),
            ("", "sinBcosC", "+"),
            ("", "cosx", "+"),
            ("用", "HCl", "滴定"),
            ("", "NaOH", "，"),
            ("", "rank", "(A)"),
            ("", "ctg", " γ"),
        ] {
            assert!(is_name(word, Script::Latin, before, behind), "{word}");
        }
        for word in ["α", "αβ"] {
            assert!(is_name(word, Script::Greek, "2", " = 1"), "{word}");
        }
    }

    #[test]
    fn words_are_no_names() {
        for word in [
            "is",
            "of",
            "think",
            "and",
            "the",
            "area",
            "therefore",
            "EQUALS",
            "Let",
            "café",
            "since",
            "cost",
            "using",
            "second",
            "Basic",
            "rank",
            "logic",
            "Cos",
        ] {
            assert!(!is_name(word, Script::Latin, "我们 ", " 是"), "{word}");
        }
        // Emphasis is no product: `This is *not* it`.
        for (before, word, behind) in [("", "is", " *"), ("**", "not", "**"), ("_", "and", "_")] {
            assert!(!is_name(word, Script::Latin, before, behind), "{word}");
        }
        assert!(
            !is_name("McDonald", Script::Latin, "", "")
                && !is_name("iPhone", Script::Latin, "", "")
        );
        assert!(
            !is_name("γωνία", Script::Greek, "", "") && !is_name("και", Script::Greek, " ", " ")
        );
        assert!(!is_name("и", Script::Cyrillic, "", "") && !is_name("是", Script::Han, "", ""));
    }
}
