//! Reads residue classes: `x \equiv 3 \pmod 7`.

use crate::expression::{Expr, Function, Joined};
use crate::parser::Parser;
use crate::token::{Bracket, Kind};

impl Parser<'_> {
    /// Whether `\pmod 7`, `(mod 7)` or `\bmod 7` comes next.
    pub(crate) fn starts_modulus(&self) -> bool {
        let group = usize::from(self.peek() == Some(&Kind::Open(Bracket::Group)));
        matches!(
            (self.peek_at(group), self.peek_at(group + 1)),
            (Some(Kind::Modulo(_)), _) | (Some(Kind::Open(Bracket::Round)), Some(Kind::Modulo(_)))
        )
    }

    /// Reads the modulus behind a value. `17 \bmod 5` is 2, unless it stands behind a `≡`.
    pub(crate) fn modulo(&mut self, value: Expr, congruent: bool) -> Option<Expr> {
        // `\text{ (mod 7)}`
        let grouped = self.eat(&Kind::Open(Bracket::Group));
        let bracketed = self.eat(&Kind::Open(Bracket::Round));
        let Some(Kind::Modulo(class)) = self.peek() else {
            return None;
        };
        let class = *class || bracketed || congruent;
        self.at += 1;
        let modulus = if bracketed { self.sum()? } else { self.atom()? };
        if (bracketed && !self.eat(&Kind::Close(Bracket::Round)))
            || (grouped && !self.eat(&Kind::Close(Bracket::Group)))
        {
            return None;
        }
        if class {
            return Some(Expr::Modulo(Box::new(value), Box::new(modulus)));
        }
        let whole = Expr::call(Function::Floor, value.clone().over(modulus.clone()));
        Some(value.minus(modulus.times(whole)))
    }
}

/// `x \equiv 1, 4 \pmod 5`: the modulus is that of all.
pub(crate) fn spread(joined: Joined, mut items: Vec<Expr>) -> Expr {
    let modulus = match items.last() {
        Some(Expr::Modulo(_, modulus)) => Some(modulus.clone()),
        Some(Expr::Relations(sides, _)) => match sides.last() {
            Some(Expr::Modulo(_, modulus)) => Some(modulus.clone()),
            _ => None,
        },
        _ => None,
    };
    if let Some(modulus) = modulus {
        for item in &mut items {
            let value = match item {
                Expr::Relations(sides, _) => sides.last_mut(),
                other => Some(other),
            };
            if let Some(value) = value.filter(|value| value.is_scalar()) {
                *value = Expr::Modulo(Box::new(value.clone()), modulus.clone());
            }
        }
    }
    Expr::List(joined, items)
}
