//! A clock that the test moves.

use r1d_proto::world::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The calendar when a simulation starts, in seconds since the Unix epoch: 2025-01-01T00:00:00Z.
const UNIX_AT_START_S: u64 = 1_735_689_600;

/// A clock that starts at 0 and stands still between calls of [`SimClock::advance`].
#[derive(Default)]
pub struct SimClock {
    nanoseconds: AtomicU64,
}

impl SimClock {
    /// A clock at 0, for its component and the test.
    pub fn shared() -> Arc<SimClock> {
        Arc::new(SimClock::default())
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.nanoseconds.fetch_add(
            u64::try_from(by.as_nanos()).unwrap_or(u64::MAX),
            Ordering::SeqCst,
        );
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::SeqCst))
    }

    fn unix(&self) -> Duration {
        Duration::from_secs(UNIX_AT_START_S) + self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_only_when_told() {
        let clock = SimClock::shared();
        let (now, unix) = (clock.now(), clock.unix());
        assert_eq!((clock.now(), clock.unix()), (now, unix));
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now(), now + Duration::from_millis(1500));
        assert_eq!(clock.unix(), unix + Duration::from_millis(1500));
    }
}
