//! What an answer is, once read: one tree for numbers, formulas, and what is built of them.

use crate::clock::Clock;
use crate::token::{Bracket, Relation};
use reward_sdk::rational::Rational;
use reward_sdk::units::Unit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    /// The natural logarithm.
    Ln,
    /// The logarithm to a base; the arguments are the base and the argument, in this order.
    Log,
    Absolute,
    Floor,
    Ceiling,
    Factorial,
    Binomial,
    Gcd,
    Lcm,
    Max,
    Min,
    Determinant,
    RealPart,
    ImaginaryPart,
}

impl Function {
    /// Logarithms, angles and what is made of them.
    pub(crate) fn is_transcendental(self) -> bool {
        use Function::*;
        matches!(
            self,
            Sin | Cos
                | Tan
                | Cot
                | Sec
                | Csc
                | Arcsin
                | Arccos
                | Arctan
                | Sinh
                | Cosh
                | Tanh
                | Ln
                | Log
        )
    }
}

/// What joins the items of a list that stands without brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    Comma,
    And,
    Or,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    Number(Rational),
    Pi,
    Euler,
    Imaginary,
    Infinity,
    Symbol(String),
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    /// The n-th root, n at least 2.
    Root(Box<Expr>, u32),
    Call(Function, Vec<Expr>),
    /// `±` when true, `∓` when false.
    PlusMinus(bool, Box<Expr>),
    Percent(Box<Expr>),
    Degrees(Box<Expr>),
    Quantity(Box<Expr>, Unit),

    /// Several things between brackets: a point, an interval, a row.
    Tuple(Bracket, Bracket, Vec<Expr>),
    /// Several things without brackets.
    List(Joined, Vec<Expr>),
    Set(Vec<Expr>),
    Matrix(Vec<Vec<Expr>>),
    /// `a < b < c`: one relation fewer than sides.
    Relations(Vec<Expr>, Vec<Relation>),
    Ratio(Vec<Expr>),
    Union(Box<Expr>, Box<Expr>),
    Intersection(Box<Expr>, Box<Expr>),
    Without(Box<Expr>, Box<Expr>),
    /// A value and the modulus of its class.
    Modulo(Box<Expr>, Box<Expr>),
    /// Rows of a value and its condition.
    Cases(Vec<Vec<Expr>>),
    Clock(Clock),
    Reals,
    Text(String),
}

impl Expr {
    /// Reads a ratio or a number that stands where a time is expected: `12:30`.
    pub(crate) fn clock(&self) -> Option<Clock> {
        let small = |expr: &Expr| match expr {
            Expr::Number(value) => value.to_i64().and_then(|value| u32::try_from(value).ok()),
            _ => None,
        };
        match self {
            Expr::Clock(clock) => Some(*clock),
            Expr::Ratio(parts) => match parts.as_slice() {
                [hours, minutes] => Clock::new(small(hours)?, small(minutes)?, None),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn integer(value: i64) -> Expr {
        Expr::Number(Rational::integer(value))
    }

    pub(crate) fn negate(self) -> Expr {
        match self {
            Expr::Number(value) => Expr::Number(value.negate()),
            other => Expr::Product(vec![Expr::integer(-1), other]),
        }
    }

    pub(crate) fn minus(self, other: Expr) -> Expr {
        Expr::Sum(vec![self, other.negate()])
    }

    pub(crate) fn times(self, other: Expr) -> Expr {
        Expr::Product(vec![self, other])
    }

    pub(crate) fn over(self, other: Expr) -> Expr {
        Expr::Quotient(Box::new(self), Box::new(other))
    }

    pub(crate) fn raised_to(self, exponent: Expr) -> Expr {
        Expr::Power(Box::new(self), Box::new(exponent))
    }

    pub(crate) fn call(function: Function, argument: Expr) -> Expr {
        Expr::Call(function, vec![argument])
    }

    pub(crate) fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::Sum(all)
            | Expr::Product(all)
            | Expr::Call(_, all)
            | Expr::Tuple(_, _, all)
            | Expr::List(_, all) => all.iter().collect(),
            Expr::Set(all) | Expr::Relations(all, _) | Expr::Ratio(all) => all.iter().collect(),
            Expr::Matrix(rows) | Expr::Cases(rows) => rows.iter().flatten().collect(),
            Expr::Modulo(a, b)
            | Expr::Quotient(a, b)
            | Expr::Power(a, b)
            | Expr::Union(a, b)
            | Expr::Intersection(a, b)
            | Expr::Without(a, b) => {
                vec![a, b]
            }
            Expr::Root(a, _)
            | Expr::PlusMinus(_, a)
            | Expr::Percent(a)
            | Expr::Degrees(a)
            | Expr::Quantity(a, _) => vec![a],
            Expr::Number(_)
            | Expr::Pi
            | Expr::Euler
            | Expr::Imaginary
            | Expr::Infinity
            | Expr::Symbol(_)
            | Expr::Clock(_)
            | Expr::Reals
            | Expr::Text(_) => Vec::new(),
        }
    }

    /// The same tree with each child replaced; the tree's depth is bounded by the parser.
    pub(crate) fn map(&self, f: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
        let mut all = |items: &[Expr]| -> Vec<Expr> { items.iter().map(&mut *f).collect() };
        match self {
            Expr::Sum(items) => Expr::Sum(all(items)),
            Expr::Product(items) => Expr::Product(all(items)),
            Expr::Call(function, items) => Expr::Call(*function, all(items)),
            Expr::Tuple(open, close, items) => Expr::Tuple(*open, *close, all(items)),
            Expr::List(joined, items) => Expr::List(*joined, all(items)),
            Expr::Set(items) => Expr::Set(all(items)),
            Expr::Relations(items, relations) => Expr::Relations(all(items), relations.clone()),
            Expr::Ratio(items) => Expr::Ratio(all(items)),
            Expr::Matrix(rows) => Expr::Matrix(rows.iter().map(|row| all(row)).collect()),
            Expr::Cases(rows) => Expr::Cases(rows.iter().map(|row| all(row)).collect()),
            Expr::Modulo(a, b) => Expr::Modulo(Box::new(f(a)), Box::new(f(b))),
            Expr::Quotient(a, b) => Expr::Quotient(Box::new(f(a)), Box::new(f(b))),
            Expr::Power(a, b) => Expr::Power(Box::new(f(a)), Box::new(f(b))),
            Expr::Union(a, b) => Expr::Union(Box::new(f(a)), Box::new(f(b))),
            Expr::Intersection(a, b) => Expr::Intersection(Box::new(f(a)), Box::new(f(b))),
            Expr::Without(a, b) => Expr::Without(Box::new(f(a)), Box::new(f(b))),
            Expr::Root(a, n) => Expr::Root(Box::new(f(a)), *n),
            Expr::PlusMinus(plus, a) => Expr::PlusMinus(*plus, Box::new(f(a))),
            Expr::Percent(a) => Expr::Percent(Box::new(f(a))),
            Expr::Degrees(a) => Expr::Degrees(Box::new(f(a))),
            Expr::Quantity(a, unit) => Expr::Quantity(Box::new(f(a)), unit.clone()),
            leaf => leaf.clone(),
        }
    }

    pub(crate) fn any(&self, wanted: &dyn Fn(&Expr) -> bool) -> bool {
        wanted(self) || self.some_child(&|child| child.any(wanted))
    }

    /// Whether a child meets the condition. It makes no list of the children, which would cost more
    /// than to look at them.
    fn some_child(&self, holds: &dyn Fn(&Expr) -> bool) -> bool {
        match self {
            Expr::Sum(all)
            | Expr::Product(all)
            | Expr::Call(_, all)
            | Expr::Tuple(_, _, all)
            | Expr::List(_, all) => all.iter().any(holds),
            Expr::Set(all) | Expr::Relations(all, _) | Expr::Ratio(all) => all.iter().any(holds),
            Expr::Quotient(a, b) | Expr::Power(a, b) => holds(a) || holds(b),
            Expr::Root(a, _)
            | Expr::PlusMinus(_, a)
            | Expr::Percent(a)
            | Expr::Degrees(a)
            | Expr::Quantity(a, _) => holds(a),
            other => other.children().into_iter().any(holds),
        }
    }

    /// Number of nodes of the tree.
    pub(crate) fn size(&self) -> usize {
        1 + self.children().into_iter().map(Expr::size).sum::<usize>()
    }

    /// The variables, each once, in the order in which they appear.
    pub(crate) fn symbols(&self) -> Vec<String> {
        fn walk(expr: &Expr, found: &mut Vec<String>) {
            if let Expr::Symbol(name) = expr
                && !found.contains(name)
            {
                found.push(name.clone());
            }
            for child in expr.children() {
                walk(child, found);
            }
        }
        let mut found = Vec::new();
        walk(self, &mut found);
        found
    }

    pub(crate) fn substitute(&self, value_of: &dyn Fn(&str) -> Option<Expr>) -> Expr {
        match self {
            Expr::Symbol(name) => value_of(name).unwrap_or_else(|| self.clone()),
            other => other.map(&mut |child| child.substitute(value_of)),
        }
    }

    /// Whether the expression is a formula: no set, list, relation or text in it.
    pub(crate) fn is_scalar(&self) -> bool {
        !self.any(&|e| {
            matches!(
                e,
                Expr::Tuple(..)
                    | Expr::List(..)
                    | Expr::Set(_)
                    | Expr::Matrix(_)
                    | Expr::Relations(..)
                    | Expr::Ratio(_)
                    | Expr::Union(..)
                    | Expr::Intersection(..)
                    | Expr::Without(..)
                    | Expr::Modulo(..)
                    | Expr::Cases(_)
                    | Expr::Clock(_)
                    | Expr::Reals
                    | Expr::Text(_)
            )
        })
    }

    pub(crate) fn has_plus_minus(&self) -> bool {
        self.any(&|e| matches!(e, Expr::PlusMinus(..)))
    }

    /// Returns the formula with every `±` read as its upper or its lower sign.
    pub(crate) fn signed(&self, upper: bool) -> Expr {
        match self {
            Expr::PlusMinus(plus, inner) => {
                let inner = inner.signed(upper);
                if *plus == upper {
                    inner
                } else {
                    inner.negate()
                }
            }
            other => other.map(&mut |child| child.signed(upper)),
        }
    }
}

/// An angle with its degrees turned into radians.
pub(crate) fn radians(expr: &Expr) -> Expr {
    match expr {
        Expr::Degrees(inner) => {
            Expr::Product(vec![(**inner).clone(), Expr::Pi]).over(Expr::integer(180))
        }
        other => other.map(&mut radians),
    }
}

/// Reads an infinity: `Some(true)` for ∞, `Some(false)` for −∞, `None` for anything else.
pub(crate) fn infinite(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Infinity => Some(true),
        Expr::Product(factors) => match factors.as_slice() {
            [Expr::Number(value), inner] => {
                infinite(inner).map(|positive| positive != value.is_negative())
            }
            _ => None,
        },
        _ => None,
    }
}
