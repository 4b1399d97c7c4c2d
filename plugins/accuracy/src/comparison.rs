//! What all parts of one comparison share: its verdict, its seed and its budget.

use crate::residues::Residues;
use std::cell::{Cell, OnceCell};

/// What all evaluations of one verdict may cost, in about the sandbox's fuel. It leaves room for
/// what the estimates miss.
const BUDGET: u64 = 10_000_000;

/// How a comparison ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Equal,
    Different,
    /// The formulas are too large, or so close that no bound shows whether they differ. Never a
    /// pass.
    Undecided,
}

impl Verdict {
    pub(crate) fn of(equal: bool) -> Verdict {
        if equal {
            Verdict::Equal
        } else {
            Verdict::Different
        }
    }

    pub(crate) fn and(self, other: impl FnOnce() -> Verdict) -> Verdict {
        match self {
            Verdict::Equal => other(),
            Verdict::Different => Verdict::Different,
            Verdict::Undecided => {
                if other() == Verdict::Different {
                    Verdict::Different
                } else {
                    Verdict::Undecided
                }
            }
        }
    }
}

/// One comparison of an answer with its reference: its seed, and what it may still cost. Whether
/// formulas are equal is decided in [`crate::equal`], whose methods what it asks calls again.
pub(crate) struct Comparison {
    /// Derived from the texts; everything random is derived from it.
    pub seed: u64,
    /// What evaluations may still cost.
    pub budget: Cell<u64>,
    set_aside: Cell<u64>,
    /// Evaluates modulo a prime, with a budget of its own: it still works when `budget` is spent.
    field: OnceCell<Residues>,
}

impl Comparison {
    /// Seeds the comparison with the texts themselves, so that no answer can be made for the points
    /// at which it is evaluated.
    pub(crate) fn new(texts: &[&str]) -> Comparison {
        let mut seed = 0xcbf2_9ce4_8422_2325u64;
        for byte in texts.iter().flat_map(|text| text.bytes()) {
            seed = (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Comparison {
            seed,
            budget: Cell::new(BUDGET),
            set_aside: Cell::new(BUDGET / 2),
            field: OnceCell::new(),
        }
    }

    /// Makes a comparison for use while an answer is read; it has a tenth of the budget.
    pub(crate) fn of_reader(text: &str) -> Comparison {
        Comparison {
            budget: Cell::new(BUDGET / 10),
            ..Comparison::new(&[text])
        }
    }

    /// Derives a pseudo-random number from the seed and two numbers.
    pub(crate) fn random(&self, at: u64, position: u64) -> u64 {
        let mut random = self
            .seed
            .wrapping_add(at << 32)
            .wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random ^= random >> 31;
        random = random.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random ^ (random >> 29)
    }

    /// Runs `ask` on the budget that is set aside for points between others.
    pub(crate) fn further<T>(&self, ask: impl FnOnce() -> T) -> T {
        let left = self.budget.replace(self.set_aside.get());
        let answer = ask();
        self.set_aside.set(self.budget.replace(left));
        answer
    }

    /// Takes `cost` from the budget; returns whether there was as much left.
    pub(crate) fn spend(&self, cost: u64) -> bool {
        let left = self.budget.get().checked_sub(cost);
        self.budget.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Evaluates modulo a prime.
    pub(crate) fn residues(&self) -> &Residues {
        self.field.get_or_init(|| Residues::new(self.seed))
    }
}
