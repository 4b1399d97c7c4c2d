//! Formulas that are nearly the same: with steps and pieces, which differ at single points or on
//! short stretches, and with powers and logarithms in another order. What each is worth is worked
//! out here, in fractions.

use accuracy::Accuracy;
use proptest::prelude::*;
use reward_sdk::{Completion, Error, Reward};

fn verdict(reference: &str, answer: &str) -> f32 {
    let completion = Completion {
        text: format!("\\boxed{{{answer}}}"),
        reference: Some(reference.into()),
        ..Completion::default()
    };
    match Accuracy::default().score(&completion) {
        Ok(score) => score.value,
        Err(Error::Unscorable(why) | Error::Internal(why)) => {
            panic!("{reference} | {answer}: {why}")
        }
    }
}

/// The parts of 1 in which values are counted.
const PARTS: i64 = 72;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Floor,
    Ceiling,
    Bars,
    Plain,
}

/// c times a piece of (p·x + q)/r.
#[derive(Clone, Debug)]
struct Piece {
    times: i64,
    kind: Kind,
    slope: i64,
    constant: i64,
    below: i64,
}

impl Piece {
    /// Returns the value at x, both in parts.
    fn value(&self, x: i64) -> i64 {
        let inside = self.slope * x + self.constant * PARTS;
        let value = match self.kind {
            Kind::Floor => inside.div_euclid(self.below * PARTS) * PARTS,
            Kind::Ceiling => -(-inside).div_euclid(self.below * PARTS) * PARTS,
            Kind::Bars => inside.abs() / self.below,
            Kind::Plain => inside / self.below,
        };
        self.times * value
    }

    fn written(&self) -> String {
        let inside = format!(
            r"\frac{{{}x{:+}}}{{{}}}",
            self.slope, self.constant, self.below
        );
        let piece = match self.kind {
            Kind::Floor => format!(r"\left\lfloor {inside}\right\rfloor"),
            Kind::Ceiling => format!(r"\left\lceil {inside}\right\rceil"),
            Kind::Bars => format!(r"\left|{inside}\right|"),
            Kind::Plain => inside,
        };
        format!(r"{}{piece}", self.times)
    }
}

fn piece(kinds: Vec<Kind>) -> impl Strategy<Value = Piece> {
    let signed = |most: i64| prop_oneof![1..=most, -most..=-1];
    (
        signed(3),
        prop::sample::select(kinds),
        signed(3),
        -3i64..=3,
        1i64..=3,
    )
        .prop_map(|(times, kind, slope, constant, below)| Piece {
            times,
            kind,
            slope,
            constant,
            below,
        })
}

/// Returns the pieces that `change` makes of one piece: some are the same formula, others are
/// nearly so.
fn changed(piece: &Piece, change: u8) -> Vec<Piece> {
    let whole = |times: i64| Piece {
        times,
        kind: Kind::Plain,
        slope: 0,
        constant: 1,
        below: 1,
    };
    let with = |kind: Kind| Piece {
        kind,
        ..piece.clone()
    };
    match (change, piece.kind) {
        // −⌈−u⌉ is ⌊u⌋, and the other way round.
        (0, Kind::Floor | Kind::Ceiling) => {
            let kind = if piece.kind == Kind::Floor {
                Kind::Ceiling
            } else {
                Kind::Floor
            };
            vec![Piece {
                times: -piece.times,
                kind,
                slope: -piece.slope,
                constant: -piece.constant,
                ..piece.clone()
            }]
        }
        // ⌊u + 1⌋ is ⌊u⌋ + 1.
        (1, Kind::Floor | Kind::Ceiling) => {
            vec![
                Piece {
                    constant: piece.constant + piece.below,
                    ..piece.clone()
                },
                whole(-piece.times),
            ]
        }
        // ⌈u⌉ − 1 is ⌊u⌋ nearly everywhere.
        (2, Kind::Floor) => vec![with(Kind::Ceiling), whole(-piece.times)],
        (2, Kind::Ceiling) => vec![with(Kind::Floor), whole(piece.times)],
        (_, Kind::Floor) => vec![with(Kind::Ceiling)],
        (_, Kind::Ceiling) => vec![with(Kind::Floor)],
        (0, Kind::Bars) => vec![Piece {
            slope: -piece.slope,
            constant: -piece.constant,
            ..piece.clone()
        }],
        (1, Kind::Bars) => vec![with(Kind::Plain)],
        (2, Kind::Bars) => vec![Piece {
            constant: piece.constant + 1,
            ..piece.clone()
        }],
        _ => vec![piece.clone()],
    }
}

fn total(pieces: &[Piece], x: i64) -> i64 {
    pieces.iter().map(|piece| piece.value(x)).sum()
}

fn written(pieces: &[Piece]) -> String {
    let terms: Vec<String> = pieces
        .iter()
        .map(|piece| format!("({})", piece.written()))
        .collect();
    terms.join("+")
}

/// Number of cases: `make properties` tries many more than `make test`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(300)
}

/// A formula of letters, in parts that may stand in any order, and the same with one part changed.
#[derive(Clone, Debug)]
struct Parts {
    joined: &'static str,
    all: Vec<&'static str>,
    changed: (&'static str, &'static str),
}

fn parts() -> impl Strategy<Value = Parts> {
    const FACTORS: [(&str, &str); 12] = [
        (r"P", r"Q"),
        (
            r"\left(1+\frac{r}{n}\right)^{nt}",
            r"\left(1+\frac{r}{n}\right)^{n}",
        ),
        (r"e^{-kt}", r"e^{kt}"),
        (r"e^{0.05t}", r"e^{0.5t}"),
        (r"e^{x^2}", r"e^{2x}"),
        (r"|ax+by+c|", r"|ax-by+c|"),
        (r"\ln|x+1|", r"\ln|x-1|"),
        (r"\cos(\omega t)", r"\sin(\omega t)"),
        (r"\sqrt{2+\sqrt{x+3}}", r"\sqrt{2-\sqrt{x+3}}"),
        (r"(1-p)^{k-1}", r"(1-p)^{k}"),
        (r"\frac{m}{r^2}", r"\frac{m}{r}"),
        (r"2^{n+1}", r"2^{n}"),
    ];
    (
        prop::sample::subsequence(FACTORS.to_vec(), 2..=4),
        any::<bool>(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(all, sum, index)| Parts {
            joined: if sum { "+" } else { r"\cdot " },
            changed: *index.get(&all),
            all: all.into_iter().map(|(part, _)| part).collect(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn steps_that_differ_at_single_points_are_not_the_same(
        all in prop::collection::vec(piece(vec![Kind::Floor, Kind::Ceiling, Kind::Plain]), 1..=2),
        change in 0u8..4,
    ) {
        let other: Vec<Piece> = all.split_first()
            .map(|(first, rest)| [changed(first, change), rest.to_vec()].concat()).unwrap();
        // Slopes and divisors up to 3 repeat themselves after 6.
        let same = (-6 * PARTS..=6 * PARTS).all(|x| total(&all, x) == total(&other, x));
        prop_assert_eq!(verdict(&written(&all), &written(&other)) == 1.0, same, "{} | {}",
            written(&all), written(&other));
    }

    #[test]
    fn pieces_that_differ_on_a_stretch_are_not_the_same(
        all in prop::collection::vec(piece(vec![Kind::Bars, Kind::Bars, Kind::Plain]), 1..=3),
        change in 0u8..3,
    ) {
        let other: Vec<Piece> = all.split_first()
            .map(|(first, rest)| [changed(first, change), rest.to_vec()].concat()).unwrap();
        let same = (-12 * PARTS..=12 * PARTS).all(|x| total(&all, x) == total(&other, x));
        prop_assert_eq!(verdict(&written(&all), &written(&other)) == 1.0, same, "{} | {}",
            written(&all), written(&other));
    }

    #[test]
    fn order_does_not_matter_and_a_changed_part_does(parts in parts()) {
        let reference = parts.all.join(parts.joined);
        let mut turned = parts.all.clone();
        turned.reverse();
        let turned = turned.join(parts.joined);
        prop_assert_eq!(verdict(&reference, &turned), 1.0, "{} | {}", reference, turned);
        let (was, is) = parts.changed;
        let wrong = turned.replacen(was, is, 1);
        prop_assert_eq!(verdict(&reference, &wrong), 0.0, "{} | {}", reference, wrong);
    }
}
