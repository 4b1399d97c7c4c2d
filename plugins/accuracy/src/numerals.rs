//! Numbers and what belongs to them: mixed numbers, repeating decimals, bases.

use crate::expression::Expr;
use crate::parser::Parser;
use crate::token::{Bracket, Kind, Numeral};
use reward_sdk::rational::Rational;

/// Bases of numerals.
const BASE_MAX: u32 = 36;

impl Parser<'_> {
    /// A number, and what belongs to it: repeating decimals, the fraction of a mixed number.
    pub(crate) fn number(&mut self, numeral: &Numeral) -> Option<Expr> {
        if let Some(value) = self.lettered(numeral) {
            return Some(Expr::Number(value));
        }
        let value = numeral.value()?;
        if numeral.decimals.is_some() {
            if let Some(repeating) = self.repeating() {
                return Some(Expr::Number(repeat(&value, numeral.decimals?, &repeating)?));
            }
            if self.eat(&Kind::Dots) {
                let decimals = numeral.decimals?;
                let (whole, fraction) = numeral
                    .digits
                    .split_at_checked(numeral.digits.len() - decimals)?;
                let (lead, period) = period_of(fraction)?;
                let before = Rational::decimal(&format!("{whole}{lead}"), lead.len(), 0)?;
                return Some(Expr::Number(repeat(&before, lead.len(), period)?));
            }
            return Some(Expr::Number(value));
        }
        if numeral.is_integer()
            && let Some((part, tokens)) = self.proper_fraction()
        {
            self.at += tokens;
            return Some(Expr::Number(value.add(&part)?));
        }
        Some(Expr::Number(value))
    }

    /// Digits that repeat, as written behind a decimal: `\overline{34}`, `\dot{1}4285\dot{7}`,
    /// `(3)`.
    fn repeating(&mut self) -> Option<String> {
        let start = self.at;
        let found = self.repeating_within();
        if found.is_none() {
            self.at = start;
        }
        found
    }

    fn repeating_within(&mut self) -> Option<String> {
        if self.peek() == Some(&Kind::Open(Bracket::Round)) && !self.spaced() {
            return self.digits_between(Bracket::Round);
        }
        let Some(Kind::Command(mark @ ("overline" | "bar" | "dot" | "overbar"))) = self.peek()
        else {
            return None;
        };
        let dotted = *mark == "dot";
        self.at += 1;
        let mut digits = self.digits_between(Bracket::Group)?;
        if dotted {
            let middle = match (self.peek(), self.peek_at(1)) {
                (Some(Kind::Number(middle)), Some(Kind::Command("dot"))) if middle.is_integer() => {
                    Some(middle.digits.clone())
                }
                (Some(Kind::Command("dot")), _) => None,
                _ => return Some(digits),
            };
            self.at += 1 + usize::from(middle.is_some());
            digits = digits + &middle.unwrap_or_default() + &self.digits_between(Bracket::Group)?;
        }
        Some(digits)
    }

    /// `{34}`, or `3` without braces.
    fn digits_between(&mut self, bracket: Bracket) -> Option<String> {
        let bracketed = self.eat(&Kind::Open(bracket));
        let Some(Kind::Number(repeating)) = self.peek() else {
            return None;
        };
        let digits = repeating.is_integer().then(|| repeating.digits.clone())?;
        self.at += 1;
        (!bracketed || self.eat(&Kind::Close(bracket))).then_some(digits)
    }

    /// `2A_{16}`: a numeral with letters among its digits, the index read already as its base.
    fn lettered(&mut self, numeral: &Numeral) -> Option<Rational> {
        if !numeral.is_integer() {
            return None;
        }
        let start = self.at;
        let mut digits = numeral.digits.clone();
        // Letters and further digits, up to the index.
        while !self.spaced() {
            match self.peek() {
                Some(Kind::Word(letters))
                    if letters.bytes().all(|letter| letter.is_ascii_uppercase()) =>
                {
                    digits.push_str(letters)
                }
                Some(Kind::Number(more)) if more.is_integer() => digits.push_str(&more.digits),
                _ => break,
            }
            self.at += 1;
        }
        if self.at == start || !self.eat(&Kind::Underscore) {
            self.at = start;
            return None;
        }
        let value = self
            .index()
            .and_then(|index| digits_in_base(&digits, &index));
        if value.is_none() {
            self.at = start;
        }
        value
    }

    /// `\text{FF}_{16}`, the text read already; another text with an index is a name.
    pub(crate) fn lettered_text(&mut self, text: &str) -> Option<Expr> {
        self.at += 1;
        let index = self.index()?;
        let digits = !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        let value = if digits {
            digits_in_base(text, &index)
        } else {
            None
        };
        Some(value.map_or_else(|| Expr::Symbol(format!("{text}_{index}")), Expr::Number))
    }

    /// The fraction of a mixed number that comes next, and how many tokens it takes:
    /// `1\frac{1}{2}`, `1 1/2`, `1½`.
    pub(crate) fn proper_fraction(&self) -> Option<(Rational, usize)> {
        let integer = |ahead: usize| match self.peek_at(ahead) {
            Some(Kind::Number(numeral)) if numeral.is_integer() => numeral.value(),
            _ => None,
        };
        let group = |ahead: usize| matches!(self.peek_at(ahead), Some(Kind::Open(Bracket::Group)));
        let closed =
            |ahead: usize| matches!(self.peek_at(ahead), Some(Kind::Close(Bracket::Group)));
        let (above, below, tokens) = match self.peek()? {
            Kind::Fraction if group(1) && closed(3) && group(4) && closed(6) => {
                (integer(2)?, integer(5)?, 7)
            }
            Kind::Fraction if group(1) && closed(3) => match self.peek_at(4) {
                Some(Kind::Number(numeral)) if numeral.digits.len() == 1 => {
                    (integer(2)?, integer(4)?, 5)
                }
                _ => return None,
            },
            Kind::Fraction => match self.peek_at(1)? {
                Kind::Number(numeral) if numeral.is_integer() && numeral.digits.len() == 2 => {
                    let (above, below) = numeral.digits.split_at(1);
                    (
                        Rational::decimal(above, 0, 0)?,
                        Rational::decimal(below, 0, 0)?,
                        2,
                    )
                }
                Kind::Number(numeral) if numeral.digits.len() == 1 && group(2) && closed(4) => {
                    (integer(1)?, integer(3)?, 5)
                }
                Kind::Number(numeral) if numeral.digits.len() == 1 && self.peek_at(2).is_some() => {
                    (integer(1)?, integer(2)?, 3)
                }
                _ => return None,
            },
            Kind::Number(_) if self.spaced() && self.peek_at(1) == Some(&Kind::Slash) => {
                (integer(0)?, integer(2)?, 3)
            }
            Kind::Command(name) => match vulgar(name)? {
                Expr::Number(part) => return Some((part, 1)),
                _ => return None,
            },
            _ => return None,
        };
        let part = above.divide(&below)?;
        part.is_proper_fraction().then_some((part, tokens))
    }
}

/// `1/2`, as `½` is called.
pub(crate) fn vulgar(name: &str) -> Option<Expr> {
    let (above, below) = name.split_once('/')?;
    Some(Expr::Number(
        Rational::decimal(above, 0, 0)?.divide(&Rational::decimal(below, 0, 0)?)?,
    ))
}

/// `204_5`: the digits of a numeral read in its base.
pub(crate) fn in_base(value: &Rational, index: &str) -> Option<Rational> {
    value.denominator().eq(&1.into()).then_some(())?;
    digits_in_base(&value.numerator().to_string(), index)
}

/// The base is in digits or in words: `16`, `two`.
fn digits_in_base(digits: &str, index: &str) -> Option<Rational> {
    let spelled = crate::spelled::numeral(index);
    let base: u32 = spelled
        .as_deref()
        .unwrap_or(index)
        .parse()
        .ok()
        .filter(|base| (2..=BASE_MAX).contains(base))?;
    let mut total = Rational::integer(0);
    for digit in digits.chars() {
        let digit = digit.to_digit(base)?;
        total = total
            .multiply(&Rational::integer(base.into()))?
            .add(&Rational::integer(digit.into()))?;
    }
    Some(total)
}

/// A decimal with `decimals` digits after its point, and the digits that repeat behind them.
fn repeat(value: &Rational, decimals: usize, digits: &str) -> Option<Rational> {
    let nines = Rational::decimal(&"9".repeat(digits.len()), 0, 0)?;
    let tail = Rational::decimal(digits, 0, 0)?
        .divide(&nines)?
        .scale(-i64::try_from(decimals).ok()?)?;
    value.add(&tail)
}

/// `1666…` → `1`, `6`: the shortest period that has been written at least twice (three times when
/// it is one digit).
fn period_of(digits: &str) -> Option<(&str, &str)> {
    let bytes = digits.as_bytes();
    for length in 1..=bytes.len() / 2 {
        let period = bytes.get(bytes.len() - length..)?;
        let mut times = 1;
        while bytes.len() >= (times + 1) * length
            && bytes.get(bytes.len() - (times + 1) * length..bytes.len() - times * length)?
                == period
        {
            times += 1;
        }
        if times >= if length == 1 { 3 } else { 2 } {
            return digits
                .split_at_checked(bytes.len() - times * length)
                .map(|(lead, tail)| (lead, tail.get(..length).unwrap_or_default()));
        }
    }
    None
}
