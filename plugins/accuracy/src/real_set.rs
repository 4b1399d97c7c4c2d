//! Sets of real numbers: intervals and points with constant ends, joined, cut and compared.

use crate::comparison::{Comparison, Verdict};
use crate::expression::{Expr, infinite};
use crate::numeric::constant_rational;
use crate::token::Bracket;
use reward_sdk::rational::Rational;
use std::cmp::Ordering;

const PIECES_MAX: usize = 64;
/// The most whole numbers of one piece that are listed.
const WHOLE_MAX: i64 = 64;

/// One end of an interval; `None` is infinity.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub value: Option<Expr>,
    pub closed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub low: End,
    pub high: End,
}

/// Disjoint pieces in order; no piece touches the next.
#[derive(Clone, Debug)]
pub(crate) struct RealSet {
    pub pieces: Vec<Piece>,
}

pub(crate) const UNBOUNDED: End = End {
    value: None,
    closed: false,
};

impl RealSet {
    pub(crate) fn all() -> RealSet {
        RealSet {
            pieces: vec![Piece {
                low: UNBOUNDED,
                high: UNBOUNDED,
            }],
        }
    }

    pub(crate) fn nothing() -> RealSet {
        RealSet { pieces: Vec::new() }
    }

    pub(crate) fn point(value: Expr) -> RealSet {
        let end = End {
            value: Some(value),
            closed: true,
        };
        RealSet {
            pieces: vec![Piece {
                low: end.clone(),
                high: end,
            }],
        }
    }

    pub(crate) fn union(mut self, other: RealSet, judge: &Comparison) -> Option<RealSet> {
        self.pieces.extend(other.pieces);
        self.ordered(judge)
    }

    pub(crate) fn intersection(&self, other: &RealSet, judge: &Comparison) -> Option<RealSet> {
        let mut pieces = Vec::new();
        for a in &self.pieces {
            for b in &other.pieces {
                let low = if before(judge, &a.low, &b.low)? {
                    b.low.clone()
                } else {
                    a.low.clone()
                };
                let high = if after(judge, &b.high, &a.high)? {
                    a.high.clone()
                } else {
                    b.high.clone()
                };
                let piece = Piece { low, high };
                if piece.holds_something(judge)? {
                    pieces.push(piece);
                }
            }
        }
        RealSet { pieces }.ordered(judge)
    }

    pub(crate) fn complement(&self) -> RealSet {
        let mut pieces = Vec::new();
        let mut low = UNBOUNDED;
        let mut open = true;
        for piece in &self.pieces {
            if let Some(value) = &piece.low.value {
                pieces.push(Piece {
                    low,
                    high: End {
                        value: Some(value.clone()),
                        closed: !piece.low.closed,
                    },
                });
            }
            open = piece.high.value.is_some();
            low = End {
                value: piece.high.value.clone(),
                closed: !piece.high.closed,
            };
        }
        if open {
            pieces.push(Piece {
                low,
                high: UNBOUNDED,
            });
        }
        RealSet { pieces }
    }

    pub(crate) fn without(&self, other: &RealSet, judge: &Comparison) -> Option<RealSet> {
        self.intersection(&other.complement(), judge)
    }

    /// Sorts the pieces and joins those that overlap or touch.
    pub(crate) fn ordered(mut self, judge: &Comparison) -> Option<RealSet> {
        if self.pieces.len() > PIECES_MAX {
            return None;
        }
        let mut ordered: Vec<Piece> = Vec::new();
        for piece in self.pieces.drain(..) {
            let mut at = ordered.len();
            for (i, other) in ordered.iter().enumerate() {
                if before(judge, &piece.low, &other.low)? {
                    at = i;
                    break;
                }
            }
            ordered.insert(at, piece);
        }
        let mut joined: Vec<Piece> = Vec::new();
        for piece in ordered {
            if let Some(last) = joined.last_mut() {
                let touches = match (&last.high.value, &piece.low.value) {
                    (None, _) | (_, None) => true,
                    (Some(high), Some(low)) => {
                        match judge.sign(&high.clone().minus(low.clone()))? {
                            Ordering::Greater => true,
                            Ordering::Equal => last.high.closed || piece.low.closed,
                            Ordering::Less => false,
                        }
                    }
                };
                if touches {
                    if after(judge, &piece.high, &last.high)? {
                        last.high = piece.high;
                    }
                    continue;
                }
            }
            joined.push(piece);
        }
        Some(RealSet { pieces: joined })
    }

    /// The whole numbers in it: a set of them where they are few, else those from one on, up to
    /// one, or all. `None` where the ends are not rational.
    pub(crate) fn whole_numbers(&self) -> Option<Expr> {
        let bound = |end: &End, low: bool| -> Option<Option<i64>> {
            let Some(value) = &end.value else {
                return Some(None);
            };
            let value = constant_rational(value)?;
            let near = if low {
                -i64::try_from(value.clone().negate().floor()).ok()?
            } else {
                i64::try_from(value.floor()).ok()?
            };
            let excluded = !end.closed && Rational::integer(near) == value;
            Some(Some(if !excluded {
                near
            } else if low {
                near.checked_add(1)?
            } else {
                near.checked_sub(1)?
            }))
        };
        let mut few = Vec::new();
        let mut many = Vec::new();
        for piece in &self.pieces {
            match (bound(&piece.low, true)?, bound(&piece.high, false)?) {
                (Some(low), Some(high)) => {
                    (high.saturating_sub(low) < WHOLE_MAX && few.len() < PIECES_MAX)
                        .then_some(())?;
                    few.extend((low..=high).map(Expr::integer));
                }
                (low, high) => {
                    let low = low.map_or(Expr::Infinity.negate(), Expr::integer);
                    let high = high.map_or(Expr::Infinity, Expr::integer);
                    let closed = |end: &Expr| {
                        if infinite(end).is_none() {
                            Bracket::Square
                        } else {
                            Bracket::Round
                        }
                    };
                    many.push(Expr::Tuple(closed(&low), closed(&high), vec![low, high]));
                }
            }
        }
        let few = (!few.is_empty() || many.is_empty()).then_some(Expr::Set(few));
        let all = many
            .into_iter()
            .chain(few)
            .reduce(|all, next| Expr::Union(Box::new(all), Box::new(next)))?;
        if matches!(all, Expr::Set(_)) {
            Some(all)
        } else {
            Some(Expr::Intersection(
                Box::new(all),
                Box::new(Expr::Symbol("Z".into())),
            ))
        }
    }

    pub(crate) fn equal(&self, other: &RealSet, judge: &Comparison) -> Verdict {
        if self.pieces.len() != other.pieces.len() {
            return Verdict::Different;
        }
        let ends = |a: &End, b: &End| match (&a.value, &b.value) {
            (None, None) => Verdict::Equal,
            (Some(x), Some(y)) if a.closed == b.closed => judge.equal(x, y),
            _ => Verdict::Different,
        };
        let mut verdict = Verdict::Equal;
        for (a, b) in self.pieces.iter().zip(&other.pieces) {
            verdict = verdict
                .and(|| ends(&a.low, &b.low))
                .and(|| ends(&a.high, &b.high));
        }
        verdict
    }
}

impl Piece {
    pub(crate) fn holds_something(&self, judge: &Comparison) -> Option<bool> {
        let (Some(low), Some(high)) = (&self.low.value, &self.high.value) else {
            return Some(true);
        };
        Some(match judge.sign(&high.clone().minus(low.clone()))? {
            Ordering::Greater => true,
            Ordering::Equal => self.low.closed && self.high.closed,
            Ordering::Less => false,
        })
    }
}

/// Whether one lower end lets in more than another.
fn before(judge: &Comparison, a: &End, b: &End) -> Option<bool> {
    match (&a.value, &b.value) {
        (None, b) => Some(b.is_some()),
        (_, None) => Some(false),
        (Some(x), Some(y)) => Some(match judge.sign(&x.clone().minus(y.clone()))? {
            Ordering::Less => true,
            Ordering::Equal => a.closed && !b.closed,
            Ordering::Greater => false,
        }),
    }
}

/// Whether one upper end lets in more than another.
fn after(judge: &Comparison, a: &End, b: &End) -> Option<bool> {
    match (&a.value, &b.value) {
        (None, b) => Some(b.is_some()),
        (_, None) => Some(false),
        (Some(x), Some(y)) => Some(match judge.sign(&x.clone().minus(y.clone()))? {
            Ordering::Greater => true,
            Ordering::Equal => a.closed && !b.closed,
            Ordering::Less => false,
        }),
    }
}
