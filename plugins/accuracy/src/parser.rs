//! The parser of an answer: its tokens, and how far they are read. The rules are methods, in the
//! files of what they read; like those of any grammar they call each other.

use crate::applications::Applications;
use crate::comparison::Comparison;
use crate::token::{Kind, Token};

/// Brackets, groups and arguments within each other. Each level is some calls deep, and the
/// sandbox's stack is small.
const DEPTH_MAX: u32 = 24;

pub(crate) struct Parser<'a> {
    pub text: &'a str,
    pub tokens: Vec<Token<'a>>,
    pub at: usize,
    pub depth: u32,
    /// Number of open `|`: within them one closes.
    pub bars: u32,
    /// Number of sums that the parser tried to write out: what stands behind one that cannot be
    /// written out is read again.
    pub series: u32,
    /// Decides for sums whether their terms follow a rule.
    pub judge: Comparison,
    /// The letters that are functions.
    pub applications: &'a Applications,
}

impl<'a> Parser<'a> {
    pub(crate) fn peek(&self) -> Option<&Kind<'a>> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    pub(crate) fn peek_at(&self, ahead: usize) -> Option<&Kind<'a>> {
        self.tokens.get(self.at + ahead).map(|token| &token.kind)
    }

    pub(crate) fn before(&self) -> Option<&Kind<'a>> {
        self.at
            .checked_sub(1)
            .and_then(|at| self.tokens.get(at))
            .map(|token| &token.kind)
    }

    pub(crate) fn spaced(&self) -> bool {
        self.tokens.get(self.at).is_some_and(|token| token.spaced)
    }

    pub(crate) fn eat(&mut self, kind: &Kind<'_>) -> bool {
        let found = self.peek() == Some(kind);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let found = inner(self);
        self.depth -= 1;
        found
    }
}
