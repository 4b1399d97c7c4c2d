//! Notes on where a formula holds: `, x \ne 0`, `(x > 0)`, `for all x`, `where k is an integer`.
//!
//! In words they become conditions behind a comma, before anything is parsed; words that are none
//! are left as they are.

use crate::token::{Bracket, Kind, Numeral, Relation, Token};

/// Words that a note begins with.
const INTRODUCTIONS: [&str; 10] = [
    "where", "for", "with", "when", "if", "provided", "given", "such", "assuming", "whenever",
];
/// Words without a meaning of their own in a note.
const FILLERS: [&str; 18] = [
    "that",
    "all",
    "any",
    "every",
    "each",
    "some",
    "arbitrary",
    "an",
    "a",
    "the",
    "values",
    "value",
    "of",
    "only",
    "real",
    "numbers",
    "number",
    "being",
];

/// A word or another token.
struct NotePiece<'a> {
    word: Option<&'a str>,
    token: Token<'a>,
}

/// The tokens with their last note in signs.
pub(crate) fn in_signs(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    // In an environment they are the cases' own conditions.
    let outside = tokens
        .iter()
        .rposition(|token| matches!(token.kind, Kind::End(_)))
        .map_or(1, |end| end + 1);
    let Some(start) = tokens
        .iter()
        .enumerate()
        .skip(outside)
        .position(|(at, token)| begins(&tokens, at, token))
        .map(|at| at + outside)
    else {
        return tokens;
    };
    let Some(note) = tokens.get(start..).and_then(signs) else {
        return tokens;
    };
    let mut out = tokens.get(..start).unwrap_or_default().to_vec();
    out.extend(note);
    out
}

/// Whether a note begins with the token: with one of its words, or with `k is`.
fn begins(tokens: &[Token<'_>], at: usize, token: &Token<'_>) -> bool {
    let words = match token.kind {
        Kind::Text(words) | Kind::Word(words) => words,
        _ => return false,
    };
    let first = words
        .trim_start_matches(|c: char| c == ',' || c.is_whitespace())
        .split_whitespace()
        .next()
        .unwrap_or_default();
    let next = match tokens.get(at + 1).map(|token| &token.kind) {
        Some(Kind::Text(words) | Kind::Word(words)) => {
            words.split_whitespace().next().unwrap_or_default()
        }
        _ => "",
    };
    let behind_comma = matches!(
        at.checked_sub(1)
            .and_then(|at| tokens.get(at))
            .map(|token| &token.kind),
        Some(Kind::Comma | Kind::Open(Bracket::Round))
    );
    INTRODUCTIONS.contains(&first)
        || (behind_comma && words.chars().count() == 1 && matches!(next, "is" | "an" | "any"))
}

fn signs<'a>(tokens: &[Token<'a>]) -> Option<Vec<Token<'a>>> {
    let (tokens, closing) = match tokens.split_last() {
        Some((last, rest))
            if last.kind == Kind::Close(Bracket::Round)
                && !rest
                    .iter()
                    .any(|token| token.kind == Kind::Open(Bracket::Round)) =>
        {
            (rest, Some(last.clone()))
        }
        _ => (tokens, None),
    };
    let first = tokens.first()?;
    let token = |kind: Kind<'a>| Token {
        kind,
        at: first.at,
        spaced: true,
    };
    let pieces = exploded(tokens);
    let mut out = vec![token(Kind::Comma)];
    for clause in pieces.split(|piece| matches!(piece.token.kind, Kind::Comma | Kind::And)) {
        let condition = condition(clause, &token)?;
        if out.len() > 1 && !condition.is_empty() {
            out.push(token(Kind::Comma));
        }
        out.extend(condition);
    }
    if let Some(closing) = closing {
        // `(for all x)` says nothing.
        if out.len() == 1 {
            return None;
        }
        out.push(closing);
        out.remove(0);
    }
    if out.len() == 1 {
        Some(Vec::new())
    } else {
        Some(out)
    }
}

/// `\text{where } k \text{ is an integer}` word by word.
fn exploded<'a>(tokens: &[Token<'a>]) -> Vec<NotePiece<'a>> {
    let mut pieces = Vec::new();
    for token in tokens {
        match token.kind {
            Kind::Text(words) => pieces.extend(
                words
                    .split(|c: char| c.is_whitespace() || matches!(c, ',' | '$'))
                    .filter(|word| !word.is_empty())
                    .map(|word| NotePiece {
                        word: Some(word),
                        token: Token {
                            kind: Kind::Word(word),
                            ..token.clone()
                        },
                    }),
            ),
            Kind::Word(word) => pieces.push(NotePiece {
                word: Some(word),
                token: token.clone(),
            }),
            _ => pieces.push(NotePiece {
                word: None,
                token: token.clone(),
            }),
        }
    }
    pieces
}

/// One condition in signs; nothing for one that says nothing, as `all x`; `None` for words that are
/// not understood.
fn condition<'a>(
    clause: &[NotePiece<'a>],
    token: &dyn Fn(Kind<'a>) -> Token<'a>,
) -> Option<Vec<Token<'a>>> {
    let is_letter = |piece: &NotePiece<'_>| {
        piece
            .word
            .is_some_and(|word| word.chars().count() == 1 && word != "a")
            || matches!(piece.token.kind, Kind::Command(name) if crate::names::is_greek(name))
    };
    let mut kind = None;
    let mut rest = clause;
    while let Some((piece, after)) = rest.split_first()
        && let Some(word) = piece.word
        && !is_letter(piece)
    {
        let known = INTRODUCTIONS.contains(&word) || FILLERS.contains(&word);
        let named = kind_of(word);
        if !known && named.is_none() {
            return None;
        }
        kind = stronger(kind, named);
        rest = after;
    }
    let Some((letter, after)) = rest.split_first() else {
        return kind.is_none().then(Vec::new);
    };
    // `x > 0`, `k \in \mathbb{Z}`
    if after
        .iter()
        .any(|piece| matches!(piece.token.kind, Kind::Relation(_)))
    {
        let plain = after
            .iter()
            .all(|piece| piece.word.is_none_or(|word| word.chars().count() == 1));
        return (kind.is_none() && plain)
            .then(|| rest.iter().map(|piece| piece.token.clone()).collect());
    }
    is_letter(letter).then_some(())?;
    let mut constant = false;
    for piece in after {
        let word = piece.word?;
        constant |= matches!(word, "constant" | "parameter");
        let named = kind_of(word);
        let known = matches!(word, "is" | "are" | "constant" | "parameter" | "be")
            || FILLERS.contains(&word);
        if !known && named.is_none() {
            return None;
        }
        kind = stronger(kind, named);
    }
    let Some(kind) = kind else {
        // `for all x`, `where C is a constant`, but not `where k`.
        let says = constant
            || clause.iter().any(|piece| {
                piece
                    .word
                    .is_some_and(|word| matches!(word, "all" | "any" | "every" | "each" | "real"))
            });
        return says.then(Vec::new);
    };
    if matches!(kind, "+" | "0+") {
        let relation = if kind == "+" {
            Relation::Greater
        } else {
            Relation::GreaterOrEqual
        };
        let zero = Numeral {
            digits: "0".to_string(),
            decimals: None,
            exponent: 0,
        };
        return Some(vec![
            letter.token.clone(),
            token(Kind::Relation(relation)),
            token(Kind::Number(zero)),
        ]);
    }
    let mut out = vec![
        letter.token.clone(),
        token(Kind::Relation(Relation::Member)),
        token(Kind::Roman(if kind == "N" { "N" } else { "Z" })),
    ];
    if kind == "Z+" {
        out.extend([token(Kind::Caret), token(Kind::Plus)]);
    }
    Some(out)
}

/// The numbers that a word names, or narrows.
fn kind_of(word: &str) -> Option<&'static str> {
    Some(match word {
        "integer" | "integers" | "whole" => "Z",
        "positive" => "+",
        "natural" => "N",
        "nonnegative" | "non-negative" => "0+",
        _ => return None,
    })
}

fn stronger(kind: Option<&'static str>, named: Option<&'static str>) -> Option<&'static str> {
    match (kind, named) {
        (Some("+"), Some("Z")) | (Some("Z"), Some("+")) => Some("Z+"),
        (Some("N" | "0+"), Some("Z")) => Some("N"),
        (kind, named) => named.or(kind),
    }
}
