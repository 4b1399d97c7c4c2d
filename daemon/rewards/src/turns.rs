//! Decides whose call a free scoring thread takes: the waiting calls, each in its line, and what
//! each line has had so far. A pure data structure; [`crate::pool`] has the threads.
//!
//! Lines share the threads, and then the time: the next call is one of the line with the fewest
//! calls at work, and among those of the one that has used the least time. A line of slow calls and
//! a line of fast ones therefore get the same time, and the fast one ends many calls meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The calls of all lines that have any.
pub(crate) struct Turns<T> {
    lines: BTreeMap<u64, Share<T>>,
    /// Number of calls that were taken.
    taken: u64,
}

/// The calls of one line, and its share of the threads.
struct Share<T> {
    waiting: VecDeque<T>,
    at_work: usize,
    /// Time of the calls that have ended. A line that begins has used as much as the one that has
    /// used the least: it has no claim to the time before it came.
    used: Duration,
    /// Number of calls that were taken when this line last had its turn.
    turn: u64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Turns {
            lines: BTreeMap::new(),
            taken: 0,
        }
    }
}

impl<T> Turns<T> {
    /// Adds a call to the end of its line.
    pub(crate) fn push(&mut self, id: u64, call: T) {
        let least = self.lines.values().map(|share| share.used).min();
        let begun = || Share {
            waiting: VecDeque::new(),
            at_work: 0,
            used: least.unwrap_or_default(),
            turn: 0,
        };
        let share = self.lines.entry(id).or_insert_with(begun);
        share.waiting.push_back(call);
    }

    /// Takes the next call of the line whose turn it is; it is at work until [`Turns::end`].
    pub(crate) fn take(&mut self) -> Option<T> {
        let has_waiting = |share: &&mut Share<T>| !share.waiting.is_empty();
        let share = self
            .lines
            .values_mut()
            .filter(has_waiting)
            .min_by_key(|share| (share.at_work, share.used, share.turn))?;
        self.taken += 1;
        (share.at_work, share.turn) = (share.at_work + 1, self.taken);
        share.waiting.pop_front()
    }

    /// A call of the line has ended, which was at work for `took`.
    pub(crate) fn end(&mut self, id: u64, took: Duration) {
        let Some(share) = self.lines.get_mut(&id) else {
            return;
        };
        share.at_work = share.at_work.saturating_sub(1);
        share.used += took;
        if share.at_work == 0 && share.waiting.is_empty() {
            self.lines.remove(&id);
        }
    }

    /// Number of calls that wait, of all lines.
    pub(crate) fn waiting(&self) -> usize {
        self.lines.values().map(|share| share.waiting.len()).sum()
    }

    /// Number of calls at work, of all lines.
    pub(crate) fn at_work(&self) -> usize {
        self.lines.values().map(|share| share.at_work).sum()
    }

    /// Number of calls of one line that wait, and that are at work.
    pub(crate) fn of(&self, id: u64) -> (usize, usize) {
        self.lines
            .get(&id)
            .map_or((0, 0), |share| (share.waiting.len(), share.at_work))
    }

    /// Takes all calls that wait, for nobody to judge.
    pub(crate) fn close(&mut self) -> Vec<T> {
        let waiting = |share: &mut Share<T>| std::mem::take(&mut share.waiting);
        self.lines.values_mut().flat_map(waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Judges `calls` (line, time of each of its calls, number of calls) on some threads; returns
    /// the lines of the calls in the order in which they ended.
    fn judged(threads: usize, calls: &[(u64, Duration, usize)]) -> Vec<u64> {
        let mut turns = Turns::default();
        for (line, took, number) in calls {
            (0..*number).for_each(|_| turns.push(*line, (*line, *took)));
        }
        let (mut at_work, mut ended) = (Vec::new(), Vec::new());
        let mut now = Duration::ZERO;
        loop {
            while at_work.len() < threads {
                let Some((line, took)) = turns.take() else {
                    break;
                };
                at_work.push((now + took, line, took));
            }
            at_work.sort_unstable();
            if at_work.is_empty() {
                return ended;
            }
            let (end, line, took) = at_work.remove(0);
            now = end;
            turns.end(line, took);
            ended.push(line);
        }
    }

    fn before_the_last_of(line: u64, other: u64, ended: &[u64]) -> usize {
        let last = ended.iter().rposition(|ended| *ended == line).unwrap();
        ended[..last]
            .iter()
            .filter(|ended| **ended == other)
            .count()
    }

    #[test]
    fn slow_calls_cost_another_line_no_more_than_its_share_of_the_time() {
        for threads in [1, 2, 3, 8] {
            let ended = judged(threads, &[(1, 1000 * MS, 200), (2, MS, 900)]);
            let slow = before_the_last_of(2, 1, &ended);
            assert!(
                slow <= threads,
                "{threads} threads: {slow} slow calls first"
            );
            assert_eq!(ended.len(), 1100);
        }
    }

    #[test]
    fn lines_of_equal_calls_take_turns() {
        let ended = judged(1, &[(1, MS, 3), (2, MS, 3), (3, MS, 3)]);
        assert_eq!(ended, [1, 2, 3, 1, 2, 3, 1, 2, 3]);
    }

    /// What a line has not used before it came it cannot claim later.
    #[test]
    fn a_new_line_shares_the_time_from_now_on() {
        let mut turns = Turns::default();
        (0..300).for_each(|_| turns.push(1, 1));
        for _ in 0..100 {
            assert_eq!(turns.take(), Some(1));
            turns.end(1, 10 * MS);
        }
        (0..100).for_each(|_| turns.push(2, 2));
        let mut next = || {
            let line = turns.take().unwrap();
            turns.end(line, 10 * MS);
            line
        };
        let lines: Vec<u64> = (0..100).map(|_| next()).collect();
        assert_eq!(lines.iter().filter(|line| **line == 1).count(), 50);
        assert_eq!(
            (turns.waiting(), turns.at_work(), turns.of(2)),
            (200, 0, (50, 0))
        );
        assert_eq!(turns.close().len(), 200);
    }
}
