//! `f(2)` as what a function is at 2, and not as f times 2.
//!
//! Which letters are functions, the reference and the answer say together: what they apply to a
//! number, a letter or a product, `f(2)`, `T(n)`, `f(g(x))`, is a function where it is a letter
//! that customarily is one, or where the reference defines it, `V(r) = …`. A bracket with a sum in
//! it may be a factor: `g(\sin\theta - \mu\cos\theta)`, `P(1 + r)^n`. Each application becomes a
//! letter of its own, the same one where the arguments are equal.

use crate::comparison::{Comparison, Verdict};
use crate::expression::Expr;
use crate::lexer::{self, Commas};
use crate::names::{constant, is_function, is_greek};
use crate::token::{Bracket, Kind, Relation, Token};
use std::cell::RefCell;

/// Letters that customarily name functions.
const CUSTOMARY: [&str; 27] = [
    "f", "g", "h", "p", "q", "s", "v", "y", "F", "G", "H", "P", "Q", "R", "S", "T", "N", "E", "D",
    "phi", "varphi", "psi", "Phi", "Psi", "tau", "sigma", "zeta",
];
/// The most different arguments that are kept apart.
const ARGUMENTS_MAX: usize = 32;

/// The functions of a reference and an answer, and what they were applied to.
#[derive(Default)]
pub(crate) struct Applications {
    functions: Vec<String>,
    known: RefCell<Vec<Expr>>,
    judge: Option<Comparison>,
    /// The variable of the answer's functions, and that of the reference's: `f(t) = t^2` is
    /// `f(x) = x^2`.
    renamed: Option<(String, String)>,
}

/// A letter that may be a function's name, where it stands.
struct AppliedLetter<'t> {
    name: String,
    /// What the bracket directly behind it holds.
    argument: Option<&'t [Token<'t>]>,
    /// Whether an exponent stands behind the bracket: `P(1.05)^{10}`.
    raised: bool,
    /// Whether an equation begins with the letter: `V(r) = …`.
    defined: bool,
}

impl AppliedLetter<'_> {
    /// Whether what stands in the bracket is no sum, so that it would not need one as a factor.
    fn is_applied(&self) -> bool {
        let Some(argument) = self.argument else {
            return false;
        };
        let mut depth = 0u32;
        !self.raised
            && argument
                .iter()
                .enumerate()
                .all(|(at, token)| match token.kind {
                    Kind::Open(_) => {
                        depth += 1;
                        true
                    }
                    Kind::Close(_) => {
                        depth = depth.saturating_sub(1);
                        true
                    }
                    Kind::Plus | Kind::Minus => depth > 0 || at == 0,
                    Kind::Relation(_)
                    | Kind::Comma
                    | Kind::Semicolon
                    | Kind::Modulo(_)
                    | Kind::And
                    | Kind::Or => depth > 0,
                    _ => true,
                })
    }

    /// The variable that it is applied to.
    fn variable(&self) -> Option<&str> {
        match self.argument? {
            [
                Token {
                    kind: Kind::Word(name),
                    ..
                },
            ] if name.chars().count() == 1 => Some(name),
            _ => None,
        }
    }
}

impl Applications {
    pub(crate) fn of(reference: &str, answer: &str) -> Applications {
        if !reference.contains(['(', '（']) && !answer.contains(['(', '（']) {
            return Applications::default();
        }
        let tokens = |text| lexer::tokens(text, Commas::Group).unwrap_or_default();
        let (r, a) = (tokens(reference), tokens(answer));
        let (r, a) = (letters(&r), letters(&a));
        let mut functions: Vec<String> = Vec::new();
        for letter in r.iter().chain(&a) {
            if !functions.contains(&letter.name) && is_applied(&letter.name, &r, &a) {
                functions.push(letter.name.clone());
            }
        }
        let variable = |letters: &[AppliedLetter<'_>]| {
            let mut all = letters
                .iter()
                .filter(|letter| functions.contains(&letter.name))
                .filter_map(AppliedLetter::variable);
            let first = all.next()?;
            all.all(|name| name == first).then(|| first.to_string())
        };
        let occurs = |letters: &[AppliedLetter<'_>], name: &str| {
            letters.iter().any(|letter| letter.name == name)
        };
        let equations = reference.contains('=') && answer.contains('=');
        let variables = if equations {
            variable(&a).zip(variable(&r))
        } else {
            None
        };
        let renamed =
            variables.filter(|(own, other)| own != other && !occurs(&a, other) && !occurs(&r, own));
        let judge = (!functions.is_empty()).then(|| Comparison::of_reader(reference));
        Applications {
            functions,
            known: RefCell::default(),
            judge,
            renamed,
        }
    }

    /// Returns an answer in the reference's variable.
    pub(crate) fn renamed(&self, answer: Expr) -> Expr {
        let Some((own, other)) = &self.renamed else {
            return answer;
        };
        answer.substitute(&|name| (name == own).then(|| Expr::Symbol(other.clone())))
    }

    /// Whether any letter is a function.
    pub(crate) fn any(&self) -> bool {
        !self.functions.is_empty()
    }

    /// The name of a function, `f`, `f'`, `f_1`, `f^{-1}`, with what it is applied to.
    pub(crate) fn name(&self, function: &Expr) -> Option<String> {
        match function {
            Expr::Symbol(name) => {
                let stem = name.trim_end_matches('\'');
                let stem = stem.split_once('_').map_or(stem, |(stem, _)| stem);
                self.functions
                    .iter()
                    .any(|known| known == stem)
                    .then(|| name.clone())
            }
            Expr::Power(base, exponent) => match (&**base, &**exponent) {
                (Expr::Symbol(_), Expr::Number(power)) => {
                    Some(format!("{}^{power:?}", self.name(base)?))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The letter that stands for a function's value.
    pub(crate) fn value(&self, function: &str, argument: &Expr) -> Option<Expr> {
        // The reference has no such letter.
        let argument = &self.renamed(argument.clone());
        if let Expr::Symbol(variable) = argument {
            return Some(Expr::Symbol(format!("{function}({variable})")));
        }
        let same = |known: &Expr| {
            known == argument
                || self
                    .judge
                    .as_ref()
                    .is_some_and(|judge| judge.equal(known, argument) == Verdict::Equal)
        };
        let found = self.known.borrow().iter().position(same);
        let at = match found {
            Some(at) => at,
            None => {
                let mut known = self.known.borrow_mut();
                (known.len() < ARGUMENTS_MAX).then_some(())?;
                known.push(argument.clone());
                known.len() - 1
            }
        };
        Some(Expr::Symbol(format!("{function}( {at})")))
    }
}

/// Whether a letter that stands before a bracket in one of the two is a function.
fn is_applied(name: &str, r: &[AppliedLetter<'_>], a: &[AppliedLetter<'_>]) -> bool {
    fn own<'l, 't>(letters: &'l [AppliedLetter<'t>], name: &str) -> Vec<&'l AppliedLetter<'t>> {
        letters
            .iter()
            .filter(|letter| letter.name == name)
            .collect()
    }
    let (r, a) = (own(r, name), own(a, name));
    let customary = CUSTOMARY.contains(&name);
    let bare = r.iter().any(|letter| letter.argument.is_none());
    if r.iter()
        .any(|letter| letter.is_applied() && (customary || letter.defined))
    {
        return !bare || name == "f";
    }
    if bare {
        // `f(1)` for `f`; `h(a) + h(b)` is `ha + hb`.
        let number = |letter: &&AppliedLetter<'_>| {
            letter.is_applied()
                && letter.argument.is_some_and(|all| {
                    all.iter()
                        .any(|token| matches!(token.kind, Kind::Number(_)))
                })
        };
        return customary
            && r.iter().all(|letter| letter.argument.is_none())
            && a.iter().any(number);
    }
    (name == "f" && r.iter().chain(&a).any(|letter| letter.argument.is_some()))
        || (customary && a.iter().any(|letter| letter.is_applied()))
}

/// The letters of a formula that are no part of a word or a function's name.
fn letters<'t>(tokens: &'t [Token<'t>]) -> Vec<AppliedLetter<'t>> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Word(word)
                if !constant(word)
                    && !(1..word.len())
                        .chain([0])
                        .any(|from| word.get(from..).is_some_and(is_function)) =>
            {
                let run = word.chars().count();
                for (position, letter) in word.chars().enumerate() {
                    let last = position + 1 == run;
                    // `Var(2)`, `mg(2)`
                    let glued = run > 2
                        || (run == 2 && letter != 'f' && (letter != 'g' || word.starts_with('m')));
                    found.push(AppliedLetter::read(
                        letter.to_string(),
                        tokens,
                        at,
                        last && !glued,
                    ));
                }
            }
            Kind::Roman(word) => {
                found.push(AppliedLetter::read(word.to_string(), tokens, at, true))
            }
            Kind::Command(name) if is_greek(name) => {
                found.push(AppliedLetter::read(name.to_string(), tokens, at, true))
            }
            _ => {}
        }
    }
    found
}

impl<'t> AppliedLetter<'t> {
    fn read(
        name: String,
        tokens: &'t [Token<'t>],
        at: usize,
        may_apply: bool,
    ) -> AppliedLetter<'t> {
        let bracket = if may_apply {
            bracket(tokens, at + 1)
        } else {
            None
        };
        let Some((from, to)) = bracket else {
            return AppliedLetter {
                name,
                argument: None,
                raised: false,
                defined: false,
            };
        };
        let kind = |at: usize| tokens.get(at).map(|token| &token.kind);
        let first = at.checked_sub(1).is_none_or(|before| {
            matches!(
                kind(before),
                Some(
                    Kind::Comma
                        | Kind::Semicolon
                        | Kind::Newline
                        | Kind::And
                        | Kind::Text(_)
                        | Kind::Begin(_)
                )
            )
        });
        AppliedLetter {
            name,
            argument: tokens.get(from..to),
            raised: matches!(kind(to + 1), Some(Kind::Caret | Kind::Superscript(_))),
            defined: first && kind(to + 1) == Some(&Kind::Relation(Relation::Equal)),
        }
    }
}

/// Where the argument begins and ends that stands behind a letter, its primes, its index and its
/// exponent.
fn bracket(tokens: &[Token<'_>], mut at: usize) -> Option<(usize, usize)> {
    let kind = |at: usize| tokens.get(at).map(|token| &token.kind);
    loop {
        match kind(at)? {
            Kind::Prime => at += 1,
            Kind::Superscript(_) => at += 1,
            Kind::Caret | Kind::Underscore => {
                at += 1;
                at = if kind(at)? == &Kind::Open(Bracket::Group) {
                    closing(tokens, at)? + 1
                } else {
                    at + 1
                };
            }
            Kind::Open(Bracket::Round) => return Some((at + 1, closing(tokens, at)?)),
            _ => return None,
        }
    }
}

/// Returns the index of the token that closes the bracket at token `open`; `None` if none does.
fn closing(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0u32;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Open(_) => depth += 1,
            Kind::Close(_) => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Whether a letter stands for a function's value.
pub(crate) fn is_value(name: &str) -> bool {
    name.ends_with(')') && name.contains('(')
}
