//! `\begin{cases}`: systems of equations, and functions by cases.

use crate::compare::Compare;
use crate::equal::Verdict;
use crate::expression::{Expr, Joined};
use crate::lexer::Kind;
use crate::parse::Parser;
use crate::real_set::RealSet;

const ROWS_MAX: usize = 16;

impl Parser<'_> {
    /// The rows up to the end: of conditions alone a list, of values and conditions [`Expr::Cases`].
    pub fn cases(&mut self) -> Option<Expr> {
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
        let mut items: Vec<Expr> =
            rows.into_iter().map(|row| <[Expr; 1]>::try_from(row).ok().map(|[only]| only)).collect::<Option<_>>()?;
        if items.len() == 1 { items.pop() } else { Some(Expr::List(Joined::Comma, items)) }
    }

    /// One entry: `x \ge 0`, `\text{if } x < 0 \text{ or } x > 5`, `\text{otherwise}`, with a comma behind it or not.
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
        if items.len() == 1 { items.pop() } else { Some(Expr::List(joined, items)) }
    }
}

/// Conditions on one thing; `otherwise` is on whatever the others are.
fn same_letters(a: &Expr, b: &Expr) -> bool {
    let (a, b) = (a.symbols(), b.symbols());
    a == b || a.is_empty() || b.is_empty()
}

impl Compare<'_> {
    /// Case by case, in any order: the same values under the same conditions.
    pub fn cases(&self, rs: &[Vec<Expr>], az: &[Vec<Expr>], depth: u32) -> Verdict {
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
                let ([value, condition], [other_value, other_condition]) = (row.as_slice(), candidate.as_slice()) else {
                    return Verdict::Different;
                };
                let verdict =
                    self.within(value, other_value, depth).and(|| match (self.where_holds(rs, at), self.where_holds(az, other)) {
                        (Some(x), Some(y)) if same_letters(condition, other_condition) => x.equal(&y, self.judge),
                        (Some(_), Some(_)) => Verdict::Different,
                        _ => self.within(condition, other_condition, depth),
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
        if !matches!(&own, Expr::Text(said) if matches!(said.to_ascii_lowercase().as_str(), "otherwise" | "else" | "elsewhere")) {
            return RealSet::of(self.judge, &own);
        }
        let mut rest = RealSet::of(self.judge, &Expr::Reals)?;
        for row in rows.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, row)| row) {
            rest = rest.without(&RealSet::of(self.judge, &condition(row)?)?, self.judge)?;
        }
        Some(rest)
    }
}
