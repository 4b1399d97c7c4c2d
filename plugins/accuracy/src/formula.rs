//! Tokens → tree: formulas.
//!
//! ```text
//! sum     := [sign] term (("+"|"-"|"±"|"∓") term)*
//! term    := factor (["·"|"/"] factor)*
//! factor  := sign factor | atom postfix*
//! postfix := "!" | "%" | "°" | "'" | "_" index | "^" exponent
//! ```

use crate::binomials::{chosen, indexed};
use crate::expression::{Expr, Function};
use crate::functions::function_prefix;
use crate::names::{constant, is_chinese, is_function, is_greek, is_prose, symbol};
use crate::numerals::{in_base, vulgar};
use crate::parser::Parser;
use crate::token::{Bracket, Kind, Numeral, Relation, Token};
use crate::vectors::UNITS;
use reward_sdk::rational::Rational;
use reward_sdk::units;

/// The most signs before a factor.
const SIGNS_MAX: usize = 8;
/// The most postfixes of one value, and divisions one after the other: each makes the tree deeper.
const CHAIN_MAX: usize = 24;

impl<'a> Parser<'a> {
    pub(crate) fn sum(&mut self) -> Option<Expr> {
        self.nested(Self::sum_within)
    }

    pub(crate) fn sum_within(&mut self) -> Option<Expr> {
        let mut terms = Vec::new();
        let mut dots = None;
        loop {
            let sign = self
                .peek()
                .filter(|kind| {
                    matches!(
                        kind,
                        Kind::Plus | Kind::Minus | Kind::PlusMinus | Kind::MinusPlus
                    )
                })
                .cloned();
            if sign.is_none() && !terms.is_empty() {
                break;
            }
            // `\mathbb{R} - \{0\}` is no sum.
            if terms.as_slice() == [Expr::Reals] || (!terms.is_empty() && self.takes_away()) {
                break;
            }
            self.at += usize::from(sign.is_some());
            // `1 + 2 + \cdots + n`
            if sign == Some(Kind::Plus) && dots.is_none() && self.eat(&Kind::Dots) {
                dots = Some(terms.len());
                continue;
            }
            let term = self.term()?;
            terms.push(match sign {
                Some(Kind::Minus) => term.negate(),
                Some(Kind::PlusMinus) => Expr::PlusMinus(true, Box::new(term)),
                Some(Kind::MinusPlus) => Expr::PlusMinus(false, Box::new(term)),
                _ => term,
            });
        }
        if let Some(dots) = dots {
            return self.dotted(true, terms.get(..dots)?, terms.get(dots..)?);
        }
        if terms.len() == 1 {
            terms.pop()
        } else {
            Some(Expr::Sum(terms))
        }
    }

    pub(crate) fn term(&mut self) -> Option<Expr> {
        let mut product = vec![self.factor()?];
        let mut divisions = 0;
        let mut dots = None;
        loop {
            match self.peek() {
                // `1 \cdot 2 \cdots n`, `1 \cdot 2 \cdot \ldots \cdot n`
                Some(Kind::Times) if dots.is_none() && self.peek_at(1) == Some(&Kind::Dots) => {
                    self.at += 1
                }
                Some(Kind::Dots) if dots.is_none() && product.len() > 1 => {
                    self.at += 1;
                    self.eat(&Kind::Times);
                    if matches!(
                        self.peek(),
                        Some(Kind::Plus | Kind::Minus | Kind::PlusMinus)
                    ) {
                        return None;
                    }
                    dots = Some(product.len());
                    product.push(self.factor()?);
                }
                Some(Kind::Times) => {
                    self.at += 1;
                    product.push(self.factor()?);
                }
                Some(Kind::Slash) => {
                    self.at += 1;
                    divisions += 1;
                    if divisions > CHAIN_MAX || dots.is_some() {
                        return None;
                    }
                    let below = self.factor()?;
                    let above = if product.len() == 1 {
                        product.pop()?
                    } else {
                        Expr::Product(std::mem::take(&mut product))
                    };
                    product = vec![above.over(below)];
                }
                _ if self.starts_factor() => product.push(self.atom_with_postfix()?),
                _ => break,
            }
        }
        if let Some(dots) = dots {
            return self.dotted(false, product.get(..dots)?, product.get(dots..)?);
        }
        if product.len() == 1 {
            product.pop()
        } else {
            Some(Expr::Product(product))
        }
    }

    /// Whether the next token goes on with a product that has no sign between its factors.
    pub(crate) fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Kind::Open(_)) => !self.starts_modulus() && !self.declares_parameter(),
            Some(Kind::Fraction) => !self.is_unit_fraction(),
            Some(Kind::Begin(_)) => true,
            // `2 3` is no product, `x3` hardly; `(2)3` and `\frac12 3` are.
            Some(Kind::Number(_)) => {
                let before = |back: usize| {
                    self.at
                        .checked_sub(back)
                        .and_then(|at| self.tokens.get(at))
                        .map(|token| &token.kind)
                };
                // `(-1)^n 2^n`
                let exponent = || {
                    self.spaced()
                        && before(2) == Some(&Kind::Caret)
                        && matches!(before(1), Some(Kind::Word(_)))
                };
                matches!(before(1), Some(Kind::Close(_) | Kind::Bang))
                    || exponent()
                    || self.is_base_of_power()
            }
            Some(Kind::Text("cis")) => true,
            Some(Kind::Command(name)) => is_known(name),
            Some(Kind::Bar) => self.bars == 0 && self.bar_opens(),
            Some(Kind::Word(word)) => !self.is_unit(word),
            Some(Kind::Roman(letter)) => matches!(*letter, "e" | "i" | "x" | "y" | "z" | "n" | "k"),
            _ => false,
        }
    }

    /// Whether the number that comes next has an exponent, and stands behind a letter or behind
    /// another exponent: `n2^{n-1}`, `x^2 2^x`. Without an exponent `x2` may be meant for x
    /// squared, and is not read.
    pub(crate) fn is_base_of_power(&self) -> bool {
        let before = |back: usize| {
            self.at
                .checked_sub(back)
                .and_then(|at| self.tokens.get(at))
                .map(|token| &token.kind)
        };
        let behind = match before(1) {
            Some(Kind::Word(_) | Kind::Roman(_) | Kind::Prime | Kind::Superscript(_)) => true,
            Some(Kind::Command(name)) => *name == "pi" || is_greek(name),
            Some(Kind::Number(_)) => {
                matches!(before(2), Some(Kind::Caret | Kind::Underscore)) && self.spaced()
            }
            _ => false,
        };
        behind
            && matches!(self.peek(), Some(Kind::Number(_)))
            && self.peek_at(1) == Some(&Kind::Caret)
            && !matches!(self.peek_at(2), Some(Kind::Degree))
            && self.peek_at(3) != Some(&Kind::Degree)
    }

    /// `\frac{\text{m}}{\text{s}}` after a number.
    fn is_unit_fraction(&self) -> bool {
        let after_number = self
            .at
            .checked_sub(1)
            .and_then(|at| self.tokens.get(at))
            .is_some_and(|token| matches!(token.kind, Kind::Number(_)));
        let upright = |ahead: usize| -> bool {
            let Some(token) = self.tokens.get(self.at + ahead) else {
                return false;
            };
            let (Kind::Text(word) | Kind::Roman(word)) = token.kind else {
                return false;
            };
            let written = self.text.get(token.at..).unwrap_or_default();
            (written.starts_with("\\text{") || written.starts_with("\\mathrm{"))
                && (units::is_known(word)
                    || matches!(word, "m" | "s" | "g" | "h" | "l" | "L" | "N" | "J" | "W"))
        };
        let group = Some(&Kind::Open(Bracket::Group));
        after_number
            && self.peek_at(1) == group
            && upright(2)
            && self.peek_at(3) == Some(&Kind::Close(Bracket::Group))
            && self.peek_at(4) == group
            && upright(5)
    }

    /// Whether a `|` after a value has its partner: `2|x|`.
    pub(crate) fn bar_opens(&self) -> bool {
        self.tokens
            .iter()
            .skip(self.at)
            .filter(|token| token.kind == Kind::Bar)
            .count()
            % 2
            == 0
    }

    /// Whether a word after a value is a unit or what is counted, rather than variables.
    pub(crate) fn is_unit(&self, word: &str) -> bool {
        let letters = word.chars().count();
        let lower = word.to_ascii_lowercase();
        // `2MG` is of two masses, not of milligrams.
        if (letters == 1 && word.is_ascii()) || word == "MG" {
            return false;
        }
        // What is left of a run of letters: `Mm` of `GMm` is no length.
        let whole_run = self
            .tokens
            .get(self.at)
            .and_then(|token| self.text.get(token.at..))
            .is_none_or(|text| text.starts_with(word));
        if !whole_run && word.is_ascii() {
            return false;
        }
        // `\mu mg`, `\mu_k mg` are products.
        let back = |back: usize| {
            self.at
                .checked_sub(back)
                .and_then(|at| self.tokens.get(at))
                .map(|token| &token.kind)
        };
        let greek = |kind: Option<&Kind<'_>>| {
            matches!(kind, Some(Kind::Command(name)) if *name !=
            "pi" && is_greek(name))
        };
        if letters == 2
            && word.is_ascii()
            && (greek(back(1)) || (back(2) == Some(&Kind::Underscore) && greek(back(3))))
        {
            return false;
        }
        let after_number = matches!(
            self.at.checked_sub(1).and_then(|at| self.tokens.get(at)),
            Some(Token {
                kind: Kind::Number(_),
                ..
            })
        );
        if after_number && self.spaced() && units::is_symbol(word) {
            return true;
        }
        // `2MG` within a fraction is the gravity's formula.
        let capitals = word.bytes().all(|byte| byte.is_ascii_uppercase());
        if letters == 2 && capitals && self.depth > 1 && !self.spaced() {
            return false;
        }
        // `5 min`, `30 sec`, but `2\sec x`.
        let applied = matches!(
            self.peek_at(1),
            Some(Kind::Open(Bracket::Round) | Kind::Command(_) | Kind::Word(_))
        );
        if units::is_known(&lower) && !(is_function(word) && applied) {
            return true;
        }
        if is_function(word) || constant(word) || function_prefix(word).is_some() {
            return false;
        }
        // `5 below zero`: whatever the words are, they are no product.
        if is_chinese(word) || (letters > 2 && after_number && units::changes_number(word)) {
            return true;
        }
        let vowels = lower.contains(['a', 'e', 'i', 'o', 'u']);
        is_prose(word) || (letters == 3 && vowels && self.spaced() && word == lower)
    }

    pub(crate) fn factor(&mut self) -> Option<Expr> {
        let mut negative = false;
        for _ in 0..SIGNS_MAX {
            match self.peek() {
                Some(Kind::Minus) => negative = !negative,
                Some(Kind::Plus) => {}
                Some(Kind::PlusMinus) => {
                    self.at += 1;
                    let inner = self.atom_with_postfix()?;
                    return Some(Expr::PlusMinus(!negative, Box::new(inner)));
                }
                _ => {
                    let found = self.atom_with_postfix()?;
                    return Some(if negative { found.negate() } else { found });
                }
            }
            self.at += 1;
        }
        None
    }

    pub(crate) fn atom_with_postfix(&mut self) -> Option<Expr> {
        let mut found = self.atom()?;
        for _ in 0..=CHAIN_MAX {
            match self.peek() {
                Some(Kind::Bang) => {
                    if self.peek_at(1) == Some(&Kind::Bang) {
                        return None;
                    }
                    self.at += 1;
                    found = Expr::call(Function::Factorial, found);
                }
                Some(Kind::Percent) => {
                    self.at += 1;
                    found = Expr::Percent(Box::new(found));
                }
                Some(Kind::Degree) if !self.temperature(1) => {
                    self.at += 1;
                    found = Expr::Degrees(Box::new(self.with_minutes(found)?));
                }
                Some(Kind::Prime) => {
                    let doubled = self.is_doubled_prime();
                    self.at += 1;
                    found = match found {
                        Expr::Symbol(name) => {
                            Expr::Symbol(format!("{name}{}", if doubled { "''" } else { "'" }))
                        }
                        // `90'` is a degree and a half.
                        Expr::Number(value) if self.at == 2 && self.peek().is_none() => {
                            let parts = Rational::integer(if doubled { 3_600 } else { 60 });
                            Expr::Degrees(Box::new(Expr::Number(value.divide(&parts)?)))
                        }
                        _ => return None,
                    };
                }
                Some(Kind::Open(Bracket::Round)) if self.applies(&found) => {
                    found = self.application(found)?;
                }
                Some(Kind::Underscore) => {
                    self.at += 1;
                    let index = self.index()?;
                    found = match found {
                        Expr::Symbol(name) => Expr::Symbol(format!("{name}_{index}")),
                        Expr::Number(value) => Expr::Number(in_base(&value, &index)?),
                        _ => return None,
                    };
                }
                Some(Kind::Superscript(power)) => {
                    let power = Expr::integer(*power);
                    self.at += 1;
                    found = found.raised_to(power);
                }
                Some(Kind::Caret)
                    if self.peek_at(1) == Some(&Kind::Open(Bracket::Group))
                        && self.peek_at(2) == Some(&Kind::Close(Bracket::Group)) =>
                {
                    self.at += 3;
                }
                // `3^{\text{rd}}` is 3.
                Some(Kind::Caret)
                    if matches!(found, Expr::Number(_)) && self.ordinal_after_caret().is_some() =>
                {
                    self.at += self.ordinal_after_caret()?;
                }
                Some(Kind::Caret) => match self.degree_after_caret() {
                    Some(tokens) if self.temperature(tokens) => return Some(found),
                    Some(tokens) => {
                        self.at += tokens;
                        found = Expr::Degrees(Box::new(self.with_minutes(found)?));
                    }
                    None if self.primes_after_caret() > 0 => {
                        let primes = self.primes_after_caret();
                        self.at += primes + 3;
                        found = match found {
                            Expr::Symbol(name) => {
                                Expr::Symbol(format!("{name}{}", "'".repeat(primes)))
                            }
                            _ => return None,
                        };
                    }
                    None => {
                        self.at += 1;
                        if self.eat(&Kind::Prime) {
                            found = match found {
                                Expr::Symbol(name) => Expr::Symbol(format!("{name}'")),
                                _ => return None,
                            };
                            continue;
                        }
                        let exponent = self.exponent()?;
                        found =
                            chosen(&found, &exponent).unwrap_or_else(|| found.raised_to(exponent));
                    }
                },
                _ => return Some(found),
            }
        }
        None
    }

    /// The marks of `^{\prime\prime}`.
    fn primes_after_caret(&self) -> usize {
        let marks = (2..=4)
            .take_while(|ahead| self.peek_at(*ahead) == Some(&Kind::Prime))
            .count();
        let braced = self.peek_at(1) == Some(&Kind::Open(Bracket::Group))
            && self.peek_at(marks + 2) == Some(&Kind::Close(Bracket::Group));
        if braced { marks } else { 0 }
    }

    /// Whether the mark that comes next is `''` or `″`, which is one token.
    fn is_doubled_prime(&self) -> bool {
        let written = self
            .tokens
            .get(self.at)
            .and_then(|token| self.text.get(token.at..))
            .unwrap_or_default();
        written.starts_with("''") || written.starts_with('″')
    }

    /// Degrees with the minutes and seconds of arc behind them: `30'15''`.
    fn with_minutes(&mut self, degrees: Expr) -> Option<Expr> {
        let Expr::Number(mut value) = degrees else {
            return Some(degrees);
        };
        for (mark, parts) in [(false, 60), (true, 3_600)] {
            let (
                Some(Kind::Number(count)),
                Some(Token {
                    kind: Kind::Prime,
                    at,
                    ..
                }),
            ) = (self.peek(), self.tokens.get(self.at + 1))
            else {
                break;
            };
            let written = self.text.get(*at..).unwrap_or_default();
            let doubled = written.starts_with("''")
                || written.starts_with('″')
                || self.peek_at(2) == Some(&Kind::Prime);
            if doubled != mark {
                continue;
            }
            let apart = usize::from(self.peek_at(2) == Some(&Kind::Prime));
            value = value.add(&count.value()?.divide(&Rational::integer(parts))?)?;
            self.at += 2 + apart;
        }
        Some(Expr::Number(value))
    }

    /// Tokens of `^\circ`, `^{\circ}`.
    pub(crate) fn degree_after_caret(&self) -> Option<usize> {
        match (self.peek_at(1), self.peek_at(2), self.peek_at(3)) {
            (Some(Kind::Degree), ..) => Some(2),
            (
                Some(Kind::Open(Bracket::Group)),
                Some(Kind::Degree),
                Some(Kind::Close(Bracket::Group)),
            ) => Some(4),
            _ => None,
        }
    }

    /// Tokens of `^{\text{th}}`, `^{th}`.
    fn ordinal_after_caret(&self) -> Option<usize> {
        let ending = |kind: Option<&Kind<'_>>| {
            matches!(kind,
                Some(Kind::Text(word) | Kind::Word(word) | Kind::Roman(word)) if matches!(*word,
            "st" |
            "nd" |
            "rd" |
            "th"))
        };
        match (self.peek_at(1), self.peek_at(3)) {
            (Some(Kind::Open(Bracket::Group)), Some(Kind::Close(Bracket::Group)))
                if ending(self.peek_at(2)) =>
            {
                Some(4)
            }
            (word, _) if ending(word) => Some(2),
            _ => None,
        }
    }

    /// Whether `(k \in \mathbb{Z})`, `(x > 0)` comes next, which no factor is. `P(X > 2)` has an
    /// argument.
    pub(crate) fn declares_parameter(&self) -> bool {
        if self.peek() != Some(&Kind::Open(Bracket::Round)) {
            return false;
        }
        if matches!(
            (self.peek_at(1), self.peek_at(2)),
            (Some(Kind::Word(_)), Some(Kind::Relation(Relation::Member)))
        ) {
            return true;
        }
        let before = self
            .at
            .checked_sub(1)
            .and_then(|at| self.tokens.get(at))
            .map(|token| &token.kind);
        if matches!(
            before,
            Some(
                Kind::Word("P" | "E" | "F" | "f" | "g" | "h" | "Pr")
                    | Kind::Text(_)
                    | Kind::Roman(_)
            )
        ) {
            return false;
        }
        let mut depth = 0u32;
        for token in self.tokens.iter().skip(self.at + 1) {
            match &token.kind {
                Kind::Open(_) => depth += 1,
                Kind::Close(_) if depth == 0 => break,
                Kind::Close(_) => depth -= 1,
                Kind::Relation(relation) if depth == 0 => {
                    return !matches!(relation, Relation::Equal | Relation::Approximately);
                }
                _ => {}
            }
        }
        false
    }

    /// `°C`, `°F`: a unit of its own.
    pub(crate) fn temperature(&self, tokens: usize) -> bool {
        matches!(
            self.peek_at(tokens),
            Some(
                Kind::Word("C" | "F")
                    | Kind::Roman("C" | "F")
                    | Kind::Text("C" | "F" | "Celsius" | "Fahrenheit")
            )
        )
    }

    /// `^2`, `^{2}`, `^-2`, `^{-2}`, `^(2)`, `^\frac12`, `^x`; towers to the right.
    pub(crate) fn exponent(&mut self) -> Option<Expr> {
        self.nested(|parser| {
            let negative = parser.eat(&Kind::Minus);
            parser.eat(&Kind::Plus);
            let mut found = parser.atom()?;
            if parser.eat(&Kind::Caret) {
                found = found.raised_to(parser.exponent()?);
            }
            Some(if negative { found.negate() } else { found })
        })
    }

    /// What stands below: its letters and digits as written.
    pub(crate) fn index(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut depth = 0u32;
        loop {
            match self.peek()? {
                Kind::Open(Bracket::Group | Bracket::Round) => depth += 1,
                Kind::Close(_) => depth = depth.checked_sub(1)?,
                Kind::Number(numeral) => text.push_str(&numeral.digits),
                Kind::Word(word) | Kind::Text(word) | Kind::Roman(word) | Kind::Command(word) => {
                    text.push_str(word)
                }
                Kind::Plus => text.push('+'),
                Kind::Minus => text.push('-'),
                Kind::Comma => text.push(','),
                Kind::Relation(relation) => text.push_str(&format!("{relation:?}")),
                _ => return None,
            }
            self.at += 1;
            if depth == 0 {
                return Some(text);
            }
        }
    }

    pub(crate) fn atom(&mut self) -> Option<Expr> {
        let kind = self.peek()?.clone();
        self.at += 1;
        match kind {
            Kind::Number(numeral) => self.number(&numeral),
            Kind::Open(Bracket::Group) if self.peek() == Some(&Kind::Close(Bracket::Group)) => {
                self.chosen_from()
            }
            Kind::Open(open) => self.bracketed(open),
            Kind::Fraction => self.fraction(),
            Kind::Bar => {
                self.bars += 1;
                let inside = self.nested(Self::item);
                self.bars -= 1;
                let inside = inside?;
                self.eat(&Kind::Bar)
                    .then(|| Expr::call(Function::Absolute, inside))
            }
            Kind::Begin(name) => self.matrix(name),
            Kind::Roman(letter @ ("Z" | "N" | "Q")) => Some(self.part_of_numbers(letter)),
            Kind::Word(letter @ ("Z" | "N"))
                if self.before_is(&Kind::Relation(Relation::Member)) =>
            {
                Some(self.part_of_numbers(letter))
            }
            Kind::Word(word) | Kind::Roman(word) => self.word(word),
            Kind::Text("cis") => self.cis(),
            Kind::Text(text) if self.peek() == Some(&Kind::Underscore) => self.lettered_text(text),
            Kind::Text(text) => Some(Expr::Symbol(text.to_string())),
            Kind::Command(name) => self.command(name),
            _ => None,
        }
    }

    /// `{}_{5}C_{2}`, the opening brace read already.
    fn chosen_from(&mut self) -> Option<Expr> {
        self.at += 1;
        self.eat(&Kind::Underscore).then_some(())?;
        // `{}_nC_k`: one run of letters.
        let glued = match self.peek()? {
            Kind::Word(run) => run
                .strip_suffix(['C', 'P'])
                .filter(|of| !of.is_empty())
                .map(|of| (of.to_string(), *run)),
            _ => None,
        };
        let (of, letter) = match glued {
            Some((of, run)) => (of, if run.ends_with('C') { "C" } else { "P" }),
            None => {
                let of = self.index()?;
                let (Kind::Word(letter @ ("C" | "P")) | Kind::Roman(letter @ ("C" | "P"))) =
                    *self.peek()?
                else {
                    return None;
                };
                (of, letter)
            }
        };
        self.at += 1;
        self.eat(&Kind::Underscore).then_some(())?;
        let count = self.index()?;
        let count = indexed(&count).unwrap_or(Expr::Symbol(count));
        chosen(&Expr::Symbol(format!("{letter}_{of}")), &count)
    }

    pub(crate) fn fraction(&mut self) -> Option<Expr> {
        let above = self.argument()?;
        let below = self.argument()?;
        Some(above.over(below))
    }

    /// An argument of a command: a group, or one digit or letter, as TeX reads `\frac12`.
    pub(crate) fn argument(&mut self) -> Option<Expr> {
        let at = self.at;
        match self.peek()?.clone() {
            Kind::Open(Bracket::Group | Bracket::Round) => self.atom(),
            Kind::Number(numeral) if numeral.is_integer() && numeral.digits.len() > 1 => {
                let (first, rest) = numeral.digits.split_at(1);
                let rest = Numeral {
                    digits: rest.into(),
                    ..numeral.clone()
                };
                self.tokens.get_mut(at)?.kind = Kind::Number(rest);
                Some(Expr::Number(Rational::decimal(first, 0, 0)?))
            }
            Kind::Number(numeral) => {
                self.at += 1;
                Some(Expr::Number(numeral.value()?))
            }
            Kind::Word(word) if word.chars().count() > 1 && !constant(word) => {
                let (first, rest) = word.split_at_checked(word.chars().next()?.len_utf8())?;
                self.tokens.get_mut(at)?.kind = Kind::Word(rest);
                symbol(first)
            }
            Kind::Word(_) | Kind::Roman(_) => self.atom(),
            Kind::Command(name) if !is_function(name) => self.atom(),
            Kind::Command("sqrt") => self.atom(),
            _ => None,
        }
    }

    pub(crate) fn word(&mut self, word: &'a str) -> Option<Expr> {
        let lower = word.to_ascii_lowercase();
        // `dy/dx`
        if let (Some(Kind::Slash), Some(Kind::Word(below))) = (self.peek(), self.peek_at(1))
            && [word, *below]
                .iter()
                .all(|word| word.len() == 2 && word.starts_with('d'))
        {
            let name = format!("{word}/{below}");
            self.at += 2;
            return Some(Expr::Symbol(name));
        }
        if word == "cis" {
            return self.cis();
        }
        if is_function(word) {
            return self.function(word);
        }
        if is_function(&lower) && word.chars().count() > 2 {
            return self.function(match lower.as_str() {
                "sqrt" => "sqrt",
                "log" => "log",
                _ => return None,
            });
        }
        if constant(&lower) {
            return symbol(&lower);
        }
        // `sinx`, `log2`, `xcosx`
        if let Some((name, rest)) = function_prefix(word) {
            self.at -= 1;
            self.tokens.get_mut(self.at)?.kind = Kind::Word(rest);
            return self.function(name);
        }
        let mut letters = word.char_indices();
        letters.next()?;
        let Some((second, _)) = letters.next() else {
            return symbol(word);
        };
        // A run of letters is a product; the last may have a power or an index of its own.
        let (first, rest) = word.split_at_checked(second)?;
        let index =
            matches!(self.peek(), Some(Kind::Underscore)) && word.chars().all(char::is_uppercase);
        if index {
            return Some(Expr::Symbol(word.to_string()));
        }
        self.at -= 1;
        self.tokens.get_mut(self.at)?.kind = Kind::Word(rest);
        self.tokens.get_mut(self.at)?.spaced = false;
        symbol(first)
    }

    /// Whether the token before the one that has just been read is of the kind.
    fn before_is(&self, kind: &Kind<'_>) -> bool {
        self.at
            .checked_sub(2)
            .and_then(|at| self.tokens.get(at))
            .is_some_and(|token| token.kind == *kind)
    }

    /// `\mathbb{Z}`, and with a mark behind the letter `\mathbb{Z}^+`, `\mathbb{N}^*`,
    /// `\mathbb{N}_+`, `\mathbb{Z}_{>0}`: those above zero.
    fn part_of_numbers(&mut self, letter: &str) -> Expr {
        let all = Expr::Symbol(letter.to_string());
        if !matches!(self.peek(), Some(Kind::Caret | Kind::Underscore)) {
            return all;
        }
        let open = self.peek_at(1) == Some(&Kind::Open(Bracket::Group));
        let mark = 1 + usize::from(open);
        let zero =
            matches!(self.peek_at(mark + 1), Some(Kind::Number(numeral)) if numeral.digits == "0");
        let (name, length) = match self.peek_at(mark) {
            Some(Kind::Plus | Kind::Times)
                if letter != "Z" || self.peek_at(mark) == Some(&Kind::Plus) =>
            {
                (format!("{letter}+"), 1)
            }
            Some(Kind::Relation(Relation::Greater)) if zero => (format!("{letter}+"), 2),
            Some(Kind::Relation(Relation::GreaterOrEqual)) if zero && letter == "Z" => {
                ("N".to_string(), 2)
            }
            _ => return all,
        };
        if open && self.peek_at(mark + length) != Some(&Kind::Close(Bracket::Group)) {
            return all;
        }
        self.at += mark + length + usize::from(open);
        // Whole numbers above zero are the same by either name.
        Expr::Symbol(if name == "N+" { "Z+".into() } else { name })
    }

    /// `\mathbb{R}^+`, `\mathbb{R}^{-}`, `\mathbb{R}_{>0}`: the marks behind the letter.
    fn half_of_reals(&mut self) -> Option<Expr> {
        let open = self.peek_at(1) == Some(&Kind::Open(Bracket::Group));
        let mark = 1 + usize::from(open);
        let marked = matches!(
            (self.peek(), self.peek_at(mark)),
            (Some(Kind::Caret), Some(Kind::Plus | Kind::Minus))
        );
        let (above, closed, length) = match self.peek_at(mark) {
            Some(Kind::Plus) if marked => (true, false, 1),
            Some(Kind::Minus) if marked => (false, false, 1),
            Some(Kind::Relation(relation)) if self.peek() == Some(&Kind::Underscore) => {
                let zero = match self.peek_at(mark + 1) {
                    Some(Kind::Number(numeral)) => numeral.digits == "0",
                    _ => false,
                };
                match relation {
                    Relation::Greater if zero => (true, false, 2),
                    Relation::GreaterOrEqual if zero => (true, true, 2),
                    Relation::Less if zero => (false, false, 2),
                    Relation::LessOrEqual if zero => (false, true, 2),
                    _ => return None,
                }
            }
            _ => return None,
        };
        if open && self.peek_at(mark + length) != Some(&Kind::Close(Bracket::Group)) {
            return None;
        }
        self.at += mark + length + usize::from(open);
        let zero = if closed {
            Bracket::Square
        } else {
            Bracket::Round
        };
        Some(if above {
            Expr::Tuple(zero, Bracket::Round, vec![Expr::integer(0), Expr::Infinity])
        } else {
            Expr::Tuple(
                Bracket::Round,
                zero,
                vec![Expr::Infinity.negate(), Expr::integer(0)],
            )
        })
    }

    /// `\angle ABC` with its points, which is `\angle CBA` and not `\angle BAC`; those of a
    /// triangle stand in any order, except where two triangles are compared corner by corner.
    fn points(&mut self, name: &str) -> Expr {
        let Some(Kind::Word(points)) = self.peek() else {
            return Expr::Symbol(name.to_string());
        };
        let mut points: Vec<char> = points.chars().collect();
        if points.len() != 3 || !points.iter().all(char::is_ascii_uppercase) {
            return Expr::Symbol(name.to_string());
        }
        self.at += 1;
        let compared = ["\\sim", "\\cong"]
            .iter()
            .any(|sign| self.text.contains(sign));
        if name != "triangle" && points.first() > points.last() {
            points.reverse();
        }
        if name == "triangle" && !compared {
            points.sort_unstable();
        }
        Expr::Symbol(format!("{name} {}", points.into_iter().collect::<String>()))
    }

    /// `\complement_U A`, the command read already: a name.
    fn complement(&mut self) -> Option<Expr> {
        let start = self.at;
        if self.eat(&Kind::Underscore) {
            self.index()?;
        }
        self.atom()?;
        let from = self.tokens.get(start)?.at;
        let to = self
            .tokens
            .get(self.at)
            .map_or(self.text.len(), |token| token.at);
        let written: String = self.text.get(from..to)?.split_whitespace().collect();
        Some(Expr::Symbol(format!("complement {written}")))
    }

    pub(crate) fn command(&mut self, name: &'a str) -> Option<Expr> {
        match name {
            "pi" => Some(Expr::Pi),
            "infty" => Some(Expr::Infinity),
            "Reals" => self.half_of_reals().or(Some(Expr::Reals)),
            "emptyset" | "varnothing" => Some(Expr::Set(Vec::new())),
            "imath" => Some(Expr::Imaginary),
            "binom" | "dbinom" | "tbinom" => {
                let above = self.argument()?;
                let below = self.argument()?;
                Some(Expr::Call(Function::Binomial, vec![above, below]))
            }
            "overline" | "bar" | "underline" | "vector" => {
                let inside = self.index()?;
                Some(Expr::Symbol(format!("{name} {inside}")))
            }
            "cis" => self.cis(),
            "angle" | "measuredangle" | "triangle" => Some(self.points(name)),
            "complement" => self.complement(),
            name if UNITS.contains(&name) => Some(Expr::Symbol(name.to_string())),
            "sum" | "prod" => self.series(name),
            _ if is_function(name) || name == "surd" => self.function(name),
            _ => vulgar(name).or_else(|| is_greek(name).then(|| Expr::Symbol(name.to_string()))),
        }
    }
}

fn is_known(name: &str) -> bool {
    matches!(
        name,
        "pi" | "infty"
            | "imath"
            | "binom"
            | "dbinom"
            | "tbinom"
            | "surd"
            | "overline"
            | "bar"
            | "vector"
            | "emptyset"
    ) || is_function(name)
        || is_greek(name)
        || UNITS.contains(&name)
        || vulgar(name).is_some()
}
