//! Units after a number. A few are known: `5 km` does not pass for `5 m`, and `1 km` is `1000 m`; any other plain words are taken for what
//! is counted (`18 eggs`) and ignored.

use crate::number::Token;
use crate::number::lexer;
use crate::rational::Rational;

/// What a unit measures, as powers of length, mass, time, calendar time and dollars, and how many of the base units one is: a fraction.
type Measure = ([i8; 5], u64, u64);

const fn length(above: u64, below: u64) -> Option<Measure> {
    Some(([1, 0, 0, 0, 0], above, below))
}

/// In cubic metres.
const fn volume(above: u64, below: u64) -> Option<Measure> {
    Some(([3, 0, 0, 0, 0], above, below))
}

const fn mass(above: u64, below: u64) -> Option<Measure> {
    Some(([0, 1, 0, 0, 0], above, below))
}

const fn time(seconds: u64) -> Option<Measure> {
    Some(([0, 0, 1, 0, 0], seconds, 1))
}

/// Months have no fixed number of days.
const fn calendar(months: u64) -> Option<Measure> {
    Some(([0, 0, 0, 1, 0], months, 1))
}

const fn money(cents: u64) -> Option<Measure> {
    Some(([0, 0, 0, 0, 1], cents, 1))
}

/// Spellings of the known units; the first is the canonical one. Plurals in `s` are understood. What has no measure is converted into nothing.
const KNOWN: &[(&[&str], Option<Measure>)] = &[
    (&["mm", "millimeter", "millimetre", "毫米"], length(1, 1_000)),
    (&["cm", "centimeter", "centimetre", "厘米"], length(1, 100)),
    (&["dm", "decimeter", "decimetre", "分米"], length(1, 10)),
    (&["m", "meter", "metre", "米"], length(1, 1)),
    (&["km", "kilometer", "kilometre", "千米", "公里"], length(1_000, 1)),
    (&["inch", "inches", "in"], length(254, 10_000)),
    (&["ft", "foot", "feet"], length(3_048, 10_000)),
    (&["yd", "yard"], length(9_144, 10_000)),
    (&["mile", "mi"], length(1_609_344, 1_000)),
    (&["mg", "milligram"], mass(1, 1_000)),
    (&["g", "gram", "克"], mass(1, 1)),
    (&["kg", "kilogram", "kilo", "千克", "公斤"], mass(1_000, 1)),
    (&["lb", "pound"], mass(45_359_237, 100_000)),
    (&["oz", "ounce"], mass(45_359_237, 1_600_000)),
    (&["ml", "milliliter", "millilitre", "毫升"], volume(1, 1_000_000)),
    (&["l", "liter", "litre", "升"], volume(1, 1_000)),
    (&["gallon", "gal"], volume(3_785_411_784, 1_000_000_000_000)),
    (&["s", "second", "sec", "秒"], time(1)),
    (&["min", "minute", "分钟"], time(60)),
    (&["h", "hour", "hr", "小时", "时"], time(3_600)),
    (&["day", "天"], time(86_400)),
    (&["week", "周"], time(604_800)),
    (&["month"], calendar(1)),
    (&["year", "yr"], calendar(12)),
    (&["dollar", "usd", "buck"], money(100)),
    (&["cent"], money(1)),
    (&["euro", "eur"], None),
    (&["sterling", "gbp"], None),
    (&["yen", "jpy"], None),
    (&["yuan", "rmb", "cny", "元"], None),
    (&["degree", "度"], None),
    (&["rad", "radian"], None),
    (&["celsius", "c"], None),
    (&["fahrenheit", "f"], None),
    (&["am"], None),
    (&["pm"], None),
];

/// Units that are written as one word and mean two.
const SHORT: [(&str, [&str; 3]); 4] =
    [("mph", ["mile", "/", "h"]), ("kph", ["km", "/", "h"]), ("kmh", ["km", "/", "h"]), ("mps", ["m", "/", "s"])];

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

/// Words that turn what is measured into its opposite: `20\% increase` is no `20\% decrease`.
const OPPOSITES: &[(&[&str], &[&str])] = &[
    (&["increase", "gain", "profit", "rise", "growth"], &["decrease", "loss", "drop", "fall", "decline"]),
    (&["up", "above"], &["down", "below"]),
    (&["north"], &["south"]),
    (&["east"], &["west"]),
    (&["left"], &["right"]),
    (&["clockwise"], &["counterclockwise", "anticlockwise"]),
    (&["early", "before", "ago"], &["late", "after"]),
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

    pub fn is_radian(&self) -> bool {
        self.words == ["rad"]
    }

    /// Not merely what is counted.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// What a number of this unit is multiplied by to be one of the other: 1 where they are the same or one of them is not known,
    /// 1000 from `km` to `m`; `None` for units that measure different things, or that nothing converts.
    pub fn factor(&self, other: &Unit) -> Option<Rational> {
        if !self.known || !other.known {
            let says = |unit: &Unit, side: &[&str]| unit.words.iter().any(|word| side.contains(&word.as_str()));
            let opposite = |a: &Unit, b: &Unit| OPPOSITES.iter().any(|(one, two)| says(a, one) && says(b, two));
            if opposite(self, other) || opposite(other, self) {
                return None;
            }
            // `units^2` is not `units^3`.
            let power = |word: &String| matches!(word.as_str(), "2" | "3");
            let bare = |unit: &Unit| unit.words.iter().filter(|word| !power(word)).cloned().collect::<Vec<String>>();
            let contradicts = self.words != other.words
                && bare(self) == bare(other)
                && self.words.iter().any(power)
                && other.words.iter().any(power);
            return (!contradicts).then(|| Rational::integer(1));
        }
        if self.words == other.words {
            return Some(Rational::integer(1));
        }
        let ((own, factor), (wanted, divisor)) = (self.measure()?, other.measure()?);
        if own == wanted { factor.divide(&divisor) } else { None }
    }

    /// Its dimensions, and how many base units it is.
    fn measure(&self) -> Option<([i8; 5], Rational)> {
        let mut dimensions = [0i8; 5];
        let mut factor = Rational::integer(1);
        let mut words = self.words.iter().map(String::as_str).peekable();
        let mut sign = 1;
        while let Some(word) = words.next() {
            if word == "/" {
                sign = -1;
                continue;
            }
            let (_, measure) = KNOWN.iter().find(|(spellings, _)| spellings.first() == Some(&word))?;
            let (powers, above, below) = (*measure)?;
            let power = words.next_if(|next| matches!(*next, "2" | "3")).map_or(1, |next| if next == "2" { 2 } else { 3 });
            let one = Rational::integer(above.try_into().ok()?).divide(&Rational::integer(below.try_into().ok()?))?;
            for _ in 0..power {
                factor = if sign < 0 { factor.divide(&one)? } else { factor.multiply(&one)? };
            }
            for (sum, own) in dimensions.iter_mut().zip(powers) {
                *sum += sign * power * own;
            }
            sign = 1;
        }
        Some((dimensions, factor))
    }
}

/// The unit that `text` is, whole: `km/h`, `\text{ cm}^2`, `square meters`, `^\circ`; `None` for anything that is no unit.
pub fn read(text: &str) -> Option<Unit> {
    const BYTES_MAX: usize = 120;
    if text.len() > BYTES_MAX {
        return None;
    }
    // `sq. units`, `in.`
    parse(&lexer::tokens(&text.replace("a.m", "am").replace("p.m", "pm").replace('.', " "))?).flatten()
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
                    // `15 more pages`, but not `15 more than`.
                    "more"
                        if unit.words.is_empty()
                            && !tokens.clone().any(|token| matches!(token, Token::Word { text: "than", .. })) => {}
                    "square" | "sq" => power = Some("2"),
                    "cubic" => power = Some("3"),
                    _ => {
                        let follows_degree = unit.words.last().is_some_and(|last| last == "degree");
                        if word.len() == 1 && !roman && !follows_degree && unit.words.is_empty() {
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
        // `万元` is ten thousand of them.
        if word.starts_with(['万', '亿']) || REFUSED.contains(&word) || (REFUSED.contains(&singular) && !COUNTED.contains(&word))
        {
            return None;
        }
        // `平方米`
        if let Some((unit, power)) =
            word.strip_prefix("平方").map(|unit| (unit, "2")).or_else(|| word.strip_prefix("立方").map(|unit| (unit, "3")))
            && KNOWN.iter().any(|(spellings, _)| spellings.contains(&unit))
        {
            let known = self.push(unit)?;
            self.words.push(power.into());
            return Some(known);
        }
        if let Some((_, meant)) = SHORT.iter().find(|(short, _)| *short == word) {
            self.words.extend(meant.map(String::from));
            return Some(true);
        }
        let canonical = KNOWN.iter().find(|(spellings, _)| spellings.contains(&word) || spellings.contains(&singular));
        self.words.push(canonical.and_then(|(spellings, _)| spellings.first()).map_or(singular, |name| name).into());
        Some(canonical.is_some())
    }
}

/// Whether a lower-case word is one of the known units of two letters or more, or begins one.
pub fn is_known(word: &str) -> bool {
    let singular = word.strip_suffix('s').filter(|stem| stem.len() > 1).unwrap_or(word);
    let spelt = |(spellings, _): &(&[&str], _)| spellings.contains(&word) || spellings.contains(&singular);
    let short = SHORT.iter().any(|(short, _)| *short == word);
    short || matches!(word, "sq" | "square" | "cubic") || (word.len() > 1 && KNOWN.iter().any(spelt))
}
