//! Which of the candidates gets a free device. The ledger has sorted the queue by priority; this
//! only moves suspects back.
//!
//! Jobs that were running when the daemon ended come first, then the queue. If the daemon ended
//! without a clean stop, one of the jobs that it worked for may be the cause, and it is unknown
//! which: each of them is suspected until something of it is committed. Suspects come back one at a
//! time, so that the one that ends the daemon again is known, and the others lose nothing by it.
//! The more often a job was at work when the daemon ended, the later it comes.

use super::message::Candidate;
use std::time::Duration;

/// A job is given up after this many ends of the daemon in a row while it worked for the job and
/// committed nothing of it (`LIM-1`). An operator's kill looks like the job's doing, and a step may
/// take long, so this is more than any series of kills by hand.
pub const STRIKES_MAX: u32 = 12;
/// A suspect that has been at work for this long did not end the daemon by being read or begun: the
/// next one may come.
pub const TRIAL_MAX: Duration = Duration::from_secs(300);

/// The turn of a job; lower is earlier.
fn turn(candidate: &Candidate) -> u32 {
    match (candidate.is_running, candidate.strikes) {
        (true, strikes @ 0..=1) => strikes,
        (_, strikes) => strikes.saturating_add(2),
    }
}

/// The job for a free device. `on_trial` says whether a suspect is at work.
pub(super) fn next(
    candidates: impl Iterator<Item = Candidate>,
    is_taken: impl Fn(&Candidate) -> bool,
    on_trial: bool,
) -> Option<Candidate> {
    let mut first: Option<Candidate> = None;
    for candidate in candidates.filter(|candidate| !is_taken(candidate)) {
        // Running jobs come first and the queue is in order: none that follows has an earlier turn.
        let is_earliest = candidate.strikes == 0;
        if first
            .as_ref()
            .is_none_or(|first| turn(&candidate) < turn(first))
        {
            first = Some(candidate);
        }
        if is_earliest {
            break;
        }
    }
    // The devices of jobs that were running are kept for them. Only other suspects come after them.
    first.filter(|first| !on_trial || first.strikes == 0)
}

/// Why a job with so many strikes is given up; `None` if it is not.
pub fn given_up(strikes: u32) -> Option<String> {
    (strikes >= STRIKES_MAX).then(|| {
        format!(
            "the daemon ended {strikes} times in a row while it worked for this job, and nothing \
             of the job was committed in between: it takes more memory than there is, or makes the \
             daemon abort (the daemon's and the kernel's log say which); submit it again when \
             that is mended"
        )
    })
}
