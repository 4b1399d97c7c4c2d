//! Times of day: `3:05`, `12:30 PM`, `3 p.m.`

use crate::expression::Expr;
use crate::lexer::Kind;
use crate::parse::Parser;

/// Minutes since midnight as written, and the half of the day where it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    minutes: u32,
    afternoon: Option<bool>,
}

const HALF_DAY: u32 = 12 * 60;

impl Clock {
    fn new(hours: u32, minutes: u32, afternoon: Option<bool>) -> Option<Clock> {
        let fits = minutes < 60 && hours < 24 && (afternoon.is_none() || (1..=12).contains(&hours));
        fits.then_some(Clock {
            minutes: hours * 60 + minutes,
            afternoon,
        })
    }

    /// Reads a ratio or a number that stands where a time is expected: `12:30`.
    pub(crate) fn of(expr: &Expr) -> Option<Clock> {
        let small = |expr: &Expr| match expr {
            Expr::Number(value) => value.to_i64().and_then(|value| u32::try_from(value).ok()),
            _ => None,
        };
        match expr {
            Expr::Clock(clock) => Some(*clock),
            Expr::Ratio(parts) => match parts.as_slice() {
                [hours, minutes] => Clock::new(small(hours)?, small(minutes)?, None),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether both are the same time; one without its half of the day agrees with either half.
    pub(crate) fn agrees_with(&self, other: &Clock) -> bool {
        let in_day = |clock: &Clock| {
            clock
                .afternoon
                .map(|afternoon| clock.minutes % HALF_DAY + if afternoon { HALF_DAY } else { 0 })
        };
        match (in_day(self), in_day(other)) {
            (Some(own), Some(others)) => own == others,
            (None, None) => self.minutes == other.minutes,
            (Some(day), None) => other.minutes == day || other.minutes == self.minutes,
            (None, Some(day)) => self.minutes == day || self.minutes == other.minutes,
        }
    }
}

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
