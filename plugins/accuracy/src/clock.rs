//! Times of day: `3:05`, `12:30 PM`, `3 p.m.`

/// Minutes since midnight as written, and the half of the day where it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    minutes: u32,
    afternoon: Option<bool>,
}

const HALF_DAY: u32 = 12 * 60;

impl Clock {
    /// The time, if there is such a one.
    pub(crate) fn new(hours: u32, minutes: u32, afternoon: Option<bool>) -> Option<Clock> {
        let fits = minutes < 60 && hours < 24 && (afternoon.is_none() || (1..=12).contains(&hours));
        fits.then_some(Clock {
            minutes: hours * 60 + minutes,
            afternoon,
        })
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
