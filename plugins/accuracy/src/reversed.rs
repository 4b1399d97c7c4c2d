//! Intervals with reversed brackets, `]1, 3[`, as their tokens with round ones.

use crate::token::{Bracket, Kind, Token};

/// Turns `]` where nothing has been opened that it could close, and `[` where nothing that it could
/// open follows.
pub(crate) fn turn(tokens: &mut [Token<'_>]) {
    let mut open: Vec<bool> = Vec::new();
    for at in 0..tokens.len() {
        let before = at
            .checked_sub(1)
            .and_then(|at| tokens.get(at))
            .map(|token| &token.kind);
        let after = tokens.get(at + 1).map(|token| &token.kind);
        let turned = match tokens.get(at).map(|token| &token.kind) {
            Some(Kind::Close(Bracket::Square)) if !ends_value(before) => {
                open.push(true);
                Some(Kind::Open(Bracket::Round))
            }
            Some(Kind::Open(Bracket::Square))
                if ends_value(before)
                    && !starts_value(after)
                    && open.last().is_some_and(|square| *square) =>
            {
                open.pop();
                Some(Kind::Close(Bracket::Round))
            }
            Some(Kind::Open(bracket)) => {
                open.push(*bracket == Bracket::Square);
                None
            }
            Some(Kind::Close(_)) => {
                open.pop();
                None
            }
            _ => None,
        };
        if let (Some(kind), Some(token)) = (turned, tokens.get_mut(at)) {
            token.kind = kind;
        }
    }
}

/// Whether a value may end with this.
fn ends_value(kind: Option<&Kind<'_>>) -> bool {
    matches!(
        kind,
        Some(
            Kind::Number(_)
                | Kind::Word(_)
                | Kind::Text(_)
                | Kind::Roman(_)
                | Kind::Command(_)
                | Kind::Bang
                | Kind::Percent
                | Kind::Degree
                | Kind::Prime
                | Kind::Dots
                | Kind::Superscript(_)
                | Kind::Close(_)
                | Kind::Bar
                | Kind::End(_)
        )
    )
}

/// Whether a value may begin with this, or what stands in a bracket.
fn starts_value(kind: Option<&Kind<'_>>) -> bool {
    matches!(
        kind,
        Some(
            Kind::Number(_)
                | Kind::Word(_)
                | Kind::Roman(_)
                | Kind::Command(_)
                | Kind::Plus
                | Kind::Minus
                | Kind::PlusMinus
                | Kind::Open(_)
                | Kind::Fraction
                | Kind::Begin(_)
                | Kind::Currency
        )
    )
}
