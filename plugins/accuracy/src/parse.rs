//! Tokens → tree: lists, relations, sets, brackets, matrices. Formulas are in [`crate::formula`].
//!
//! ```text
//! list    := item ((","|";"|"and"|"or") item)*
//! item    := text | sides (relation sides)* [unit]
//! sides   := sum (":" sum)*, joined by ∪ ∩ ∖
//! ```

use crate::applications::Applications;
use crate::comparison::Comparison;
use crate::congruence;
use crate::expression::{Expr, Joined};
use crate::lexer::{self, Commas};
use crate::names::{constant, is_function, is_prose, symbol};
use crate::parser::Parser;
use crate::progression;
use crate::qualifier;
use crate::text::says_all_reals;
use crate::token::{Bracket, Kind, Relation};
use reward_sdk::rational::Rational;
use reward_sdk::units::{self, Unit};

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

impl<'a> Parser<'a> {
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
}

impl Parser<'_> {
    /// Whether a bracket that holds a function's argument comes next.
    pub(crate) fn applies(&self, found: &Expr) -> bool {
        self.peek() == Some(&Kind::Open(Bracket::Round))
            && self.applications.any()
            && self.applications.name(found).is_some()
            && !self.starts_modulus()
            && !self.declares_parameter()
    }

    /// The value of a function whose name has been read; points and events, `P(1, 2)`, `P(X > 2)`,
    /// stay what they are.
    pub(crate) fn application(&mut self, function: Expr) -> Option<Expr> {
        let name = self.applications.name(&function)?;
        let argument = self.atom()?;
        if !argument.is_scalar() {
            return Some(Expr::Product(vec![function, argument]));
        }
        self.applications.value(&name, &argument)
    }
}
