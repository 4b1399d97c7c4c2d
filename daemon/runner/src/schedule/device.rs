//! A device's health: what it did to jobs, and when it is probed.
//!
//! A worker that dies, is silent or fails may do so for its job's sake or for its device's. After a
//! few such failures in a row the job gives the device up, which is probed: a small worker computes
//! on it and compares. If that goes wrong, the failures were the device's and count against no job.
//! If it goes well, they count against the job. A device that has failed several jobs in a row is
//! then quarantined: it gets no jobs for a while, ever longer, and after that a probe that goes
//! well brings it back.

use super::message::{Problem, ProblemKind};
use crate::life::History;
use crate::restart::Progress;
use r1d_proto::ids::JobId;
use std::time::Duration;

/// Jobs in a row that a device may fail, without bringing any of them further, before it rests
/// although a probe finds nothing.
pub const FAILED_JOBS_MAX: usize = 2;
/// Failures that lie further apart than this are not in a row.
pub const FAILURES_WINDOW: Duration = Duration::from_secs(2 * 3600);
/// How long a device rests: the first time, and the longest. Each rest is twice as long as the one
/// before, until the device has brought a job further.
pub const REST_FIRST: Duration = Duration::from_secs(60);
/// See [`REST_FIRST`].
pub const REST_MAX: Duration = Duration::from_secs(3600);
/// Time between two probes of a device that cannot be used: the first, and the longest. Each is
/// twice as long as the one before.
pub const PROBE_AGAIN: Duration = Duration::from_secs(1);
/// See [`PROBE_AGAIN`].
pub const PROBE_AGAIN_MAX: Duration = Duration::from_secs(30);
/// A device that was usable for this long has been mended: the next probe comes soon again. One
/// that opens but cannot compute does not get a job every second.
pub const OF_USE_AFTER: Duration = Duration::from_secs(60);

/// A job on a device.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    pub job: JobId,
    pub since: Duration,
    /// What was durable of the job when it was placed.
    pub progress: Option<Progress>,
}

/// A job that gave the device up because its workers failed there.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    pub job: JobId,
    /// The job's attempts, those on this device included.
    pub history: History,
}

#[derive(Clone, Debug)]
enum Health {
    /// The daemon has not looked at it yet.
    Untried,
    Usable {
        since: Duration,
    },
    Probing {
        doubt: Option<Doubt>,
    },
    /// It is probed at `until`.
    Out {
        until: Duration,
        doubt: Option<Doubt>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    pub placed: Option<Placement>,
    health: Health,
    /// Jobs that it has failed in a row, and when.
    failed: Vec<(JobId, Duration)>,
    /// Those of them after which a probe found it well.
    cleared: Vec<JobId>,
    /// Probes in a row that found it unusable.
    problems: u32,
    /// Rests in a row.
    rests: u32,
}

/// The `n`-th of a series of pauses that double, up to a longest.
fn doubled(first: Duration, n: u32, max: Duration) -> Duration {
    first.saturating_mul(1 << n.min(16)).min(max)
}

impl Device {
    pub(super) fn new() -> Device {
        Device {
            placed: None,
            health: Health::Untried,
            failed: Vec::new(),
            cleared: Vec::new(),
            problems: 0,
            rests: 0,
        }
    }

    pub(super) fn is_untried(&self) -> bool {
        matches!(self.health, Health::Untried)
    }

    pub(super) fn is_usable(&self) -> bool {
        matches!(self.health, Health::Usable { .. })
    }

    /// Whether failures of a worker on this device may be the device's as far as this job goes.
    pub(super) fn is_doubted_by(&self, job: &JobId) -> bool {
        !self.cleared.contains(job)
    }

    /// Notes that a job got further on the device: it computes.
    pub(super) fn proved(&mut self) {
        self.failed.clear();
        self.cleared.clear();
        self.rests = 0;
    }

    /// Takes the device out because it has failed a job several times; it is to be probed.
    pub(super) fn doubted(&mut self, doubt: Doubt, cause: &str, now: Duration) -> Problem {
        self.leave_use(now);
        let is_old = |at: Duration| now.saturating_sub(at) > FAILURES_WINDOW;
        self.failed
            .retain(|(job, at)| *job != doubt.job && !is_old(*at));
        self.failed.push((doubt.job.clone(), now));
        let cause = format!(
            "workers on it failed job {} several times in a row (last: {cause}); it is being \
             probed",
            doubt.job
        );
        self.health = Health::Probing { doubt: Some(doubt) };
        let kind = ProblemKind::Probing;
        Problem { kind, cause }
    }

    /// Takes the device out because it cannot be used.
    pub(super) fn unusable(&mut self, cause: String, now: Duration) -> Problem {
        self.leave_use(now);
        let pause = doubled(PROBE_AGAIN, self.problems, PROBE_AGAIN_MAX);
        self.problems += 1;
        self.out(now + pause);
        let kind = ProblemKind::Failed;
        Problem { kind, cause }
    }

    fn out(&mut self, until: Duration) {
        self.health = Health::Out { until, doubt: None };
    }

    /// Begins again with the queue: the device has no job, and a probe that was under way is made
    /// anew.
    pub(super) fn begin_again(&mut self, now: Duration) {
        self.placed = None;
        if let Health::Probing { doubt } = &mut self.health {
            let doubt = doubt.take();
            self.health = Health::Out { until: now, doubt };
        }
    }

    /// Forgets earlier problems if the device was usable for a while.
    fn leave_use(&mut self, now: Duration) {
        if let Health::Usable { since } = self.health
            && now.saturating_sub(since) >= OF_USE_AFTER
        {
            self.problems = 0;
        }
    }

    /// Whether the device is to be probed now; it then counts as being probed.
    pub(super) fn probe_is_due(&mut self, now: Duration) -> bool {
        match &mut self.health {
            Health::Out { until, doubt } if now >= *until => {
                let doubt = doubt.take();
                self.health = Health::Probing { doubt };
                true
            }
            _ => false,
        }
    }

    /// Takes the outcome of a probe; `None` if nobody asked for one. Returns the device's problem,
    /// and the doubt that turned out to be unfounded, if there was one.
    pub(super) fn probed(
        &mut self,
        problem: Option<String>,
        now: Duration,
    ) -> Option<(Option<Problem>, Option<Doubt>)> {
        let doubt = match std::mem::replace(&mut self.health, Health::Usable { since: now }) {
            Health::Probing { doubt } => doubt,
            Health::Untried => None,
            health @ (Health::Usable { .. } | Health::Out { .. }) => {
                self.health = health;
                return None;
            }
        };
        if let Some(cause) = problem {
            // What it did to jobs is explained.
            self.failed.clear();
            self.cleared.clear();
            return Some((Some(self.unusable(cause, now)), None));
        }
        let Some(doubt) = doubt else {
            return Some((None, None));
        };
        self.cleared.push(doubt.job.clone());
        let problem = (self.failed.len() >= FAILED_JOBS_MAX).then(|| self.rest(now));
        Some((problem, Some(doubt)))
    }

    fn rest(&mut self, now: Duration) -> Problem {
        let pause = doubled(REST_FIRST, self.rests, REST_MAX);
        self.rests += 1;
        self.out(now + pause);
        let jobs: Vec<String> = self.failed.iter().map(|(job, _)| job.to_string()).collect();
        let cause = format!(
            "workers on it failed one job after the other ({}), although a probe finds nothing \
             wrong; it rests for {} s (see to the device, and to what those jobs have in common)",
            jobs.join(", "),
            pause.as_secs()
        );
        let kind = ProblemKind::Quarantined;
        Problem { kind, cause }
    }
}
