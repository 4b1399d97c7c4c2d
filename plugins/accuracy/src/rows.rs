//! Lines under each other as lines behind each other: the marks of `aligned`, `gathered`, `split`,
//! and of systems in `cases`.
//!
//! `\begin{aligned} x &= 2 \\ y &= -1 \end{aligned}` is `x = 2, y = -1`; `x &= 3 \cdot 4 \\ &= 12`
//! is `x = 3 \cdot 4 = 12`.

use crate::token::{Kind, Token};

/// How the rows of an environment are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Lines of one text: marks mean nothing.
    Lines,
    /// Systems and functions by cases: a mark beside a relation means nothing.
    Cases,
    /// Marks part cells.
    Cells,
}

/// What [`crate::lexer`] calls the environments whose rows are lines.
pub(crate) const LINES: &str = "aligned";

pub(crate) fn flow(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    if !tokens
        .iter()
        .any(|token| matches!(token.kind, Kind::Begin(_)))
    {
        return tokens;
    }
    let mut open: Vec<Rows> = Vec::new();
    let mut out: Vec<Token<'_>> = Vec::with_capacity(tokens.len());
    // Whether the row at hand, or the column of it, has a relation.
    let mut related = false;
    for (at, token) in tokens.iter().enumerate() {
        let rows = open.last().copied();
        let next = tokens.get(at + 1..).unwrap_or_default();
        match &token.kind {
            Kind::Begin(name) => {
                let rows = rows_of(name, out.last(), next);
                open.push(rows);
                related = false;
                if rows != Rows::Lines {
                    out.push(token.clone());
                }
            }
            Kind::End(_) => {
                let rows = open.pop();
                if rows != Some(Rows::Lines) {
                    out.push(token.clone());
                } else if matches!(
                    out.last(),
                    Some(Token {
                        kind: Kind::Newline,
                        ..
                    })
                ) {
                    out.pop();
                }
            }
            Kind::Ampersand if rows == Some(Rows::Lines) => {
                // `x &= 1 & y &= 2`
                let parts = related
                    && !out.last().is_some_and(ends_row)
                    && !next.first().is_some_and(|next| continues(&next.kind));
                if parts
                    && next
                        .iter()
                        .take_while(|token| !ends_row(token))
                        .any(is_relation)
                {
                    out.push(Token {
                        kind: Kind::Comma,
                        ..token.clone()
                    });
                    related = false;
                }
            }
            Kind::Ampersand if rows == Some(Rows::Cases) => {
                let beside = out
                    .last()
                    .is_some_and(|last| is_relation(last) || matches!(last.kind, Kind::Plus))
                    || next.first().is_some_and(|next| continues(&next.kind));
                if !beside {
                    out.push(token.clone());
                }
            }
            Kind::Newline if rows == Some(Rows::Lines) => {
                let row: Vec<&Token<'_>> = next
                    .iter()
                    .take_while(|token| !ends_row(token))
                    .filter(|token| token.kind != Kind::Ampersand)
                    .collect();
                let first = row.first().map(|token| &token.kind);
                let continued = first.is_some_and(continues)
                    || (matches!(first, Some(Kind::Minus))
                        && !row.iter().any(|token| is_relation(token)));
                if !continued && !row.is_empty() && !out.last().is_some_and(ends_row) {
                    out.push(token.clone());
                    related = false;
                }
            }
            Kind::Command(
                "Rightarrow" | "implies" | "Longrightarrow" | "iff" | "Leftrightarrow"
                | "therefore",
            ) if rows == Some(Rows::Lines) && out.last().is_none_or(ends_row) => {}
            _ => {
                related |= is_relation(token);
                out.push(token.clone());
            }
        }
    }
    out
}

fn rows_of(name: &str, before: Option<&Token<'_>>, behind: &[Token<'_>]) -> Rows {
    match name {
        LINES => Rows::Lines,
        "cases" | "dcases" | "rcases" => Rows::Cases,
        // `\begin{array}{rcl} x &=& 2 \\ y &=& -1 \end{array}`, which no matrix is.
        "array"
            if !matches!(
                before,
                Some(Token {
                    kind: Kind::Open(_) | Kind::Bar,
                    ..
                })
            ) =>
        {
            let mut depth = 0u32;
            let own = behind.iter().take_while(|token| {
                match token.kind {
                    Kind::Begin(_) => depth += 1,
                    Kind::End(_) if depth == 0 => return false,
                    Kind::End(_) => depth -= 1,
                    _ => {}
                }
                true
            });
            if own.into_iter().any(is_relation) {
                Rows::Lines
            } else {
                Rows::Cells
            }
        }
        _ => Rows::Cells,
    }
}

fn is_relation(token: &Token<'_>) -> bool {
    matches!(token.kind, Kind::Relation(_))
}

/// Whether a row that begins with this goes on with the one before it.
fn continues(kind: &Kind<'_>) -> bool {
    matches!(
        kind,
        Kind::Relation(_) | Kind::Plus | Kind::Times | Kind::Slash
    )
}

fn ends_row(token: &Token<'_>) -> bool {
    matches!(
        token.kind,
        Kind::Newline | Kind::End(_) | Kind::Begin(_) | Kind::Comma
    )
}
