//! The index of all jobs by what they do: what `r1ctl list` shows in its order, and what the queue
//! asks.

use crate::record::JobRecord;
use r1d_proto::control::job::State;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use std::cmp::Reverse;

/// What the records of jobs say, in the order of a question.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Listing {
    /// Sequence numbers of the running jobs.
    running: RedBlackTreeSetSync<u64>,
    /// The queued jobs, in the order in which they are to run, with their sequence numbers.
    queued: RedBlackTreeMapSync<Turn, u64>,
    /// Sequence numbers of the paused jobs.
    paused: RedBlackTreeSetSync<u64>,
    /// The jobs that have ended, the one that ended last first; of those that ended in the same
    /// second, the one that was submitted first.
    ended: RedBlackTreeSetSync<(Reverse<u64>, u64)>,
    /// Number of all jobs that have not ended.
    live: usize,
    /// Bytes of their files.
    text_bytes: usize,
}

/// A queued job's turn: highest priority first, within it first come, first served.
type Turn = (Reverse<i32>, u64);

impl Listing {
    /// Takes what the index has of a job's record before a command out, and puts in what it has to
    /// have of the record behind it; `None`: there is no such job.
    pub(crate) fn update(&mut self, before: Option<&JobRecord>, now: Option<&JobRecord>) {
        let entry = |record: Option<&JobRecord>| {
            record.map(|record| (record.state(), turn(record), end(record)))
        };
        if entry(before) == entry(now) {
            return;
        }
        if let Some(record) = before {
            self.remove(record);
        }
        if let Some(record) = now {
            self.insert(record);
        }
    }

    fn remove(&mut self, record: &JobRecord) {
        let sequence = record.submission.sequence;
        self.running.remove_mut(&sequence);
        self.queued.remove_mut(&turn(record));
        self.paused.remove_mut(&sequence);
        self.ended.remove_mut(&end(record));
        if !record.state().is_final() {
            self.live -= 1;
            self.text_bytes -= record.submission.job_toml.len();
        }
    }

    fn insert(&mut self, record: &JobRecord) {
        let sequence = record.submission.sequence;
        match record.state() {
            State::Running => self.running.insert_mut(sequence),
            State::Queued => self.queued.insert_mut(turn(record), sequence),
            State::Paused => self.paused.insert_mut(sequence),
            _ => self.ended.insert_mut(end(record)),
        }
        if !record.state().is_final() {
            self.live += 1;
            self.text_bytes += record.submission.job_toml.len();
        }
    }

    /// Sequence numbers of the running jobs, in order of submission.
    pub(crate) fn running(&self) -> impl Iterator<Item = &u64> {
        self.running.iter()
    }

    /// Sequence numbers of the queued jobs, in the order in which they are to run.
    pub(crate) fn queued(&self) -> impl Iterator<Item = &u64> {
        self.queued.values()
    }

    /// Sequence numbers of all jobs: the running, the queued, the paused, those that have ended.
    pub(crate) fn all(&self) -> impl Iterator<Item = &u64> {
        let ended = self.ended.iter().map(|(_, sequence)| sequence);
        let live = self.running().chain(self.queued());
        live.chain(self.paused.iter()).chain(ended)
    }

    /// Number of the jobs that have not ended, and bytes of their files.
    pub(crate) fn live(&self) -> (usize, usize) {
        (self.live, self.text_bytes)
    }
}

fn turn(record: &JobRecord) -> Turn {
    (Reverse(record.submission.priority), record.place())
}

/// The place of a job among those that have ended.
fn end(record: &JobRecord) -> (Reverse<u64>, u64) {
    let ended_at = record.progress.ended_at.unwrap_or_default();
    (Reverse(ended_at), record.submission.sequence)
}
