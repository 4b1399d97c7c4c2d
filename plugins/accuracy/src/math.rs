//! An answer against a reference, both as texts.

use crate::applications::Applications;
use crate::compare::Compare;
use crate::comparison::{Comparison, Verdict};
use crate::expression::Expr;
use crate::fonts::{FONTS, unfonted};
use crate::lexer::{BYTES_MAX, Commas};
use crate::lines::Line;
use crate::statements::Statement;
use crate::{
    antiderivatives, binomials, chinese, choice, named, ordered, parse, remainder, sentence,
    spelled, text, vectors,
};
use reward_sdk::answers::excerpt;
use reward_sdk::number;

/// The longest text, in bytes, that counts as an answer in words though it is not a formula.
const WORDS_BYTES_MAX: usize = 120;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Right,
    /// The answer is wrong, for this reason.
    Wrong(String),
    /// The reference cannot be read, for this reason.
    Unusable(String),
}

pub(crate) fn judge(reference: &str, answer: &str, lenient: bool) -> Outcome {
    match as_written(reference, answer, lenient) {
        // What is no answer as it stands may be a sentence that states one.
        Outcome::Wrong(why) => match sentence::value(number::unwrap(answer)) {
            Some(value) if as_written(reference, &value, lenient) == Outcome::Right => {
                Outcome::Right
            }
            _ => Outcome::Wrong(why),
        },
        Outcome::Unusable(why) => match sentence::value(number::unwrap(reference))
            .filter(|_| sentence::states(reference))
        {
            Some(value) if !matches!(as_written(&value, answer, lenient), Outcome::Unusable(_)) => {
                self::judge(&value, answer, lenient)
            }
            _ => Outcome::Unusable(why),
        },
        Outcome::Right => Outcome::Right,
    }
}

fn as_written(reference: &str, answer: &str, lenient: bool) -> Outcome {
    // What is left of `42\ ` or `42 \\` once it is trimmed.
    let whole = |text: &str| {
        text.trim_end_matches(|c: char| c == '\\' || c.is_whitespace())
            .to_string()
    };
    let (r, a) = (
        whole(number::unwrap(reference)),
        whole(number::unwrap(answer)),
    );
    let a = if a.contains(['(']) {
        text::without_rejected(&a).unwrap_or(a)
    } else {
        a
    };
    let (r, a) = (bare(r), bare(a));
    let (r, a) = (text::without_remark(&r), text::without_remark(&a));
    let (r, a) = (r.as_str(), a.as_str());
    // Most answers are figures already.
    let words = |text: &str| {
        text.bytes()
            .any(|byte| byte.is_ascii_alphabetic() || !byte.is_ascii())
    };
    let figures = |text: &str| {
        chinese::in_signs(text)
            .or_else(|| spelled::numeral(text))
            .or_else(|| spelled::quantity(text))
            .or_else(|| text::share(text))
            .or_else(|| text::all_but(text))
    };
    if let (true, Some(r)) = (words(r) && words(a), named::read(r))
        && let Some(a) = named::read(a)
        && r.keys().eq(a.keys())
    {
        let same = |(r, a): (&String, &String)| self::judge(r, a, lenient) == Outcome::Right;
        let all = r.values().zip(a.values()).all(same);
        return if all {
            Outcome::Right
        } else {
            Outcome::Wrong(format!("wrong answer: {}", excerpt(answer)))
        };
    }
    let in_figures = |text: &str| if words(text) { figures(text) } else { None };
    let (spelled_r, spelled_a) = (in_figures(r), in_figures(a));
    let (r, a) = (
        spelled_r.as_deref().unwrap_or(r),
        spelled_a.as_deref().unwrap_or(a),
    );
    if r.is_empty() {
        return Outcome::Unusable("the reference is empty".into());
    }
    if r.len() > BYTES_MAX {
        return Outcome::Unusable(format!(
            "the reference is too long to be read: {}",
            excerpt(r)
        ));
    }
    if text::is_numeral(r) {
        return Outcome::Unusable(format!(
            "the reference is a number in words: {}",
            excerpt(r)
        ));
    }
    let wrong = |why: &str| Outcome::Wrong(format!("{why}: {}", excerpt(answer)));
    if !lenient
        && !r.contains('=')
        && !a.contains('=')
        && let (Some(x), Some(y)) = (number::read(r), number::read(a))
    {
        return if x.agrees_with(&y) {
            Outcome::Right
        } else {
            wrong("wrong answer")
        };
    }
    if a.len() <= BYTES_MAX && squeezed(r) == squeezed(a) {
        return Outcome::Right;
    }
    // `(D) 24` is asked for: its letter will do, or its value; both where both are given.
    if let Some((letter, value)) = lettered(r) {
        let (given, rest) = lettered(a).map_or((None, a), |(given, rest)| (Some(given), rest));
        return match lone_letter(a).or(given) {
            Some(given) if given != letter => wrong("wrong answer"),
            Some(_) if lettered(a).is_none() => Outcome::Right,
            _ => self::judge(value, rest, lenient),
        };
    }
    if let Some(truth) = remainder::read(r) {
        return if remainder::read(a) == Some(truth) {
            Outcome::Right
        } else {
            wrong("wrong answer")
        };
    }
    if let (Some(r), Some(a)) = (text::date(r), text::date(a)) {
        return if r == a {
            Outcome::Right
        } else {
            wrong("wrong answer")
        };
    }
    let judge = Comparison::new(&[r, a]);
    let compare = Compare {
        judge: &judge,
        lenient,
    };
    // The letter of a choice, with what it stands for: `(B) 12`.
    let signed = a.trim_start_matches("\\text{").starts_with(['-', '+']);
    if let (Some(letter), false, Some(chosen)) = (lone_letter(r), signed, choice::read(a))
        && chosen.len() == 1
        && chosen.contains(&letter)
        && names_choice(a, letter)
    {
        return Outcome::Right;
    }
    if is_word(r) && is_word(a) && !is_choices(r) {
        return wrong("wrong answer");
    }
    // Several choices: `ACD`, `A, C, D`.
    if let (Some(letters), Some(chosen)) = (choice::several(r), choice::several(a))
        && letters == chosen
    {
        return Outcome::Right;
    }
    if r.contains('\\') && ordered::turned(r, a) {
        return Outcome::Right;
    }
    if let Some(truth) = Line::read(r, false)
        && let Some(given) = Line::read(a, true)
    {
        return if truth.same(&given) == Some(true) {
            Outcome::Right
        } else {
            wrong("wrong answer")
        };
    }
    let applications = Applications::of(r, a);
    let truth_of = |text: &str, commas: Commas| read(text, commas, &applications);
    let given_of =
        |text: &str, commas: Commas| Some(applications.renamed(read(text, commas, &applications)?));
    let Some(read_truth) = truth_of(r, Commas::Group) else {
        if let Some(truth) = Statement::read(r).filter(|_| !r.contains('|')) {
            let side =
                |r: &str, a: &str| match (truth_of(r, Commas::Group), given_of(a, Commas::Group)) {
                    (Some(r), Some(a)) => compare.same(&r, &a) == Verdict::Equal,
                    _ => false,
                };
            let said = |r: &str, a: &str| self::judge(r, a, lenient) == Outcome::Right;
            let same = a.len() <= BYTES_MAX
                && Statement::read(a).is_some_and(|given| truth.same(&given, side, said));
            return if same && !ordered::differ(r, a) {
                Outcome::Right
            } else {
                wrong("wrong answer")
            };
        }
        return Outcome::Unusable(format!("the reference cannot be read: {}", excerpt(r)));
    };
    if a.len() > BYTES_MAX {
        return wrong("too long to be read");
    }
    let given = given_of(a, Commas::Group)
        .or_else(|| last_side(a).and_then(|side| given_of(side, Commas::Group)));
    let mut verdict = given.map(|given| {
        let (truth, given) = vectors::resolved(read_truth, given);
        let (truth, given) = binomials::resolved(truth, given);
        let given = antiderivatives::resolved(&judge, &truth, given);
        compare.same_but_for_notes(&truth, &given)
    });
    // `1,234` may also be two numbers.
    if verdict != Some(Verdict::Equal)
        && (grouped(r) || grouped(a))
        && let (Some(truth), Some(given)) =
            (truth_of(r, Commas::Separate), given_of(a, Commas::Separate))
        && compare.same(&truth, &given) == Verdict::Equal
    {
        verdict = Some(Verdict::Equal);
    }
    if lenient && verdict != Some(Verdict::Equal) && decimal_comma(r) != decimal_comma(a) {
        let (r, a) = (r.replace(',', "."), a.replace(',', "."));
        if let (Some(truth), Some(given)) =
            (truth_of(&r, Commas::Group), given_of(&a, Commas::Group))
        {
            verdict = Some(compare.same(&truth, &given));
        }
    }
    // `6 m/s` in plain letters.
    if verdict != Some(Verdict::Equal)
        && (roman_unit(r).is_some() || roman_unit(a).is_some())
        && let (Some(truth), Some(given)) = (
            truth_of(&roman_unit(r).unwrap_or_else(|| r.into()), Commas::Group),
            given_of(&roman_unit(a).unwrap_or_else(|| a.into()), Commas::Group),
        )
        && compare.same(&truth, &given) == Verdict::Equal
    {
        verdict = Some(Verdict::Equal);
    }
    match verdict {
        Some(Verdict::Equal) if ordered::differ(r, a) => wrong("too complex to decide"),
        Some(Verdict::Equal) => Outcome::Right,
        // What is not worked out may still be the same.
        Some(Verdict::Different)
            if [r, a]
                .iter()
                .any(|text| text.contains("\\int") || text.contains("\\lim")) =>
        {
            wrong("too complex to decide")
        }
        Some(Verdict::Different) => wrong("wrong answer"),
        Some(Verdict::Undecided) => wrong("too complex to decide"),
        None => wrong("not understood"),
    }
}

/// Takes Chinese words and units out of what is set around them, `\text{无解}`, `8(个)`; writes lists
/// of lengths as lists, and `5'6''` in feet and inches.
fn bare(text: String) -> String {
    let han = text.contains(|c: char| matches!(c, '\u{4e00}'..='\u{9fff}'));
    if han {
        let unfonted = if text.starts_with("\\text") {
            unfonted(&text)
        } else {
            text
        };
        return text::with_bracketed_unit(&unfonted).unwrap_or(unfonted);
    }
    if text.contains('\'') {
        return text::in_feet(&text).unwrap_or(text);
    }
    if text.contains(" and") {
        text::listed(&text).unwrap_or(text)
    } else {
        text
    }
}

/// The answer in a text: a formula, or else a few plain words.
fn read(text: &str, commas: Commas, applications: &Applications) -> Option<Expr> {
    parse::read(text, commas, applications).or_else(|| {
        let text = unfonted(text);
        let words = text.len() <= WORDS_BYTES_MAX
            && text
                .chars()
                .any(|c| c.is_alphabetic() || text::is_circled(c))
            && !text.contains(['\\', '=', '^', '_', '<', '>']);
        words.then_some(Expr::Text(text))
    })
}

/// The result of a calculation that is not understood otherwise: `9 \times \$2 = \$18` → `\$18`.
fn last_side(text: &str) -> Option<&str> {
    let (before, last) = text.rsplit_once('=')?;
    // `The solution is not x=2`
    if sentence::denies(before) {
        return None;
    }
    const OTHERS: [&str; 16] = [
        ",",
        ";",
        "<",
        ">",
        "!",
        ":",
        "\\n",
        "\\l",
        "\\g",
        "\\approx",
        "\\begin",
        "\\pm",
        "\\text{ or",
        "\\text{ and",
        " or ",
        " and ",
    ];
    let sums = !before.trim().is_empty()
        && !OTHERS.iter().any(|other| before.contains(other))
        && !names_within_words(before);
    (sums && last.contains(|c: char| c.is_ascii_digit())).then(|| last.trim())
}

/// Words that lead to an equation and say nothing against it.
const LEADING: [&str; 34] = [
    "the",
    "a",
    "equation",
    "of",
    "line",
    "tangent",
    "solution",
    "answer",
    "function",
    "formula",
    "general",
    "particular",
    "final",
    "required",
    "is",
    "so",
    "thus",
    "hence",
    "therefore",
    "then",
    "curve",
    "circle",
    "parabola",
    "ellipse",
    "hyperbola",
    "plane",
    "axis",
    "symmetry",
    "asymptote",
    "we",
    "get",
    "have",
    "obtain",
    "only",
];

/// Whether words end in a letter that an equation is about, and may say something against it: `We
/// reject x`, `All numbers except x`.
fn names_within_words(before: &str) -> bool {
    let han = |c: char| matches!(c, '\u{4e00}'..='\u{9fff}');
    let before = before.trim_end_matches([' ', '$', '(']);
    let start = before
        .rfind(|c: char| c.is_whitespace() || c == '$' || han(c))
        .map_or(0, |at| at + 1);
    // Within the last character of the words, where that is a Chinese one.
    let (Some(words), name) = (
        before.get(..before.ceil_char_boundary(start)),
        before.get(before.ceil_char_boundary(start)..),
    ) else {
        return false;
    };
    let letters = name
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_alphabetic())
        .count();
    let against = |word: &str| {
        let word = word.trim_end_matches([',', ':']);
        word.chars().count() > 1
            && word.chars().all(|c| c.is_ascii_alphabetic() || c == '\'')
            && !LEADING.contains(&word.to_ascii_lowercase().as_str())
    };
    (1..=2).contains(&letters) && (words.contains(han) || words.split_whitespace().any(against))
}

/// Reads a reference that is one capital letter, as choices are.
fn lone_letter(text: &str) -> Option<char> {
    const BYTES_MAX: usize = 15;
    (text.len() <= BYTES_MAX && text.bytes().filter(u8::is_ascii_uppercase).count() == 1)
        .then_some(())?;
    let mut letters = choice::written(text)?.into_iter();
    let letter = letters
        .next()
        .filter(|letter| ('A'..='F').contains(letter))?;
    letters.next().is_none().then_some(letter)
}

/// Whether an answer that chooses a letter is no formula of it: not `-A` or `+A`, nor the constant
/// `e`.
fn names_choice(answer: &str, letter: char) -> bool {
    let before = answer.split(letter).next().unwrap_or_default();
    answer != "e" && !before.trim_end().ends_with(['-', '−', '+'])
}

/// Whether a text is three capitals or more, whose order counts: `LISTEN` is not `SILENT`.
fn is_word(text: &str) -> bool {
    text.len() >= 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Whether a word may be several choices: `ACD`.
fn is_choices(word: &str) -> bool {
    word.bytes().all(|byte| (b'A'..=b'J').contains(&byte)) && word.as_bytes().is_sorted()
}

/// The letter of a choice in a font, and what it stands for: `\textbf{(D)}\ 24`.
fn lettered(text: &str) -> Option<(char, &str)> {
    let inside = FONTS.iter().find_map(|font| text.strip_prefix(font))?;
    let (letter, value) = inside.trim_start().strip_prefix('(')?.split_once(')')?;
    let value = value
        .trim_start()
        .strip_prefix('}')?
        .trim_start_matches(|c: char| c == '~' || c == '\\' || c == ':' || c.is_whitespace());
    let mut letters = letter.chars();
    let letter = letters
        .next()
        .filter(|letter| ('A'..='F').contains(letter))?;
    // What begins with a command has lost its backslash: it is put back.
    let value = text
        .get(text.len() - value.len() - 1..)
        .filter(|with| with.starts_with('\\') && value.starts_with(char::is_alphabetic))
        .unwrap_or(value);
    (letters.next().is_none() && !value.is_empty()).then_some((letter, value))
}

/// A number, a space and a unit of single letters, written as a unit: `6 m/s` → `6 \text{m/s}`.
fn roman_unit(text: &str) -> Option<String> {
    let at = text.find(|c: char| c.is_alphabetic())?;
    let (number, unit) = text.split_at_checked(at)?;
    let letters = unit.chars().all(|c| "mgshlLkcNJWVA/^23²³".contains(c));
    (number.ends_with(' ') && letters && !number.contains('\\'))
        .then(|| format!("{number}\\text{{{unit}}}"))
}

/// Returns the text without white space and sizing, and with one name for all fractions.
fn squeezed(text: &str) -> String {
    // `1 2` is not 12.
    let mut words = text.split_whitespace();
    let mut plain = String::from(words.next().unwrap_or_default());
    for word in words {
        if plain.ends_with(|c: char| c.is_ascii_digit())
            && word.starts_with(|c: char| c.is_ascii_digit())
        {
            plain.push(' ');
        }
        plain.push_str(word);
    }
    if plain.contains('\\') {
        for (long, short) in [
            ("\\left", ""),
            ("\\right", ""),
            ("\\dfrac", "\\frac"),
            ("\\tfrac", "\\frac"),
            ("\\,", ""),
            ("\\!", ""),
            ("\\;", ""),
        ] {
            plain = plain.replace(long, short);
        }
    }
    plain
}

/// Whether commas stand as between groups of three digits.
fn grouped(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.match_indices(',').any(|(at, _)| {
        let digits = |range: std::ops::Range<usize>| {
            bytes
                .get(range)
                .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
        };
        at > 0 && digits(at - 1..at) && digits(at + 1..at + 4)
    })
}

/// `1,5`
fn decimal_comma(text: &str) -> bool {
    let mut parts = text.trim_start_matches('-').split(',');
    let digits = |part: Option<&str>| {
        part.is_some_and(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    digits(parts.next()) && digits(parts.next()) && parts.next().is_none()
}
