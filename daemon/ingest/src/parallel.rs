//! Work on the rows of a data set, several at a time, whose outcomes are taken in the rows' order:
//! what is made is the same bytes on any number of processors.

use crate::file::Writer;
use crate::make::{MakeError, Making};
use crate::rows::Rows;
use r1d_data::Row;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the rows that are worked on before their outcomes are taken (`LIM-1`): with what is
/// made of them, all that is in memory. One row may be longer.
const WAVE_BYTES_MAX: u64 = 4 << 20;
/// Most of these rows.
const WAVE_ROWS_MAX: u64 = 1 << 14;
/// Most threads: more of them wait for the one that writes.
const THREADS_MAX: usize = 16;

/// Calls `work` with each row and its index, and `take` with what came of it, in the order of the
/// rows, each of which is then done. Ends with the error of the first row that has one.
pub(crate) fn in_order<T: Send>(
    rows: &Rows,
    making: &mut Making<'_>,
    work: impl Fn(u64, Row) -> Result<T, MakeError> + Sync,
    mut take: impl FnMut(&mut Writer, T) -> Result<(), MakeError>,
) -> Result<(), MakeError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut first = 0;
    while first < rows.len() {
        let end = rows.part_end(first, WAVE_ROWS_MAX, WAVE_BYTES_MAX)?;
        let of_row = |row: u64| -> Result<_, MakeError> {
            let (bytes, row_read) = rows.row_and_bytes(row)?;
            Ok((bytes, work(row, row_read)?))
        };
        for outcome in wave(first, end, threads.min(THREADS_MAX), &of_row) {
            let (bytes, outcome) = outcome?;
            take(&mut making.writer, outcome)?;
            making.done(bytes)?;
        }
        first = end;
    }
    Ok(())
}

/// What comes of the rows from `first` to `end`, in their order; rows behind one that fails may be
/// left out.
fn wave<T: Send, E: Send>(
    first: u64,
    end: u64,
    threads: usize,
    work: &(impl Fn(u64) -> Result<T, E> + Sync),
) -> impl Iterator<Item = Result<T, E>> {
    let next = AtomicU64::new(first);
    let share = || {
        let mut done = Vec::new();
        loop {
            // Rows are begun in their order, so that all before one that fails are done.
            let row = next.fetch_add(1, Ordering::Relaxed);
            if row >= end {
                return done;
            }
            let outcome = work(row);
            if outcome.is_err() {
                next.fetch_max(end, Ordering::Relaxed);
            }
            done.push((row, outcome));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let helper = |_| {
            let thread = std::thread::Builder::new().name("rows".into());
            // Without a further thread, this one does the work.
            thread.spawn_scoped(scope, share).ok()
        };
        let helpers: Vec<_> = (1..threads).filter_map(helper).collect();
        let mut done = share();
        for helper in helpers {
            match helper.join() {
                Ok(others) => done.extend(others),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(row, _)| *row);
    done.into_iter().map(|(_, outcome)| outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None,
            ..ProptestConfig::default() })]

        /// Whatever the threads do, the outcome is that of one after the other.
        #[test]
        fn outcomes_are_in_order_up_to_the_first_error(
            (first, len) in (0..50u64, 0..300u64),
            threads in 1..8usize,
            failing in proptest::collection::btree_set(0..350u64, 0..4),
        ) {
            let end = first + len;
            let work = |row: u64| {
                // Neighbours take different times.
                std::hint::black_box((0..row % 7 * 500).sum::<u64>());
                if failing.contains(&row) { Err(row) } else { Ok(row) }
            };
            let found: Result<Vec<u64>, u64> = wave(first, end, threads, &work).collect();
            let expected: Result<Vec<u64>, u64> = (first..end).map(work).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
