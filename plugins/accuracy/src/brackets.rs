//! Reads what stands between brackets: groups, points, intervals, sets, matrices.

use crate::expression::{Expr, Function, Joined};
use crate::names::symbol;
use crate::parser::Parser;
use crate::token::{Bracket, Kind, Relation};

impl<'a> Parser<'a> {
    /// What stands between brackets, the opening one read already.
    pub(crate) fn bracketed(&mut self, open: Bracket) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let found = self.nested(|parser| parser.bracketed_within(open));
        self.bars = bars;
        found
    }

    pub(crate) fn bracketed_within(&mut self, open: Bracket) -> Option<Expr> {
        if open == Bracket::Curly
            && let Some(condition) = self.set_builder()
        {
            return condition;
        }
        if open == Bracket::Round
            && let Some(name) = self.given()
        {
            return Some(name);
        }
        let start = self.at;
        let content = if matches!(self.peek(), Some(Kind::Close(_))) {
            None
        } else {
            Some(self.list()?)
        };
        let content = match content {
            Some(above) if open == Bracket::Group => Some(self.infix_command(above)?),
            other => other,
        };
        let Some(Kind::Close(close)) = self.peek() else {
            return None;
        };
        let close = *close;
        let mixed = |a, b| {
            matches!(
                (a, b),
                (Bracket::Round, Bracket::Square) | (Bracket::Square, Bracket::Round)
            )
        };
        if open != close && !mixed(open, close) {
            return None;
        }
        self.at += 1;
        let between = self.tokens.get(start..self.at).unwrap_or_default();
        let several = matches!(content, Some(Expr::List(..)))
            && between
                .iter()
                .any(|token| matches!(token.kind, Kind::Comma | Kind::Semicolon));
        match (open, content) {
            (Bracket::Curly, None) => Some(Expr::Set(Vec::new())),
            (_, None) => None,
            (Bracket::Curly, Some(Expr::List(_, items))) => Some(Expr::Set(items)),
            (Bracket::Curly, Some(item)) => Some(Expr::Set(vec![item])),
            (Bracket::Floor, Some(item)) => Some(Expr::call(Function::Floor, item)),
            (Bracket::Ceiling, Some(item)) => Some(Expr::call(Function::Ceiling, item)),
            (Bracket::Group, Some(item)) => Some(item),
            (_, Some(Expr::List(_, items))) if several => Some(Expr::Tuple(open, close, items)),
            (Bracket::Square, Some(item @ Expr::Tuple(Bracket::Square, Bracket::Square, _))) => {
                Some(Expr::Tuple(open, close, vec![item]))
            }
            (_, Some(item)) if open == close => Some(item),
            _ => None,
        }
    }

    /// `A|B` of `P(A|B)`, the opening bracket read already: a name.
    pub(crate) fn given(&mut self) -> Option<Expr> {
        let function = self
            .at
            .checked_sub(2)
            .and_then(|at| self.tokens.get(at))
            .map(|token| &token.kind);
        matches!(
            function,
            Some(
                Kind::Word("P" | "E" | "Pr")
                    | Kind::Roman("P" | "E")
                    | Kind::Text("P" | "Pr" | "E")
            )
        )
        .then_some(())?;
        let (mut depth, mut bars) = (0u32, 0);
        let length = self.tokens.iter().skip(self.at).position(|token| {
            match token.kind {
                Kind::Open(_) => depth += 1,
                Kind::Close(_) if depth == 0 => return true,
                Kind::Close(_) => depth -= 1,
                Kind::Bar if depth == 0 => bars += 1,
                _ => {}
            }
            false
        })?;
        (bars == 1).then_some(())?;
        let (from, to) = (
            self.tokens.get(self.at)?.at,
            self.tokens.get(self.at + length)?.at,
        );
        let written: String = self
            .text
            .get(from..to)?
            .replace("\\mid", "|")
            .split_whitespace()
            .collect();
        self.at += length + 1;
        Some(Expr::Symbol(written))
    }

    /// `{1 \over 2}`, `{5 \choose 2}`: what stands before has been read.
    pub(crate) fn infix_command(&mut self, above: Expr) -> Option<Expr> {
        let binomial = match self.peek() {
            Some(Kind::Command("over")) => false,
            Some(Kind::Command("choose")) => true,
            _ => return Some(above),
        };
        self.at += 1;
        let below = self.sum()?;
        Some(if binomial {
            Expr::Call(Function::Binomial, vec![above, below])
        } else {
            above.over(below)
        })
    }

    /// `\{x \mid x > 2\}`: its condition; the outer `None` where there is no such thing.
    pub(crate) fn set_builder(&mut self) -> Option<Option<Expr>> {
        let mut depth = 0u32;
        let mut bar = None;
        for (at, token) in self.tokens.iter().enumerate().skip(self.at) {
            match &token.kind {
                Kind::Open(_) => depth += 1,
                Kind::Close(_) if depth == 0 => break,
                Kind::Close(_) => depth -= 1,
                Kind::Bar | Kind::Colon if depth == 0 && bar.is_none() => bar = Some(at),
                _ => {}
            }
        }
        let bar = bar?;
        let head = self.tokens.get(self.at..bar)?;
        let variable = matches!(head.first()?.kind, Kind::Word(word) if word.chars().count() == 1)
            && (head.len() == 1 || matches!(head.get(1)?.kind, Kind::Relation(Relation::Member)));
        if !variable {
            return self.described_set(bar);
        }
        // `x \in \mathbb{Z}` is a condition too.
        let within = match (
            head.first().map(|token| &token.kind),
            head.get(2).map(|token| &token.kind),
        ) {
            (
                Some(Kind::Word(name)),
                Some(Kind::Roman("Z" | "N" | "Q") | Kind::Word("Z" | "N" | "Q")),
            ) => {
                let name = symbol(name)?;
                self.at += 2;
                let set = self.atom();
                if set.is_none() || self.at != bar {
                    return Some(None);
                }
                set.map(|set| Expr::Relations(vec![name, set], vec![Relation::Member]))
            }
            _ => None,
        };
        self.at = bar + 1;
        let condition = self
            .list()
            .filter(|_| self.eat(&Kind::Close(Bracket::Curly)));
        Some(condition.map(|condition| match (within, condition) {
            (None, condition) => condition,
            (Some(within), Expr::List(joined, mut items)) if joined != Joined::Or => {
                items.push(within);
                Expr::List(joined, items)
            }
            (Some(within), condition) => Expr::List(Joined::Comma, vec![condition, within]),
        }))
    }

    /// `\{2k + 1 \mid k \in \mathbb{Z}\}`, `\{(x, y) \mid y = 2x\}`: what has the form before the
    /// bar where the condition behind it holds.
    pub(crate) fn described_set(&mut self, bar: usize) -> Option<Option<Expr>> {
        let start = self.at;
        let head = self
            .sum()
            .filter(|head| self.at == bar && !head.symbols().is_empty());
        let Some(head) = head else {
            self.at = start;
            return None;
        };
        self.at = bar + 1;
        let condition = self
            .list()
            .filter(|_| self.eat(&Kind::Close(Bracket::Curly)));
        let member = |item: &Expr| {
            matches!(item, Expr::Relations(_, relations) if relations.as_slice() ==
            [Relation::Member])
        };
        Some(condition.and_then(|condition| {
            match (&head, condition) {
                // `\{(x, y) \mid x = 2, y = 1\}` is one point.
                (Expr::Tuple(open, close, parts), condition)
                    if values_of(parts, &condition).is_some() =>
                {
                    values_of(parts, &condition)
                        .map(|values| Expr::Set(vec![Expr::Tuple(*open, *close, values)]))
                }
                // A set of points is where its equations hold.
                (Expr::Tuple(_, _, parts), condition)
                    if parts.iter().all(|part| matches!(part, Expr::Symbol(_))) =>
                {
                    Some(condition)
                }
                (Expr::Tuple(..), _) => None,
                (_, Expr::List(Joined::Comma | Joined::And, items)) if items.iter().any(member) => {
                    Some(Expr::List(Joined::Comma, [vec![head], items].concat()))
                }
                (_, condition) if member(&condition) => {
                    Some(Expr::List(Joined::Comma, vec![head, condition]))
                }
                _ => None,
            }
        }))
    }

    /// `\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}`, the beginning read already.
    pub(crate) fn matrix(&mut self, name: &str) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        if name == "cases" || name == "dcases" {
            let found = self.nested(Self::cases);
            self.bars = bars;
            return found;
        }
        let rows = self.nested(|parser| parser.rows(name));
        self.bars = bars;
        let matrix = Expr::Matrix(rows?);
        Some(if name == "vmatrix" {
            Expr::call(Function::Determinant, matrix)
        } else {
            matrix
        })
    }

    pub(crate) fn rows(&mut self, name: &str) -> Option<Vec<Vec<Expr>>> {
        if !(name.ends_with("matrix") || name == "array") {
            return None;
        }
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek()? {
                Kind::End(end) => {
                    if *end != name {
                        return None;
                    }
                    self.at += 1;
                    break;
                }
                Kind::Ampersand => self.at += 1,
                Kind::Newline => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                _ => {
                    let entry = self.sum()?;
                    rows.last_mut()?.push(entry);
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        let width = rows.first()?.len();
        rows.iter().all(|row| row.len() == width).then_some(rows)
    }
}

/// What equations give for each of the names, in their order.
fn values_of(names: &[Expr], equations: &Expr) -> Option<Vec<Expr>> {
    let Expr::List(Joined::Comma | Joined::And, items) = equations else {
        return None;
    };
    let value = |name: &Expr| {
        items.iter().find_map(|item| match item {
            Expr::Relations(sides, relations)
                if relations.as_slice() == [Relation::Equal] && sides.first() == Some(name) =>
            {
                sides.get(1).cloned()
            }
            _ => None,
        })
    };
    (items.len() == names.len()).then(|| names.iter().map(value).collect())?
}
