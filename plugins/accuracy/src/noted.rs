//! Compares answers that also state where they hold: `x = 3, x > 0`.

use crate::compare::Compare;
use crate::comparison::Verdict;
use crate::expression::{Expr, Joined};
use crate::token::Relation;

impl Compare<'_> {
    /// A number that a name is given, without the conditions on the name that it meets:
    /// `x = 3, x > 0`.
    fn without_met(&self, expr: &Expr) -> Option<Expr> {
        let Expr::List(Joined::Comma | Joined::And, items) = expr else {
            return None;
        };
        let (Expr::Relations(sides, relations), notes) = items.split_first()? else {
            return None;
        };
        let ([Expr::Symbol(name), value], [Relation::Equal]) =
            (sides.as_slice(), relations.as_slice())
        else {
            return None;
        };
        (value.is_scalar()
            && value.symbols().is_empty()
            && !value.has_plus_minus()
            && !notes.is_empty())
        .then_some(())?;
        let met = |note: &Expr| {
            let Expr::Relations(sides, relations) = note else {
                return None;
            };
            let sides: Vec<Expr> = sides
                .iter()
                .map(|side| side.substitute(&|other| (other == name).then(|| value.clone())))
                .collect();
            relations
                .iter()
                .zip(sides.windows(2))
                .try_for_each(|(relation, pair)| {
                    let [left, right] = pair else { return None };
                    let order = self.judge.sign(&left.clone().minus(right.clone()))?;
                    match relation {
                        Relation::Less => order.is_lt(),
                        Relation::LessOrEqual => order.is_le(),
                        Relation::Greater => order.is_gt(),
                        Relation::GreaterOrEqual => order.is_ge(),
                        Relation::NotEqual => order.is_ne(),
                        _ => false,
                    }
                    .then_some(())
                })
        };
        notes
            .iter()
            .all(|note| met(note).is_some())
            .then(|| items.first().cloned())?
    }
}

/// A formula, or an equation that gives one, without the conditions on its variables that follow
/// it; `None` without such.
fn without_notes(expr: &Expr) -> Option<Expr> {
    let Expr::List(Joined::Comma | Joined::And, items) = expr else {
        return None;
    };
    let (first, notes) = items.split_first()?;
    let formula = match first {
        Expr::Relations(sides, relations)
            if relations
                .iter()
                .all(|relation| *relation == Relation::Equal) =>
        {
            sides.last()?
        }
        other => other,
    };
    let variables = formula.symbols();
    let on_variables = |note: &Expr| match note {
        Expr::Relations(sides, relations) => {
            let names: Vec<String> = sides
                .iter()
                .flat_map(Expr::symbols)
                .filter(|name| !matches!(name.as_str(), "R" | "Z" | "N" | "Z+"))
                .collect();
            !relations.contains(&Relation::Equal)
                && !names.is_empty()
                && names.iter().all(|name| variables.contains(name))
        }
        _ => false,
    };
    let whole = notes.iter().any(|note| {
        matches!(note, Expr::Relations(sides, relations) if relations.as_slice() ==
        [Relation::Member] && matches!(sides.last(), Some(Expr::Symbol(_))))
    });
    (formula.is_scalar()
        && !first.has_plus_minus()
        && !notes.is_empty()
        && !whole
        && notes.iter().all(on_variables))
    .then(|| first.clone())
}

impl Compare<'_> {
    /// Compares as [`Compare::same`] does, but lets one of the two also state where its formula
    /// holds.
    pub(crate) fn same_but_for_notes(&self, r: &Expr, a: &Expr) -> Verdict {
        let verdict = self.same(r, a);
        let without = |expr: &Expr| without_notes(expr).or_else(|| self.without_met(expr));
        match (without(r), without(a)) {
            (Some(r), None) if verdict != Verdict::Equal => self.same(&r, a),
            (None, Some(a)) if verdict != Verdict::Equal => self.same(r, &a),
            _ => verdict,
        }
    }
}
