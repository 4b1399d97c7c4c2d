//! Units after a number: `5 km` does not pass for `5 m`, and `1 km` is `1000 m`. Words that are no
//! unit of the table ([`table`]) are taken for what is counted (`18 eggs`): they are left out, but
//! no unit passes for them.

mod table;

use crate::lexer::{self, Token};
use crate::number_words;
use crate::rational::Rational;
use table::{DIMENSIONS, Found, Measure};

/// Words that several words are read as once each is known: `fluid ounces`, `minutes of arc`.
const WORDS: &[(&[&str], &str)] = &[
    (&["fluid", "ounce"], "fluid ounce"),
    (&["fl", "ounce"], "fluid ounce"),
    (&["nautical", "mile"], "nautical mile"),
    (&["metric", "ton"], "tonne"),
    (&["metric", "tonne"], "tonne"),
    (&["minute", "of", "arc"], "arcminute"),
    (&["arc", "minute"], "arcminute"),
    (&["second", "of", "arc"], "arcsecond"),
    (&["arc", "second"], "arcsecond"),
    (&["degree", "of", "arc"], "degree"),
    (&["light", "year"], "lightyear"),
    (&["astronomical", "unit"], "au"),
    (&["electron", "volt"], "electronvolt"),
    (&["atomic", "mass", "unit"], "dalton"),
    (&["degree", "celsius"], "celsius"),
    (&["degree", "fahrenheit"], "fahrenheit"),
    (&["degree", "kelvin"], "kelvin"),
    (&["degree", "C"], "celsius"),
    (&["degree", "F"], "fahrenheit"),
    (&["degree", "K"], "kelvin"),
];

/// Units that are written as one word and mean several, with their powers.
const SHORT: &[(&str, &[(&str, i8)])] = &[
    ("mph", &[("mile", 1), ("hour", -1)]),
    ("kph", &[("km", 1), ("hour", -1)]),
    ("kmh", &[("km", 1), ("hour", -1)]),
    ("kmph", &[("km", 1), ("hour", -1)]),
    ("mps", &[("meter", 1), ("second", -1)]),
    ("fps", &[("foot", 1), ("second", -1)]),
    ("mpg", &[("mile", 1), ("gallon", -1)]),
    ("rpm", &[("revolution", 1), ("minute", -1)]),
    ("rps", &[("revolution", 1), ("second", -1)]),
    ("kbps", &[("kilobit", 1), ("second", -1)]),
    ("mbps", &[("megabit", 1), ("second", -1)]),
    ("gbps", &[("gigabit", 1), ("second", -1)]),
    ("sqft", &[("foot", 2)]),
    ("sqm", &[("meter", 2)]),
    ("cc", &[("cm", 3)]),
];

/// Things that are counted, whose singular is refused below: `5 points`, `6 pairs`, `3 bases`.
const COUNTED: &[&str] = &[
    "points", "pairs", "bases", "roots", "zeros", "zeroes", "logs", "powers", "doubles", "triples",
    "scores",
];

/// Words that change the number, or join it to another: after them nothing is understood.
const REFUSED: &[&str] = &[
    // Joined to another number, or compared with one.
    "and",
    "or",
    "to",
    "than",
    "plus",
    "minus",
    "over",
    "by",
    "point",
    "if",
    "but",
    "is",
    "are",
    "was",
    "were",
    "more",
    "less",
    "overdrawn",
    "fewer",
    "least",
    "most",
    "below",
    "beneath",
    "under",
    "beyond",
    "within",
    "exceeding",
    "short",
    "shy",
    "between",
    "instead",
    "rather",
    "versus",
    "remainder",
    "mod",
    "modulo",
    "choose",
    "added",
    "subtracted",
    "multiplied",
    "divided",
    "greater",
    "larger",
    "bigger",
    "smaller",
    "higher",
    "lower",
    "exceeds",
    // Denied, or not certain.
    "not",
    "no",
    "nor",
    "never",
    "neither",
    "except",
    "excluding",
    "besides",
    "without",
    "wrong",
    "incorrect",
    "false",
    "isn",
    "aren",
    "wasn",
    "cannot",
    "would",
    "could",
    "should",
    "might",
    "maybe",
    "perhaps",
    "possibly",
    "almost",
    "nearly",
    "undefined",
    "infinite",
    "infinity",
    "unknown",
    "impossible",
    "fail",
    "failed",
    "can",
    "will",
    "be",
    "been",
    "does",
    "did",
    "has",
    "have",
    "had",
    "when",
    "while",
    "until",
    "unless",
    "excluded",
    "rejected",
    "discarded",
    "eliminated",
    "invalid",
    "extraneous",
    "sometimes",
    "something",
    "somewhat",
    "ish",
    "best",
    "worst",
    "too",
    // Worked on.
    "divide",
    "divisor",
    "multiple",
    "recurring",
    "repeating",
    "rooted",
    "negated",
    "squared",
    "cubed",
    "factorial",
    "root",
    "power",
    "raised",
    "exponent",
    "log",
    "negative",
    "opposite",
    "reciprocal",
    "inverse",
    "double",
    "doubled",
    "triple",
    "tripled",
    "quadruple",
    "quadrupled",
    "halved",
    "twice",
    "thrice",
    "fold",
    "twofold",
    "threefold",
    "tenfold",
    "base",
    "binary",
    "octal",
    "hex",
    "hexadecimal",
    "ternary",
    "radix",
    "pi",
    "sqrt",
    "x",
    "e",
    "halves",
    "odds",
    // With another sign.
    "debt",
    "deficit",
    "hole",
    "bc",
    "bce",
    // Of another size.
    "magnitude",
    "googol",
    "trio",
    "quartet",
    "quadrillion",
    "quintillion",
    "zillion",
    "lakh",
    "crore",
    "grand",
    "mil",
    "k",
    "bn",
    "mn",
    "tn",
    "dozen",
    "gross",
    "score",
    "pair",
    "couple",
    "ppm",
    "ppb",
    "ppt",
    "ppmv",
    "bp",
    "bps",
    "basis",
    "permille",
    "permil",
    "promille",
    "mille",
    "parts",
    "percentile",
];

/// Words that turn what is measured into its opposite: `20\% increase` is no `20\% decrease`.
const OPPOSITES: &[(&[&str], &[&str])] = &[
    (
        &["increase", "gain", "profit", "rise", "growth"],
        &["decrease", "loss", "drop", "fall", "decline"],
    ),
    (&["up"], &["down"]),
    (&["north"], &["south"]),
    (&["east"], &["west"]),
    (&["left"], &["right"]),
    (&["clockwise"], &["counterclockwise", "anticlockwise"]),
    (&["early", "before", "ago"], &["late", "after"]),
];

/// Words that do not tell what is counted: `5 left`, `5 in total`.
const FILLERS: &[&str] = &[
    "left",
    "in",
    "total",
    "altogether",
    "all",
    "each",
    "of",
    "the",
    "away",
    "exactly",
    "only",
    "remaining",
    "overall",
    "together",
    "old",
    "tall",
    "long",
    "wide",
    "high",
    "deep",
    "unit",
];

/// Words behind a length in inches that is written `in`, a preposition before any other.
const BEHIND_INCHES: &[&str] = &["long", "tall", "wide", "high", "deep", "thick", "by"];

const WORDS_MAX: usize = 8;
/// Powers of units go up to this: `\text{W}/(\text{m}^2\text{K}^4)`.
const POWER_MAX: i8 = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// The unit's canonical name; for a word that is not a unit its singular, in lower case.
    name: String,
    /// The place in the table and the power of ten of the prefix; `None` for a word that is no
    /// unit.
    found: Option<Found>,
    /// The power of the unit, negative behind a `/` or a "per".
    power: i8,
}

/// What stands behind a number: units with their powers, and other words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    parts: Vec<Part>,
}

impl Unit {
    /// The unit of an amount of money; `name` is the canonical one (`dollar`, `sterling`).
    pub fn currency(name: &'static str) -> Unit {
        let found = table::spelt(name);
        Unit {
            parts: vec![Part {
                name: found.map_or(name, |found| found.name()).into(),
                found,
                power: 1,
            }],
        }
    }

    fn is(&self, name: &str) -> bool {
        matches!(self.parts.as_slice(), [part] if part.name == name && part.power == 1)
    }

    /// Whether it is degrees of an angle and nothing else.
    pub fn is_degree(&self) -> bool {
        self.is("degree")
    }

    /// Whether it is radians and nothing else.
    pub fn is_radian(&self) -> bool {
        self.is("radian")
    }

    /// Whether every part is a unit of the table, rather than something that is counted.
    pub fn is_known(&self) -> bool {
        self.parts.iter().all(|part| part.found.is_some())
    }

    /// Whether a number without a unit may be one of this unit. `M` may be millions or moles in a
    /// litre, `K` thousands or kelvins, `T` trillions or teslas; decibels are a logarithm.
    pub fn may_be_missing(&self) -> bool {
        !matches!(self.parts.as_slice(), [part] if matches!(part.name.as_str(), "M" | "K" | "T" |
            "decibel"))
    }

    /// What to multiply a number of this unit by to get one of `other`: 1 if they are the same or
    /// both are merely what is counted, 1000 from `km` to `m`. `None` for units that measure
    /// different things or that nothing converts, and for a unit beside what is counted.
    pub fn factor(&self, other: &Unit) -> Option<Rational> {
        let one = Some(Rational::integer(1));
        if self.parts == other.parts {
            return one;
        }
        if !self.is_known() || !other.is_known() {
            let says = |unit: &Unit, side: &[&str]| {
                unit.parts
                    .iter()
                    .any(|part| side.contains(&part.name.as_str()))
            };
            let opposite = |a: &Unit, b: &Unit| {
                OPPOSITES
                    .iter()
                    .any(|(one, two)| says(a, one) && says(b, two))
            };
            if opposite(self, other) || opposite(other, self) {
                return None;
            }
        }
        let (own, theirs) = (self.measured(), other.measured());
        match (own.is_empty(), theirs.is_empty()) {
            (false, false) => conversion(&own, &theirs),
            (true, true) => self.counts_as(other).then_some(one).flatten(),
            (true, false) => self.is_vague_beside(other).then_some(one).flatten(),
            (false, true) => other.is_vague_beside(self).then_some(one).flatten(),
        }
    }

    /// The parts that are units, without what is counted beside them: `dollars` of `dollars per
    /// apple`, `km` of `km away`.
    fn measured(&self) -> Vec<&Part> {
        self.parts
            .iter()
            .filter(|part| part.found.is_some())
            .collect()
    }

    /// Whether two that are not units may be the same: `18 eggs`, `18 large eggs`. Symbols that are
    /// not in the table are different, unless one begins as the other does (`5 pts`, `5 points`);
    /// so are powers: `units^2`, `units^3`.
    fn counts_as(&self, other: &Unit) -> bool {
        let bare = |unit: &Unit| {
            unit.parts
                .iter()
                .map(|part| part.name.clone())
                .collect::<Vec<String>>()
        };
        if bare(self) == bare(other) {
            let raised = |unit: &Unit| unit.parts.iter().any(|part| part.power != 1);
            return !raised(self) || !raised(other);
        }
        let (Some(a), Some(b)) = (self.parts.first(), other.parts.first()) else {
            return true;
        };
        let symbols = looks_like_symbol(&a.name) || looks_like_symbol(&b.name);
        !symbols || a.name == b.name || a.name.chars().next() == b.name.chars().next()
    }

    /// Whether it adds nothing to a known unit: `5 left`, `5 units`; `5块蛋糕` beside `5块`.
    fn is_vague_beside(&self, known: &Unit) -> bool {
        let only = |part: &Part| FILLERS.contains(&part.name.as_str());
        let longer = |part: &Part| {
            known
                .parts
                .iter()
                .any(|unit| !part.name.is_ascii() && part.name.starts_with(&unit.written()))
        };
        let raised = |unit: &Unit| unit.parts.iter().map(|part| part.power).max();
        (self.parts.iter().all(only) && (raised(self) == Some(1) || raised(self) == raised(known)))
            || self.parts.iter().any(longer)
    }

    fn push_part(&mut self, name: &str, found: Option<Found>, power: i8) {
        self.parts.push(Part {
            name: name.into(),
            found,
            power,
        });
    }
}

impl Part {
    /// The Chinese spelling of a unit, else its name.
    fn written(&self) -> String {
        self.found
            .and_then(Found::chinese)
            .unwrap_or(&self.name)
            .to_string()
    }
}

/// Whether a word looks like a symbol, not a word: `hp`, `xyz`.
fn looks_like_symbol(word: &str) -> bool {
    const LETTERS_MAX: usize = 4;
    word.is_ascii() && word.len() <= LETTERS_MAX && !word.contains(['a', 'e', 'i', 'o', 'u', 'y'])
}

fn conversion(own: &[&Part], theirs: &[&Part]) -> Option<Rational> {
    if own == theirs {
        return Some(Rational::integer(1));
    }
    // Ambiguous names are what the other side is.
    let names = |parts: &[&Part]| {
        parts
            .iter()
            .map(|part| part.name.clone())
            .collect::<Vec<String>>()
    };
    let (left, right) = (names(own), names(theirs));
    // `25 C` is of degrees where the other side is.
    let degrees = |left: &[String], right: &[String]| {
        matches!((left, right), ([c], [name]) if (c ==
        "C" && name ==
        "celsius") || (c ==
        "F" && name ==
        "fahrenheit"))
    };
    if degrees(&left, &right) || degrees(&right, &left) {
        return Some(Rational::integer(1));
    }
    let (from, factor) = measure(own, &right, &left)?;
    let (to, divisor) = measure(theirs, &left, &right)?;
    if from == to {
        factor.divide(&divisor)
    } else {
        None
    }
}

/// The dimensions of a unit, and how many base units it is, beside the names of another; `None` if
/// nothing converts it.
fn measure(
    parts: &[&Part],
    beside: &[String],
    names: &[String],
) -> Option<([i8; DIMENSIONS], Rational)> {
    let mut dimensions = [0i8; DIMENSIONS];
    let mut factor = Rational::integer(1);
    for part in parts {
        let found = part.found?;
        let Measure {
            powers,
            above,
            below,
            ten,
        } = found.measure(beside, names)?;
        let one = Rational::integer(above.try_into().ok()?)
            .divide(&Rational::integer(below.try_into().ok()?))?;
        let one = one.scale((ten + found.ten).into())?;
        for _ in 0..part.power.unsigned_abs() {
            factor = if part.power < 0 {
                factor.divide(&one)?
            } else {
                factor.multiply(&one)?
            };
        }
        for (sum, own) in dimensions.iter_mut().zip(powers) {
            *sum = sum.checked_add(part.power.checked_mul(own)?)?;
        }
    }
    Some((dimensions, factor))
}

/// Reads all of `text` as a unit: `km/h`, `\text{ cm}^2`, `square meters`, `^\circ`; `None` if it
/// is anything else.
pub fn read(text: &str) -> Option<Unit> {
    const BYTES_MAX: usize = 120;
    if text.len() > BYTES_MAX {
        return None;
    }
    // `sq. units`, `in.`
    parse(&lexer::tokens(
        &text
            .replace("a.m", "am")
            .replace("p.m", "pm")
            .replace('.', " "),
    )?)
    .flatten()
}

/// Reads all tokens after a number as a unit: `Some(None)` for no tokens, `None` if they are
/// anything else.
pub(crate) fn parse(tokens: &[Token<'_>]) -> Option<Option<Unit>> {
    let mut unit = Unit { parts: Vec::new() };
    let mut power = None;
    // Behind a `/` everything is below it: `J/(mol K)`, `J/mol K`.
    let mut sign = 1;
    // Whether a unit must follow: behind a `/`, a "square".
    let mut awaited = false;
    let mut group = false;
    let mut tokens = tokens.iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word { text, roman } => {
                let word = text.to_lowercase();
                let alone = unit.parts.is_empty();
                let only = matches!(tokens.peek(), None | Some(Token::Word { text: "cent", .. }));
                match word.as_str() {
                    // `5 per cent` is not 5 of anything; `$5 per day` is.
                    "per" if only => return None,
                    "per" => (sign, awaited) = (-1, true),
                    "a" | "an" if !alone && *text != "A" => (sign, awaited) = (-1, true),
                    // `15 more pages`, but not `15 more than`.
                    "more"
                        if alone
                            && !tokens
                                .clone()
                                .any(|token| matches!(token, Token::Word { text: "than", .. })) => {
                    }
                    "square" | "sq" => (power, awaited) = (Some(2), true),
                    "cubic" => (power, awaited) = (Some(3), true),
                    _ => {
                        // `kΩ`, `μm`
                        let joined = match tokens.peek() {
                            Some(Token::Word {
                                text: next,
                                roman: upright,
                            }) if (*next == "Ω"
                                && matches!(*text, "k" | "M" | "m" | "μ" | "G"))
                                || (matches!(*text, "μ" | "µ") && *upright) =>
                            {
                                Some(format!("{text}{next}"))
                            }
                            _ => None,
                        };
                        if joined.is_some() {
                            tokens.next();
                        }
                        let text = joined.as_deref().unwrap_or(text);
                        let follows_degree =
                            unit.parts.last().is_some_and(|last| last.name == "degree");
                        if text.chars().count() == 1
                            && text != "Ω"
                            && text.is_ascii()
                            && !roman
                            && !follows_degree
                            && alone
                        {
                            return None;
                        }
                        // Two capitals that are no unit are a product: `2GM`, and `2MG`.
                        let capitals =
                            text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase());
                        let product = *text == *"MG"
                            || (table::symbol(text).is_none() && table::spelt(&word).is_none());
                        if matches!(text, "μ" | "µ")
                            || (capitals && product && !roman && alone && tokens.peek().is_none())
                        {
                            return None;
                        }
                        let before = if word == "in" {
                            let inches = alone || awaited;
                            let next = match tokens.peek() {
                                Some(Token::Word { text, .. }) => BEHIND_INCHES.contains(text),
                                _ => true,
                            };
                            !(inches && next)
                        } else {
                            false
                        };
                        let raised = sign * power.take().unwrap_or(1);
                        if before {
                            unit.push_part("in", None, raised);
                        } else {
                            unit.push(text, &text.to_lowercase(), raised)?;
                        }
                        awaited = false;
                    }
                }
            }
            Token::Currency(name) if unit.parts.is_empty() => unit = Unit::currency(name),
            Token::Degree => {
                unit.push_part("degree", table::spelt("degree"), sign);
                awaited = false;
            }
            Token::Slash if !unit.parts.is_empty() && !awaited => (sign, awaited) = (-1, true),
            // `\cdot{}^\circ`
            Token::Open('}')
                if tokens
                    .next_if(|token| **token == Token::Close('}'))
                    .is_some() => {}
            Token::Open(')') if awaited && sign < 0 && !group => group = true,
            Token::Close(')') if group && !awaited => group = false,
            // `N·m`, `kilowatt-hours`
            Token::Times | Token::Minus
                if unit.is_known()
                    && !unit.parts.is_empty()
                    && !awaited
                    && matches!(
                        tokens.peek(),
                        Some(Token::Word { .. } | Token::Degree | Token::Caret | Token::Open('}'))
                    ) => {}
            Token::Superscript(digit) if !awaited => unit.raise(i8::try_from(*digit).ok()?)?,
            // `m^2`, `m^{2}`, `s^{-1}`; `^\circ`
            Token::Caret => {
                let braced = tokens
                    .next_if(|token| **token == Token::Open('}'))
                    .is_some();
                let below = tokens.next_if(|token| **token == Token::Minus).is_some();
                match tokens.next()? {
                    Token::Degree if !below => {
                        unit.push_part("degree", table::spelt("degree"), sign);
                        awaited = false;
                    }
                    Token::Number(literal) if literal.is_integer() && !awaited => {
                        let power: i8 = literal
                            .digits
                            .parse()
                            .ok()
                            .filter(|power| (1..=POWER_MAX).contains(power))?;
                        // Refuse `/s^{-1}`: whoever writes it does not mean it.
                        (!below || sign > 0).then_some(())?;
                        (below || power > 1).then_some(())?;
                        unit.raise(if below { -power } else { power })?;
                    }
                    _ => return None,
                }
                if braced {
                    tokens.next_if(|token| **token == Token::Close('}'))?;
                }
            }
            _ => return None,
        }
        if unit.parts.len() > WORDS_MAX {
            return None;
        }
    }
    if awaited || group {
        return None;
    }
    // `14 negated`, but not `14 red`, `14 seeds`, `14 needed`.
    const PARTICIPLES: [&str; 6] = [
        "needed",
        "required",
        "used",
        "unused",
        "completed",
        "combined",
    ];
    if let [part] = unit.parts.as_slice()
        && part.found.is_none()
        && part.name.len() > 4
        && part.name.ends_with("ed")
        && !part.name.ends_with("eed")
        && !PARTICIPLES.contains(&part.name.as_str())
    {
        return None;
    }
    unit.join_words();
    Some(if unit.parts.is_empty() {
        None
    } else {
        Some(unit)
    })
}

impl Unit {
    /// Adds a word, as written and in lower case, to a power; `None` for a word that no unit
    /// contains.
    fn push(&mut self, written: &str, word: &str, power: i8) -> Option<()> {
        // `5B` is five billion.
        if written == "B" && self.parts.is_empty() && power > 0 {
            return None;
        }
        if let Some(found) = table::symbol(written) {
            self.push_part(found.name(), Some(found), power);
            return Some(());
        }
        let singular = word
            .strip_suffix('s')
            .filter(|stem| stem.len() > 1)
            .unwrap_or(word);
        // `千米每小时`
        if let Some((above, below)) = word
            .split_once('每')
            .filter(|(above, below)| !above.is_empty() && !below.is_empty())
        {
            self.push(above, above, power)?;
            return self.push(below, below, -power);
        }
        if changes_in_chinese(word)
            || is_refused(word)
            || (is_refused(singular) && !COUNTED.contains(&word))
            || word.trim_end_matches('s').ends_with("illion")
        {
            return None;
        }
        if !word.is_ascii() {
            // `平方米`, `个小时`
            let raised = word
                .strip_prefix("平方")
                .map(|unit| (unit, 2))
                .or_else(|| word.strip_prefix("立方").map(|unit| (unit, 3)));
            if let Some((unit, times)) = raised
                && let Some(found) = table::spelt(unit)
            {
                self.push_part(found.name(), Some(found), power * times);
                return Some(());
            }
            if let Some(found) = word.strip_prefix('个').and_then(table::spelt) {
                self.push_part(found.name(), Some(found), power);
                return Some(());
            }
        }
        // `千克苹果`
        if !word.is_ascii()
            && table::spelt(word).is_none()
            && let Some((found, what)) = word.char_indices().skip(2).take(2).find_map(|(end, _)| {
                let (unit, what) = word.split_at_checked(end)?;
                Some((table::spelt(unit)?, what))
            })
        {
            self.push_part(found.name(), Some(found), power);
            self.push_part(what, None, 1);
            return Some(());
        }
        if let Some((_, meant)) = SHORT.iter().find(|(short, _)| *short == word) {
            for (name, own) in *meant {
                let found = table::spelt(name)?;
                self.push_part(found.name(), Some(found), power * own);
            }
            return Some(());
        }
        let found = table::spelt(word).or_else(|| table::spelt(singular));
        self.push_part(found.map_or(singular, |found| found.name()), found, power);
        Some(())
    }

    /// Raises the last word to a power: `^2`, `^{-1}`.
    fn raise(&mut self, power: i8) -> Option<()> {
        let last = self.parts.last_mut()?;
        (last.power.abs() == 1).then_some(())?;
        last.power *= power;
        Some(())
    }

    /// Joins several words that are one unit: `fluid ounces`, `minutes of arc`.
    fn join_words(&mut self) {
        if self.parts.len() < 2 {
            return;
        }
        for (several, one) in WORDS {
            let spelt = |parts: &[Part]| {
                parts
                    .iter()
                    .map(|part| part.name.as_str())
                    .eq(several.iter().copied())
            };
            if let Some(at) = self.parts.windows(several.len()).position(spelt)
                && let Some(found) = table::spelt(one)
                && let Some(power) = self
                    .parts
                    .get(at + several.len() - 1)
                    .map(|part| part.power)
            {
                self.parts.splice(
                    at..at + several.len(),
                    [Part {
                        name: found.name().into(),
                        found: Some(found),
                        power,
                    }],
                );
            }
        }
    }
}

/// Chinese words that change the number before them: `多个`, `以上`, `个半`.
fn changes_in_chinese(word: &str) -> bool {
    const PARTS: [&str; 30] = [
        "以上",
        "以下",
        "以内",
        "以外",
        "不到",
        "不足",
        "不是",
        "左右",
        "百分",
        "不成立",
        "不对",
        "不符",
        "不合",
        "不能",
        "不可",
        "不满足",
        "不正确",
        "不等",
        "舍去",
        "舍掉",
        "排除",
        "错误",
        "整除",
        "进制",
        "上下",
        "出头",
        "开外",
        "次方",
        "夫妻",
        "倍数",
    ];
    // `7的平方`, `8开方`, `8平方`; `8百`, but `8千米` is known.
    let operation = word.starts_with(['的', '开', '取'])
        || [word.strip_prefix("平方"), word.strip_prefix("立方")]
            .into_iter()
            .flatten()
            .any(|unit| table::spelt(unit).is_none());
    let scaled = word.starts_with(['十', '百', '千', '兆']);
    // `5千克苹果`
    let unit_first = || {
        word.char_indices().skip(2).take(2).any(|(end, _)| {
            word.get(..end)
                .is_some_and(|unit| table::spelt(unit).is_some())
        })
    };
    if (operation || (scaled && !unit_first())) && table::spelt(word).is_none() {
        return true;
    }
    word.starts_with([
        '打', '万', '亿', '半', '余', '成', '折', '多', '几', '来', '约', '非', '除', '减', '加',
        '乘',
    ]) || word.ends_with(['多', '半', '余'])
        || PARTS.iter().any(|part| word.contains(part))
}

/// Whether a word changes the number that it stands beside, or makes it another number: `less`,
/// `million`, `not`.
pub fn changes_number(word: &str) -> bool {
    let lower = word.to_lowercase();
    let singular = lower
        .strip_suffix('s')
        .filter(|stem| stem.len() > 1)
        .unwrap_or(&lower);
    is_refused(&lower) || (is_refused(singular) && !COUNTED.contains(&lower.as_str()))
}

/// Whether a word is refused as it stands; numbers in words are.
fn is_refused(word: &str) -> bool {
    REFUSED.contains(&word)
        || number_words::is_whole(word)
        || number_words::parts_in_one(word).is_some()
}

/// Whether a word is the symbol of a unit that no product of variables looks like: `kWh`, `kJ`,
/// `Pa`, `keV`.
pub fn is_symbol(word: &str) -> bool {
    const PLAIN: [&str; 23] = [
        "kN", "kJ", "MJ", "kW", "MW", "kV", "mV", "mA", "kΩ", "KB", "MB", "GB", "TB", "cL", "dL",
        "mL", "Pa", "Hz", "eV", "Wh", "Torr", "mmHg", "cmHg",
    ];
    let first = word.chars().next().map_or(0, char::len_utf8);
    PLAIN.contains(&word)
        || (table::symbol(word).is_some()
            && word
                .get(first..)
                .is_some_and(|unit| matches!(unit, "Pa" | "Hz" | "eV" | "Wh")))
}

/// Whether a lower-case word is one of the known units of two letters or more, or begins one.
pub fn is_known(word: &str) -> bool {
    let singular = word
        .strip_suffix('s')
        .filter(|stem| stem.len() > 1)
        .unwrap_or(word);
    let short = SHORT.iter().any(|(short, _)| *short == word);
    short
        || matches!(word, "sq" | "square" | "cubic")
        || (word.len() > 1 && (table::spelt(word).is_some() || table::spelt(singular).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factor(a: &str, b: &str) -> Option<Rational> {
        read(a)?.factor(&read(b)?)
    }

    #[test]
    fn units_of_one_kind_are_converted() {
        for (a, b, above, below) in [
            (r"\text{ kWh}", r"\text{ J}", 3_600_000, 1),
            ("kilowatt-hours", "joules", 3_600_000, 1),
            (r"\text{ N}\cdot\text{m}", r"\text{ J}", 1, 1),
            (r"\text{ N m}", "joules", 1, 1),
            (r"\text{ kg m}^2/\text{s}^2", r"\text{ J}", 1, 1),
            (r"\text{ J/s}", r"\text{ W}", 1, 1),
            (r"\text{ m s}^{-1}", r"\text{ km/h}", 18, 5),
            ("gallons", "quarts", 4, 1),
            ("quarts", "cups", 4, 1),
            ("gallon", "cubic inches", 231, 1),
            ("acre", "square feet", 43_560, 1),
            ("square mile", "acres", 640, 1),
            ("hectares", r"\text{ m}^2", 10_000, 1),
            ("degrees", "minutes of arc", 60, 1),
            ("arcminutes", "arcseconds", 60, 1),
            ("tons", "pounds", 2_000, 1),
            ("tons", "kg", 1_000, 1),
            ("pounds", "ounces", 16, 1),
            ("miles", "feet", 5_280, 1),
            (r"\text{ V}\cdot\text{A}", r"\text{ W}", 1, 1),
            ("fluid ounces", "cups", 1, 8),
            (r"\text{ bar}", r"\text{ kPa}", 100, 1),
            (r"\text{ atm}", r"\text{ Pa}", 101_325, 1),
            (r"\text{ atm}", r"\text{ mmHg}", 760, 1),
            (r"\text{ MeV}", r"\text{ keV}", 1_000, 1),
            (r"\text{ mmol}", r"\text{ mol}", 1, 1_000),
            (r"\text{ MPa}", r"\text{ mPa}", 1_000_000_000, 1),
            (r"\text{ MW}", r"\text{ mW}", 1_000_000_000, 1),
            (r"\text{ M}", r"\text{ mmol/L}", 1_000, 1),
            (r"\text{ Å}", r"\text{ nm}", 1, 10),
            (r"\text{ pm}", r"\text{ nm}", 1, 1_000),
            (r"\text{ V}", r"\text{ J/C}", 1, 1),
            (r"\text{ F}", r"\text{ C/V}", 1, 1),
            (r"\text{ T}", r"\text{ Wb/m}^2", 1, 1),
            (r"\ \Omega", r"\text{ V/A}", 1, 1),
            (r"\text{ N/C}", r"\text{ V/m}", 1, 1),
            (r"\text{ C}", r"\text{ A s}", 1, 1),
            (
                r"\text{ J/(mol K)}",
                r"\text{ J mol}^{-1}\text{K}^{-1}",
                1,
                1,
            ),
            (
                r"\text{ J/(kg}\cdot{}^\circ\text{C)}",
                r"\text{ J/(kg K)}",
                1,
                1,
            ),
            (
                r"\text{ W/(m}^2\text{K)}",
                r"\text{ W m}^{-2}\text{K}^{-1}",
                1,
                1,
            ),
            (r"\text{ rpm}", "revolutions per second", 1, 60),
            ("per hour", "per day", 24, 1),
            ("元", "角", 10, 1),
            ("分", "秒", 60, 1),
            ("角", "分", 10, 1),
            ("千米每小时", "米/秒", 5, 18),
            ("千克苹果", "克", 1_000, 1),
            ("兆电子伏", "电子伏", 1_000_000, 1),
            ("公顷", "亩", 15, 1),
            ("kilometers away", "meters", 1_000, 1),
            ("dollars per apple", "cents", 100, 1),
            ("large eggs", "eggs", 1, 1),
            ("points", "pts", 1, 1),
        ] {
            let wanted = Rational::integer(above)
                .divide(&Rational::integer(below))
                .unwrap();
            assert_eq!(factor(a, b), Some(wanted), "{a} in {b}");
        }
    }

    #[test]
    fn units_of_two_kinds_are_not() {
        let exact = |a: &str, b: &str| factor(a, b).is_some_and(|factor| factor.is_one());
        assert!(!exact("个月", "岁") && !exact("people per hour", "people per day"));
        for (a, b) in [
            (r"\text{ J}", r"\text{ W}"),
            (r"\text{ N}", r"\text{ J}"),
            (r"\text{ MW}", r"\text{ J}"),
            ("acres", "miles"),
            ("ounces", "fluid ounces"),
            ("minutes", "minutes of arc"),
            (r"\text{ GB}", r"\text{ MB}"),
            (r"\text{ MB/s}", r"\text{ kB/s}"),
            (r"\text{ J}", r"\text{ C}"),
            (r"\text{ H}", r"\text{ hours}"),
            ("boxes", r"\text{ kg}"),
            ("laps", "meters"),
            ("semesters", "years"),
            ("revolutions", "radians"),
            ("nickels", "dimes"),
            ("rad/s", "rpm"),
            ("ly", "pc"),
            ("quux", "hp"),
        ] {
            assert_eq!(factor(a, b), None, "{a} in {b}");
        }
    }

    #[test]
    fn words_that_change_a_number_are_no_unit() {
        for text in [
            "ppm",
            "per cent",
            "per thousand",
            "less than ten",
            "below zero",
            "dozen",
            "million",
            "tenths",
            "squared",
            "at most",
            "in binary",
            "gross",
            "short",
            "times more than",
            "short of ten",
            "basis points",
            r"\text{ B}",
            "nonillion",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        // Millions, or moles in a litre: no number without a unit passes for it.
        assert!(!read(r"\text{ M}").unwrap().may_be_missing());
        for text in [
            "eggs",
            "more pages",
            "times",
            "real roots",
            "zeros",
            "km away",
            "each",
            "apples in total",
        ] {
            assert!(read(text).is_some(), "{text}");
        }
    }
}
