//! Reads times of day: `12:30 PM`, `3 p.m.`

use crate::clock::Clock;
use crate::expression::Expr;
use crate::parser::Parser;
use crate::token::Kind;

impl Parser<'_> {
    /// A time of day: two digits of minutes that begin with 0, or `am` or `pm` behind.
    pub(crate) fn clock(&mut self) -> Option<Expr> {
        let start = self.at;
        let found = self.clock_within();
        if found.is_none() {
            self.at = start;
        }
        found
    }

    fn clock_within(&mut self) -> Option<Expr> {
        let Kind::Number(hours) = self.peek()?.clone() else {
            return None;
        };
        if !hours.is_integer() || hours.digits.len() > 2 {
            return None;
        }
        self.at += 1;
        let minutes = if self.eat(&Kind::Colon) {
            let Kind::Number(minutes) = self.peek()?.clone() else {
                return None;
            };
            self.at += 1;
            (minutes.is_integer() && minutes.digits.len() == 2).then_some(Some(minutes.digits))?
        } else {
            None
        };
        let afternoon = self.half_of_day();
        // `3:15` may be a ratio.
        if afternoon.is_none()
            && minutes
                .as_ref()
                .is_none_or(|minutes| !minutes.starts_with('0'))
        {
            return None;
        }
        let minutes = minutes.unwrap_or_default().parse().unwrap_or(0);
        self.ends_here().then_some(())?;
        Clock::new(hours.digits.parse().ok()?, minutes, afternoon).map(Expr::Clock)
    }

    /// Reads the half of the day: `PM`, `\text{ p.m.}`; `p.m.` comes as two words.
    fn half_of_day(&mut self) -> Option<bool> {
        let word = |kind: Option<&Kind<'_>>| match kind {
            Some(Kind::Word(word) | Kind::Text(word) | Kind::Roman(word)) => {
                word.to_ascii_lowercase().replace(['.', ' '], "")
            }
            _ => String::new(),
        };
        let (first, second) = (word(self.peek()), word(self.peek_at(1)));
        let (name, tokens) = if second == "m" {
            (first + &second, 2)
        } else {
            (first, 1)
        };
        let afternoon = match name.as_str() {
            "am" => false,
            "pm" => true,
            _ => return None,
        };
        self.at += tokens;
        Some(afternoon)
    }
}
