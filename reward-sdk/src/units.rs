//! Units after a number. A few are known, so that `5 km` does not pass for `5 m`; any other plain words are taken for what is
//! counted (`18 eggs`) and ignored.

use crate::number::Token;
use crate::number::lexer;

/// Spellings of the known units; the first is the canonical one. Plurals in `s` are understood.
const KNOWN: &[&[&str]] = &[
    &["mm", "millimeter", "millimetre"],
    &["cm", "centimeter", "centimetre"],
    &["m", "meter", "metre"],
    &["km", "kilometer", "kilometre"],
    &["inch", "inches"],
    &["ft", "foot", "feet"],
    &["yd", "yard"],
    &["mile", "mi"],
    &["mg", "milligram"],
    &["g", "gram"],
    &["kg", "kilogram", "kilo"],
    &["lb", "pound"],
    &["oz", "ounce"],
    &["ml", "milliliter", "millilitre"],
    &["l", "liter", "litre"],
    &["gallon", "gal"],
    &["s", "second", "sec"],
    &["min", "minute"],
    &["h", "hour", "hr"],
    &["day"],
    &["week"],
    &["month"],
    &["year", "yr"],
    &["dollar", "usd", "buck"],
    &["cent"],
    &["euro", "eur"],
    &["sterling", "gbp"],
    &["yen", "jpy"],
    &["degree"],
    &["celsius", "c"],
    &["fahrenheit", "f"],
];

/// Things that are counted, whose singular is refused below: `5 points`, `6 pairs`, `3 bases`.
const COUNTED: &[&str] = &["points", "pairs", "times", "bases"];

/// Words that change the number, or join it to another: after them nothing is understood.
const REFUSED: &[&str] = &[
    "and",
    "or",
    "to",
    "than",
    "not",
    "no",
    "nor",
    "plus",
    "minus",
    "times",
    "over",
    "by",
    "point",
    "if",
    "but",
    "except",
    "is",
    "are",
    "was",
    "more",
    "less",
    "fewer",
    "remainder",
    "mod",
    "base",
    "squared",
    "cubed",
    "factorial",
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "dozen",
    "score",
    "pair",
    "half",
    "halves",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "quarter",
    "hundredth",
    "thousandth",
    "pi",
    "sqrt",
    "x",
    "e",
    "k",
    "bn",
    "mn",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
];

const WORDS_MAX: usize = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Canonical words, `/` for "per", powers as digits: `km / h`, `m 2`.
    words: Vec<String>,
    /// Every word is one of the known units.
    known: bool,
}

impl Unit {
    pub fn currency(name: &str) -> Unit {
        Unit { words: vec![name.into()], known: true }
    }

    /// Nothing but degrees of an angle.
    pub fn is_degree(&self) -> bool {
        self.words == ["degree"]
    }

    /// Both are known units, and not the same.
    pub fn contradicts(&self, other: &Unit) -> bool {
        self.known && other.known && self.words != other.words
    }
}

/// The unit that `text` is, whole: `km/h`, `\text{ cm}^2`, `square meters`, `^\circ`; `None` for anything that is no unit.
pub fn read(text: &str) -> Option<Unit> {
    const BYTES_MAX: usize = 120;
    if text.len() > BYTES_MAX {
        return None;
    }
    // `sq. units`, `in.`
    parse(&lexer::tokens(&text.replace('.', " "))?).flatten()
}

/// The unit that the tokens after a number are, whole: `Some(None)` for no tokens, `None` for anything that is no unit.
pub(crate) fn parse(tokens: &[Token<'_>]) -> Option<Option<Unit>> {
    let mut unit = Unit { words: Vec::new(), known: true };
    let mut power = None;
    let mut tokens = tokens.iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word { text, roman } => {
                let word = text.to_lowercase();
                match word.as_str() {
                    "per" | "a" | "an" if !unit.words.is_empty() => unit.words.push("/".into()),
                    "square" | "sq" => power = Some("2"),
                    "cubic" => power = Some("3"),
                    _ => {
                        let follows_degree = unit.words.last().is_some_and(|last| last == "degree");
                        if word.chars().count() == 1 && !roman && !follows_degree && unit.words.is_empty() {
                            return None;
                        }
                        unit.known &= unit.push(&word)?;
                        unit.words.extend(power.take().map(String::from));
                    }
                }
            }
            Token::Currency(name) if unit.words.is_empty() => unit.words.push((*name).into()),
            Token::Degree => unit.words.push("degree".into()),
            Token::Slash if !unit.words.is_empty() => unit.words.push("/".into()),
            Token::Superscript(digit) if !unit.words.is_empty() => unit.words.push(digit.to_string()),
            // `m^2`, `m^{2}`; `^\circ`
            Token::Caret => {
                let braced = tokens.next_if(|token| **token == Token::Open('}')).is_some();
                match tokens.next()? {
                    Token::Degree => unit.words.push("degree".into()),
                    Token::Number(literal)
                        if literal.is_integer() && matches!(literal.digits.as_str(), "2" | "3") && !unit.words.is_empty() =>
                    {
                        unit.words.push(literal.digits.clone());
                    }
                    _ => return None,
                }
                if braced {
                    tokens.next_if(|token| **token == Token::Close('}'))?;
                }
            }
            _ => return None,
        }
        if unit.words.len() > WORDS_MAX {
            return None;
        }
    }
    if power.is_some() || unit.words.last().is_some_and(|last| last == "/") {
        return None;
    }
    Some(if unit.words.is_empty() { None } else { Some(unit) })
}

impl Unit {
    /// Adds a word; whether it is a known unit. `None` for a word that no unit contains.
    fn push(&mut self, word: &str) -> Option<bool> {
        let singular = word.strip_suffix('s').filter(|stem| stem.len() > 1).unwrap_or(word);
        if REFUSED.contains(&word) || (REFUSED.contains(&singular) && !COUNTED.contains(&word)) {
            return None;
        }
        let canonical = KNOWN.iter().find(|spellings| spellings.contains(&word) || spellings.contains(&singular));
        self.words.push(canonical.and_then(|spellings| spellings.first()).map_or(singular, |name| name).into());
        Some(canonical.is_some())
    }
}

/// Whether a lower-case word is one of the known units of two letters or more, or begins one.
pub fn is_known(word: &str) -> bool {
    let singular = word.strip_suffix('s').filter(|stem| stem.len() > 1).unwrap_or(word);
    let spelt = |spellings: &&[&str]| spellings.contains(&word) || spellings.contains(&singular);
    matches!(word, "sq" | "square" | "cubic") || (word.len() > 1 && KNOWN.iter().any(spelt))
}
