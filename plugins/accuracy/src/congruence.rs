//! Residue classes: `x \equiv 3 \pmod 7`.

use crate::compare::Compare;
use crate::equal::Verdict;
use crate::expression::{Expr, Function, Joined};
use crate::family::linear;
use crate::lexer::{Bracket, Kind};
use crate::numeric::constant_rational;
use crate::parse::Parser;

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

impl Compare<'_> {
    /// Compares two classes, each given by a member and the modulus.
    pub(crate) fn classes(&self, r: (&Expr, &Expr), a: (&Expr, &Expr)) -> Verdict {
        self.judge.equal(r.1, a.1).and(|| {
            match self.is_multiple(&r.0.clone().minus(a.0.clone()), r.1) {
                Some(multiple) => Verdict::of(multiple),
                None => self.judge.equal(r.0, a.0),
            }
        })
    }

    /// Compares a class with a formula, which may be the member as it is written, or `7k + 3` for
    /// all k.
    pub(crate) fn class_and_formula(&self, class: (&Expr, &Expr), formula: &Expr) -> Verdict {
        if let [parameter] = formula.symbols().as_slice()
            && class.0.symbols().is_empty()
            && let Some((slope, constant)) = linear(self.judge, formula, parameter)
        {
            let step = self.judge.equal(&slope, class.1) == Verdict::Equal
                || self.judge.equal(&slope.negate(), class.1) == Verdict::Equal;
            return Verdict::of(
                step && self.is_multiple(&class.0.clone().minus(constant), class.1) == Some(true),
            );
        }
        self.judge.equal(class.0, formula)
    }

    /// Whether a value is a multiple of `of`; `None` unless both are rational constants.
    fn is_multiple(&self, value: &Expr, of: &Expr) -> Option<bool> {
        if !value.is_scalar() || !value.symbols().is_empty() {
            return None;
        }
        let (value, of) = (constant_rational(value)?, constant_rational(of)?);
        Some(value.divide(&of)?.denominator() == &1.into())
    }
}
