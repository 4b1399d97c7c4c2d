//! LaTeX's commands → tokens.

use crate::lexer::{Lexer, is_letter};
use crate::names::is_function;
use crate::token::{Bracket, Kind, Relation, Token};
use crate::{rows, vectors};

impl<'a> Lexer<'a> {
    /// A backslash and what follows it.
    pub(crate) fn command(&mut self) -> Option<()> {
        let rest = self.rest().get(1..)?;
        let end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        if end == 0 {
            let c = rest.chars().next()?;
            let kind = match c {
                '{' => Kind::Open(Bracket::Curly),
                '}' => Kind::Close(Bracket::Curly),
                '$' => Kind::Currency,
                '%' => Kind::Percent,
                '&' => Kind::And,
                '_' => Kind::Underscore,
                '#' => {
                    self.skip(2);
                    return Some(());
                }
                '|' => Kind::Bar,
                '\\' if self.rows => {
                    let spacing = row_spacing(rest.get(1..)?);
                    self.push(Kind::Newline, 2 + spacing);
                    return Some(());
                }
                // `\\frac`: written into a string twice.
                '\\' => {
                    let doubled = rest.get(1..).is_some_and(|rest| {
                        rest.starts_with(|c: char| c.is_ascii_alphabetic() || "{}$%,!".contains(c))
                    });
                    if doubled {
                        self.at += 1;
                        return Some(());
                    }
                    Kind::Newline
                }
                ',' | ';' | ':' | '!' | '>' | '/' | '(' | ')' | '[' | ']' | '"' => {
                    self.skip(2);
                    return Some(());
                }
                c if c.is_whitespace() => {
                    self.skip(1 + c.len_utf8());
                    return Some(());
                }
                _ => return None,
            };
            self.push(kind, 2);
            return Some(());
        }
        // `\quad x` without its space.
        let end = ["qquad", "quad", "cdots", "cdot", "times"]
            .iter()
            .find(|name| rest.starts_with(**name) && (**name != "cdots" || end == name.len()))
            .map_or(end, |name| name.len());
        let name = rest.get(..end)?;
        let bytes = 1 + end;
        let kind = match name {
            "left" | "right" | "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl"
            | "Bigr" | "biggl" | "biggr" | "middle" => {
                self.skip(bytes);
                if self.rest().starts_with('.') {
                    self.at += 1;
                }
                return Some(());
            }
            "displaystyle" | "textstyle" | "scriptstyle" | "limits" | "nolimits" | "quad"
            | "qquad" | "thinspace" | "enspace" | "space" | "hfill" | "rm" | "bf" | "it"
            | "num" | "boxed" | "fbox" | "underline" | "nonumber" | "notag" | "ensuremath"
            | "tiny" | "small" | "normalsize" | "large" | "Large" | "LARGE" | "huge" | "Huge" => {
                self.skip(bytes);
                return Some(());
            }
            // What stands in their braces is not shown as a part of the answer.
            "hspace" | "vspace" | "phantom" | "tag" | "color" | "textcolor" => {
                let argument = group(self.rest().get(bytes..)?).map_or(0, |(_, whole)| whole);
                self.skip(bytes + argument);
                return Some(());
            }
            "therefore" | "implies" | "Rightarrow" | "Longrightarrow" | "Longleftrightarrow"
            | "iff"
                if self.out.is_empty() =>
            {
                self.skip(bytes);
                return Some(());
            }
            "text" | "textrm" | "textbf" | "textit" | "textnormal" | "textsf" | "texttt"
            | "mbox" | "hbox" | "mathrm" | "mathbf" | "mathit" | "mathsf" | "mathcal"
            | "mathscr" | "mathfrak" | "boldsymbol" | "bm" | "operatorname" | "mathbb" | "Bbb"
            | "rmfamily" | "vec" | "hat" | "tilde" | "overrightarrow" | "widehat" | "mathop" => {
                return self.font(name, bytes);
            }
            "pmod" => Kind::Modulo(true),
            "bmod" | "mod" => Kind::Modulo(false),
            "frac" | "dfrac" | "tfrac" | "cfrac" => Kind::Fraction,
            "times" | "cdot" | "ast" | "bullet" | "centerdot" => Kind::Times,
            "div" | "slash" => Kind::Slash,
            "pm" => Kind::PlusMinus,
            "mp" => Kind::MinusPlus,
            "circ" | "degree" | "degrees" => Kind::Degree,
            "prime" => Kind::Prime,
            "ldots" | "dots" | "cdots" | "dotsc" | "dotsb" => Kind::Dots,
            "lbrace" => Kind::Open(Bracket::Curly),
            "rbrace" => Kind::Close(Bracket::Curly),
            "lbrack" => Kind::Open(Bracket::Square),
            "rbrack" => Kind::Close(Bracket::Square),
            "langle" => Kind::Open(Bracket::Angle),
            "rangle" => Kind::Close(Bracket::Angle),
            "lfloor" => Kind::Open(Bracket::Floor),
            "rfloor" => Kind::Close(Bracket::Floor),
            "lceil" => Kind::Open(Bracket::Ceiling),
            "rceil" => Kind::Close(Bracket::Ceiling),
            "vert" | "lvert" | "rvert" | "mid" | "Vert" | "lVert" | "rVert" => Kind::Bar,
            "colon" => Kind::Colon,
            "newline" | "cr" => Kind::Newline,
            "land" | "wedge" => Kind::And,
            "lor" | "vee" => Kind::Or,
            "eq" | "equiv" => Kind::Relation(Relation::Equal),
            "approx" | "simeq" | "sim" | "approxeq" => Kind::Relation(Relation::Approximately),
            "ne" | "neq" => Kind::Relation(Relation::NotEqual),
            "lt" => Kind::Relation(Relation::Less),
            "gt" => Kind::Relation(Relation::Greater),
            "le" | "leq" | "leqslant" | "leqq" => Kind::Relation(Relation::LessOrEqual),
            "ge" | "geq" | "geqslant" | "geqq" => Kind::Relation(Relation::GreaterOrEqual),
            "in" => Kind::Relation(Relation::Member),
            "cup" | "bigcup" => Kind::Union,
            "cap" | "bigcap" => Kind::Intersection,
            "setminus" | "backslash" | "smallsetminus" => Kind::Without,
            "pounds" | "euro" | "yen" => Kind::Currency,
            "rightarrow" | "longrightarrow" => Kind::Command("to"),
            "begin" | "end" => return self.environment(name == "begin", bytes),
            _ => Kind::Command(name),
        };
        self.push(kind, bytes);
        Some(())
    }

    /// `\text{…}`, `\mathbf{v}`, `\mathbb R`: what the group holds.
    fn font(&mut self, name: &str, bytes: usize) -> Option<()> {
        let after = self.rest().get(bytes..)?;
        let (inside, whole) = match group(after) {
            Some(found) => found,
            None => {
                let start = after.trim_start();
                let skipped = after.len() - start.len();
                let dotless = ["\\imath", "\\jmath"]
                    .iter()
                    .find(|name| start.starts_with(**name))
                    .map(|name| name.len());
                let length = dotless.or_else(|| {
                    start
                        .chars()
                        .next()
                        .filter(|c| is_letter(*c))
                        .map(char::len_utf8)
                })?;
                (start.get(..length)?, skipped + length)
            }
        };
        let trimmed = inside.trim().trim_matches('$').trim();
        if let Some(unit) = unit_vector(name, trimmed) {
            self.push(Kind::Command(unit), bytes + whole);
            return Some(());
        }
        let lower = trimmed
            .trim_matches(|c: char| c == ',' || c.is_whitespace())
            .to_ascii_lowercase();
        let letter = trimmed.chars().count() == 1 && trimmed.starts_with(is_letter);
        let kind = match (name, lower.as_str()) {
            ("mathbb" | "Bbb", "r") => Kind::Command("Reals"),
            (_, "and" | "&") => Kind::And,
            (_, "or") => Kind::Or,
            (_, "negative" | "minus") => Kind::Minus,
            (_, "mod" | "modulo") => Kind::Modulo(false),
            // `12 \text{ out of } 20`
            (_, "out of")
                if matches!(
                    self.out.last(),
                    Some(Token {
                        kind: Kind::Number(_),
                        ..
                    })
                ) =>
            {
                Kind::Slash
            }
            ("text" | "mathrm" | "textrm", "to")
                if matches!(
                    self.out.last(),
                    Some(Token {
                        kind: Kind::Number(_),
                        ..
                    })
                ) =>
            {
                Kind::Colon
            }
            (_, "$" | "\\$" | "\\") if inside.contains('$') => Kind::Currency,
            (_, "percent" | "percentage" | "pct" | "%" | "\\%") => Kind::Percent,
            (_, "") if !trimmed.contains(',') => {
                self.skip(bytes + whole);
                return Some(());
            }
            (_, "." | ";" | ":") => {
                self.skip(bytes + whole);
                return Some(());
            }
            (_, "") => Kind::Comma,
            (
                "vec" | "hat" | "tilde" | "overrightarrow" | "widehat" | "mathbf" | "boldsymbol"
                | "bm" | "mathcal",
                _,
            ) if letter => Kind::Word(trimmed),
            // `\vec{AB}` is one thing, and not `\vec{BA}`.
            ("vec" | "overrightarrow", _)
                if trimmed.len() == 2 && trimmed.bytes().all(|byte| byte.is_ascii_uppercase()) =>
            {
                self.push(Kind::Command("vector"), bytes);
                return Some(());
            }
            ("mathrm" | "operatorname" | "mathop" | "mathit" | "mathsf" | "mathbf", word)
                if is_function(word) =>
            {
                Kind::Word(trimmed)
            }
            ("text", word)
                if word.len() > 2
                    && is_function(word)
                    && after.get(whole..).is_some_and(|rest| rest.starts_with('(')) =>
            {
                Kind::Word(trimmed)
            }
            // `\text{2A}_{16}`
            _ if !matches!(name, "mathbb" | "Bbb")
                && trimmed
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
                && after.get(whole..).is_some_and(|rest| rest.starts_with('_')) =>
            {
                Kind::Text(trimmed)
            }
            // `\text{13}`, `\mathrm{2x}`: formulas in another font.
            (_, _)
                if trimmed
                    .trim_start_matches(['(', '[', '-'])
                    .starts_with(|c: char| c.is_ascii_digit())
                    || lower.trim_start_matches('(').starts_with("mod ")
                    || trimmed.contains(['\\', '=', '^']) =>
            {
                self.skip(bytes + after.find('{').unwrap_or(0));
                return Some(());
            }
            _ if letter => Kind::Roman(trimmed),
            _ => Kind::Text(trimmed),
        };
        self.push(kind, bytes + whole);
        Some(())
    }

    fn environment(&mut self, begins: bool, bytes: usize) -> Option<()> {
        let (name, whole) = group(self.rest().get(bytes..)?)?;
        let mut length = bytes + whole;
        // The columns of an array.
        if begins && name.starts_with("array") {
            length += group(self.rest().get(length..)?).map_or(0, |(_, whole)| whole);
        }
        let name = name.trim_end_matches('*');
        // `\begin{alignat}{2}`
        if begins && name.starts_with("alignat") {
            length += group(self.rest().get(length..)?).map_or(0, |(_, whole)| whole);
        }
        let in_brace = begins
            && matches!(
                self.out.last(),
                Some(Token {
                    kind: Kind::Open(Bracket::Curly),
                    ..
                })
            )
            && !self.rest().contains("\\right\\}")
            && self.rest().contains("\\right");
        let lines = [
            "align",
            "aligned",
            "alignat",
            "alignedat",
            "equation",
            "gather",
            "gathered",
            "split",
            "eqnarray",
            "multline",
        ];
        // `\left\{ \begin{aligned} … \end{aligned} \right.`
        if lines.contains(&name) && in_brace {
            self.out.pop();
            self.depth = self.depth.saturating_sub(1);
        }
        if lines.contains(&name) {
            self.push(
                if begins {
                    Kind::Begin(rows::LINES)
                } else {
                    Kind::End(rows::LINES)
                },
                length,
            );
            return Some(());
        }
        // `\left\{ \begin{array}{l} … \end{array} \right.`
        if name == "array" && in_brace {
            self.out.pop();
            self.depth = self.depth.saturating_sub(1);
            self.push(Kind::Begin("cases"), length);
            return Some(());
        }
        let kind = if begins {
            Kind::Begin(name)
        } else {
            Kind::End(name)
        };
        self.push(kind, length);
        Some(())
    }
}

/// Bytes of the space that a row's end asks for: `[4pt]`.
fn row_spacing(text: &str) -> usize {
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map(|(inside, _)| inside);
    let length = |inside: &str| {
        let number = ["pt", "ex", "em", "mm", "cm"]
            .iter()
            .find_map(|unit| inside.strip_suffix(unit))?;
        number
            .trim()
            .chars()
            .all(|c| c.is_ascii_digit() || matches!(c, '.' | '-'))
            .then_some(inside.len() + 2)
    };
    inside.and_then(length).unwrap_or(0)
}

/// The unit vector that a letter in a font is: `\mathbf{i}`, `\hat{\jmath}`, `\vec{\mathbf{k}}`.
fn unit_vector(font: &str, inside: &str) -> Option<&'static str> {
    const FONTS: [&str; 8] = [
        "vec",
        "hat",
        "widehat",
        "overrightarrow",
        "mathbf",
        "boldsymbol",
        "bm",
        "textbf",
    ];
    if !FONTS.contains(&font) {
        return None;
    }
    let axis = match inside {
        "i" | "\\imath" => 0,
        "j" | "\\jmath" => 1,
        "k" => 2,
        _ => {
            let (outer, inner) = inside
                .strip_prefix('\\')?
                .strip_suffix('}')?
                .split_once('{')?;
            return unit_vector(outer, inner.trim());
        }
    };
    vectors::UNITS.get(axis).copied()
}

/// `{inside}` at the start of the text, braces balanced: the inside, and the bytes of the whole.
fn group(text: &str) -> Option<(&str, usize)> {
    let start = text.trim_start();
    let skipped = text.len() - start.len();
    let inside = start.strip_prefix('{')?;
    let mut open = 1u32;
    let mut escaped = false;
    for (i, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => {}
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        escaped = byte == b'\\' && !escaped;
        if open == 0 {
            return Some((inside.get(..i)?, skipped + i + 2));
        }
    }
    None
}
