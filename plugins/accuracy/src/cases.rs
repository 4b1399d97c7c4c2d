//! `\begin{cases}`: systems of equations, and functions by cases.

use crate::compare::Compare;
use crate::comparison::Verdict;
use crate::expression::{Expr, Joined};
use crate::parser::Parser;
use crate::real_set::{Piece, RealSet};
use crate::token::{Kind, Relation};

const ROWS_MAX: usize = 16;

impl Parser<'_> {
    /// Reads the rows up to the end: rows of conditions alone become a list, rows of values and
    /// conditions [`Expr::Cases`].
    pub(crate) fn cases(&mut self) -> Option<Expr> {
        let mut rows: Vec<Vec<Expr>> = vec![Vec::new()];
        loop {
            match self.peek()? {
                Kind::End(_) => {
                    self.at += 1;
                    break;
                }
                Kind::Ampersand => self.at += 1,
                Kind::Newline => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                _ => {
                    let cell = self.cell()?;
                    rows.last_mut()?.push(cell);
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        if rows.is_empty() || rows.len() > ROWS_MAX {
            return None;
        }
        if rows.iter().all(|row| row.len() == 2) {
            return Some(Expr::Cases(rows));
        }
        let mut items: Vec<Expr> = rows
            .into_iter()
            .map(|row| <[Expr; 1]>::try_from(row).ok().map(|[only]| only))
            .collect::<Option<_>>()?;
        if items.len() == 1 {
            items.pop()
        } else {
            Some(Expr::List(Joined::Comma, items))
        }
    }

    /// One entry: `x \ge 0`, `\text{if } x < 0 \text{ or } x > 5`, `\text{otherwise}`, with a comma
    /// behind it or not.
    fn cell(&mut self) -> Option<Expr> {
        const LEADS: [&str; 5] = ["if", "for", "when", "where", "if and only if"];
        if let Some(Kind::Text(word) | Kind::Word(word)) = self.peek()
            && LEADS.contains(&word.trim_matches(',').trim())
        {
            self.at += 1;
        }
        let mut items = Vec::new();
        let mut joined = Joined::Comma;
        loop {
            items.push(self.item()?);
            while let Some(Kind::Comma | Kind::Semicolon | Kind::And | Kind::Or) = self.peek() {
                if self.peek() == Some(&Kind::Or) {
                    joined = Joined::Or;
                }
                self.at += 1;
            }
            if matches!(self.peek()?, Kind::Ampersand | Kind::Newline | Kind::End(_)) {
                break;
            }
        }
        if items.len() == 1 {
            items.pop()
        } else {
            Some(Expr::List(joined, items))
        }
    }
}

/// Whether two conditions are on the same letters; `otherwise` is on those of the other one.
fn same_letters(a: &Expr, b: &Expr) -> bool {
    let (a, b) = (a.symbols(), b.symbols());
    a == b || a.is_empty() || b.is_empty()
}

impl Compare<'_> {
    /// Compares case by case, in any order: the same conditions must give the same values.
    pub(crate) fn cases(&self, rs: &[Vec<Expr>], az: &[Vec<Expr>], depth: u32) -> Verdict {
        if rs.len() != az.len() {
            return Verdict::Different;
        }
        let mut taken = vec![false; az.len()];
        for (at, row) in rs.iter().enumerate() {
            let mut found = Verdict::Different;
            for (other, (candidate, taken)) in az.iter().zip(&mut taken).enumerate() {
                if *taken {
                    continue;
                }
                let ([value, condition], [other_value, other_condition]) =
                    (row.as_slice(), candidate.as_slice())
                else {
                    return Verdict::Different;
                };
                let verdict = self.within(value, other_value, depth).and(|| {
                    match (self.where_holds(rs, at), self.where_holds(az, other)) {
                        (Some(x), Some(y)) if same_letters(condition, other_condition) => {
                            x.equal(&y, self.judge)
                        }
                        (Some(_), Some(_)) => Verdict::Different,
                        _ => self.within(condition, other_condition, depth),
                    }
                });
                if verdict != Verdict::Different {
                    found = verdict;
                    *taken = verdict == Verdict::Equal;
                }
                if verdict == Verdict::Equal {
                    break;
                }
            }
            if found != Verdict::Equal {
                return found;
            }
        }
        Verdict::Equal
    }

    /// The reals on which a case holds; `otherwise` is where no other does.
    fn where_holds(&self, rows: &[Vec<Expr>], at: usize) -> Option<RealSet> {
        let condition = |row: &Vec<Expr>| row.get(1).cloned();
        let own = condition(rows.get(at)?)?;
        if !is_rest(&own) {
            return RealSet::of(self.judge, &own);
        }
        let mut rest = RealSet::of(self.judge, &Expr::Reals)?;
        for row in rows
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .map(|(_, row)| row)
        {
            rest = rest.without(&RealSet::of(self.judge, &condition(row)?)?, self.judge)?;
        }
        Some(rest)
    }

    /// Compares two functions of one letter, by cases or not, wherever both a case of one and a
    /// case of the other hold: borders may be written differently, and cases be more or fewer.
    /// `None` where the cases are not of one real letter.
    pub(crate) fn by_regions(&self, r: &Expr, a: &Expr) -> Option<Verdict> {
        let name = [r, a].into_iter().find_map(|expr| match expr {
            Expr::Cases(rows) => rows
                .iter()
                .filter_map(|row| row.get(1))
                .find_map(|condition| {
                    parity(condition)
                        .map(|(name, _)| name)
                        .or_else(|| condition.symbols().first().cloned())
                }),
            _ => None,
        })?;
        if let (Some(rs), Some(az)) = (self.by_parity(r, &name), self.by_parity(a, &name)) {
            let mut halves = rs.iter().zip(&az);
            return Some(halves.by_ref().fold(Verdict::Equal, |all, (x, y)| {
                all.and(|| self.judge.equal(x, y))
            }));
        }
        let (rs, az) = (self.regions(r, &name)?, self.regions(a, &name)?);
        let whole = |regions: &[(Expr, RealSet)]| {
            regions
                .iter()
                .try_fold(RealSet::nothing(), |all, (_, region)| {
                    all.union(region.clone(), self.judge)
                })
        };
        let mut verdict = whole(&rs)?.equal(&whole(&az)?, self.judge);
        for (x, own) in &rs {
            for (y, other) in &az {
                for piece in own.intersection(other, self.judge)?.pieces {
                    verdict = verdict.and(|| self.on_piece(x, y, &name, &piece));
                }
            }
        }
        Some(verdict)
    }

    /// Returns each value and where it holds; a formula without cases holds everywhere.
    fn regions(&self, expr: &Expr, name: &str) -> Option<Vec<(Expr, RealSet)>> {
        let Expr::Cases(rows) = expr else {
            return Some(vec![(expr.clone(), RealSet::all())]);
        };
        let region = |(at, row): (usize, &Vec<Expr>)| {
            let own = row.get(1)?.symbols();
            own.iter().all(|letter| letter == name).then_some(())?;
            Some((
                row.first().filter(|value| value.is_scalar())?.clone(),
                self.where_holds(rows, at)?,
            ))
        };
        rows.iter().enumerate().map(region).collect()
    }

    /// Whether two formulas are the same on an interval: with t² for the distance from its end, and
    /// its share of a bounded one.
    fn on_piece(&self, x: &Expr, y: &Expr, name: &str, piece: &Piece) -> Verdict {
        let square = || Expr::Symbol(name.to_string()).raised_to(Expr::integer(2));
        let at = |value: Expr| {
            let value = |letter: &str| (letter == name).then(|| value.clone());
            self.judge
                .equal(&x.substitute(&value), &y.substitute(&value))
        };
        match (&piece.low.value, &piece.high.value) {
            (None, None) => self.judge.equal(x, y),
            (Some(low), None) => at(Expr::Sum(vec![low.clone(), square()])),
            (None, Some(high)) => at(high.clone().minus(square())),
            (Some(low), Some(high)) if self.judge.equal(low, high) == Verdict::Equal => {
                at(low.clone())
            }
            (Some(low), Some(high)) => {
                let above = Expr::Sum(vec![low.clone(), high.clone().times(square())]);
                let inside = at(above.over(Expr::Sum(vec![Expr::integer(1), square()])));
                inside.and(|| {
                    if piece.high.closed {
                        at(high.clone())
                    } else {
                        Verdict::Equal
                    }
                })
            }
        }
    }

    /// Returns the values at even and at odd whole numbers, 2n and 2n + 1; `None` for cases that
    /// differ in something else.
    fn by_parity(&self, expr: &Expr, name: &str) -> Option<[Expr; 2]> {
        let half = |odd: i64| {
            let double = Expr::integer(2).times(Expr::Symbol(name.to_string()));
            let place = Expr::Sum(vec![double, Expr::integer(odd)]);
            move |letter: &str| (letter == name).then(|| place.clone())
        };
        let Expr::Cases(rows) = expr else {
            return Some([expr.substitute(&half(0)), expr.substitute(&half(1))]);
        };
        let [first, second] = rows.as_slice() else {
            return None;
        };
        let value = |row: &Vec<Expr>| row.first().filter(|value| value.is_scalar()).cloned();
        let (one, other) = (value(first)?, value(second)?);
        let odd = |row: &Vec<Expr>| {
            parity(row.get(1)?)
                .filter(|(letter, _)| letter == name)
                .map(|(_, odd)| odd)
        };
        let rest = |row: &Vec<Expr>| row.get(1).is_some_and(is_rest) || odd(row).is_some();
        (rest(first) && rest(second)).then_some(())?;
        match (odd(first), odd(second)) {
            (Some(false), Some(true) | None) | (None, Some(true)) => {
                Some([one.substitute(&half(0)), other.substitute(&half(1))])
            }
            (Some(true), Some(false) | None) | (None, Some(false)) => {
                Some([other.substitute(&half(0)), one.substitute(&half(1))])
            }
            _ => None,
        }
    }
}

/// `otherwise`: where no other case holds.
fn is_rest(condition: &Expr) -> bool {
    matches!(condition, Expr::Text(said) if matches!(said.to_ascii_lowercase().as_str(),
        "otherwise" |
        "else" |
        "elsewhere"))
}

/// The letter that a condition is on, and whether it is to be odd: `n \text{ is even}`, `n = 2k +
/// 1`, `n为奇数`. `None` for other conditions.
fn parity(condition: &Expr) -> Option<(String, bool)> {
    match condition {
        Expr::Text(said) => {
            let lower = said.to_lowercase();
            let said = ["为偶数", "是偶数", "为奇数", "是奇数"]
                .iter()
                .find_map(|words| Some((lower.strip_suffix(words)?.trim(), words.contains('奇'))));
            let (letter, odd) = match said {
                Some(found) => found,
                None => {
                    let words: Vec<&str> = lower.split_whitespace().collect();
                    let odd = match words.last()?.trim_matches([',', '.']) {
                        "odd" => true,
                        "even" => false,
                        _ => return None,
                    };
                    let plain = |word: &&&str| {
                        !matches!(**word, "if" | "for" | "when" | "is" | "an" | "odd" | "even")
                    };
                    let mut rest = words.iter().filter(plain);
                    (
                        rest.next()
                            .filter(|_| rest.next().is_none())
                            .copied()
                            .unwrap_or_default(),
                        odd,
                    )
                }
            };
            (letter.chars().count() == 1).then(|| (letter.to_string(), odd))
        }
        Expr::Relations(sides, relations) => match (sides.as_slice(), relations.as_slice()) {
            ([Expr::Symbol(name), Expr::Product(double)], [Relation::Equal])
                if is_double(double) =>
            {
                Some((name.clone(), false))
            }
            ([Expr::Symbol(name), Expr::Sum(terms)], [Relation::Equal]) => match terms.as_slice() {
                [Expr::Product(double), one]
                    if is_double(double)
                        && (*one == Expr::integer(1) || *one == Expr::integer(-1)) =>
                {
                    Some((name.clone(), true))
                }
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// `2k`
fn is_double(factors: &[Expr]) -> bool {
    matches!(factors, [two, Expr::Symbol(_)] if *two == Expr::integer(2))
}
