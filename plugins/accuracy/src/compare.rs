//! Whether an answer says what the reference says: the rules for each kind of thing.

use crate::comparison::{Comparison, Verdict};
use crate::equations::{assigned, equivalent, name, same_name};
use crate::expression::radians;
use crate::expression::{Expr, Function, Joined};
use crate::matrix::{resolved, rows_of};
use crate::numeric::constant_rational;
use crate::real_set::RealSet;
use crate::solve::subject;
use crate::text;
use crate::token::{Bracket, Relation};
use reward_sdk::rational::Rational;
use reward_sdk::units::Unit;

/// The most items of lists and sets that are matched with each other.
const ITEMS_MAX: usize = 64;
/// The most levels of structures within structures.
const DEPTH_MAX: u32 = 12;

pub(crate) struct Compare<'j> {
    pub judge: &'j Comparison,
    /// Whether the lenient rules for evaluation apply: see [`crate`].
    pub lenient: bool,
}

impl Compare<'_> {
    pub(crate) fn same(&self, reference: &Expr, answer: &Expr) -> Verdict {
        let same = |r: &Expr, a: &Expr| {
            self.within(&expanded(&resolved(r)), &expanded(&resolved(a)), DEPTH_MAX)
        };
        self.families(reference, answer, same)
    }

    pub(crate) fn within(&self, r: &Expr, a: &Expr, depth: u32) -> Verdict {
        let Some(depth) = depth.checked_sub(1) else {
            return Verdict::Undecided;
        };
        match (r, a) {
            // `A(1, 2)`
            (Expr::Product(_), _) | (_, Expr::Product(_))
                if labelled(r).is_some() || labelled(a).is_some() =>
            {
                match (labelled(r), labelled(a)) {
                    (Some((own, _)), Some((other, _))) if own != other => Verdict::Different,
                    (Some((_, r)), Some((_, a))) => self.within(r, a, depth),
                    (Some((_, point)), None) => self.within(point, a, depth),
                    (None, Some((_, point))) => self.within(r, point, depth),
                    (None, None) => Verdict::Different,
                }
            }
            // A set of a single thing is that thing.
            (Expr::Set(items) | Expr::List(_, items), other)
                if self.is_single(items, other, depth) =>
            {
                items
                    .last()
                    .map_or(Verdict::Different, |one| self.within(one, other, depth))
            }
            (other, Expr::Set(items) | Expr::List(_, items))
                if self.is_single(items, other, depth) =>
            {
                items
                    .last()
                    .map_or(Verdict::Different, |one| self.within(other, one, depth))
            }
            // `3 < 5` says no more than `2 < 7`, and is not it.
            (Expr::Relations(rs, rr), Expr::Relations(az, ar))
                if (says_nothing(self.judge, rs, rr) || says_nothing(self.judge, az, ar))
                    && rr
                        .iter()
                        .chain(ar)
                        .any(|relation| *relation != Relation::Equal) =>
            {
                let turned: (Vec<Expr>, Vec<Relation>) = (
                    az.iter().rev().cloned().collect(),
                    ar.iter()
                        .rev()
                        .map(|relation| relation.mirrored())
                        .collect(),
                );
                match (rr == ar, *rr == turned.1) {
                    (true, _) if self.in_order(rs, az, depth) == Verdict::Equal => Verdict::Equal,
                    (_, true) => self.in_order(rs, &turned.0, depth),
                    _ => Verdict::Different,
                }
            }
            (Expr::Relations(rs, rr), Expr::Relations(az, ar)) => {
                self.relations((rs, rr), (az, ar), depth)
            }
            (Expr::Relations(..), Expr::Text(_)) | (Expr::Text(_), Expr::Relations(..))
                if self.texts(r, a) == Verdict::Equal =>
            {
                Verdict::Equal
            }
            (Expr::Relations(sides, relations), other) => {
                if let ([_, set], [Relation::Member]) = (sides.as_slice(), relations.as_slice()) {
                    return self.within(set, other, depth);
                }
                match assigned(self.judge, sides, relations, false) {
                    Some(value) => self.within(value, other, depth),
                    None => self.sets(r, a).unwrap_or(Verdict::Different),
                }
            }
            (other, Expr::Relations(sides, relations)) => {
                if let ([_, set], [Relation::Member]) = (sides.as_slice(), relations.as_slice()) {
                    return self.within(other, set, depth);
                }
                match assigned(self.judge, sides, relations, true) {
                    Some(value) => self.within(other, value, depth),
                    None => self.sets(r, a).unwrap_or(Verdict::Different),
                }
            }
            (Expr::Modulo(r, m), Expr::Modulo(a, n)) => self.classes((r, m), (a, n)),
            // `2 \pmod 3` says 2 with its modulus; `5 \pmod 3` is a class, and not 5.
            (other, Expr::Modulo(value, modulus))
                if other.is_scalar()
                    && other.symbols().is_empty()
                    && !is_residue(value, modulus) =>
            {
                Verdict::Different
            }
            (Expr::Modulo(value, modulus), other) | (other, Expr::Modulo(value, modulus))
                if other.is_scalar() =>
            {
                self.class_and_formula((value, modulus), other)
            }
            (Expr::Cases(rs), Expr::Cases(az)) => match self.cases(rs, az, depth) {
                Verdict::Equal => Verdict::Equal,
                otherwise => self.by_regions(r, a).unwrap_or(otherwise),
            },
            (Expr::Cases(_), other) | (other, Expr::Cases(_)) if other.is_scalar() => {
                self.by_regions(r, a).unwrap_or(Verdict::Different)
            }
            (Expr::Clock(_), _) | (_, Expr::Clock(_)) => match (r.clock(), a.clock()) {
                (Some(r), Some(a)) => Verdict::of(r.agrees_with(&a)),
                _ => Verdict::Different,
            },
            (Expr::Text(_), _) | (_, Expr::Text(_)) => self.texts(r, a),
            // `\frac{\pi}{2} \text{ rad}` and `90^\circ`: both say what they are measured in.
            (Expr::Quantity(turned, unit), Expr::Degrees(degrees))
            | (Expr::Degrees(degrees), Expr::Quantity(turned, unit))
                if unit.is_radian() =>
            {
                self.scalars(
                    &turned.clone().times(Expr::integer(180)),
                    &degrees.clone().times(Expr::Pi),
                )
            }
            (Expr::Quantity(value, unit), other) => {
                self.quantities(value, Some(unit), other, depth)
            }
            (other, Expr::Quantity(..)) => self.quantities(other, None, a, depth),
            // `p \land q` is no `p \lor q`.
            (Expr::List(Joined::And, rs), Expr::List(Joined::Or, az))
            | (Expr::List(Joined::Or, rs), Expr::List(Joined::And, az))
                if rs
                    .iter()
                    .chain(az)
                    .all(|item| matches!(item, Expr::Symbol(_))) =>
            {
                Verdict::Different
            }
            (Expr::List(..) | Expr::Set(_), Expr::List(..) | Expr::Set(_)) => {
                match self.conditions(r, a) {
                    Some(verdict) => verdict,
                    // `x < 2 and x > 3` is no `x < 2 or x > 3`.
                    None if parted_otherwise(r, a) => Verdict::Different,
                    None => self.collections(r, a, depth),
                }
            }
            // `1 or 2` is no point.
            (Expr::List(Joined::Or, items), Expr::Tuple(_, _, parts))
            | (Expr::Tuple(_, _, parts), Expr::List(Joined::Or, items))
                if items.iter().chain(parts).all(Expr::is_scalar) =>
            {
                Verdict::Different
            }
            (Expr::List(_, items), Expr::Tuple(open, close, parts)) => {
                match self.conditions(r, a) {
                    Some(verdict) => verdict,
                    None => self.list_and_tuple(items, (*open, *close), parts, true, depth),
                }
            }
            (Expr::Tuple(open, close, parts), Expr::List(_, items)) => {
                match self.conditions(r, a) {
                    Some(verdict) => verdict,
                    None => self.list_and_tuple(items, (*open, *close), parts, false, depth),
                }
            }
            (Expr::Set(items), Expr::Tuple(_, _, parts))
            | (Expr::Tuple(_, _, parts), Expr::Set(items)) => {
                if self.lenient {
                    self.unordered(items, parts, depth)
                } else {
                    Verdict::Different
                }
            }
            (Expr::Ratio(rs), Expr::Ratio(az)) => self.ratios(rs, az, depth),
            (Expr::Ratio(parts), other) | (other, Expr::Ratio(parts)) => match parts.as_slice() {
                [above, below] if other.is_scalar() => {
                    self.scalars(&above.clone().over(below.clone()), other)
                }
                _ => Verdict::Different,
            },
            _ if rows_of(r).is_some() && rows_of(a).is_some() => self.matrices(r, a, depth),
            (Expr::Matrix(rows), Expr::Tuple(_, _, parts))
            | (Expr::Tuple(_, _, parts), Expr::Matrix(rows))
                if self.lenient =>
            {
                let entries: Vec<Expr> = rows.iter().flatten().cloned().collect();
                if rows.len() == 1 || rows.iter().all(|row| row.len() == 1) {
                    self.in_order(&entries, parts, depth)
                } else {
                    Verdict::Different
                }
            }
            (Expr::Tuple(ro, rc, rs), Expr::Tuple(ao, ac, az)) => {
                self.tuples((*ro, *rc, rs), (*ao, *ac, az), depth)
            }
            _ if r.is_scalar() && a.is_scalar() => self.scalars(r, a),
            _ => match self.sets(r, a) {
                Some(verdict) => verdict,
                None => self.structures(r, a, depth),
            },
        }
    }

    /// Whether the items are all one thing, to be compared with another that is no collection.
    fn is_single(&self, items: &[Expr], other: &Expr, depth: u32) -> bool {
        let collection = matches!(other, Expr::Set(_) | Expr::List(..) | Expr::Tuple(..));
        match items.split_first() {
            Some((_, [])) => !matches!(other, Expr::Set(_) | Expr::List(..)),
            Some((first, rest)) => {
                !collection
                    && rest.len() < 4
                    && rest
                        .iter()
                        .all(|item| self.within(first, item, depth) == Verdict::Equal)
            }
            None => false,
        }
    }

    fn scalars(&self, r: &Expr, a: &Expr) -> Verdict {
        let verdict = self.judge.equal(r, a);
        if verdict == Verdict::Equal {
            return verdict;
        }
        // A word that was read as a product: `Odd`, `odd`.
        if let (Some(x), Some(y)) = (text::letters(r), text::letters(a))
            && x.chars().count() > 1
            && x.chars().all(char::is_alphabetic)
            && text::same(&x, &y)
            && x.chars().skip(1).eq(y.chars().skip(1))
        {
            return Verdict::Equal;
        }
        if self.lenient {
            let bare = |expr: &Expr| match expr {
                Expr::Percent(inner) => (**inner).clone(),
                other => other.clone(),
            };
            let turned = |expr: &Expr| radians(expr);
            let close = |x: &Expr, y: &Expr| {
                self.judge.equal(x, y) == Verdict::Equal || self.judge.close(x, y)
            };
            if close(r, a) || close(&bare(r), &bare(a)) || close(&turned(r), &turned(a)) {
                return Verdict::Equal;
            }
        }
        verdict
    }

    fn texts(&self, r: &Expr, a: &Expr) -> Verdict {
        let nothing = |expr: &Expr| matches!(expr, Expr::Set(items) if items.is_empty());
        for (x, y) in [(r, a), (a, r)] {
            if let Expr::Text(said) = x
                && ((text::says_nothing(said)
                    && (nothing(y)
                        || self.sets(&Expr::Set(Vec::new()), y) == Some(Verdict::Equal)))
                    || (text::says_all_reals(said)
                        && self.sets(&Expr::Reals, y) == Some(Verdict::Equal)))
            {
                return Verdict::Equal;
            }
        }
        match (text::letters(r), text::letters(a)) {
            (Some(x), Some(y)) => Verdict::of(text::same(&x, &y)),
            _ => Verdict::Different,
        }
    }

    fn quantities(&self, r: &Expr, unit: Option<&Unit>, a: &Expr, depth: u32) -> Verdict {
        let (a, other) = match a {
            Expr::Quantity(value, unit) => (&**value, Some(unit)),
            value => (value, None),
        };
        let factor = match (unit, other) {
            (Some(own), Some(other)) => own.factor(other),
            (Some(unit), None) | (None, Some(unit)) if !unit.may_be_missing() => None,
            _ => Some(Rational::integer(1)),
        };
        match factor {
            None => Verdict::Different,
            Some(factor) if factor.is_one() => self.within(r, a, depth),
            Some(factor) => self.within(&r.clone().times(Expr::Number(factor)), a, depth),
        }
    }

    /// Compares both as sets of real numbers; `None` where one of them is not such a set.
    fn sets(&self, r: &Expr, a: &Expr) -> Option<Verdict> {
        let (x, y) = (RealSet::of(self.judge, r)?, RealSet::of(self.judge, a)?);
        Some(x.equal(&y, self.judge))
    }

    /// Compares lists of inequalities as sets of reals, if at least one of the two is such a list.
    fn conditions(&self, r: &Expr, a: &Expr) -> Option<Verdict> {
        let conditions = |expr: &Expr| {
            matches!(expr, Expr::List(_, items) if items.iter()
            .all(|item| matches!(item, Expr::Relations(_, relations) if relations.iter()
            .all(|relation| *relation != Relation::Equal))))
        };
        if !conditions(r) && !conditions(a) {
            return None;
        }
        if let (Expr::List(_, rs), Expr::List(_, az)) = (r, a)
            && rs.iter().zip(az).any(|(x, y)| subject(x) != subject(y))
        {
            return None;
        }
        self.sets(r, a)
    }

    fn collections(&self, r: &Expr, a: &Expr, depth: u32) -> Verdict {
        let items = |expr: &Expr| match expr {
            Expr::Set(items) => items.clone(),
            Expr::List(_, items) => with_names(items),
            other => vec![other.clone()],
        };
        self.unordered(&items(r), &items(a), depth)
    }

    /// Matches each item with one of the other side; an item that is written twice counts once.
    fn unordered(&self, rs: &[Expr], az: &[Expr], depth: u32) -> Verdict {
        if rs.len() > ITEMS_MAX || az.len() > ITEMS_MAX {
            return if rs == az {
                Verdict::Equal
            } else {
                Verdict::Undecided
            };
        }
        let covered = |xs: &[Expr], ys: &[Expr], turned: bool| -> Verdict {
            let mut all = Verdict::Equal;
            for x in xs {
                let mut best = Verdict::Different;
                for y in ys {
                    match if turned {
                        self.within(y, x, depth)
                    } else {
                        self.within(x, y, depth)
                    } {
                        Verdict::Equal => {
                            best = Verdict::Equal;
                            break;
                        }
                        Verdict::Undecided => best = Verdict::Undecided,
                        Verdict::Different => {}
                    }
                }
                all = all.and(|| best);
                if all == Verdict::Different {
                    break;
                }
            }
            all
        };
        covered(rs, az, false).and(|| {
            if rs.len() == az.len() && distinct(rs) {
                Verdict::Equal
            } else {
                covered(az, rs, true)
            }
        })
    }

    fn in_order(&self, rs: &[Expr], az: &[Expr], depth: u32) -> Verdict {
        if rs.len() != az.len() {
            return Verdict::Different;
        }
        rs.iter().zip(az).fold(Verdict::Equal, |all, (x, y)| {
            all.and(|| self.within(x, y, depth))
        })
    }

    /// Compares a list with a tuple: `3, 4` stands for `(3, 4)`, and so does `x = 3, y = 4`, in
    /// whatever order.
    fn list_and_tuple(
        &self,
        items: &[Expr],
        brackets: (Bracket, Bracket),
        parts: &[Expr],
        list_is_reference: bool,
        depth: u32,
    ) -> Verdict {
        if parts.len() == 2
            && !matches!(
                brackets,
                (Bracket::Round, Bracket::Round) | (Bracket::Angle, Bracket::Angle)
            )
        {
            return Verdict::Different;
        }
        let compare = |items: &[Expr]| {
            if list_is_reference {
                self.in_order(items, parts, depth)
            } else {
                self.in_order(parts, items, depth)
            }
        };
        let verdict = compare(items);
        let named: Option<Vec<(String, Expr)>> = items
            .iter()
            .map(|item| match item {
                Expr::Relations(sides, relations) => {
                    let value = assigned(self.judge, sides, relations, false)?;
                    Some((text::letters(name(sides)?)?, value.clone()))
                }
                _ => None,
            })
            .collect();
        match named {
            // `x = 3, x = 4` are two values.
            Some(named)
                if named.iter().enumerate().any(|(at, (name, _))| {
                    named.iter().take(at).any(|(other, _)| other == name)
                }) =>
            {
                Verdict::Different
            }
            // x, y, z are in that order whatever order they are written in; of other names the
            // order may be the one written.
            Some(mut named)
                if verdict == Verdict::Different
                    || named
                        .iter()
                        .all(|(name, _)| matches!(name.as_str(), "x" | "y" | "z")) =>
            {
                named.sort_by(|x, y| x.0.cmp(&y.0));
                compare(
                    &named
                        .into_iter()
                        .map(|(_, value)| value)
                        .collect::<Vec<Expr>>(),
                )
            }
            _ => verdict,
        }
    }

    fn tuples(
        &self,
        r: (Bracket, Bracket, &[Expr]),
        a: (Bracket, Bracket, &[Expr]),
        depth: u32,
    ) -> Verdict {
        let round = |bracket: Bracket| {
            if bracket == Bracket::Angle {
                Bracket::Round
            } else {
                bracket
            }
        };
        // Of two things brackets tell points and intervals apart; of more they do not.
        if r.2.len() == 2 && (round(r.0), round(r.1)) != (round(a.0), round(a.1)) {
            return Verdict::Different;
        }
        self.in_order(r.2, a.2, depth)
    }

    fn ratios(&self, rs: &[Expr], az: &[Expr], depth: u32) -> Verdict {
        if self.in_order(rs, az, depth) == Verdict::Equal {
            return Verdict::Equal;
        }
        let (Some((r, rs)), Some((a, az))) = (rs.split_first(), az.split_first()) else {
            return Verdict::Different;
        };
        if rs.len() != az.len() {
            return Verdict::Different;
        }
        let zero = |expr: &Expr| self.judge.equal(expr, &Expr::integer(0)) == Verdict::Equal;
        if zero(r) || zero(a) || rs.iter().chain(az).any(zero) {
            return Verdict::Different;
        }
        rs.iter().zip(az).fold(Verdict::Equal, |all, (x, y)| {
            all.and(|| {
                self.judge
                    .equal(&x.clone().times(a.clone()), &y.clone().times(r.clone()))
            })
        })
    }

    fn matrices(&self, r: &Expr, a: &Expr, depth: u32) -> Verdict {
        let (Some(rs), Some(az)) = (rows_of(r), rows_of(a)) else {
            return Verdict::Different;
        };
        if rs.len() != az.len() {
            return Verdict::Different;
        }
        rs.iter().zip(&az).fold(Verdict::Equal, |all, (x, y)| {
            all.and(|| self.in_order(x, y, depth))
        })
    }

    fn relations(
        &self,
        r: (&[Expr], &[Relation]),
        a: (&[Expr], &[Relation]),
        depth: u32,
    ) -> Verdict {
        if let ([variable, rs], [Relation::Member], [other, az], [Relation::Member]) =
            (r.0, r.1, a.0, a.1)
        {
            return if variable == other || self.lenient {
                self.within(rs, az, depth)
            } else {
                Verdict::Different
            };
        }
        // `x \equiv 2 \pmod 5` is a class, and `x = 2` a number.
        let class = |sides: &[Expr]| matches!(sides.last(), Some(Expr::Modulo(..)));
        let number = |sides: &[Expr]| {
            sides
                .last()
                .is_some_and(|last| last.is_scalar() && last.symbols().is_empty())
        };
        if (class(r.0) && number(a.0)) || (number(r.0) && class(a.0)) {
            return Verdict::Different;
        }
        let expr = |(sides, relations): (&[Expr], &[Relation])| {
            Expr::Relations(sides.to_vec(), relations.to_vec())
        };
        let (whole_r, whole_a) = (expr(r), expr(a));
        let named = (
            assigned(self.judge, r.0, r.1, false),
            assigned(self.judge, a.0, a.1, false),
        );
        if let ((Some(x), Some(y)), Some(r_name), Some(a_name)) = (named, name(r.0), name(a.0))
            && (same_name(r_name, a_name) || self.lenient)
            && self.within(x, y, depth) == Verdict::Equal
        {
            return Verdict::Equal;
        }
        // `x > 2` and `x \in (2, \infty)`.
        let member = |relations: &[Relation]| relations == [Relation::Member];
        let ordered = |relations: &[Relation]| {
            relations
                .iter()
                .any(|relation| !matches!(relation, Relation::Equal | Relation::Approximately))
        };
        if (ordered(r.1) || ordered(a.1))
            && (self.lenient
                || member(r.1)
                || member(a.1)
                || subject(&whole_r) == subject(&whole_a))
            && let Some(verdict) = self.sets(&whole_r, &whole_a)
        {
            return verdict;
        }
        if let ([rl, rr], [r_relation], [al, ar], [a_relation]) = (r.0, r.1, a.0, a.1) {
            return equivalent(self.judge, (rl, *r_relation, rr), (al, *a_relation, ar));
        }
        // `x = y = z` has no order.
        let equalities = |relations: &[Relation]| {
            relations
                .iter()
                .all(|relation| *relation == Relation::Equal)
        };
        if equalities(r.1) && equalities(a.1) && r.0.len() == a.0.len() {
            return self.unordered(r.0, a.0, depth);
        }
        self.side_by_side(r, a, depth)
    }

    /// Compares the sides in their order, or one chain with the other read from its end.
    fn side_by_side(
        &self,
        r: (&[Expr], &[Relation]),
        a: (&[Expr], &[Relation]),
        depth: u32,
    ) -> Verdict {
        let straight = if r.1 == a.1 {
            self.in_order(r.0, a.0, depth)
        } else {
            Verdict::Different
        };
        if straight == Verdict::Equal {
            return straight;
        }
        // `a < b < c` read from its end.
        let backwards: Vec<Expr> = a.0.iter().rev().cloned().collect();
        let turned: Vec<Relation> =
            a.1.iter()
                .rev()
                .map(|relation| relation.mirrored())
                .collect();
        if r.1 == turned.as_slice() {
            self.in_order(r.0, &backwards, depth)
        } else {
            straight
        }
    }

    /// Compares unions and the like whose parts have variables in them, part by part.
    fn structures(&self, r: &Expr, a: &Expr, depth: u32) -> Verdict {
        match (r, a) {
            (Expr::Union(..), Expr::Union(..)) => {
                fn parts(expr: &Expr) -> Vec<Expr> {
                    match expr {
                        Expr::Union(a, b) => [parts(a), parts(b)].concat(),
                        other => vec![other.clone()],
                    }
                }
                self.unordered(&parts(r), &parts(a), depth)
            }
            (Expr::Intersection(a1, b1), Expr::Intersection(a2, b2))
            | (Expr::Without(a1, b1), Expr::Without(a2, b2)) => self
                .within(a1, a2, depth)
                .and(|| self.within(b1, b2, depth)),
            (Expr::Call(f, rs), Expr::Call(g, az)) if f == g && *f != Function::Absolute => {
                self.in_order(rs, az, depth)
            }
            _ => Verdict::of(r == a),
        }
    }
}

/// Whether one is a list of conditions that must all hold, and the other of conditions of which one
/// must hold.
fn parted_otherwise(r: &Expr, a: &Expr) -> bool {
    let ordered = |item: &Expr| {
        matches!(item, Expr::Relations(_, relations) if relations.iter()
        .any(|relation| !matches!(relation,
        Relation::Equal | Relation::Approximately | Relation::Member)))
    };
    match (r, a) {
        (Expr::List(Joined::And, rs), Expr::List(Joined::Or, az))
        | (Expr::List(Joined::Or, rs), Expr::List(Joined::And, az)) => {
            rs.iter().chain(az).any(ordered)
        }
        _ => false,
    }
}

/// Whether a comparison does not depend on its letters: it holds for all of their values, or for no
/// value. An equation's value is its last side's.
fn says_nothing(judge: &Comparison, sides: &[Expr], relations: &[Relation]) -> bool {
    let constant = |side: &Expr| side.is_scalar() && side.symbols().is_empty();
    let [left, right] = sides else {
        return sides.iter().all(constant);
    };
    if constant(left) && constant(right) {
        return true;
    }
    let ordered = !matches!(
        relations,
        [Relation::Member | Relation::Equal | Relation::Approximately]
    );
    let apart = left.clone().minus(right.clone());
    let same = |value: Rational| judge.equal(&apart, &Expr::Number(value)) == Verdict::Equal;
    ordered
        && left.symbols() == right.symbols()
        && apart.is_scalar()
        && judge.value_at_a_point(&apart).is_some_and(same)
}

/// Whether a class is given by its least member.
fn is_residue(value: &Expr, modulus: &Expr) -> bool {
    let (value, modulus) = (constant_rational(value), constant_rational(modulus));
    value
        .zip(modulus)
        .is_some_and(|(value, modulus)| !value.is_negative() && value < modulus)
}

/// The name of a point and its place: `A(1, 2)`.
fn labelled(expr: &Expr) -> Option<(&str, &Expr)> {
    let Expr::Product(factors) = expr else {
        return None;
    };
    match factors.as_slice() {
        [
            Expr::Symbol(name),
            place @ Expr::Tuple(Bracket::Round, Bracket::Round, _),
        ] if name.len() == 1 && name.starts_with(|c: char| c.is_ascii_uppercase()) => {
            Some((name, place))
        }
        _ => None,
    }
}

/// `x = 1, 2` means `x = 1, x = 2`.
fn with_names(items: &[Expr]) -> Vec<Expr> {
    let mut named = None;
    items
        .iter()
        .map(|item| match (item, &named) {
            (Expr::Relations(sides, relations), _) => {
                named = match (sides.as_slice(), relations.as_slice()) {
                    ([name, _], [Relation::Equal]) => Some(name.clone()),
                    _ => None,
                };
                item.clone()
            }
            (value, Some(name)) if value.is_scalar() => {
                Expr::Relations(vec![name.clone(), value.clone()], vec![Relation::Equal])
            }
            (value, _) => value.clone(),
        })
        .collect()
}

fn distinct(items: &[Expr]) -> bool {
    items
        .iter()
        .enumerate()
        .all(|(at, item)| !items.iter().take(at).any(|other| other == item))
}

/// Returns the formula with each `±` written out as two values.
fn expanded(expr: &Expr) -> Expr {
    if !expr.has_plus_minus() {
        return expr.clone();
    }
    match expr {
        Expr::List(joined, items) => Expr::List(*joined, spread(items)),
        Expr::Set(items) => Expr::Set(spread(items)),
        Expr::Relations(sides, relations) if matches!(relations.as_slice(), [Relation::Member]) => {
            Expr::Relations(sides.iter().map(expanded).collect(), relations.clone())
        }
        Expr::Union(a, b) => Expr::Union(Box::new(expanded(a)), Box::new(expanded(b))),
        Expr::Quantity(inner, unit) => {
            let both = [inner.signed(true), inner.signed(false)];
            Expr::List(
                Joined::Or,
                both.into_iter()
                    .map(|value| Expr::Quantity(Box::new(value), unit.clone()))
                    .collect(),
            )
        }
        other => Expr::List(Joined::Or, vec![other.signed(true), other.signed(false)]),
    }
}

fn spread(items: &[Expr]) -> Vec<Expr> {
    items
        .iter()
        .flat_map(|item| match expanded(item) {
            Expr::List(_, parts) if item.has_plus_minus() => parts,
            other => vec![other],
        })
        .collect()
}
