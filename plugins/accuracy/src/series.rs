//! Finite sums and products: `\sum_{k=1}^{3} k^2`, written out.

use crate::expression::Expr;
use crate::lexer::{Bracket, Kind, Relation};
use crate::numeric::constant_rational;
use crate::parse::Parser;

const TERMS_MAX: i64 = 64;
/// Nodes of all terms together.
const SIZE_MAX: usize = 1_000;

impl Parser<'_> {
    /// The sign has been read. Without whole bounds it is a letter like any other: two sums are equal where they are written alike.
    pub fn series(&mut self, name: &str) -> Option<Expr> {
        let start = self.at;
        match self.nested(|parser| parser.written_out(name == "sum")) {
            Some(found) => Some(found),
            None => {
                self.at = start;
                Some(Expr::Symbol(name.to_string()))
            }
        }
    }

    fn written_out(&mut self, sum: bool) -> Option<Expr> {
        (self.eat(&Kind::Underscore) && self.eat(&Kind::Open(Bracket::Group))).then_some(())?;
        let Kind::Word(index) = self.peek()?.clone() else { return None };
        self.at += 1;
        (index.len() == 1 && self.eat(&Kind::Relation(Relation::Equal))).then_some(())?;
        let low = self.sum()?;
        (self.eat(&Kind::Close(Bracket::Group)) && self.eat(&Kind::Caret)).then_some(())?;
        let high = self.exponent()?;
        let bound = |expr: &Expr| constant_rational(expr).filter(|value| value.denominator() == &1.into())?.to_i64();
        let (low, high) = (bound(&low)?, bound(&high)?);
        if !(0..TERMS_MAX).contains(&high.checked_sub(low)?) {
            return None;
        }
        let body = self.term()?;
        if body.size() * usize::try_from(high - low + 1).ok()? > SIZE_MAX {
            return None;
        }
        let terms = (low..=high).map(|value| with(&body, index, value)).collect();
        Some(if sum { Expr::Sum(terms) } else { Expr::Product(terms) })
    }
}

/// `i` is an index here, and no imaginary unit.
fn with(body: &Expr, index: &str, value: i64) -> Expr {
    match body {
        Expr::Imaginary if index == "i" => Expr::integer(value),
        Expr::Symbol(name) if name == index => Expr::integer(value),
        other => other.map(&mut |child| with(child, index, value)),
    }
}
