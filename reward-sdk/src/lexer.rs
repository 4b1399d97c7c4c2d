//! Text of an answer → tokens. LaTeX's spacing, sizing and font commands vanish here; white space
//! does too.

use crate::rational::Rational;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Number(Literal),
    Plus,
    Minus,
    Slash,
    Times,
    Caret,
    Percent,
    Equals,
    /// An opening bracket, with the one that closes its group.
    Open(char),
    Close(char),
    /// A fraction's command: `\frac` and its relatives.
    Fraction,
    /// The canonical name of the currency.
    Currency(&'static str),
    /// A degree sign: `°`, `\circ`.
    Degree,
    /// A power as a raised digit: `²`, `³`.
    Superscript(u32),
    /// A run of letters; `roman` inside `\text{…}`, where a single letter is a unit rather than a
    /// variable.
    Word {
        text: &'a str,
        roman: bool,
    },
}

/// Digits as written, without separators.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Literal {
    pub digits: String,
    /// Digits after the point; `None` without a point.
    pub decimals: Option<usize>,
    pub exponent: i64,
}

impl Literal {
    pub(crate) fn is_integer(&self) -> bool {
        self.decimals.is_none() && self.exponent == 0
    }

    pub(crate) fn is_ten(&self) -> bool {
        self.is_integer() && self.digits == "10"
    }

    pub(crate) fn value(&self) -> Option<Rational> {
        Rational::decimal(&self.digits, self.decimals.unwrap_or(0), self.exponent)
    }
}

const TEXT_DEPTH_MAX: u32 = 4;

/// Splits an answer into tokens; `None` if the text has something that is part of no number.
pub(crate) fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    let mut out = Vec::new();
    lex(text, false, 0, &mut out)?;
    Some(out)
}

fn lex<'a>(mut text: &'a str, roman: bool, depth: u32, out: &mut Vec<Token<'a>>) -> Option<()> {
    while let Some(c) = text.chars().next() {
        let rest = text.get(c.len_utf8()..)?;
        let token = match c {
            '0'..='9' | '.' => {
                let (literal, after) = literal(text)?;
                text = after;
                out.push(Token::Number(literal));
                continue;
            }
            '\\' => {
                text = command(rest, depth, out)?;
                continue;
            }
            c if c.is_alphabetic() => {
                let end = text
                    .find(|c: char| !c.is_alphabetic())
                    .unwrap_or(text.len());
                let (word, after) = text.split_at(end);
                out.push(match word.to_ascii_lowercase().as_str() {
                    "percent" | "percents" | "percentage" | "pct" => Token::Percent,
                    _ => Token::Word { text: word, roman },
                });
                text = after;
                continue;
            }
            c if c.is_whitespace() => {
                text = rest;
                continue;
            }
            '~' | '\u{200b}' => {
                text = rest;
                continue;
            }
            '+' => Token::Plus,
            '-' | '−' | '–' => Token::Minus,
            '/' | '⁄' => Token::Slash,
            '*' | '×' | '·' => Token::Times,
            '^' => Token::Caret,
            '%' | '％' => Token::Percent,
            '=' => Token::Equals,
            '(' => Token::Open(')'),
            '{' => Token::Open('}'),
            ')' | '}' => Token::Close(c),
            '$' => Token::Currency("dollar"),
            '€' => Token::Currency("euro"),
            '£' => Token::Currency("sterling"),
            '¥' => Token::Currency("yen"),
            '¢' => Token::Currency("cent"),
            '°' => Token::Degree,
            '²' => Token::Superscript(2),
            '³' => Token::Superscript(3),
            _ => return None,
        };
        out.push(token);
        text = rest;
    }
    Some(())
}

/// Reads a command whose backslash has been read; returns the text after it.
fn command<'a>(text: &'a str, depth: u32, out: &mut Vec<Token<'a>>) -> Option<&'a str> {
    let end = text
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    if end == 0 {
        let c = text.chars().next()?;
        match c {
            '$' => out.push(Token::Currency("dollar")),
            '%' => out.push(Token::Percent),
            ',' | ';' | ':' | '!' | ' ' | '(' | ')' | '[' | ']' => {}
            _ => return None,
        }
        return text.get(c.len_utf8()..);
    }
    let (name, rest) = text.split_at(end);
    match name {
        "frac" | "dfrac" | "tfrac" | "cfrac" => out.push(Token::Fraction),
        "times" | "cdot" => out.push(Token::Times),
        "circ" | "degree" => out.push(Token::Degree),
        "Omega" => out.push(Token::Word {
            text: "Ω",
            roman: true,
        }),
        "mu" => out.push(Token::Word {
            text: "μ",
            roman: false,
        }),
        "pounds" => out.push(Token::Currency("sterling")),
        "euro" => out.push(Token::Currency("euro")),
        "left" | "right" | "quad" | "qquad" | "displaystyle" | "textstyle" | "thinspace" => {}
        "text" | "textrm" | "textbf" | "textit" | "textnormal" | "mathrm" | "mathbf" | "mathit"
        | "mbox" | "hbox" | "operatorname"
            if depth < TEXT_DEPTH_MAX =>
        {
            let (inside, after) = group(rest)?;
            lex(inside, true, depth + 1, out)?;
            return Some(after);
        }
        _ => return None,
    }
    Some(rest)
}

/// Splits `{inside}after` into its two parts; braces are balanced.
fn group(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start().strip_prefix('{')?;
    let mut open = 1u32;
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some((text.get(..i)?, text.get(i + 1..)?));
        }
    }
    None
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// Reads `1,234.5e6`: digits in groups of three behind any of the separators, either all of them or
/// none.
fn literal(text: &str) -> Option<(Literal, &str)> {
    const SEPARATORS: [&str; 6] = ["{,}\\!", ",\\!", "{,}", "\\,", "\\!", ","];
    let (lead, mut rest) = digits(text);
    let mut all = String::from(lead);
    loop {
        let group = SEPARATORS.iter().find_map(|separator| {
            let (group, after) = digits(rest.strip_prefix(separator)?);
            (group.len() == 3).then_some((group, after))
        });
        let Some((group, after)) = group else { break };
        if lead.is_empty() || lead.len() > 3 || lead.starts_with('0') {
            return None;
        }
        all.push_str(group);
        rest = after;
    }
    let mut decimals = None;
    if let Some(after) = rest.strip_prefix('.') {
        let (fraction, after) = digits(after);
        all.push_str(fraction);
        decimals = Some(fraction.len());
        rest = after;
    }
    if all.is_empty() {
        return None;
    }
    let mut exponent = 0;
    if let Some(after) = rest.strip_prefix(['e', 'E']) {
        let (sign, after) = match after.strip_prefix('-') {
            Some(after) => (-1, after),
            None => (1, after.strip_prefix('+').unwrap_or(after)),
        };
        let (power, after) = digits(after);
        if !power.is_empty() {
            exponent = sign * power.parse::<i64>().ok()?;
            rest = after;
        }
    }
    Some((
        Literal {
            digits: all,
            decimals,
            exponent,
        },
        rest,
    ))
}
