//! Text of an answer, LaTeX or plain → tokens. Spacing, sizing and font commands vanish here; what
//! two spellings have in common becomes one token.

use crate::token::{Bracket, Kind, Numeral, Relation, Token};
use crate::{notes, rows};

/// Longer answers, in bytes, are not read: they would keep the plugin busy, and no final answer is
/// so long.
pub(crate) const BYTES_MAX: usize = 4_096;
const TOKENS_MAX: usize = 2_048;

/// How commas between digits are read at the outermost level: `1,234` as one number, or as two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commas {
    Group,
    Separate,
}

/// Reads the tokens of a text; `None` for a text that is too long, or that contains something that
/// no answer contains.
pub(crate) fn tokens(text: &str, commas: Commas) -> Option<Vec<Token<'_>>> {
    if text.len() > BYTES_MAX {
        return None;
    }
    let dollars = text.matches('$').count() - text.matches("\\$").count();
    let rows = text.contains("\\begin");
    let mut lexer = Lexer {
        text,
        at: 0,
        depth: 0,
        commas,
        spaced: false,
        currency: dollars % 2 == 1,
        rows,
        out: Vec::new(),
    };
    while lexer.at < text.len() {
        lexer.step()?;
        if lexer.out.len() > TOKENS_MAX {
            return None;
        }
    }
    let mut tokens = notes::in_signs(rows::flow(lexer.out));
    crate::reversed::turn(&mut tokens);
    Some(tokens)
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    pub at: usize,
    /// Open brackets other than groups: within them commas separate.
    pub depth: u32,
    commas: Commas,
    spaced: bool,
    /// A lone `$` is a currency; pairs are LaTeX's.
    currency: bool,
    /// `\\` ends a row; elsewhere it is a doubled backslash.
    pub rows: bool,
    pub out: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    pub(crate) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn push(&mut self, kind: Kind<'a>, bytes: usize) {
        match kind {
            Kind::Open(bracket) if bracket != Bracket::Group => self.depth += 1,
            Kind::Close(bracket) if bracket != Bracket::Group => {
                self.depth = self.depth.saturating_sub(1)
            }
            _ => {}
        }
        self.out.push(Token {
            kind,
            at: self.at,
            spaced: self.spaced,
        });
        self.spaced = false;
        self.at += bytes;
    }

    pub(crate) fn skip(&mut self, bytes: usize) {
        self.spaced = true;
        self.at += bytes;
    }

    fn step(&mut self) -> Option<()> {
        let rest = self.rest();
        let c = rest.chars().next()?;
        let next = rest.get(c.len_utf8()..)?;
        let repeats = || {
            ["\\overline{", "\\bar{", "\\dot{"]
                .iter()
                .any(|mark| next.starts_with(mark))
        };
        let starts_decimal = c == '.'
            && (next.starts_with(|c: char| c.is_ascii_digit())
                || (self.out.is_empty() && repeats()));
        if c.is_ascii_digit() || starts_decimal {
            return self.number();
        }
        const PAIRS: [(&str, Kind<'static>); 11] = [
            ("<=", Kind::Relation(Relation::LessOrEqual)),
            (">=", Kind::Relation(Relation::GreaterOrEqual)),
            ("=<", Kind::Relation(Relation::LessOrEqual)),
            ("!=", Kind::Relation(Relation::NotEqual)),
            ("==", Kind::Relation(Relation::Equal)),
            ("~=", Kind::Relation(Relation::Approximately)),
            ("**", Kind::Caret),
            ("+-", Kind::PlusMinus),
            ("+/-", Kind::PlusMinus),
            ("...", Kind::Dots),
            ("''", Kind::Prime),
        ];
        // `1+-2` is a sum; `+-` elsewhere stands for ±.
        let after_value = matches!(
            self.out.last(),
            Some(Token {
                kind: Kind::Number(_) | Kind::Word(_) | Kind::Close(_),
                ..
            })
        );
        if let Some((text, kind)) = PAIRS.iter().find(|(text, _)| rest.starts_with(text))
            && !(*text == "+-" && after_value)
        {
            self.push(kind.clone(), text.len());
            return Some(());
        }
        let kind = match c {
            '\\' => return self.command(),
            c if c.is_whitespace() || matches!(c, '~' | '\u{200b}' | '\u{feff}') => {
                self.skip(c.len_utf8());
                return Some(());
            }
            // `sq. units`
            '.' if matches!(
                self.out.last(),
                Some(Token {
                    kind: Kind::Word(_) | Kind::Text(_),
                    ..
                })
            ) =>
            {
                self.skip(1);
                return Some(());
            }
            c if is_letter(c) => {
                let end = rest.find(|c: char| !is_letter(c)).unwrap_or(rest.len());
                let word = rest.get(..end)?;
                let kind = match word.to_ascii_lowercase().as_str() {
                    "and" => Kind::And,
                    "or" => Kind::Or,
                    "percent" | "percentage" | "pct" => Kind::Percent,
                    "mod" | "modulo" => Kind::Modulo(false),
                    // `12 out of 20`
                    "out"
                        if matches!(
                            self.out.last(),
                            Some(Token {
                                kind: Kind::Number(_),
                                ..
                            })
                        ) && rest.get(end..)?.trim_start().starts_with("of ") =>
                    {
                        let of = rest.find("of ")? + 2;
                        self.push(Kind::Slash, of);
                        return Some(());
                    }
                    // `3 to 4`
                    "to" if matches!(
                        self.out.last(),
                        Some(Token {
                            kind: Kind::Number(_),
                            ..
                        })
                    ) =>
                    {
                        Kind::Colon
                    }
                    // `(0, 1) U (2, 3)`
                    "u" if matches!(
                        self.out.last(),
                        Some(Token {
                            kind: Kind::Close(Bracket::Round | Bracket::Square | Bracket::Curly),
                            ..
                        })
                    ) =>
                    {
                        Kind::Union
                    }
                    _ => Kind::Word(word),
                };
                self.push(kind, end);
                return Some(());
            }
            '+' | '＋' => Kind::Plus,
            '-' | '−' | '–' | '—' | '－' => Kind::Minus,
            '±' => Kind::PlusMinus,
            '∓' => Kind::MinusPlus,
            '*' | '×' | '·' | '⋅' | '∙' | '✕' | '•' => Kind::Times,
            '/' | '÷' | '⁄' | '∕' => Kind::Slash,
            '^' => Kind::Caret,
            '_' => Kind::Underscore,
            '!' => Kind::Bang,
            '%' | '％' => Kind::Percent,
            '°' | 'º' => Kind::Degree,
            '\'' | '′' | '’' | '″' => Kind::Prime,
            '…' | '⋯' => Kind::Dots,
            '(' | '（' => Kind::Open(Bracket::Round),
            ')' | '）' => Kind::Close(Bracket::Round),
            '[' | '【' => Kind::Open(Bracket::Square),
            ']' | '】' => Kind::Close(Bracket::Square),
            '{' => Kind::Open(Bracket::Group),
            '}' => Kind::Close(Bracket::Group),
            '⟨' | '〈' => Kind::Open(Bracket::Angle),
            '⟩' | '〉' => Kind::Close(Bracket::Angle),
            '⌊' => Kind::Open(Bracket::Floor),
            '⌋' => Kind::Close(Bracket::Floor),
            '⌈' => Kind::Open(Bracket::Ceiling),
            '⌉' => Kind::Close(Bracket::Ceiling),
            '|' | '∣' => Kind::Bar,
            ',' | '，' | '、' => Kind::Comma,
            ';' | '；' => Kind::Semicolon,
            ':' | '：' | '∶' => Kind::Colon,
            '&' => Kind::Ampersand,
            '=' | '＝' | '≡' => Kind::Relation(Relation::Equal),
            '≈' | '≃' | '≅' => Kind::Relation(Relation::Approximately),
            '≠' => Kind::Relation(Relation::NotEqual),
            '<' | '＜' => Kind::Relation(Relation::Less),
            '>' | '＞' => Kind::Relation(Relation::Greater),
            '≤' | '⩽' => Kind::Relation(Relation::LessOrEqual),
            '≥' | '⩾' => Kind::Relation(Relation::GreaterOrEqual),
            '∈' => Kind::Relation(Relation::Member),
            '∪' => Kind::Union,
            '∩' => Kind::Intersection,
            '∖' => Kind::Without,
            '√' => Kind::Command("surd"),
            '∛' => Kind::Command("cbrt"),
            '∞' => Kind::Command("infty"),
            '∅' | 'ø' | 'Ø' => Kind::Command("emptyset"),
            'ℝ' => Kind::Command("Reals"),
            '‰' => Kind::Text("permille"),
            'ℤ' => Kind::Roman("Z"),
            'ℕ' => Kind::Roman("N"),
            'ℚ' => Kind::Roman("Q"),
            'ℂ' => Kind::Roman("C"),
            '$' if self.currency => Kind::Currency,
            '$' | '#' => {
                self.skip(1);
                return Some(());
            }
            '€' | '£' | '¥' | '₹' | '¢' => Kind::Currency,
            c => match superscript(rest).or_else(|| vulgar_fraction(c)) {
                Some((kind, bytes)) => {
                    self.push(kind, bytes);
                    return Some(());
                }
                None => return None,
            },
        };
        self.push(kind, c.len_utf8());
        Some(())
    }

    /// A number with its separators: `1,234.5`, `1{,}234`, `1\,234`, `1 234`, `1.5e3`.
    fn number(&mut self) -> Option<()> {
        let text = self.rest();
        let (lead, mut rest) = digits(text);
        let mut all = String::from(lead);
        if (1..=3).contains(&lead.len()) && !lead.starts_with('0') {
            let mut grouped = String::new();
            let mut after_groups = rest;
            while let Some((group, after)) = self.group(after_groups) {
                grouped.push_str(group);
                after_groups = after;
            }
            // A group of digits that goes on is no group: `1,2345`.
            if !grouped.is_empty() && !after_groups.starts_with(|c: char| c.is_ascii_digit()) {
                all.push_str(&grouped);
                rest = after_groups;
            }
        }
        let mut decimals = None;
        if let Some(after) = rest.strip_prefix('.')
            && !after.starts_with("..")
            && (after.starts_with(|c: char| c.is_ascii_digit() || c == '\\') || !lead.is_empty())
        {
            let (fraction, after) = digits(after);
            all.push_str(fraction);
            decimals = Some(fraction.len());
            rest = after;
        }
        let mut exponent = 0;
        if let Some(after) = rest.strip_prefix(['e', 'E']) {
            let (sign, after) = match after.strip_prefix(['-', '−']) {
                Some(after) => (-1, after),
                None => (1, after.strip_prefix('+').unwrap_or(after)),
            };
            let (power, after) = digits(after);
            if !power.is_empty() && !after.starts_with(is_letter) {
                exponent = sign * power.parse::<i64>().ok()?;
                rest = after;
            }
        }
        if all.is_empty() {
            all.push('0');
        }
        self.push(
            Kind::Number(Numeral {
                digits: all,
                decimals,
                exponent,
            }),
            text.len() - rest.len(),
        );
        Some(())
    }

    /// A separator and three digits.
    fn group(&self, text: &'a str) -> Option<(&'a str, &'a str)> {
        const ALWAYS: [&str; 3] = [",\\!", "\\,", "\\!"];
        let braced = || {
            let after = text
                .trim_start()
                .strip_prefix('{')?
                .trim_start()
                .strip_prefix(',')?
                .trim_start()
                .strip_prefix('}')?;
            Some(after.strip_prefix("\\!").unwrap_or(after))
        };
        let always = ALWAYS
            .iter()
            .find_map(|separator| text.strip_prefix(separator))
            .or_else(braced);
        let grouping = self.commas == Commas::Group && self.depth == 0;
        let comma = if grouping {
            text.strip_prefix([',', '\'', '’'])
        } else {
            None
        };
        let space = if grouping && !self.rows {
            text.strip_prefix(' ')
        } else {
            None
        };
        let after = always.map(str::trim_start).or(comma).or(space)?;
        let (group, after) = digits(after);
        (group.len() == 3).then_some((group, after))
    }
}

pub(crate) fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !matches!(c, 'º' | 'ª' | 'ℝ' | 'ℤ' | 'ℕ' | 'ℚ' | 'ℂ' | 'ø' | 'Ø')
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

fn superscript(text: &str) -> Option<(Kind<'static>, usize)> {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let (negative, mut rest) = match text.strip_prefix('⁻') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut value = 0i64;
    let mut any = false;
    while let Some(digit) = rest
        .chars()
        .next()
        .and_then(|c| DIGITS.iter().position(|d| *d == c))
    {
        value = value
            .checked_mul(10)?
            .checked_add(i64::try_from(digit).ok()?)?;
        rest = rest.get(DIGITS.get(digit)?.len_utf8()..)?;
        any = true;
    }
    any.then_some((
        Kind::Superscript(if negative { -value } else { value }),
        text.len() - rest.len(),
    ))
}

/// `½` and its like, as the name of a command that the parser reads.
fn vulgar_fraction(c: char) -> Option<(Kind<'static>, usize)> {
    let name = match c {
        '½' => "1/2",
        '⅓' => "1/3",
        '⅔' => "2/3",
        '¼' => "1/4",
        '¾' => "3/4",
        '⅕' => "1/5",
        '⅖' => "2/5",
        '⅗' => "3/5",
        '⅘' => "4/5",
        '⅙' => "1/6",
        '⅚' => "5/6",
        '⅛' => "1/8",
        '⅜' => "3/8",
        '⅝' => "5/8",
        '⅞' => "7/8",
        _ => return None,
    };
    Some((Kind::Command(name), c.len_utf8()))
}
