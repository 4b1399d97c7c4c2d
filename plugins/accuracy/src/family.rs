//! Answers with a parameter that runs through the integers:
//! `x = \frac{\pi}{2} + k\pi, k \in \mathbb{Z}`.

use crate::compare::Compare;
use crate::comparison::{Comparison, Verdict};
use crate::equations::{assigned, name, same_name};
use crate::expression::{Expr, Joined};
use crate::linear::linear;
use crate::periodic::PERIODS_MAX;
use crate::periodic::letters;
use crate::real_set::RealSet;
use crate::solve::subject;
use crate::token::{Bracket, Relation};

/// What an answer says without the declaration of its parameter, the parameter, and the set that it
/// runs through.
fn undeclared(expr: &Expr) -> (Expr, Option<(String, Expr)>) {
    let Expr::List(joined, items) = expr else {
        return (expr.clone(), None);
    };
    let declaration = |item: &Expr| match item {
        Expr::Relations(sides, relations) => match (sides.as_slice(), relations.as_slice()) {
            ([Expr::Symbol(name), set @ Expr::Symbol(letter)], [Relation::Member])
                if matches!(letter.as_str(), "Z" | "N" | "Z+") =>
            {
                Some((name.clone(), set.clone()))
            }
            _ => None,
        },
        _ => None,
    };
    let mut found = items.iter().filter_map(declaration);
    let (Some(parameter), None) = (found.next(), found.next()) else {
        return (expr.clone(), None);
    };
    let mut rest: Vec<Expr> = items
        .iter()
        .filter(|item| declaration(item).is_none())
        .cloned()
        .collect();
    let bare = match rest.len() {
        0 => return (expr.clone(), None),
        1 => rest.remove(0),
        _ => Expr::List(*joined, rest),
    };
    // A number has no parameter: `14, x \in \mathbb{Z}` says more.
    if bare.is_scalar() && bare.symbols().is_empty() {
        return (expr.clone(), None);
    }
    (bare, Some(parameter))
}

/// Whether it is an equation for something with that index: `a_n = 2n`.
fn is_indexed(expr: &Expr, index: &str) -> bool {
    let named = |first: &Expr| {
        matches!(first, Expr::Symbol(name) if name.split_once('_')
        .is_some_and(|(_, own)| own == index))
    };
    matches!(expr, Expr::Relations(sides, _) if sides.first().is_some_and(named))
}

/// Conditions on a whole number, `-1 < x < 3, x \in \mathbb{Z}`, as the set of those that meet
/// them; anything else unchanged.
fn whole_numbers(judge: &Comparison, expr: &Expr) -> Expr {
    let met =
        || {
            let (bare, Some((name, Expr::Symbol(kind)))) = undeclared(expr) else {
                return None;
            };
            let conditions = match &bare {
                Expr::List(_, items) => items
                    .iter()
                    .all(|item| subject(item) == Some(Expr::Symbol(name.clone()))),
                other => subject(other) == Some(Expr::Symbol(name.clone())),
            };
            let ordered = |e: &Expr| {
                matches!(e, Expr::Relations(_, relations) if relations.iter()
            .any(|relation| !matches!(relation, Relation::Equal | Relation::Approximately)))
            };
            (conditions && bare.any(&ordered)).then_some(())?;
            let least = if kind == "Z+" { 1 } else { 0 };
            let mut set = RealSet::of(judge, &bare)?;
            if kind != "Z" {
                let above = Expr::Tuple(
                    Bracket::Square,
                    Bracket::Round,
                    vec![Expr::integer(least), Expr::Infinity],
                );
                set = set.intersection(&RealSet::of(judge, &above)?, judge)?;
            }
            Some(set.whole_numbers().unwrap_or_else(|| {
                Expr::Intersection(Box::new(bare), Box::new(Expr::Symbol(kind)))
            }))
        };
    met().unwrap_or_else(|| expr.clone())
}

impl Compare<'_> {
    /// Compares both without the declarations of their parameters, the answer's renamed to the
    /// reference's. The verdict is that of `same`, or that both run through the same values.
    pub(crate) fn families(
        &self,
        r: &Expr,
        a: &Expr,
        same: impl Fn(&Expr, &Expr) -> Verdict,
    ) -> Verdict {
        if !matches!(r, Expr::List(..)) && !matches!(a, Expr::List(..)) {
            return same(r, a);
        }
        // `n \ge 3` for `n \ge 3, n \in \mathbb{Z}`
        let declared = |bare: &Expr, other: &Expr| match (undeclared(bare), undeclared(other)) {
            ((_, None), (rest, Some((name, set))))
                if matches!(name.as_str(), "n" | "m" | "k")
                    && subject(bare) == Some(Expr::Symbol(name.clone()))
                    && subject(bare) == subject(&rest) =>
            {
                Expr::List(
                    Joined::Comma,
                    vec![
                        bare.clone(),
                        Expr::Relations(vec![Expr::Symbol(name), set], vec![Relation::Member]),
                    ],
                )
            }
            _ => bare.clone(),
        };
        let (r, a) = (&declared(r, a), &declared(a, r));
        let (r, a) = (&whole_numbers(self.judge, r), &whole_numbers(self.judge, a));
        let ((r, of_r), (a, of_a)) = (undeclared(r), undeclared(a));
        let parameter = match (&of_r, &of_a) {
            (None, None) => return same(&r, &a),
            // Of a sequence, `a_n = 2n, n \in \mathbb{N}`, the letter says enough.
            (Some((name, x)), Some((_, y))) if x != y && !is_indexed(&r, name) => {
                return Verdict::Different;
            }
            (Some((name, _)), _) => name.clone(),
            // The reference's own letter, where it has a single one.
            (None, Some((name, _))) => match letters(value(self.judge, &r, false)).as_slice() {
                [only] => only.clone(),
                _ => name.clone(),
            },
        };
        let of_a = of_a.map(|(name, _)| name).or_else(|| {
            match letters(value(self.judge, &a, true)).as_slice() {
                [only] => Some(only.clone()),
                _ => None,
            }
        });
        let a = match of_a {
            Some(name) => {
                a.substitute(&|other| (other == name).then(|| Expr::Symbol(parameter.clone())))
            }
            None => a,
        };
        // First, because it costs less.
        let whole = of_r.is_none_or(|(_, set)| set == Expr::Symbol("Z".into()));
        if whole
            && (self.progressions(&r, &a, &parameter) == Verdict::Equal
                || self.periodic(&r, &a, &parameter) == Verdict::Equal)
        {
            return Verdict::Equal;
        }
        same(&r, &a)
    }

    /// Compares `a + bk` with `c ± bk`: they are equal where a and c are whole periods apart.
    fn progressions(&self, r: &Expr, a: &Expr, parameter: &str) -> Verdict {
        let subject = |expr: &Expr| match expr {
            Expr::Relations(sides, _) => name(sides).cloned(),
            _ => None,
        };
        if let (Some(x), Some(y)) = (subject(r), subject(a))
            && !same_name(&x, &y)
        {
            return Verdict::Different;
        }
        let (r, a) = (value(self.judge, r, false), value(self.judge, a, true));
        let (Some((step, start)), Some((other_step, other_start))) = (
            linear(self.judge, r, parameter),
            linear(self.judge, a, parameter),
        ) else {
            return Verdict::Different;
        };
        let equal = |x: &Expr, y: &Expr| self.judge.equal(x, y) == Verdict::Equal;
        if !(equal(&step, &other_step) || equal(&step, &other_step.negate())) {
            return Verdict::Different;
        }
        let apart = start.minus(other_start);
        // What it is at one point it can only be everywhere.
        let periods = self
            .judge
            .value_at_a_point(&apart.clone().over(step.clone()))
            .and_then(|periods| periods.to_i64());
        Verdict::of(periods.is_some_and(|n| {
            n.abs() <= PERIODS_MAX && equal(&apart, &Expr::integer(n).times(step))
        }))
    }
}

/// What an equation gives, or the formula itself.
fn value<'e>(judge: &Comparison, expr: &'e Expr, as_answer: bool) -> &'e Expr {
    match expr {
        Expr::Relations(sides, relations) => {
            assigned(judge, sides, relations, as_answer).unwrap_or(expr)
        }
        other => other,
    }
}
