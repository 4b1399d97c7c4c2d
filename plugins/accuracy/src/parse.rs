//! Tokens → tree: lists, relations, sets, brackets, matrices. Formulas are in [`crate::formula`].
//!
//! ```text
//! list    := item ((","|";"|"and"|"or") item)*
//! item    := text | sides (relation sides)* [unit]
//! sides   := sum (":" sum)*, joined by ∪ ∩ ∖
//! ```

use crate::applications::Applications;
use crate::congruence;
use crate::equal::Comparison;
use crate::expression::{Expr, Function, Joined};
use crate::lexer::{self, Bracket, Commas, Kind, Relation, Token};
use crate::names::{constant, is_function, is_prose, symbol};
use crate::progression;
use crate::qualifier;
use crate::text::says_all_reals;
use reward_sdk::rational::Rational;
use reward_sdk::units::{self, Unit};

/// Brackets, groups and arguments within each other. Each level is some calls deep, and the
/// sandbox's stack is small.
const DEPTH_MAX: u32 = 24;
/// Sets joined one after the other: each makes the tree deeper.
const JOINED_MAX: usize = 40;
/// The most items of a list that has dots for some of them.
const DOTTED_MAX: usize = 64;
/// The most parts of a quantity after the first: hours, minutes, seconds.
const PARTS_MAX: usize = 4;

/// The answer that a text is, whole; `None` when it is not understood.
pub(crate) fn read<'a>(
    text: &'a str,
    commas: Commas,
    applications: &'a Applications,
) -> Option<Expr> {
    let tokens = lexer::tokens(text, commas)?;
    let mut parser = Parser {
        text,
        tokens,
        at: 0,
        depth: 0,
        bars: 0,
        series: 0,
        judge: Comparison::of_reader(text),
        applications,
    };
    if parser.tokens.is_empty() {
        return None;
    }
    let found = parser.list()?;
    parser.peek().is_none().then_some(found)
}

/// `about 42`: what is said of a value's exactness is no part of it.
fn is_about(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "about" | "approximately" | "approx" | "roughly"
    )
}

/// The letter of the numbers that words name.
fn whole_numbers(words: &str) -> Option<&'static str> {
    let words = words
        .trim_start_matches("for ")
        .trim_start_matches("all ")
        .trim_start_matches("any ")
        .trim_end_matches(" with");
    Some(match words {
        "integers" | "integer" => "Z",
        "positive integers" | "positive integer" => "Z+",
        "natural numbers" | "natural number" | "nonnegative integers" | "non-negative integers" => {
            "N"
        }
        _ => return None,
    })
}

/// `She has`, `The answer is`: words that a value follows, and none that says what it is not.
fn leads(words: &str) -> bool {
    const VERBS: [&str; 14] = [
        "is", "are", "was", "were", "has", "have", "equals", "costs", "takes", "needs", "gets",
        "earns", "spends", "makes",
    ];
    let mut all = words.split_whitespace();
    all.next_back()
        .is_some_and(|last| VERBS.contains(&last) && words.len() > last.len())
        && !words.contains("n't")
        && !words
            .split_whitespace()
            .any(|word| matches!(word, "not" | "no" | "never" | "neither"))
}

/// `\frac{\text{m}}{\text{s}}` as `\text{m}/\text{s}`.
fn unit_of_fraction(text: &str) -> String {
    let parts = || {
        let inside = ["\\frac{", "\\dfrac{", "\\tfrac{"]
            .iter()
            .find_map(|fraction| text.strip_prefix(fraction))?
            .strip_suffix('}')?;
        let mut depth = 0u32;
        let middle = inside.find(|c| {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => return true,
                '}' => depth -= 1,
                _ => {}
            }
            false
        })?;
        Some((
            inside.get(..middle)?,
            inside.get(middle + 1..)?.trim_start().strip_prefix('{')?,
        ))
    };
    parts().map_or_else(
        || text.to_string(),
        |(above, below)| format!("{above}/{below}"),
    )
}

/// What equations give for each of the names, in their order.
fn values_of(names: &[Expr], equations: &Expr) -> Option<Vec<Expr>> {
    let Expr::List(Joined::Comma | Joined::And, items) = equations else {
        return None;
    };
    let value = |name: &Expr| {
        items.iter().find_map(|item| match item {
            Expr::Relations(sides, relations)
                if relations.as_slice() == [Relation::Equal] && sides.first() == Some(name) =>
            {
                sides.get(1).cloned()
            }
            _ => None,
        })
    };
    (items.len() == names.len()).then(|| names.iter().map(value).collect())?
}

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

    fn before(&self) -> Option<&Kind<'a>> {
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

    /// Items up to a closing bracket or the end.
    pub(crate) fn list(&mut self) -> Option<Expr> {
        // Semicolons part groups, commas what is in them: `p=5,q=2; p=7,q=2`.
        let mut groups: Vec<Vec<Expr>> = vec![Vec::new()];
        let mut joined = Joined::Comma;
        let mut parted_by_or = false;
        let mut dots = None;
        loop {
            while matches!(self.peek(), Some(Kind::Comma | Kind::And | Kind::Newline))
                && groups.iter().all(Vec::is_empty)
            {
                self.at += 1;
            }
            if self.ends_list() {
                break;
            }
            // `1, 2, \ldots, 10`
            if self.peek() == Some(&Kind::Dots) && dots.is_none() && groups.len() == 1 {
                self.at += 1;
                dots = Some(groups.last()?.len());
            } else {
                let item = self.item()?;
                groups.last_mut()?.push(item);
            }
            // `2k\pi (k \in \mathbb{Z})`, `2k\pi \text{ where } k \in \mathbb{Z}`
            let mut separated = self.declares_parameter();
            while let Some(separator) = self.peek() {
                match separator {
                    Kind::Comma | Kind::Newline => {}
                    Kind::And if joined == Joined::Comma => joined = Joined::And,
                    Kind::And => {}
                    Kind::Or => {
                        joined = Joined::Or;
                        groups.push(Vec::new());
                        parted_by_or = true;
                    }
                    Kind::Semicolon => groups.push(Vec::new()),
                    Kind::Text(word) | Kind::Word(word) if self.introduces_parameter(word) => {}
                    _ => break,
                }
                separated = true;
                self.at += 1;
            }
            if !separated {
                break;
            }
        }
        groups.retain(|group| !group.is_empty());
        if let Some(dots) = dots {
            let [items] = groups.as_mut_slice() else {
                return None;
            };
            let behind = items.split_off(dots);
            *items = progression::read(&self.judge, items, &behind)?.numbers(DOTTED_MAX)?;
        }
        let assigns = |item: &Expr| {
            matches!(item, Expr::Relations(_, relations) if relations.as_slice() ==
            [Relation::Equal])
        };
        let several = groups.len() > 1 && groups.iter().any(|group| group.len() > 1);
        let tuples = several
            && (!parted_by_or
                || groups
                    .iter()
                    .all(|group| group.len() > 1 && group.iter().all(assigns)));
        let mut items: Vec<Expr> = if tuples {
            groups
                .into_iter()
                .map(|group| Expr::Tuple(Bracket::Round, Bracket::Round, group))
                .collect()
        } else {
            groups.into_iter().flatten().collect()
        };
        match items.len() {
            0 => None,
            1 => items.pop(),
            _ => Some(congruence::spread(joined, items)),
        }
    }

    /// `\text{where}`, `\text{for}` before `k \in`.
    fn introduces_parameter(&self, word: &str) -> bool {
        let word = word.trim_matches(|c: char| c == ',' || c.is_whitespace());
        matches!(
            word,
            "where" | "for" | "with" | "for all" | "for any" | "for some"
        ) && matches!(self.peek_at(2), Some(Kind::Relation(Relation::Member)))
    }

    fn ends_list(&self) -> bool {
        matches!(
            self.peek(),
            None | Some(Kind::Close(_) | Kind::End(_) | Kind::Ampersand | Kind::Newline)
        ) || (self.bars > 0 && self.peek() == Some(&Kind::Bar))
    }

    /// Whether the token ends an item.
    fn ends_item(kind: Option<&Kind<'a>>) -> bool {
        matches!(
            kind,
            None | Some(
                Kind::Comma
                    | Kind::Semicolon
                    | Kind::And
                    | Kind::Or
                    | Kind::Newline
                    | Kind::Ampersand
                    | Kind::Close(_)
                    | Kind::End(_)
                    | Kind::Relation(_)
                    | Kind::Colon
                    | Kind::Union
                    | Kind::Command("over" | "choose")
            )
        )
    }

    pub(crate) fn item(&mut self) -> Option<Expr> {
        if let Some(text) = self.words() {
            return Some(text);
        }
        // `\text{all integers } n \ge 3`
        if let Some(Kind::Text(words) | Kind::Word(words)) = self.peek()
            && let Some(letter) = whole_numbers(words)
            && let (Some(Kind::Word(name)), Some(Kind::Relation(_))) =
                (self.peek_at(1), self.peek_at(2))
        {
            let name = symbol(name)?;
            self.at += 1;
            let condition = self.item()?;
            let within = Expr::Relations(
                vec![name, Expr::Symbol(letter.into())],
                vec![Relation::Member],
            );
            return Some(Expr::List(Joined::Comma, vec![condition, within]));
        }
        // `\text{all real numbers except } 0`
        if let Some(Kind::Text(words)) = self.peek()
            && let Some(all) = words
                .strip_suffix("except")
                .or_else(|| words.strip_suffix("except for"))
            && says_all_reals(all)
        {
            self.at += 1;
            let items = match self.list()? {
                Expr::List(_, items) => items,
                item => vec![item],
            };
            let value = |item: Expr| match item {
                Expr::Relations(mut sides, relations)
                    if relations == [Relation::Equal] && sides.len() == 2 =>
                {
                    sides.pop()
                }
                item => Some(item).filter(Expr::is_scalar),
            };
            let left_out = items
                .into_iter()
                .map(value)
                .collect::<Option<Vec<Expr>>>()?;
            return Some(Expr::Without(
                Box::new(Expr::Reals),
                Box::new(Expr::Set(left_out)),
            ));
        }
        // `\text{The answer is } 5`, `\text{Area: } 5`
        if let Some(Kind::Text(words)) = self.peek()
            && (words.ends_with(':') || words.ends_with(" =") || is_about(words) || leads(words))
        {
            self.at += 1;
        }
        if matches!(self.peek(), Some(Kind::Word(word)) if is_about(word)) {
            self.at += 1;
        }
        // `= 5`, `\approx 5`
        if matches!(
            self.peek(),
            Some(Kind::Relation(Relation::Equal | Relation::Approximately))
        ) {
            self.at += 1;
        }
        let mut sides = vec![self.quantity(false)?];
        let mut relations = Vec::new();
        while let Some(Kind::Relation(relation)) = self.peek() {
            relations.push(*relation);
            let written = self
                .tokens
                .get(self.at)
                .and_then(|token| self.text.get(token.at..));
            let congruent =
                written.is_some_and(|text| text.starts_with("\\equiv") || text.starts_with('≡'));
            self.at += 1;
            sides.push(self.quantity(congruent)?);
        }
        if relations.is_empty() {
            sides.pop()
        } else {
            Some(Expr::Relations(sides, relations))
        }
    }

    /// An item of nothing but words: `Evelyn`, `\text{no solution}`.
    fn words(&mut self) -> Option<Expr> {
        let start = self.at;
        let mut text = String::new();
        let mut prose = false;
        while let Some(Kind::Word(word) | Kind::Text(word) | Kind::Roman(word)) = self.peek() {
            prose |= matches!(self.peek(), Some(Kind::Text(_)))
                || (matches!(self.peek(), Some(Kind::Word(_)))
                    && (is_prose(word)
                        || (!text.is_empty()
                            && word.chars().count() > 2
                            && !is_function(word)
                            && !constant(word))));
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
            self.at += 1;
        }
        if prose
            && Self::ends_item(self.peek())
            && !matches!(self.peek(), Some(Kind::Relation(_) | Kind::Colon))
        {
            return Some(Expr::Text(text));
        }
        self.at = start;
        None
    }

    pub(crate) fn ends_here(&self) -> bool {
        Self::ends_item(self.peek()) || (self.bars > 0 && self.peek() == Some(&Kind::Bar))
    }

    /// One side of a relation, with its currency and unit; `congruent` behind `≡`.
    fn quantity(&mut self, congruent: bool) -> Option<Expr> {
        if let Some(time) = self.clock() {
            return Some(time);
        }
        let start = self.at;
        let mut negative = false;
        if matches!(
            (self.peek(), self.peek_at(1)),
            (Some(Kind::Minus | Kind::Plus), Some(Kind::Currency))
        ) {
            negative = self.peek() == Some(&Kind::Minus);
            self.at += 1;
        }
        let currency = if self.peek() == Some(&Kind::Currency) {
            self.currency()
        } else {
            None
        };
        if currency.is_none() {
            self.at = start;
            negative = false;
        }
        let mut value = self.joined()?;
        if negative {
            value = value.negate();
        }
        if self.starts_modulus() {
            value = self.modulo(value, congruent)?;
        }
        let declared = match self.peek() {
            Some(Kind::Text(word) | Kind::Word(word)) => self.introduces_parameter(word),
            _ => self.declares_parameter(),
        };
        let unit = if declared || self.ends_here() {
            None
        } else {
            let (scale, unit) = self.scaled_unit()?;
            if !scale.is_one() {
                value = value.times(Expr::Number(scale));
            }
            unit
        };
        let Some(unit) = currency.or(unit) else {
            return Some(value);
        };
        let mut last = Rational::integer(1);
        // `3 hours 20 minutes`, in hours.
        for _ in 0..PARTS_MAX {
            let Some(Kind::Number(part)) = self.peek() else {
                break;
            };
            let part = part.value()?;
            self.at += 1;
            // `3 apples and 5 oranges` are no 8.
            // Only of a smaller unit is it a part: 10 cm and 12 cm are two lengths.
            let factor = self
                .unit()
                .filter(|part| part.is_known() && unit.is_known())?
                .factor(&unit)?;
            // `10 cm and 12 cm` are two lengths; the parts of one become smaller.
            if factor >= last {
                return None;
            }
            last = factor.clone();
            value = Expr::Sum(vec![value, Expr::Number(part.multiply(&factor)?)]);
        }
        Some(Expr::Quantity(Box::new(value), unit))
    }

    fn currency(&mut self) -> Option<Unit> {
        let from = self.tokens.get(self.at)?.at;
        self.at += 1;
        let to = self.tokens.get(self.at)?.at;
        units::read(self.text.get(from..to)?)
    }

    fn unit(&mut self) -> Option<Unit> {
        self.scaled_unit().filter(|(scale, _)| scale.is_one())?.1
    }

    /// What follows a value up to the item's end, when it is a unit, or a number's name with or
    /// without one: `million dollars`.
    fn scaled_unit(&mut self) -> Option<(Rational, Option<Unit>)> {
        let from = self.tokens.get(self.at)?.at;
        let mut groups = 0u32;
        while let Some(kind) = self.peek() {
            match kind {
                Kind::Open(Bracket::Group) => groups += 1,
                Kind::Close(Bracket::Group) if groups > 0 => groups -= 1,
                Kind::Number(_)
                    if groups == 0 && !matches!(self.before(), Some(Kind::Caret | Kind::Minus)) =>
                {
                    break;
                }
                other if Self::ends_item(Some(other)) => break,
                _ => {}
            }
            self.at += 1;
        }
        let to = self
            .tokens
            .get(self.at)
            .map_or(self.text.len(), |token| token.at);
        let text = self.text.get(from..to)?.trim();
        // `8 \text{ hours and } 5 \text{ minutes}`
        let hours = || {
            Some(format!(
                "{}}}",
                text.strip_suffix('}')?.trim_end().strip_suffix(" and")?
            ))
        };
        let joined = if matches!(self.peek(), Some(Kind::Number(_))) {
            hours()
        } else {
            None
        };
        let (scale, rest) = qualifier::read(joined.as_deref().unwrap_or(text))?;
        let unit = if rest.is_empty() {
            None
        } else {
            Some(units::read(&unit_of_fraction(&rest))?)
        };
        Some((scale, unit))
    }

    /// Sums joined by `∪`, `∩`, `∖`; ratios.
    fn joined(&mut self) -> Option<Expr> {
        let mut left = self.ratio()?;
        for _ in 0..=JOINED_MAX {
            let join: fn(Box<Expr>, Box<Expr>) -> Expr = match self.peek() {
                Some(Kind::Union) => Expr::Union,
                Some(Kind::Intersection) => Expr::Intersection,
                Some(Kind::Without) => Expr::Without,
                // `\mathbb{R} - \{1\}`
                Some(Kind::Minus) if left == Expr::Reals || self.takes_away() => Expr::Without,
                _ => return Some(left),
            };
            self.at += 1;
            left = join(Box::new(left), Box::new(self.ratio()?));
        }
        None
    }

    /// `- \{3\}`, which no sum has.
    pub(crate) fn takes_away(&self) -> bool {
        self.peek() == Some(&Kind::Minus) && self.peek_at(1) == Some(&Kind::Open(Bracket::Curly))
    }

    fn ratio(&mut self) -> Option<Expr> {
        let first = self.sum()?;
        if self.peek() != Some(&Kind::Colon) {
            return Some(first);
        }
        let mut parts = vec![first];
        while self.eat(&Kind::Colon) {
            parts.push(self.sum()?);
        }
        Some(Expr::Ratio(parts))
    }

    /// What stands between brackets, the opening one read already.
    pub(crate) fn bracketed(&mut self, open: Bracket) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let found = self.nested(|parser| parser.bracketed_within(open));
        self.bars = bars;
        found
    }

    fn bracketed_within(&mut self, open: Bracket) -> Option<Expr> {
        if open == Bracket::Curly
            && let Some(condition) = self.set_builder()
        {
            return condition;
        }
        if open == Bracket::Round
            && let Some(name) = self.given()
        {
            return Some(name);
        }
        let start = self.at;
        let content = if matches!(self.peek(), Some(Kind::Close(_))) {
            None
        } else {
            Some(self.list()?)
        };
        let content = match content {
            Some(above) if open == Bracket::Group => Some(self.infix_command(above)?),
            other => other,
        };
        let Some(Kind::Close(close)) = self.peek() else {
            return None;
        };
        let close = *close;
        let mixed = |a, b| {
            matches!(
                (a, b),
                (Bracket::Round, Bracket::Square) | (Bracket::Square, Bracket::Round)
            )
        };
        if open != close && !mixed(open, close) {
            return None;
        }
        self.at += 1;
        let between = self.tokens.get(start..self.at).unwrap_or_default();
        let several = matches!(content, Some(Expr::List(..)))
            && between
                .iter()
                .any(|token| matches!(token.kind, Kind::Comma | Kind::Semicolon));
        match (open, content) {
            (Bracket::Curly, None) => Some(Expr::Set(Vec::new())),
            (_, None) => None,
            (Bracket::Curly, Some(Expr::List(_, items))) => Some(Expr::Set(items)),
            (Bracket::Curly, Some(item)) => Some(Expr::Set(vec![item])),
            (Bracket::Floor, Some(item)) => Some(Expr::call(Function::Floor, item)),
            (Bracket::Ceiling, Some(item)) => Some(Expr::call(Function::Ceiling, item)),
            (Bracket::Group, Some(item)) => Some(item),
            (_, Some(Expr::List(_, items))) if several => Some(Expr::Tuple(open, close, items)),
            (Bracket::Square, Some(item @ Expr::Tuple(Bracket::Square, Bracket::Square, _))) => {
                Some(Expr::Tuple(open, close, vec![item]))
            }
            (_, Some(item)) if open == close => Some(item),
            _ => None,
        }
    }

    /// `A|B` of `P(A|B)`, the opening bracket read already: a name.
    fn given(&mut self) -> Option<Expr> {
        let function = self
            .at
            .checked_sub(2)
            .and_then(|at| self.tokens.get(at))
            .map(|token| &token.kind);
        matches!(
            function,
            Some(
                Kind::Word("P" | "E" | "Pr")
                    | Kind::Roman("P" | "E")
                    | Kind::Text("P" | "Pr" | "E")
            )
        )
        .then_some(())?;
        let (mut depth, mut bars) = (0u32, 0);
        let length = self.tokens.iter().skip(self.at).position(|token| {
            match token.kind {
                Kind::Open(_) => depth += 1,
                Kind::Close(_) if depth == 0 => return true,
                Kind::Close(_) => depth -= 1,
                Kind::Bar if depth == 0 => bars += 1,
                _ => {}
            }
            false
        })?;
        (bars == 1).then_some(())?;
        let (from, to) = (
            self.tokens.get(self.at)?.at,
            self.tokens.get(self.at + length)?.at,
        );
        let written: String = self
            .text
            .get(from..to)?
            .replace("\\mid", "|")
            .split_whitespace()
            .collect();
        self.at += length + 1;
        Some(Expr::Symbol(written))
    }

    /// `{1 \over 2}`, `{5 \choose 2}`: what stands before has been read.
    fn infix_command(&mut self, above: Expr) -> Option<Expr> {
        let binomial = match self.peek() {
            Some(Kind::Command("over")) => false,
            Some(Kind::Command("choose")) => true,
            _ => return Some(above),
        };
        self.at += 1;
        let below = self.sum()?;
        Some(if binomial {
            Expr::Call(Function::Binomial, vec![above, below])
        } else {
            above.over(below)
        })
    }

    /// `\{x \mid x > 2\}`: its condition; the outer `None` where there is no such thing.
    fn set_builder(&mut self) -> Option<Option<Expr>> {
        let mut depth = 0u32;
        let mut bar = None;
        for (at, token) in self.tokens.iter().enumerate().skip(self.at) {
            match &token.kind {
                Kind::Open(_) => depth += 1,
                Kind::Close(_) if depth == 0 => break,
                Kind::Close(_) => depth -= 1,
                Kind::Bar | Kind::Colon if depth == 0 && bar.is_none() => bar = Some(at),
                _ => {}
            }
        }
        let bar = bar?;
        let head = self.tokens.get(self.at..bar)?;
        let variable = matches!(head.first()?.kind, Kind::Word(word) if word.chars().count() == 1)
            && (head.len() == 1 || matches!(head.get(1)?.kind, Kind::Relation(Relation::Member)));
        if !variable {
            return self.described_set(bar);
        }
        // `x \in \mathbb{Z}` is a condition too.
        let within = match (
            head.first().map(|token| &token.kind),
            head.get(2).map(|token| &token.kind),
        ) {
            (
                Some(Kind::Word(name)),
                Some(Kind::Roman("Z" | "N" | "Q") | Kind::Word("Z" | "N" | "Q")),
            ) => {
                let name = symbol(name)?;
                self.at += 2;
                let set = self.atom();
                if set.is_none() || self.at != bar {
                    return Some(None);
                }
                set.map(|set| Expr::Relations(vec![name, set], vec![Relation::Member]))
            }
            _ => None,
        };
        self.at = bar + 1;
        let condition = self
            .list()
            .filter(|_| self.eat(&Kind::Close(Bracket::Curly)));
        Some(condition.map(|condition| match (within, condition) {
            (None, condition) => condition,
            (Some(within), Expr::List(joined, mut items)) if joined != Joined::Or => {
                items.push(within);
                Expr::List(joined, items)
            }
            (Some(within), condition) => Expr::List(Joined::Comma, vec![condition, within]),
        }))
    }

    /// `\{2k + 1 \mid k \in \mathbb{Z}\}`, `\{(x, y) \mid y = 2x\}`: what has the form before the
    /// bar where the condition behind it holds.
    fn described_set(&mut self, bar: usize) -> Option<Option<Expr>> {
        let start = self.at;
        let head = self
            .sum()
            .filter(|head| self.at == bar && !head.symbols().is_empty());
        let Some(head) = head else {
            self.at = start;
            return None;
        };
        self.at = bar + 1;
        let condition = self
            .list()
            .filter(|_| self.eat(&Kind::Close(Bracket::Curly)));
        let member = |item: &Expr| {
            matches!(item, Expr::Relations(_, relations) if relations.as_slice() ==
            [Relation::Member])
        };
        Some(condition.and_then(|condition| {
            match (&head, condition) {
                // `\{(x, y) \mid x = 2, y = 1\}` is one point.
                (Expr::Tuple(open, close, parts), condition)
                    if values_of(parts, &condition).is_some() =>
                {
                    values_of(parts, &condition)
                        .map(|values| Expr::Set(vec![Expr::Tuple(*open, *close, values)]))
                }
                // A set of points is where its equations hold.
                (Expr::Tuple(_, _, parts), condition)
                    if parts.iter().all(|part| matches!(part, Expr::Symbol(_))) =>
                {
                    Some(condition)
                }
                (Expr::Tuple(..), _) => None,
                (_, Expr::List(Joined::Comma | Joined::And, items)) if items.iter().any(member) => {
                    Some(Expr::List(Joined::Comma, [vec![head], items].concat()))
                }
                (_, condition) if member(&condition) => {
                    Some(Expr::List(Joined::Comma, vec![head, condition]))
                }
                _ => None,
            }
        }))
    }

    /// `\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}`, the beginning read already.
    pub(crate) fn matrix(&mut self, name: &str) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        if name == "cases" || name == "dcases" {
            let found = self.nested(Self::cases);
            self.bars = bars;
            return found;
        }
        let rows = self.nested(|parser| parser.rows(name));
        self.bars = bars;
        let matrix = Expr::Matrix(rows?);
        Some(if name == "vmatrix" {
            Expr::call(Function::Determinant, matrix)
        } else {
            matrix
        })
    }

    fn rows(&mut self, name: &str) -> Option<Vec<Vec<Expr>>> {
        if !(name.ends_with("matrix") || name == "array") {
            return None;
        }
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek()? {
                Kind::End(end) => {
                    if *end != name {
                        return None;
                    }
                    self.at += 1;
                    break;
                }
                Kind::Ampersand => self.at += 1,
                Kind::Newline => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                _ => {
                    let entry = self.sum()?;
                    rows.last_mut()?.push(entry);
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        let width = rows.first()?.len();
        rows.iter().all(|row| row.len() == width).then_some(rows)
    }
}
