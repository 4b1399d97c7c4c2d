//! Tokens → tree: formulas.
//!
//! ```text
//! sum     := [sign] term (("+"|"-"|"±"|"∓") term)*
//! term    := factor (["·"|"/"] factor)*
//! factor  := sign factor | atom postfix*
//! postfix := "!" | "%" | "°" | "'" | "_" index | "^" exponent
//! ```

use crate::expression::{Expr, Function};
use crate::lexer::{Bracket, Kind, Numeral};
use crate::parse::{Parser, constant, function, is_function, is_prose};
use reward_sdk::rational::Rational;
use reward_sdk::units;

/// Signs before a factor.
const SIGNS_MAX: usize = 8;
/// Postfixes of one value, and divisions one after the other: each makes the tree deeper.
const CHAIN_MAX: usize = 24;
/// Bases of numerals.
const BASE_MAX: u32 = 36;

impl<'a> Parser<'a> {
    pub fn sum(&mut self) -> Option<Expr> {
        self.nested(Self::sum_within)
    }

    fn sum_within(&mut self) -> Option<Expr> {
        let mut terms = Vec::new();
        loop {
            let sign =
                self.peek().filter(|kind| matches!(kind, Kind::Plus | Kind::Minus | Kind::PlusMinus | Kind::MinusPlus)).cloned();
            if sign.is_none() && !terms.is_empty() {
                break;
            }
            // `\mathbb{R} - \{0\}` is no sum.
            if terms.as_slice() == [Expr::Reals] {
                break;
            }
            self.at += usize::from(sign.is_some());
            let term = self.term()?;
            terms.push(match sign {
                Some(Kind::Minus) => term.negate(),
                Some(Kind::PlusMinus) => Expr::PlusMinus(true, Box::new(term)),
                Some(Kind::MinusPlus) => Expr::PlusMinus(false, Box::new(term)),
                _ => term,
            });
        }
        if terms.len() == 1 { terms.pop() } else { Some(Expr::Sum(terms)) }
    }

    fn term(&mut self) -> Option<Expr> {
        let mut product = vec![self.factor()?];
        let mut divisions = 0;
        loop {
            match self.peek() {
                Some(Kind::Times) => {
                    self.at += 1;
                    product.push(self.factor()?);
                }
                Some(Kind::Slash) => {
                    self.at += 1;
                    divisions += 1;
                    if divisions > CHAIN_MAX {
                        return None;
                    }
                    let below = self.factor()?;
                    let above = if product.len() == 1 { product.pop()? } else { Expr::Product(std::mem::take(&mut product)) };
                    product = vec![above.over(below)];
                }
                _ if self.starts_factor() => product.push(self.atom_with_postfix()?),
                _ => break,
            }
        }
        if product.len() == 1 { product.pop() } else { Some(Expr::Product(product)) }
    }

    /// Whether the next token goes on with a product that has no sign between its factors.
    fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Kind::Open(_) | Kind::Fraction | Kind::Begin(_)) => true,
            // `2 3` is no product, `x3` hardly; `(2)3` and `\frac12 3` are.
            Some(Kind::Number(_)) => self
                .at
                .checked_sub(1)
                .and_then(|at| self.tokens.get(at))
                .is_some_and(|token| matches!(token.kind, Kind::Close(_) | Kind::Bang)),
            Some(Kind::Command(name)) => is_known(name),
            Some(Kind::Bar) => self.bars == 0 && self.bar_opens(),
            Some(Kind::Word(word)) => !self.is_unit(word),
            Some(Kind::Roman(letter)) => matches!(*letter, "e" | "i" | "x" | "y" | "z" | "n" | "k"),
            _ => false,
        }
    }

    /// Whether a `|` after a value has its partner: `2|x|`.
    fn bar_opens(&self) -> bool {
        self.tokens.iter().skip(self.at).filter(|token| token.kind == Kind::Bar).count() % 2 == 0
    }

    /// Whether a word after a value is a unit or what is counted, rather than variables.
    fn is_unit(&self, word: &str) -> bool {
        let letters = word.chars().count();
        let lower = word.to_ascii_lowercase();
        if letters == 1 {
            return false;
        }
        // `5 min`, `30 sec`, but `2\sec x`.
        let applied = matches!(self.peek_at(1), Some(Kind::Open(Bracket::Round) | Kind::Command(_) | Kind::Word(_)));
        if units::is_known(&lower) && !(is_function(word) && applied) {
            return true;
        }
        if is_function(word) || constant(word) || function_prefix(word).is_some() {
            return false;
        }
        let vowels = lower.contains(['a', 'e', 'i', 'o', 'u']);
        is_prose(word) || (letters == 3 && vowels && self.spaced() && word == lower)
    }

    fn factor(&mut self) -> Option<Expr> {
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

    fn atom_with_postfix(&mut self) -> Option<Expr> {
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
                    found = Expr::Degrees(Box::new(found));
                }
                Some(Kind::Prime) => {
                    self.at += 1;
                    found = match found {
                        Expr::Symbol(name) => Expr::Symbol(format!("{name}'")),
                        _ => return None,
                    };
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
                Some(Kind::Caret) => match self.degree_after_caret() {
                    Some(tokens) if self.temperature(tokens) => return Some(found),
                    Some(tokens) => {
                        self.at += tokens;
                        found = Expr::Degrees(Box::new(found));
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
                        found = found.raised_to(exponent);
                    }
                },
                _ => return Some(found),
            }
        }
        None
    }

    /// Tokens of `^\circ`, `^{\circ}`.
    fn degree_after_caret(&self) -> Option<usize> {
        match (self.peek_at(1), self.peek_at(2), self.peek_at(3)) {
            (Some(Kind::Degree), ..) => Some(2),
            (Some(Kind::Open(Bracket::Group)), Some(Kind::Degree), Some(Kind::Close(Bracket::Group))) => Some(4),
            _ => None,
        }
    }

    /// `°C`, `°F`: a unit of its own.
    fn temperature(&self, tokens: usize) -> bool {
        matches!(
            self.peek_at(tokens),
            Some(Kind::Word("C" | "F") | Kind::Roman("C" | "F") | Kind::Text("C" | "F" | "Celsius" | "Fahrenheit"))
        )
    }

    /// `^2`, `^{2}`, `^-2`, `^{-2}`, `^(2)`, `^\frac12`, `^x`; towers to the right.
    fn exponent(&mut self) -> Option<Expr> {
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
    fn index(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut depth = 0u32;
        loop {
            match self.peek()? {
                Kind::Open(Bracket::Group | Bracket::Round) => depth += 1,
                Kind::Close(_) => depth = depth.checked_sub(1)?,
                Kind::Number(numeral) => text.push_str(&numeral.digits),
                Kind::Word(word) | Kind::Text(word) | Kind::Roman(word) | Kind::Command(word) => text.push_str(word),
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

    fn atom(&mut self) -> Option<Expr> {
        let kind = self.peek()?.clone();
        self.at += 1;
        match kind {
            Kind::Number(numeral) => self.number(&numeral),
            Kind::Open(open) => self.bracketed(open),
            Kind::Fraction => self.fraction(),
            Kind::Bar => {
                self.bars += 1;
                let inside = self.list();
                self.bars -= 1;
                let inside = inside?;
                self.eat(&Kind::Bar).then(|| Expr::call(Function::Absolute, inside))
            }
            Kind::Begin(name) => self.matrix(name),
            Kind::Word(word) | Kind::Roman(word) => self.word(word),
            Kind::Text(text) => Some(Expr::Symbol(text.to_string())),
            Kind::Command(name) => self.command(name),
            _ => None,
        }
    }

    /// A number, and what belongs to it: repeating decimals, the fraction of a mixed number.
    fn number(&mut self, numeral: &Numeral) -> Option<Expr> {
        let value = numeral.value()?;
        if numeral.decimals.is_some() {
            if matches!(self.peek(), Some(Kind::Command("overline" | "bar" | "dot" | "overbar"))) {
                self.at += 1;
                let grouped = self.eat(&Kind::Open(Bracket::Group));
                let Some(Kind::Number(repeating)) = self.peek() else { return None };
                let repeating = repeating.digits.clone();
                self.at += 1;
                if grouped && !self.eat(&Kind::Close(Bracket::Group)) {
                    return None;
                }
                return Some(Expr::Number(repeat(&value, numeral.decimals?, &repeating)?));
            }
            if self.eat(&Kind::Dots) {
                let decimals = numeral.decimals?;
                let (whole, fraction) = numeral.digits.split_at_checked(numeral.digits.len() - decimals)?;
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

    /// The fraction of a mixed number that comes next, and how many tokens it takes: `1\frac{1}{2}`, `1 1/2`, `1½`.
    fn proper_fraction(&self) -> Option<(Rational, usize)> {
        let integer = |ahead: usize| match self.peek_at(ahead) {
            Some(Kind::Number(numeral)) if numeral.is_integer() => numeral.value(),
            _ => None,
        };
        let group = |ahead: usize| matches!(self.peek_at(ahead), Some(Kind::Open(Bracket::Group)));
        let closed = |ahead: usize| matches!(self.peek_at(ahead), Some(Kind::Close(Bracket::Group)));
        let (above, below, tokens) = match self.peek()? {
            Kind::Fraction if group(1) && closed(3) && group(4) && closed(6) => (integer(2)?, integer(5)?, 7),
            Kind::Fraction if group(1) && closed(3) => match self.peek_at(4) {
                Some(Kind::Number(numeral)) if numeral.digits.len() == 1 => (integer(2)?, integer(4)?, 5),
                _ => return None,
            },
            Kind::Fraction => match self.peek_at(1)? {
                Kind::Number(numeral) if numeral.is_integer() && numeral.digits.len() == 2 => {
                    let (above, below) = numeral.digits.split_at(1);
                    (Rational::decimal(above, 0, 0)?, Rational::decimal(below, 0, 0)?, 2)
                }
                Kind::Number(numeral) if numeral.digits.len() == 1 && group(2) && closed(4) => (integer(1)?, integer(3)?, 5),
                Kind::Number(numeral) if numeral.digits.len() == 1 && self.peek_at(2).is_some() => (integer(1)?, integer(2)?, 3),
                _ => return None,
            },
            Kind::Number(_) if self.spaced() && self.peek_at(1) == Some(&Kind::Slash) => (integer(0)?, integer(2)?, 3),
            Kind::Command(name) => match vulgar(name)? {
                Expr::Number(part) => return Some((part, 1)),
                _ => return None,
            },
            _ => return None,
        };
        let part = above.divide(&below)?;
        part.is_proper_fraction().then_some((part, tokens))
    }

    fn fraction(&mut self) -> Option<Expr> {
        let above = self.argument()?;
        let below = self.argument()?;
        Some(above.over(below))
    }

    /// An argument of a command: a group, or one digit or letter, as TeX reads `\frac12`.
    fn argument(&mut self) -> Option<Expr> {
        let at = self.at;
        match self.peek()?.clone() {
            Kind::Open(Bracket::Group | Bracket::Round) => self.atom(),
            Kind::Number(numeral) if numeral.is_integer() && numeral.digits.len() > 1 => {
                let (first, rest) = numeral.digits.split_at(1);
                let rest = Numeral { digits: rest.into(), ..numeral.clone() };
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

    fn word(&mut self, word: &'a str) -> Option<Expr> {
        let lower = word.to_ascii_lowercase();
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
        let Some((second, _)) = letters.next() else { return symbol(word) };
        // A run of letters is a product; the last may have a power or an index of its own.
        let (first, rest) = word.split_at_checked(second)?;
        let index = matches!(self.peek(), Some(Kind::Underscore)) && word.chars().all(char::is_uppercase);
        if index {
            return Some(Expr::Symbol(word.to_string()));
        }
        self.at -= 1;
        self.tokens.get_mut(self.at)?.kind = Kind::Word(rest);
        self.tokens.get_mut(self.at)?.spaced = false;
        symbol(first)
    }

    fn command(&mut self, name: &'a str) -> Option<Expr> {
        match name {
            "pi" => Some(Expr::Pi),
            "infty" => Some(Expr::Infinity),
            "Reals" => Some(Expr::Reals),
            "emptyset" | "varnothing" => Some(Expr::Set(Vec::new())),
            "imath" => Some(Expr::Imaginary),
            "binom" | "dbinom" | "tbinom" => {
                let above = self.argument()?;
                let below = self.argument()?;
                Some(Expr::Call(Function::Binomial, vec![above, below]))
            }
            "overline" | "bar" | "underline" => {
                let inside = self.index()?;
                Some(Expr::Symbol(format!("{name} {inside}")))
            }
            _ if is_function(name) || name == "surd" => self.function(name),
            _ => vulgar(name).or_else(|| is_greek(name).then(|| Expr::Symbol(name.to_string()))),
        }
    }

    /// A function whose name has been read.
    fn function(&mut self, name: &str) -> Option<Expr> {
        self.nested(|parser| parser.function_within(name))
    }

    fn function_within(&mut self, name: &str) -> Option<Expr> {
        match name {
            "sqrt" => {
                let degree =
                    if self.eat(&Kind::Open(Bracket::Square)) { self.bracketed(Bracket::Square)? } else { Expr::integer(2) };
                let inside = self.argument()?;
                return Some(match &degree {
                    Expr::Number(whole) => {
                        Expr::Root(Box::new(inside), u32::try_from(whole.to_i64()?).ok().filter(|n| (2..=64).contains(n))?)
                    }
                    _ => inside.raised_to(Expr::integer(1).over(degree)),
                });
            }
            // `√12`, not `√1` times 2.
            "surd" | "cbrt" => return Some(Expr::Root(Box::new(self.atom()?), if name == "surd" { 2 } else { 3 })),
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
            ("log" | "lg", _, argument) => Expr::Call(Function::Log, vec![base.unwrap_or(Expr::integer(10)), argument]),
            (_, Some(function @ (Function::Gcd | Function::Lcm | Function::Max | Function::Min)), argument) => match argument {
                Expr::Tuple(_, _, items) | Expr::Set(items) | Expr::List(_, items) => Expr::Call(function, items),
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

    /// `(x+1)`, `{x}`, or what follows up to the next sign: `2x` of `\sin 2x + 1`, `\pi/6` of `sin pi/6`.
    fn function_argument(&mut self) -> Option<Expr> {
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
                    let above = if factors.len() == 1 { factors.pop()? } else { Expr::Product(std::mem::take(&mut factors)) };
                    factors = vec![above.over(below)];
                }
                Some(Kind::Word(word)) if is_function(word) || function_prefix(word).is_some() => break,
                Some(Kind::Command(name)) if is_function(name) && *name != "sqrt" => break,
                Some(Kind::Open(_)) => break,
                _ if self.starts_factor() => factors.push(self.atom_with_postfix()?),
                _ => break,
            }
        }
        let argument = if factors.len() == 1 { factors.pop()? } else { Expr::Product(factors) };
        Some(if negative { argument.negate() } else { argument })
    }
}

fn is_known(name: &str) -> bool {
    matches!(name, "pi" | "infty" | "imath" | "binom" | "dbinom" | "tbinom" | "surd" | "overline" | "bar" | "emptyset")
        || is_function(name)
        || is_greek(name)
        || vulgar(name).is_some()
}

/// A function at the start of a run of letters, and the rest: `sinx`.
fn function_prefix(word: &str) -> Option<(&'static str, &str)> {
    const NAMES: [&str; 14] =
        ["arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc", "log", "sqrt"];
    let found =
        NAMES.iter().find_map(|name| Some((*name, word.strip_prefix(name)?))).or_else(|| Some(("ln", word.strip_prefix("ln")?)));
    found.filter(|(_, rest)| (1..=2).contains(&rest.chars().count()))
}

fn symbol(name: &str) -> Option<Expr> {
    Some(match name {
        "e" => Expr::Euler,
        "i" => Expr::Imaginary,
        "pi" | "π" => Expr::Pi,
        "infinity" | "inf" | "oo" | "infty" => Expr::Infinity,
        "α" => Expr::Symbol("alpha".into()),
        "β" => Expr::Symbol("beta".into()),
        "γ" => Expr::Symbol("gamma".into()),
        "θ" => Expr::Symbol("theta".into()),
        "λ" => Expr::Symbol("lambda".into()),
        "φ" => Expr::Symbol("phi".into()),
        "ω" => Expr::Symbol("omega".into()),
        _ => Expr::Symbol(name.to_string()),
    })
}

fn is_greek(name: &str) -> bool {
    const NAMES: [&str; 49] = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Pi",
        "Sigma",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
        "angle",
        "triangle",
        "measuredangle",
        // Never worked out, so two are equal where they are written alike.
        "sum",
        "prod",
        "int",
        "iint",
        "oint",
        "lim",
        "partial",
        "nabla",
        "to",
    ];
    NAMES.contains(&name)
}

fn vulgar(name: &str) -> Option<Expr> {
    let (above, below) = name.split_once('/')?;
    Some(Expr::Number(Rational::decimal(above, 0, 0)?.divide(&Rational::decimal(below, 0, 0)?)?))
}

/// `204_5`: the digits of a numeral read in its base.
fn in_base(value: &Rational, index: &str) -> Option<Rational> {
    let base: u32 = index.parse().ok().filter(|base| (2..=BASE_MAX).contains(base))?;
    value.denominator().eq(&1.into()).then_some(())?;
    let digits = value.numerator().to_string();
    let mut total = Rational::integer(0);
    for digit in digits.chars() {
        let digit = digit.to_digit(base)?;
        total = total.multiply(&Rational::integer(base.into()))?.add(&Rational::integer(digit.into()))?;
    }
    Some(total)
}

/// A decimal with `decimals` digits after its point, and the digits that repeat behind them.
fn repeat(value: &Rational, decimals: usize, digits: &str) -> Option<Rational> {
    let nines = Rational::decimal(&"9".repeat(digits.len()), 0, 0)?;
    let tail = Rational::decimal(digits, 0, 0)?.divide(&nines)?.scale(-i64::try_from(decimals).ok()?)?;
    value.add(&tail)
}

/// `1666…` → `1`, `6`: the shortest period that has been written at least twice (three times when it is one digit).
fn period_of(digits: &str) -> Option<(&str, &str)> {
    let bytes = digits.as_bytes();
    for length in 1..=bytes.len() / 2 {
        let period = bytes.get(bytes.len() - length..)?;
        let mut times = 1;
        while bytes.len() >= (times + 1) * length
            && bytes.get(bytes.len() - (times + 1) * length..bytes.len() - times * length)? == period
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
