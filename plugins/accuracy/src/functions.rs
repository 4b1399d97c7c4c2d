//! Functions and their arguments: `\sin^2 x`, `\log_2 8`, `\sqrt[3]{x}`.

use crate::expression::{Expr, Function};
use crate::names::{function, is_function};
use crate::parser::Parser;
use crate::token::{Bracket, Kind};

impl Parser<'_> {
    /// A function whose name has been read.
    pub(crate) fn function(&mut self, name: &str) -> Option<Expr> {
        self.nested(|parser| parser.function_within(name))
    }

    pub(crate) fn function_within(&mut self, name: &str) -> Option<Expr> {
        match name {
            "sqrt" => {
                let degree = if self.eat(&Kind::Open(Bracket::Square)) {
                    self.bracketed(Bracket::Square)?
                } else {
                    Expr::integer(2)
                };
                let inside = self.argument()?;
                return Some(match &degree {
                    Expr::Number(whole) => Expr::Root(
                        Box::new(inside),
                        u32::try_from(whole.to_i64()?)
                            .ok()
                            .filter(|n| (2..=64).contains(n))?,
                    ),
                    _ => inside.raised_to(Expr::integer(1).over(degree)),
                });
            }
            // `√12`, not `√1` times 2.
            "surd" | "cbrt" => {
                return Some(Expr::Root(
                    Box::new(self.atom()?),
                    if name == "surd" { 2 } else { 3 },
                ));
            }
            _ => {}
        }
        let mut base = None;
        if matches!(name, "log" | "lg") && self.eat(&Kind::Underscore) {
            base = Some(self.argument()?);
        }
        let mut power = None;
        if self.eat(&Kind::Caret) {
            power = Some(self.exponent()?);
        } else if let Some(Kind::Superscript(digit)) = self.peek() {
            power = Some(Expr::integer(*digit));
            self.at += 1;
        }
        if name == "log" && base.is_none() && self.eat(&Kind::Underscore) {
            base = Some(self.argument()?);
        }
        let mut function = function(name);
        if power == Some(Expr::integer(-1)) {
            function = Some(match function? {
                Function::Sin => Function::Arcsin,
                Function::Cos => Function::Arccos,
                Function::Tan => Function::Arctan,
                _ => return None,
            });
            power = None;
        }
        let argument = self.function_argument()?;
        let called = match (name, function, argument) {
            ("exp", ..) if power.is_some() => return None,
            ("exp", _, argument) => Expr::Euler.raised_to(argument),
            ("log" | "lg", _, argument) => Expr::Call(
                Function::Log,
                vec![base.unwrap_or(Expr::integer(10)), argument],
            ),
            (
                _,
                Some(function @ (Function::Gcd | Function::Lcm | Function::Max | Function::Min)),
                argument,
            ) => match argument {
                Expr::Tuple(_, _, items) | Expr::Set(items) | Expr::List(_, items) => {
                    Expr::Call(function, items)
                }
                _ => return None,
            },
            (_, Some(function), argument) => Expr::call(function, argument),
            _ => return None,
        };
        Some(match power {
            Some(power) => called.raised_to(power),
            None => called,
        })
    }

    /// cos + i sin
    pub(crate) fn cis(&mut self) -> Option<Expr> {
        let angle = self.nested(Self::function_argument)?;
        let (cosine, sine) = (
            Expr::call(Function::Cos, angle.clone()),
            Expr::call(Function::Sin, angle),
        );
        Some(Expr::Sum(vec![cosine, Expr::Imaginary.times(sine)]))
    }

    /// `(x+1)`, `{x}`, or what follows up to the next sign: `2x` of `\sin 2x + 1`, `\pi/6` of
    /// `sin pi/6`.
    pub(crate) fn function_argument(&mut self) -> Option<Expr> {
        if matches!(self.peek()?, Kind::Open(_) | Kind::Bar) {
            return self.atom();
        }
        let negative = self.eat(&Kind::Minus);
        let mut factors = vec![self.atom_with_postfix()?];
        let mut divided = false;
        loop {
            match self.peek() {
                Some(Kind::Slash) if !divided => {
                    divided = true;
                    self.at += 1;
                    let below = self.atom_with_postfix()?;
                    let above = if factors.len() == 1 {
                        factors.pop()?
                    } else {
                        Expr::Product(std::mem::take(&mut factors))
                    };
                    factors = vec![above.over(below)];
                }
                Some(Kind::Word(word)) if is_function(word) || function_prefix(word).is_some() => {
                    break;
                }
                Some(Kind::Command(name)) if is_function(name) && *name != "sqrt" => break,
                Some(Kind::Open(_)) => break,
                // `\sin x2^x` may be either.
                Some(Kind::Number(_)) if self.is_base_of_power() => return None,
                _ if self.starts_factor() => factors.push(self.atom_with_postfix()?),
                _ => break,
            }
        }
        let argument = if factors.len() == 1 {
            factors.pop()?
        } else {
            Expr::Product(factors)
        };
        Some(if negative {
            argument.negate()
        } else {
            argument
        })
    }
}

/// A function at the start of a run of letters, and the rest: `sinx`.
pub(crate) fn function_prefix(word: &str) -> Option<(&'static str, &str)> {
    const NAMES: [&str; 14] = [
        "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec",
        "csc", "log", "sqrt",
    ];
    let found = NAMES
        .iter()
        .find_map(|name| Some((*name, word.strip_prefix(name)?)))
        .or_else(|| Some(("ln", word.strip_prefix("ln")?)));
    found.filter(|(_, rest)| (1..=2).contains(&rest.chars().count()))
}
