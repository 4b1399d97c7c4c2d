//! How far the clock is believed when jobs go by their age: one that is wrong when the machine
//! starts, by years, would make every job old at once.
//!
//! What was recorded before the daemon started is the witness. A jump of the time by more than a
//! day, from what is on record to now or within the record, is believed once the time after it has
//! gone on for a day: a machine that was off for months removes jobs a day later.

/// How far a clock may be ahead of what is known, and how long it has to go on, to be believed.
const BELIEVED_S: u64 = 24 * 60 * 60;

/// The newest of the times on record that is believed, in seconds since the Unix epoch; `None` if
/// there are none. Times at the end that follow a jump and span less than a day are left out: an
/// earlier daemon may have recorded them by a wrong clock.
pub(super) fn newest_believed(mut times: Vec<u64>) -> Option<u64> {
    times.sort_unstable();
    let is_jump = |pair: &[u64]| matches!(pair, [a, b] if b - a > BELIEVED_S);
    loop {
        let newest = *times.last()?;
        let after = times.windows(2).rposition(is_jump).map(|before| before + 1);
        match after.and_then(|after| Some((after, *times.get(after)?))) {
            Some((after, first)) if newest - first < BELIEVED_S => times.truncate(after),
            _ => return Some(newest),
        }
    }
}

/// The latest time up to which a job's age counts; `None`: whatever the clock says. `newest` is
/// that of [`newest_believed`] when the daemon started, `up_s` seconds ago by the monotonic clock.
pub(super) fn counts_until(newest: Option<u64>, up_s: u64) -> Option<u64> {
    let newest = newest.filter(|_| up_s < BELIEVED_S)?;
    Some(newest.saturating_add(BELIEVED_S))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY_S: u64 = 24 * 60 * 60;

    proptest! {
        /// A wrong clock, with which daemons have recorded less than a day, makes no job older than
        /// a day more than it is.
        #[test]
        fn a_wrong_clock_makes_no_job_old_at_once(
            honest in prop::collection::vec(0u64..3 * DAY_S, 1..40),
            wrong in prop::collection::vec(0u64..DAY_S, 0..20),
            ahead in 5 * DAY_S..20_000 * DAY_S,
            up_s in 0u64..DAY_S,
        ) {
            // Without jumps of its own.
            let honest: Vec<u64> = (0..=6).map(|half| half * DAY_S / 2).chain(honest).collect();
            let newest = honest.iter().copied().max();
            let wrong = wrong.into_iter().map(|time| time + ahead);
            let recorded = honest.into_iter().chain(wrong).collect();
            prop_assert_eq!(newest_believed(recorded), newest);
            prop_assert_eq!(counts_until(newest, up_s), newest.map(|newest| newest + DAY_S));
        }

        /// However long a machine was off: a day after it was started, jobs go by their age, in
        /// this daemon and in one after it.
        #[test]
        fn a_clock_that_goes_on_for_a_day_is_believed(
            before in prop::collection::vec(0u64..3 * DAY_S, 0..40),
            off in 5 * DAY_S..20_000 * DAY_S,
            up_s in DAY_S..100 * DAY_S,
        ) {
            let newest = before.iter().copied().max();
            prop_assert_eq!(counts_until(newest, up_s), None);
            let since = [off, off + DAY_S / 2, off + DAY_S];
            let recorded = before.into_iter().chain(since).collect();
            prop_assert_eq!(newest_believed(recorded), Some(off + DAY_S));
        }
    }

    #[test]
    fn nothing_on_record_is_no_witness() {
        assert_eq!(newest_believed(Vec::new()), None);
        assert_eq!(counts_until(None, 0), None);
        assert_eq!(newest_believed(vec![7]), Some(7));
    }
}
