//! What an answer is made of, as the lexer finds it: numerals, words, signs and brackets.

use reward_sdk::rational::Rational;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bracket {
    Round,
    Square,
    /// `{…}`: grouping without a meaning of its own.
    Group,
    /// `\{…\}`
    Curly,
    Angle,
    Floor,
    Ceiling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    Approximately,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Member,
}

impl Relation {
    /// The relation read from right to left.
    pub(crate) fn mirrored(self) -> Relation {
        match self {
            Relation::Less => Relation::Greater,
            Relation::LessOrEqual => Relation::GreaterOrEqual,
            Relation::Greater => Relation::Less,
            Relation::GreaterOrEqual => Relation::LessOrEqual,
            same => same,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind<'a> {
    Number(Numeral),
    /// A run of letters.
    Word(&'a str),
    /// `\text{…}` and its relatives, trimmed.
    Text(&'a str),
    /// A letter in a font, `\mathbf{v}`, `\mathrm{e}`.
    Roman(&'a str),
    /// Any other command: functions, Greek letters, what is not understood.
    Command(&'a str),
    Plus,
    Minus,
    PlusMinus,
    MinusPlus,
    Times,
    Slash,
    Caret,
    Underscore,
    Bang,
    Percent,
    Degree,
    Prime,
    Dots,
    /// `²`, `⁻¹`
    Superscript(i64),
    Open(Bracket),
    Close(Bracket),
    Bar,
    Comma,
    Semicolon,
    Colon,
    Ampersand,
    Newline,
    And,
    Or,
    Relation(Relation),
    Union,
    Intersection,
    Without,
    Fraction,
    /// `\pmod` when true; `\bmod` or `mod` when false.
    Modulo(bool),
    Currency,
    Begin(&'a str),
    End(&'a str),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub kind: Kind<'a>,
    /// Place of the token in the text, in bytes.
    pub at: usize,
    /// Whether white space stands before the token.
    pub spaced: bool,
}

/// Digits as written, without separators.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numeral {
    pub digits: String,
    /// Digits after the point; `None` without one.
    pub decimals: Option<usize>,
    pub exponent: i64,
}

impl Numeral {
    pub(crate) fn is_integer(&self) -> bool {
        self.decimals.is_none() && self.exponent == 0
    }

    pub(crate) fn value(&self) -> Option<Rational> {
        Rational::decimal(&self.digits, self.decimals.unwrap_or(0), self.exponent)
    }
}
