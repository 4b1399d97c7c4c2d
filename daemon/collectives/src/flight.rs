//! The flight recorder: the last calls of a group, and, when one fails, whom it waited for. A rank
//! whose call failed leaves word at the [rendezvous], which works where the transport does not; who
//! leaves none there is the one that the others waited for.
//!
//! [rendezvous]: crate::rendezvous

use crate::call::Signature;
use crate::rendezvous::{Rendezvous, RendezvousError};
use r1d_proto::world::Clock;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Calls that a recorder remembers.
pub const CALLS_MAX: usize = 64;
/// How long a rank whose call failed listens for the reports of the others: a transport that
/// breaks on one rank breaks on all that are in a call.
const REPORTS_WITHIN_MS: u64 = 3000;
/// Bytes of a report that travel of the transport's own text.
const CAUSE_BYTES_MAX: usize = 400;

/// How far a call came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallState {
    /// Began at this time of the group's clock, and is not over.
    Under {
        /// When it began.
        began: Duration,
    },
    /// Is over.
    Done {
        /// How long it took.
        took: Duration,
    },
    /// Failed.
    Failed {
        /// How long it took to fail.
        took: Duration,
    },
}

/// One call of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The call.
    pub signature: Signature,
    /// How far it came.
    pub state: CallState,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { signature, state } = self;
        match state {
            CallState::Under { .. } => write!(f, "{signature}: under way"),
            CallState::Done { took } => write!(f, "{signature}: done in {took:.1?}"),
            CallState::Failed { took } => write!(f, "{signature}: failed after {took:.1?}"),
        }
    }
}

/// The last calls of a group, the newest last.
#[derive(Default)]
pub(crate) struct Recorder {
    entries: VecDeque<Entry>,
}

impl Recorder {
    pub(crate) fn begin(&mut self, signature: Signature, now: Duration) {
        if self.entries.len() == CALLS_MAX {
            self.entries.pop_front();
        }
        let state = CallState::Under { began: now };
        self.entries.push_back(Entry { signature, state });
    }

    /// Ends the newest call, and returns how long it took.
    pub(crate) fn end(&mut self, well: bool, now: Duration) -> Duration {
        let Some(entry) = self.entries.back_mut() else {
            return Duration::ZERO;
        };
        let took = match entry.state {
            CallState::Under { began } => now.saturating_sub(began),
            CallState::Done { took } | CallState::Failed { took } => took,
        };
        entry.state = if well {
            CallState::Done { took }
        } else {
            CallState::Failed { took }
        };
        took
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

/// What a rank leaves behind when a call of its failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The call that failed.
    pub signature: Signature,
    /// The transport's own text.
    pub cause: String,
}

/// Why a call of this rank failed, as far as the ranks' reports tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// These ranks left no report: they are dead, stopped, or did not make the call.
    Silent(Vec<usize>),
    /// This rank failed in another call than the others: the calls do not match.
    Elsewhere {
        /// The rank.
        rank: usize,
        /// Its call.
        signature: Signature,
    },
    /// All ranks failed in this call, so the transport itself did.
    Transport,
    /// The reports cannot be read.
    Unknown(RendezvousError),
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blame::Silent(ranks) => {
                write!(f, "{} is waited for: ", ranks_of(ranks))?;
                f.write_str("dead, stopped, or not at this call yet")
            }
            Blame::Elsewhere { rank, signature } => {
                write!(f, "rank {rank} was in another call: {signature}")
            }
            Blame::Transport => f.write_str("all ranks were in this call: the transport failed"),
            Blame::Unknown(error) => write!(f, "who is waited for is unknown: {error}"),
        }
    }
}

/// `rank 3`, or `ranks 1, 3`.
pub(crate) fn ranks_of(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(usize::to_string).collect();
    let s = if ranks.len() == 1 { "" } else { "s" };
    format!("rank{s} {}", numbers.join(", "))
}

fn key(rank: usize) -> String {
    format!("failed/{rank}")
}

/// Leaves word of this rank's failed call, and waits a little for that of the others.
pub(crate) fn ask_around(
    rendezvous: &dyn Rendezvous,
    clock: &dyn Clock,
    rank: usize,
    size: usize,
    signature: &Signature,
    cause: &str,
) -> Blame {
    let end = (0..=cause.len().min(CAUSE_BYTES_MAX))
        .rev()
        .find(|at| cause.is_char_boundary(*at));
    let report = Report {
        signature: signature.clone(),
        cause: cause[..end.unwrap_or(0)].to_owned(),
    };
    match exchange(rendezvous, clock, rank, size, &report) {
        Ok(reports) => blame(rank, signature, &reports),
        Err(error) => Blame::Unknown(error),
    }
}

/// Sets this rank's report and gets those of the others. A rank that sets none in time has `None`.
fn exchange(
    rendezvous: &dyn Rendezvous,
    clock: &dyn Clock,
    rank: usize,
    size: usize,
    report: &Report,
) -> Result<Vec<Option<Report>>, RendezvousError> {
    let unreadable = |e: postcard::Error| RendezvousError::Unreachable(e.to_string());
    let value = postcard::to_allocvec(report).map_err(unreadable)?;
    rendezvous.set(&key(rank), &value)?;
    let until = clock.now() + Duration::from_millis(REPORTS_WITHIN_MS);
    let mut reports = Vec::with_capacity(size);
    for other in 0..size {
        let left = until.saturating_sub(clock.now());
        match rendezvous.get(&key(other), left) {
            Ok(value) => reports.push(Some(postcard::from_bytes(&value).map_err(unreadable)?)),
            Err(RendezvousError::Absent { .. }) => reports.push(None),
            Err(error) => return Err(error),
        }
    }
    Ok(reports)
}

/// Decides whom a failed call of `rank` waited for.
fn blame(rank: usize, own: &Signature, reports: &[Option<Report>]) -> Blame {
    let others = || reports.iter().enumerate().filter(|(r, _)| *r != rank);
    let silent: Vec<usize> = others()
        .filter(|(_, r)| r.is_none())
        .map(|(r, _)| r)
        .collect();
    if !silent.is_empty() {
        return Blame::Silent(silent);
    }
    others()
        .filter_map(|(rank, report)| Some((rank, &report.as_ref()?.signature)))
        .find(|(_, signature)| *signature != own)
        .map_or(Blame::Transport, |(rank, signature)| Blame::Elsewhere {
            rank,
            signature: signature.clone(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Operation;

    fn signature(sequence: u64) -> Signature {
        Signature::new(sequence, "step", Operation::Barrier, None, &[])
    }

    fn report(sequence: u64) -> Option<Report> {
        Some(Report {
            signature: signature(sequence),
            cause: "planted".to_owned(),
        })
    }

    #[test]
    fn the_silent_are_blamed_before_those_who_failed_elsewhere() {
        let own = signature(5);
        let cases = [
            (
                vec![report(5), None, report(4), None],
                Blame::Silent(vec![1, 3]),
            ),
            (
                vec![report(5), report(5), report(4)],
                Blame::Elsewhere {
                    rank: 2,
                    signature: signature(4),
                },
            ),
            (vec![report(5), report(5)], Blame::Transport),
        ];
        for (reports, expected) in cases {
            assert_eq!(blame(0, &own, &reports), expected);
        }
    }

    #[test]
    fn a_recorder_keeps_the_last_calls() {
        let mut recorder = Recorder::default();
        for sequence in 1..=CALLS_MAX as u64 + 10 {
            recorder.begin(signature(sequence), Duration::from_secs(sequence));
            recorder.end(true, Duration::from_secs(sequence + 2));
        }
        let kept: Vec<u64> = recorder.entries().map(|e| e.signature.sequence).collect();
        assert_eq!(kept, (11..=CALLS_MAX as u64 + 10).collect::<Vec<_>>());
        recorder.begin(signature(99), Duration::from_secs(100));
        let last = |recorder: &Recorder| recorder.entries().last().unwrap().to_string();
        assert_eq!(last(&recorder), "`step` (call 99: barrier): under way");
        recorder.end(false, Duration::from_millis(101_500));
        assert_eq!(
            last(&recorder),
            "`step` (call 99: barrier): failed after 1.5s"
        );
    }
}
