//! Units after a number. A few are known: `5 km` does not pass for `5 m`, and `1 km` is `1000 m`; any other plain words are taken for what
//! is counted (`18 eggs`) and ignored.

use crate::number::Token;
use crate::number::lexer;
use crate::rational::Rational;

/// What a unit measures, as powers of the base quantities of [`DIMENSIONS`], and how many of the base units one is: a fraction.
type Measure = ([i8; DIMENSIONS], u64, u64);

/// Length (metre), mass (gram), time (second), calendar time (month), money (cent), angle (second of arc), current (ampere).
const DIMENSIONS: usize = 7;

const fn length(above: u64, below: u64) -> Option<Measure> {
    Some(([1, 0, 0, 0, 0, 0, 0], above, below))
}

/// In square metres.
const fn area(above: u64, below: u64) -> Option<Measure> {
    Some(([2, 0, 0, 0, 0, 0, 0], above, below))
}

/// In cubic metres.
const fn volume(above: u64, below: u64) -> Option<Measure> {
    Some(([3, 0, 0, 0, 0, 0, 0], above, below))
}

const fn mass(above: u64, below: u64) -> Option<Measure> {
    Some(([0, 1, 0, 0, 0, 0, 0], above, below))
}

const fn time(above: u64, below: u64) -> Option<Measure> {
    Some(([0, 0, 1, 0, 0, 0, 0], above, below))
}

/// Months have no fixed number of days.
const fn calendar(months: u64) -> Option<Measure> {
    Some(([0, 0, 0, 1, 0, 0, 0], months, 1))
}

const fn money(cents: u64) -> Option<Measure> {
    Some(([0, 0, 0, 0, 1, 0, 0], cents, 1))
}

/// In seconds of arc.
const fn angle(seconds: u64) -> Option<Measure> {
    Some(([0, 0, 0, 0, 0, 1, 0], seconds, 1))
}

/// In newtons.
const fn force(above: u64, below: u64) -> Option<Measure> {
    Some(([1, 1, -2, 0, 0, 0, 0], 1_000 * above, below))
}

/// In joules.
const fn energy(above: u64, below: u64) -> Option<Measure> {
    Some(([2, 1, -2, 0, 0, 0, 0], 1_000 * above, below))
}

/// In watts.
const fn power(above: u64, below: u64) -> Option<Measure> {
    Some(([2, 1, -3, 0, 0, 0, 0], 1_000 * above, below))
}

/// In pascals.
const fn pressure(above: u64, below: u64) -> Option<Measure> {
    Some(([-1, 1, -2, 0, 0, 0, 0], 1_000 * above, below))
}

/// In hertz.
const fn frequency(above: u64, below: u64) -> Option<Measure> {
    Some(([0, 0, -1, 0, 0, 0, 0], above, below))
}

/// In volts.
const fn voltage(above: u64, below: u64) -> Option<Measure> {
    Some(([2, 1, -3, 0, 0, 0, -1], 1_000 * above, below))
}

/// In amperes.
const fn current(above: u64, below: u64) -> Option<Measure> {
    Some(([0, 0, 0, 0, 0, 0, 1], above, below))
}

/// In ohms.
const fn resistance(above: u64, below: u64) -> Option<Measure> {
    Some(([2, 1, -3, 0, 0, 0, -2], 1_000 * above, below))
}

/// Cubic metres in a US gallon: 231 cubic inches.
const GALLON: (u64, u64) = (3_785_411_784, 1_000_000_000_000);

/// A gallon's n-th part.
const fn gallon(part: u64) -> Option<Measure> {
    volume(GALLON.0, part * GALLON.1)
}

/// Spellings of the known units in lower case; the first is the canonical one. Plurals in `s` are understood. What has no measure is
/// converted into nothing.
const KNOWN: &[(&[&str], Option<Measure>)] = &[
    (&["mm", "millimeter", "millimetre", "毫米"], length(1, 1_000)),
    (&["cm", "centimeter", "centimetre", "厘米"], length(1, 100)),
    (&["dm", "decimeter", "decimetre", "分米"], length(1, 10)),
    (&["m", "meter", "metre", "米"], length(1, 1)),
    (&["km", "kilometer", "kilometre", "千米", "公里"], length(1_000, 1)),
    (&["micrometer", "micrometre", "micron", "微米"], length(1, 1_000_000)),
    (&["nanometer", "nanometre", "纳米"], length(1, 1_000_000_000)),
    (&["inch", "inches", "in"], length(254, 10_000)),
    (&["ft", "foot", "feet"], length(3_048, 10_000)),
    (&["yd", "yard"], length(9_144, 10_000)),
    (&["mile", "mi"], length(1_609_344, 1_000)),
    (&["furlong"], length(201_168, 1_000)),
    (&["fathom"], length(18_288, 10_000)),
    (&["nautical mile"], length(1_852, 1)),
    (&["acre"], area(40_468_564_224, 10_000_000)),
    (&["hectare", "公顷"], area(10_000, 1)),
    (&["mg", "milligram", "milligramme", "毫克"], mass(1, 1_000)),
    (&["microgram"], mass(1, 1_000_000)),
    (&["g", "gram", "gramme", "克"], mass(1, 1)),
    (&["kg", "kilogram", "kilogramme", "kilo", "千克", "公斤"], mass(1_000, 1)),
    (&["tonne", "metric ton", "吨"], mass(1_000_000, 1)),
    (&["斤"], mass(500, 1)),
    (&["lb", "pound", "lbs"], mass(45_359_237, 100_000)),
    (&["oz", "ounce"], mass(45_359_237, 1_600_000)),
    (&["stone"], mass(14 * 45_359_237, 100_000)),
    // Of 2,000 pounds or of 1,000 kilograms.
    (&["ton"], None),
    (&["ml", "milliliter", "millilitre", "毫升"], volume(1, 1_000_000)),
    (&["centiliter", "centilitre"], volume(1, 100_000)),
    (&["deciliter", "decilitre"], volume(1, 10_000)),
    (&["l", "liter", "litre", "升"], volume(1, 1_000)),
    (&["gallon", "gal"], gallon(1)),
    (&["quart"], gallon(4)),
    (&["pint"], gallon(8)),
    (&["cup"], gallon(16)),
    (&["fluid ounce"], gallon(128)),
    (&["tablespoon", "tbsp"], gallon(256)),
    (&["teaspoon", "tsp"], gallon(768)),
    (&["millisecond", "毫秒"], time(1, 1_000)),
    (&["microsecond"], time(1, 1_000_000)),
    (&["nanosecond"], time(1, 1_000_000_000)),
    (&["s", "second", "sec", "秒", "秒钟"], time(1, 1)),
    (&["min", "minute", "分钟"], time(60, 1)),
    (&["h", "hour", "hr", "小时", "时"], time(3_600, 1)),
    (&["day", "天", "日"], time(86_400, 1)),
    (&["week", "周", "星期"], time(604_800, 1)),
    (&["fortnight"], time(1_209_600, 1)),
    (&["month", "个月"], calendar(1)),
    (&["year", "yr", "年"], calendar(12)),
    (&["decade"], calendar(120)),
    (&["century", "centuries"], calendar(1_200)),
    (&["knot"], Some(([1, 0, -1, 0, 0, 0, 0], 1_852, 3_600))),
    (&["newton", "牛顿", "牛"], force(1, 1)),
    (&["kilonewton"], force(1_000, 1)),
    (&["joule", "焦耳", "焦"], energy(1, 1)),
    (&["kilojoule", "千焦"], energy(1_000, 1)),
    (&["megajoule"], energy(1_000_000, 1)),
    (&["calorie"], energy(4_184, 1_000)),
    (&["kilocalorie", "kcal", "千卡", "大卡"], energy(4_184, 1)),
    (&["watt", "瓦特", "瓦"], power(1, 1)),
    (&["kilowatt", "千瓦"], power(1_000, 1)),
    (&["megawatt"], power(1_000_000, 1)),
    (&["watthour"], energy(3_600, 1)),
    (&["kwh", "kilowatthour", "千瓦时", "千瓦小时"], energy(3_600_000, 1)),
    (&["megawatthour"], energy(3_600_000_000, 1)),
    (&["pascal", "帕斯卡", "帕"], pressure(1, 1)),
    (&["kilopascal", "千帕"], pressure(1_000, 1)),
    (&["megapascal"], pressure(1_000_000, 1)),
    (&["hertz", "赫兹"], frequency(1, 1)),
    (&["kilohertz"], frequency(1_000, 1)),
    (&["megahertz"], frequency(1_000_000, 1)),
    (&["gigahertz"], frequency(1_000_000_000, 1)),
    (&["volt", "伏特", "伏"], voltage(1, 1)),
    (&["kilovolt", "千伏"], voltage(1_000, 1)),
    (&["millivolt"], voltage(1, 1_000)),
    (&["ampere", "amp", "安培", "安"], current(1, 1)),
    (&["milliampere", "milliamp"], current(1, 1_000)),
    (&["ohm", "欧姆"], resistance(1, 1)),
    (&["kiloohm", "kilohm"], resistance(1_000, 1)),
    (&["bar"], pressure(100_000, 1)),
    (&["atm", "atmosphere"], pressure(101_325, 1)),
    (&["coulomb", "库仑"], Some(([0, 0, 1, 0, 0, 0, 1], 1, 1))),
    (&["farad", "法拉"], Some(([-2, -1, 4, 0, 0, 0, 2], 1, 1_000))),
    (&["tesla", "特斯拉"], Some(([0, 1, -2, 0, 0, 0, -1], 1_000, 1))),
    (&["weber", "韦伯"], Some(([2, 1, -2, 0, 0, 0, -1], 1_000, 1))),
    (&["henry", "亨利"], Some(([2, 1, -2, 0, 0, 0, -2], 1_000, 1))),
    (&["kelvin"], None),
    (&["mole", "摩尔"], None),
    (&["bit", "比特"], None),
    (&["byte", "字节"], None),
    (&["kilobyte"], None),
    (&["megabyte"], None),
    (&["gigabyte"], None),
    (&["terabyte"], None),
    (&["dollar", "usd", "buck", "美元"], money(100)),
    (&["cent"], money(1)),
    (&["euro", "eur", "欧元"], None),
    (&["sterling", "gbp", "英镑"], None),
    (&["yen", "jpy", "日元"], None),
    (&["yuan", "rmb", "cny", "元", "块", "人民币"], None),
    (&["degree", "度"], angle(3_600)),
    (&["arcminute", "arcmin"], angle(60)),
    (&["arcsecond", "arcsec"], angle(1)),
    (&["rad", "radian", "弧度"], None),
    (&["celsius", "c", "摄氏度"], None),
    (&["fahrenheit", "f", "华氏度"], None),
    (&["am"], None),
    (&["pm"], None),
];

/// Symbols that are what they are by the case of their letters, and what they are called in [`KNOWN`].
const SYMBOLS: &[(&str, &str)] = &[
    ("N", "newton"),
    ("kN", "kilonewton"),
    ("J", "joule"),
    ("kJ", "kilojoule"),
    ("MJ", "megajoule"),
    ("W", "watt"),
    ("kW", "kilowatt"),
    ("MW", "megawatt"),
    ("Wh", "watthour"),
    ("kWh", "kwh"),
    ("MWh", "megawatthour"),
    ("Pa", "pascal"),
    ("kPa", "kilopascal"),
    ("MPa", "megapascal"),
    ("Hz", "hertz"),
    ("kHz", "kilohertz"),
    ("MHz", "megahertz"),
    ("GHz", "gigahertz"),
    ("V", "volt"),
    ("kV", "kilovolt"),
    ("mV", "millivolt"),
    ("A", "ampere"),
    ("mA", "milliampere"),
    ("Ω", "ohm"),
    ("kΩ", "kiloohm"),
    ("KB", "kilobyte"),
    ("MB", "megabyte"),
    ("GB", "gigabyte"),
    ("TB", "terabyte"),
    ("mol", "mole"),
    ("kcal", "kcal"),
    ("ms", "millisecond"),
    ("μs", "microsecond"),
    ("µs", "microsecond"),
    ("ns", "nanosecond"),
    ("μm", "micrometer"),
    ("µm", "micrometer"),
    ("nm", "nanometer"),
    ("μg", "microgram"),
    ("µg", "microgram"),
    ("cl", "centiliter"),
    ("cL", "centiliter"),
    ("dl", "deciliter"),
    ("dL", "deciliter"),
    ("ha", "hectare"),
    ("t", "tonne"),
    ("qt", "quart"),
    ("pt", "pint"),
];

/// Units of several words, as they are once each word is canonical, and what they are called in [`KNOWN`].
const WORDS: &[(&[&str], &str)] = &[
    (&["fluid", "oz"], "fluid ounce"),
    (&["fl", "oz"], "fluid ounce"),
    (&["nautical", "mile"], "nautical mile"),
    (&["metric", "ton"], "tonne"),
    (&["metric", "tonne"], "tonne"),
    (&["min", "of", "arc"], "arcminute"),
    (&["arc", "min"], "arcminute"),
    (&["s", "of", "arc"], "arcsecond"),
    (&["arc", "s"], "arcsecond"),
    (&["degree", "of", "arc"], "degree"),
];

/// Units that are written as one word and mean two.
const SHORT: [(&str, [&str; 3]); 4] =
    [("mph", ["mile", "/", "h"]), ("kph", ["km", "/", "h"]), ("kmh", ["km", "/", "h"]), ("mps", ["m", "/", "s"])];

/// Things that are counted, whose singular is refused below: `5 points`, `6 pairs`, `3 bases`.
const COUNTED: &[&str] =
    &["points", "pairs", "bases", "roots", "zeros", "zeroes", "logs", "powers", "doubles", "triples", "scores"];

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
    // Worked on.
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
    "half",
    "halves",
    "negated",
    "rooted",
    "recurring",
    "ish",
    "debt",
    "bc",
    "bce",
    "magnitude",
    "db",
    // What takes the number back.
    "fail",
    "failed",
    "excluded",
    "rejected",
    "divide",
    "when",
    // Of another size.
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "quadrillion",
    "quintillion",
    "zillion",
    "sextillion",
    "septillion",
    "octillion",
    "nonillion",
    "decillion",
    "googol",
    "trio",
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
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "sixteenth",
    "twentieth",
    "quarter",
    "hundredth",
    "thousandth",
    "millionth",
    "billionth",
    "zero",
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
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
];

/// Words that turn what is measured into its opposite: `20\% increase` is no `20\% decrease`.
const OPPOSITES: &[(&[&str], &[&str])] = &[
    (&["increase", "gain", "profit", "rise", "growth"], &["decrease", "loss", "drop", "fall", "decline"]),
    (&["up"], &["down"]),
    (&["north"], &["south"]),
    (&["east"], &["west"]),
    (&["left"], &["right"]),
    (&["clockwise"], &["counterclockwise", "anticlockwise"]),
    (&["early", "before", "ago"], &["late", "after"]),
];

const WORDS_MAX: usize = 8;

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
        // A ton is 2,000 pounds among pounds, else 1,000 kilograms.
        let in_pounds =
            [self, other].iter().any(|unit| unit.words.iter().any(|word| matches!(word.as_str(), "lb" | "oz" | "stone")));
        let (own, factor) = self.measure(in_pounds)?;
        let (wanted, divisor) = other.measure(in_pounds)?;
        if own == wanted { factor.divide(&divisor) } else { None }
    }

    /// Its dimensions, and how many base units it is.
    fn measure(&self, tons_in_pounds: bool) -> Option<([i8; DIMENSIONS], Rational)> {
        let mut dimensions = [0i8; DIMENSIONS];
        let mut factor = Rational::integer(1);
        let mut words = self.words.iter().map(String::as_str).peekable();
        let mut sign = 1;
        while let Some(word) = words.next() {
            if word == "/" {
                sign = -1;
                continue;
            }
            let (powers, above, below) = match word {
                "ton" if tons_in_pounds => mass(2_000 * 45_359_237, 100_000)?,
                "ton" => mass(1_000_000, 1)?,
                _ => measured(word)?,
            };
            let power = words.next_if(|next| matches!(*next, "2" | "3")).map_or(1, |next| if next == "2" { 2 } else { 3 });
            let one = Rational::integer(above.try_into().ok()?).divide(&Rational::integer(below.try_into().ok()?))?;
            for _ in 0..power {
                factor = if sign < 0 { factor.divide(&one)? } else { factor.multiply(&one)? };
            }
            for (sum, own) in dimensions.iter_mut().zip(powers) {
                *sum = sum.checked_add(sign * power * own)?;
            }
            sign = 1;
        }
        Some((dimensions, factor))
    }
}

/// What a known unit measures, by its canonical name.
fn measured(name: &str) -> Option<Measure> {
    KNOWN.iter().find(|(spellings, _)| spellings.first() == Some(&name))?.1
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
                    "per" | "a" | "an" if !unit.words.is_empty() && *text != "A" => unit.words.push("/".into()),
                    // `5 per cent` is not 5 of anything; `$5 per day` is.
                    "per" if matches!(tokens.peek(), None | Some(Token::Word { text: "cent", .. })) => return None,
                    // `15 more pages`, but not `15 more than`.
                    "more"
                        if unit.words.is_empty()
                            && !tokens.clone().any(|token| matches!(token, Token::Word { text: "than", .. })) => {}
                    "square" | "sq" => power = Some("2"),
                    "cubic" => power = Some("3"),
                    _ => {
                        let follows_degree = unit.words.last().is_some_and(|last| last == "degree");
                        if text.chars().count() == 1 && text.is_ascii() && !roman && !follows_degree && unit.words.is_empty() {
                            return None;
                        }
                        unit.known &= unit.push(text, &word)?;
                        unit.words.extend(power.take().map(String::from));
                    }
                }
            }
            Token::Currency(name) if unit.words.is_empty() => unit.words.push((*name).into()),
            Token::Degree => unit.words.push("degree".into()),
            Token::Slash if !unit.words.is_empty() => unit.words.push("/".into()),
            // `N·m`, `kilowatt-hours`
            Token::Times | Token::Minus
                if unit.known && unit.ends_in_unit() && matches!(tokens.peek(), Some(Token::Word { .. })) => {}
            Token::Superscript(digit) if !unit.words.is_empty() => unit.words.push(digit.to_string()),
            // `m^2`, `m^{2}`, `s^{-1}`; `^\circ`
            Token::Caret => {
                let braced = tokens.next_if(|token| **token == Token::Open('}')).is_some();
                let below = tokens.next_if(|token| **token == Token::Minus).is_some();
                match tokens.next()? {
                    Token::Degree if !below => unit.words.push("degree".into()),
                    Token::Number(literal) if literal.is_integer() && !unit.words.is_empty() => {
                        unit.raise(&literal.digits, below)?
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
    unit.join_words();
    Some(if unit.words.is_empty() { None } else { Some(unit) })
}

impl Unit {
    /// Adds a word, as written and in lower case; whether it is a known unit. `None` for a word that no unit contains.
    fn push(&mut self, written: &str, word: &str) -> Option<bool> {
        if let Some((_, name)) = SYMBOLS.iter().find(|(symbol, _)| *symbol == written) {
            self.words.push((*name).into());
            return Some(true);
        }
        let singular = word.strip_suffix('s').filter(|stem| stem.len() > 1).unwrap_or(word);
        // `万元` is ten thousand of them, `5M` five million.
        if changes_in_chinese(word)
            || matches!(written, "M" | "B" | "T")
            || REFUSED.contains(&word)
            || (REFUSED.contains(&singular) && !COUNTED.contains(&word))
        {
            return None;
        }
        // `平方米`
        if let Some((unit, power)) =
            word.strip_prefix("平方").map(|unit| (unit, "2")).or_else(|| word.strip_prefix("立方").map(|unit| (unit, "3")))
            && KNOWN.iter().any(|(spellings, _)| spellings.contains(&unit))
        {
            let known = self.push(unit, unit)?;
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

    /// `^2`, `^{-1}` behind the last word.
    fn raise(&mut self, digits: &str, below: bool) -> Option<()> {
        let known = matches!(digits, "2" | "3") || (below && digits == "1");
        known.then_some(())?;
        if below {
            let last = self.words.pop()?;
            if last == "/" || self.words.last().is_some_and(|word| word == "/") {
                return None;
            }
            self.words.extend(["/".to_string(), last]);
        }
        if digits != "1" {
            self.words.push(digits.into());
        }
        Some(())
    }

    fn ends_in_unit(&self) -> bool {
        self.words.last().is_some_and(|last| last != "/")
    }

    /// `fluid ounces`, `minutes of arc`: several words that are one unit.
    fn join_words(&mut self) {
        for (several, one) in WORDS {
            if let Some(at) = self.words.windows(several.len()).position(|words| words.iter().eq(several.iter())) {
                self.words.splice(at..at + several.len(), [one.to_string()]);
                self.known = self.words.iter().all(|word| {
                    matches!(word.as_str(), "/" | "2" | "3")
                        || KNOWN.iter().any(|(spellings, _)| spellings.first() == Some(&word.as_str()))
                });
            }
        }
    }
}

/// Chinese words that change the number before them: `多个`, `以上`, `个半`.
fn changes_in_chinese(word: &str) -> bool {
    const PARTS: [&str; 20] = [
        "以上", "以下", "以内", "以外", "不到", "不足", "不是", "左右", "百分", "的", "次方", "开方", "整除", "舍去", "成立",
        "上下", "出头", "进制", "夫妻", "倍数",
    ];
    let scale = word.starts_with(['百', '十', '千', '兆', '打']) && !KNOWN.iter().any(|(spellings, _)| spellings.contains(&word));
    scale
        || matches!(word, "平方" | "立方")
        || word.starts_with(['万', '亿', '半', '余', '成', '折', '多', '几', '来', '约', '非', '除', '减', '加', '乘'])
        || word.ends_with(['多', '半', '余'])
        || PARTS.iter().any(|part| word.contains(part))
}

/// Whether a word changes the number that it stands beside, or says that it is another: `less`, `million`, `not`.
pub fn changes_number(word: &str) -> bool {
    let lower = word.to_lowercase();
    let singular = lower.strip_suffix('s').filter(|stem| stem.len() > 1).unwrap_or(&lower);
    REFUSED.contains(&lower.as_str()) || (REFUSED.contains(&singular) && !COUNTED.contains(&lower.as_str()))
}

/// Whether a word is the symbol of a unit that no product of variables looks like: `kWh`, `kJ`, `Pa`.
pub fn is_symbol(word: &str) -> bool {
    let capitals = word.chars().filter(|c| c.is_uppercase()).count();
    capitals > 0 && word.chars().count() > capitals && SYMBOLS.iter().any(|(symbol, _)| *symbol == word)
}

/// Whether a lower-case word is one of the known units of two letters or more, or begins one.
pub fn is_known(word: &str) -> bool {
    let singular = word.strip_suffix('s').filter(|stem| stem.len() > 1).unwrap_or(word);
    let spelt = |(spellings, _): &(&[&str], _)| spellings.contains(&word) || spellings.contains(&singular);
    let short = SHORT.iter().any(|(short, _)| *short == word);
    short || matches!(word, "sq" | "square" | "cubic") || (word.len() > 1 && KNOWN.iter().any(spelt))
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
        ] {
            let wanted = Rational::integer(above).divide(&Rational::integer(below)).unwrap();
            assert_eq!(factor(a, b), Some(wanted), "{a} in {b}");
        }
    }

    #[test]
    fn units_of_two_kinds_are_not() {
        for (a, b) in [
            (r"\text{ J}", r"\text{ W}"),
            (r"\text{ N}", r"\text{ J}"),
            (r"\text{ MW}", r"\text{ J}"),
            ("acres", "miles"),
            ("ounces", "fluid ounces"),
            ("minutes", "minutes of arc"),
            (r"\text{ GB}", r"\text{ MB}"),
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
            r"\text{ M}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        for text in ["eggs", "more pages", "times", "real roots", "zeros", "km away", "each", "apples in total"] {
            assert!(read(text).is_some(), "{text}");
        }
    }
}
