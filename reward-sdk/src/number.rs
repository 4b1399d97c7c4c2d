//! Numbers as people and models write them, read exactly: integers, decimals, fractions, mixed
//! numbers, percentages, scientific notation; plain or LaTeX; with currency signs and units.
//!
//! What it does not understand whole it refuses: `5x`, `3 or 4`, `2+3`, `1,23`, `\sqrt{2}`, `9^{9}`
//! are not numbers here. A reward must not guess. It computes nothing but what a numeral means, so
//! an answer cannot restate the problem.
//!
//! ```text
//! quantity  := [letter "="] [sign] [currency] magnitude ["%"] [unit]
//! magnitude := factor ["/" factor] | integer fraction
//!            | factor "\times" "10" "^" integer | "10" "^" integer
//! factor    := 1,234.5e6 | "\frac" group group | "(" [sign] magnitude ")"
//! ```

use crate::lexer::{self, Literal, Token};
use crate::rational::Rational;
use crate::units::{self, Unit};

/// Longer texts are not numbers. It bounds the work on a megabyte of digits.
pub const BYTES_MAX: usize = 4_096;
/// Nesting of groups and fractions.
const DEPTH_MAX: u32 = 16;

/// A number and the unit written after it.
#[derive(Clone, Debug)]
pub struct Quantity {
    /// The number without its unit; a percentage is a hundredth of its numeral.
    pub value: Rational,
    /// The unit; `None` if there is only a number.
    pub unit: Option<Unit>,
}

impl Quantity {
    /// Whether the values are equal, in units that do not contradict each other: `18` is `18 eggs`,
    /// `1 km` is `1000 m` and not `1 m`.
    pub fn agrees_with(&self, other: &Quantity) -> bool {
        match (&self.unit, &other.unit) {
            (Some(a), Some(b)) => a
                .factor(b)
                .and_then(|factor| self.value.multiply(&factor))
                .is_some_and(|value| value == other.value),
            (Some(unit), None) | (None, Some(unit)) if !unit.may_be_missing() => false,
            _ => self.value == other.value,
        }
    }
}

/// Reads all of `text` as one quantity; `None` if it is anything else.
pub fn read(text: &str) -> Option<Quantity> {
    let text = unwrap(text);
    if text.len() > BYTES_MAX {
        return None;
    }
    let tokens = lexer::tokens(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        depth: 0,
    };
    parser.quantity()
}

/// Strips what is set around an answer: white space, a final full stop, `$…$`, `**…**`, "the answer
/// is".
pub fn unwrap(text: &str) -> &str {
    const WRAPS: [(&str, &str); 8] = [
        ("$$", "$$"),
        ("$", "$"),
        ("\\(", "\\)"),
        ("\\[", "\\]"),
        ("**", "**"),
        ("`", "`"),
        ("\"", "\""),
        ("“", "”"),
    ];
    const LEADS: [&str; 12] = [
        "**answer:**",
        "**answer**:",
        "**final answer:**",
        "the final answer is",
        "the answer is",
        "final answer:",
        "answer:",
        "answer is",
        "答案是",
        "答案为",
        "答案:",
        "答案：",
    ];
    let mut text = text.trim();
    // Minerva's prompt for MATH, which is the most published one, ends its answers so.
    text = text
        .strip_suffix("I hope it is correct.")
        .map_or(text, str::trim_end);
    // Each round takes something off; six rounds are more than any honest answer needs.
    for _ in 0..6 {
        let before = text.len();
        text = unpunctuated(text);
        for (open, close) in WRAPS {
            if let Some(inner) = text
                .strip_prefix(open)
                .and_then(|rest| rest.strip_suffix(close))
            {
                text = inner.trim();
                break;
            }
        }
        for lead in LEADS {
            if text
                .get(..lead.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(lead))
            {
                text = text
                    .get(lead.len()..)
                    .unwrap_or_default()
                    .trim_start_matches(':')
                    .trim();
                break;
            }
        }
        if text.len() == before {
            break;
        }
    }
    text
}

/// Strips punctuation and spacing from the end. The dots of `0.333...` are part of the number.
fn unpunctuated(text: &str) -> &str {
    let mut text = text.trim();
    if text.ends_with("...")
        && text
            .trim_end_matches('.')
            .ends_with(|c: char| c.is_ascii_digit())
    {
        return text;
    }
    // As often as something comes off, so once for each character at most.
    loop {
        let before = text.len();
        for spacing in ["\\,", "\\;", "\\!", "\\:", "\\ ", "~"] {
            text = text.strip_suffix(spacing).unwrap_or(text);
        }
        text = text
            .trim_end_matches(['.', '。', ',', ';', '✓', '✔', '✅'])
            .trim_end();
        if text.len() == before {
            return text;
        }
    }
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    depth: u32,
}

impl<'t, 'a> Parser<'t, 'a> {
    fn next_if(&mut self, wanted: impl FnOnce(&Token<'a>) -> bool) -> Option<&'t Token<'a>> {
        let (first, rest) = self.tokens.split_first()?;
        wanted(first).then(|| {
            self.tokens = rest;
            first
        })
    }

    fn eat(&mut self, wanted: Token<'_>) -> Option<()> {
        self.next_if(|token| *token == wanted).map(|_| ())
    }

    fn quantity(&mut self) -> Option<Quantity> {
        if let [Token::Word { text, .. }, Token::Equals, rest @ ..] = self.tokens
            && text.chars().count() == 1
        {
            self.tokens = rest;
        }
        let mut negative = self.sign();
        let currency = match self.next_if(|token| matches!(token, Token::Currency(_))) {
            Some(Token::Currency(name)) => Some(*name),
            _ => None,
        };
        if currency.is_some() && negative.is_none() {
            negative = self.sign();
        }
        let mut value = self.magnitude()?;
        if negative == Some(true) {
            value = value.negate();
        }
        if self
            .next_if(|token| matches!(token, Token::Percent))
            .is_some()
        {
            value = value.scale(-2)?;
        }
        let written = units::parse(self.tokens)?;
        Some(Quantity {
            value,
            unit: currency.map(Unit::currency).or(written),
        })
    }

    /// Reads a sign: `Some(true)` for minus, `Some(false)` for plus.
    fn sign(&mut self) -> Option<bool> {
        self.next_if(|token| matches!(token, Token::Plus | Token::Minus))
            .map(|token| *token == Token::Minus)
    }

    fn signed(&mut self) -> Option<Rational> {
        let negative = self.sign() == Some(true);
        let value = self.magnitude()?;
        Some(if negative { value.negate() } else { value })
    }

    fn magnitude(&mut self) -> Option<Rational> {
        let start = self.tokens;
        let first = self.factor()?;
        let integer = matches!(start, [Token::Number(literal), ..] if literal.is_integer());
        match self.tokens {
            [
                Token::Slash,
                Token::Number(_) | Token::Open(_) | Token::Fraction,
                ..,
            ] => {
                self.eat(Token::Slash)?;
                let below = self.factor()?;
                first.divide(&below)
            }
            [Token::Fraction, ..] if integer => {
                let part = self.factor()?;
                if part.is_proper_fraction() {
                    first.add(&part)
                } else {
                    None
                }
            }
            [
                Token::Number(above),
                Token::Slash,
                Token::Number(below),
                rest @ ..,
            ] if integer && above.is_integer() && below.is_integer() => {
                self.tokens = rest;
                let part = above.value()?.divide(&below.value()?)?;
                if part.is_proper_fraction() {
                    first.add(&part)
                } else {
                    None
                }
            }
            [Token::Times, Token::Number(ten), Token::Caret, ..] if ten.is_ten() => {
                self.tokens = self.tokens.get(2..)?;
                first.scale(self.exponent()?)
            }
            [Token::Caret, ..] if matches!(start, [Token::Number(ten), ..] if ten.is_ten()) => {
                Rational::integer(1).scale(self.exponent()?)
            }
            _ => Some(first),
        }
    }

    /// Reads `^5`, `^{-5}` or `^(5)`.
    fn exponent(&mut self) -> Option<i64> {
        self.eat(Token::Caret)?;
        let group = match self.next_if(|token| matches!(token, Token::Open(_))) {
            Some(Token::Open(close)) => Some(*close),
            _ => None,
        };
        let negative = self.sign() == Some(true);
        let Some(Token::Number(literal)) = self.next_if(|token| matches!(token, Token::Number(_)))
        else {
            return None;
        };
        if let Some(close) = group {
            self.eat(Token::Close(close))?;
        }
        let magnitude: i64 = if literal.is_integer() {
            literal.digits.parse().ok()?
        } else {
            return None;
        };
        Some(if negative { -magnitude } else { magnitude })
    }

    fn factor(&mut self) -> Option<Rational> {
        if self.depth >= DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let value = match self.next_if(|_| true)? {
            Token::Number(literal) => literal.value(),
            Token::Open(close) => {
                let value = self.signed()?;
                self.eat(Token::Close(*close))?;
                Some(value)
            }
            Token::Fraction => self.fraction(),
            _ => None,
        };
        self.depth -= 1;
        value
    }

    /// Reads the two arguments of `\frac`: groups, or single digits as TeX reads `\frac12` and
    /// `\frac{1}2`.
    fn fraction(&mut self) -> Option<Rational> {
        if let [
            Token::Number(Literal {
                digits,
                decimals: None,
                exponent: 0,
            }),
            rest @ ..,
        ] = self.tokens
            && let [above @ b'0'..=b'9', below @ b'0'..=b'9'] = digits.as_bytes()
        {
            self.tokens = rest;
            return Rational::integer((above - b'0').into())
                .divide(&Rational::integer((below - b'0').into()));
        }
        let above = self.argument()?;
        let below = self.argument()?;
        above.divide(&below)
    }

    fn argument(&mut self) -> Option<Rational> {
        let grouped = match self.tokens.first()? {
            Token::Open('}') => true,
            Token::Number(literal) => literal.is_integer() && literal.digits.len() == 1,
            _ => false,
        };
        if grouped { self.factor() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        let read = |text| read(text).unwrap_or_else(|| panic!("not read: {text}"));
        read(a).agrees_with(&read(b))
    }

    #[test]
    fn one_number_in_many_spellings() {
        let groups: &[&[&str]] = &[
            &[
                "1234",
                "1,234",
                "1{,}234",
                r"1,\!234",
                r"1\,234",
                "1234.0",
                "+1234",
                " 1234. ",
                "$1,234$",
                "1.234e3",
                "1.234E+3",
                "$1234",
                r"\$1{,}234",
                "1234 eggs",
            ],
            &[
                "0.5",
                ".5",
                "1/2",
                r"\frac{1}{2}",
                r"\dfrac12",
                r"\frac{1}2",
                r"\frac 1 2",
                "50%",
                r"50\%",
                "50 percent",
                "5e-1",
                r"\tfrac{0.5}{1}",
                "(1/2)",
                "2/4",
            ],
            &[
                "-3/4",
                "−0.75",
                "-(3/4)",
                "(-3)/4",
                r"-\frac{3}{4}",
                r"\frac{-3}{4}",
                r"\left(-\frac{3}{4}\right)",
                "-75%",
            ],
            &["1.5", "1 1/2", r"1\frac{1}{2}", r"1 \frac12", "3/2"],
            &[
                "6000000",
                r"6\times10^6",
                r"6 \times 10^{6}",
                r"6\cdot 10^{6}",
                "6×10^6",
                "6*10^6",
                "60e5",
                "6,000,000",
                r"\[6000000\]",
            ],
            &["100000", "10^5", "10^{5}", "1e5"],
            &["0.001", "10^{-3}", r"1\times 10^{-3}"],
            &[
                "18",
                "18.",
                "**18**",
                r"\(18\)",
                "The answer is 18.",
                "the final answer is: $18$.",
                "x = 18",
                r"\text{18}",
                "18.00",
                "{18}",
            ],
            &["0", "-0", "0.0", "0/7"],
            &["90", "90°", r"90^\circ", r"90^{\circ}", "90 degrees"],
            &["$5", "5 dollars", "5 USD", "5$", "$5.00", "5"],
        ];
        for group in groups {
            for text in *group {
                assert!(same(text, group[0]), "{text} is {}", group[0]);
            }
        }
    }

    #[test]
    fn nearly_is_not_equal() {
        for (a, b) in [
            ("0.333", "1/3"),
            ("50%", "50"),
            ("3.14159", "3.1416"),
            ("5", "-5"),
            ("1e3", "1e4"),
            ("0.1", "0.10000000000000001"),
        ] {
            assert!(!same(a, b), "{a} is not {b}");
        }
    }

    #[test]
    fn units_may_be_missing_but_not_contradict() {
        for (a, b) in [
            ("18", "18 eggs per day"),
            ("5 km", "5"),
            ("5 kilometers", r"5\text{ km}"),
            (r"10\text{ m}^2", r"10 \text{ square meters}"),
            (r"5\,\mathrm{m}", "5 meters"),
            ("60 km/h", "60 kilometers per hour"),
            ("20°C", r"20^\circ\text{C}"),
        ] {
            assert!(same(a, b), "{a} is {b}");
        }
        for (a, b) in [
            ("5 km", r"5\text{ m}"),
            ("5 hours", "5 minutes"),
            ("$5", "5 cents"),
            ("$5", "€5"),
            (r"10\text{ m}^2", "10 meters"),
            ("20°C", "20°F"),
        ] {
            assert!(!same(a, b), "{a} is not {b}");
        }
    }

    #[test]
    fn what_is_not_one_number_is_refused() {
        for text in [
            "",
            " ",
            ".",
            "-",
            "$",
            "%",
            "x",
            "five",
            "5x",
            "5 x",
            "5m",
            "5 m^2",
            "2x=4",
            "3 or 4",
            "3 and 4",
            "3, 4",
            "(3, 4)",
            "[1, 2]",
            "1,23",
            "1,2345",
            "12,34",
            "0,123",
            "1234,567",
            "1 234",
            "1.2.3",
            "2+3",
            "2*3",
            "2-3",
            "1/2/3",
            "1/0",
            r"\frac{1}{0}",
            "5 million",
            "3 dozen",
            "18 less",
            r"\sqrt{4}",
            r"\pi",
            "2^{10}",
            r"9^{9^{9^{9}}}",
            "10^{10^{10}}",
            "10^{99999}",
            "1e99999",
            "1e",
            "e5",
            "5!",
            "5 squared",
            "0x10",
            "1_000",
            "18 19",
            "18 eggs 19",
            r"\frac123",
            r"\frac{1}{23",
            r"2\frac{3}{2}",
            "1 3/2",
            "--5",
            "+-5",
            "5-",
            "(5",
            "5)",
            "(5}",
            r"\unknown{5}",
            "≈5",
            "x = y",
            "x = 2 = 2",
            "NaN",
            "inf",
            "∞",
            "18 eggs, 19 hens",
            "１８",
        ] {
            assert!(read(text).is_none(), "{text}: {:?}", read(text));
        }
    }

    #[test]
    fn poisoned_numbers_end_quickly_in_refusal() {
        for text in [
            "9".repeat(1 << 20),
            format!("0.{}", "3".repeat(1 << 20)),
            r"\frac{1}{".repeat(10_000),
            format!("{}1{}", r"\frac{1}{".repeat(400), "}".repeat(400)),
            "(".repeat(4_000),
            "-".repeat(4_000),
            format!("{}1e4000{}", r"\frac{1e4000}{".repeat(15), "}".repeat(15)),
            "1,000".repeat(800),
            "$".repeat(4_000),
            r"\text{".repeat(600),
            format!("{}5{}", r"\text{".repeat(600), "}".repeat(600)),
        ] {
            assert!(read(&text).is_none(), "{}", &text[..20]);
        }
    }
}
