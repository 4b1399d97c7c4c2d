//! A device's health: what it did to jobs, and when it is probed.
//!
//! A worker that dies, is silent or fails may do so for its job's sake or for its device's. After a
//! few such failures in a row the job gives the device up, which is probed: a small worker computes
//! on it and compares. If that goes wrong, the failures were the device's. If it goes well, nobody
//! knows yet: real work may show what a probe does not, so the job goes on another device, and its
//! failures here count only where no other is left. A device that has failed several jobs in a row
//! is quarantined: it gets no jobs for a while, ever longer, and after that a probe that goes well
//! brings it back.

use super::message::{Problem, ProblemKind};
use crate::restart::{Attempts, Progress};
use r1d_proto::ids::JobId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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

/// What is remembered of a device, also when the daemon starts again. Times are of the schedule's
/// clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceHealth {
    /// Jobs that it has failed in a row, and when.
    failed: Vec<(JobId, Duration)>,
    /// Rests in a row.
    rests: u32,
    /// When the last of them ends.
    rests_until: Duration,
    /// Jobs that have given it up, each with its attempts here.
    given_up: BTreeMap<JobId, Attempts>,
}

impl DeviceHealth {
    /// Whether the job has given the device up.
    pub fn is_given_up_by(&self, job: &JobId) -> bool {
        self.given_up.contains_key(job)
    }

    /// Forgets which jobs gave the device up that are over.
    pub fn forget(&mut self, is_over: impl Fn(&JobId) -> bool) {
        self.given_up.retain(|job, _| !is_over(job));
    }

    /// Brings times that a clock which was set back has left in the future to what they can be at
    /// `now`. (One that was set forward ends a rest early: then a probe and the next job tell.)
    fn believed(mut self, now: Duration) -> DeviceHealth {
        for (_, at) in &mut self.failed {
            *at = now.min(*at);
        }
        let longest = doubled(REST_FIRST, self.rests.saturating_sub(1), REST_MAX);
        self.rests_until = self.rests_until.min(now + longest);
        self
    }
}

#[derive(Clone, Debug)]
enum Condition {
    /// The daemon has not looked at it yet.
    Untried,
    Usable {
        since: Duration,
    },
    Probing,
    /// It cannot be used; it is probed at `until`.
    Failed {
        until: Duration,
    },
    /// It is quarantined; it is probed at `until`.
    Resting {
        until: Duration,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    pub placed: Option<Placement>,
    pub health: DeviceHealth,
    condition: Condition,
    /// Whether it is probed because it has failed a job.
    is_doubted: bool,
    /// Probes in a row that found it unusable.
    problems: u32,
}

/// The `n`-th of a series of pauses that double, up to a longest.
fn doubled(first: Duration, n: u32, max: Duration) -> Duration {
    first.saturating_mul(1 << n.min(16)).min(max)
}

impl Device {
    pub(super) fn new(health: DeviceHealth, now: Duration) -> Device {
        Device {
            placed: None,
            health: health.believed(now),
            condition: Condition::Untried,
            is_doubted: false,
            problems: 0,
        }
    }

    pub(super) fn is_untried(&self) -> bool {
        matches!(self.condition, Condition::Untried)
    }

    pub(super) fn is_usable(&self) -> bool {
        matches!(self.condition, Condition::Usable { .. })
    }

    /// Whether it is of use, or will be as soon as a probe has gone well.
    pub(super) fn is_near(&self) -> bool {
        let is_away = matches!(
            self.condition,
            Condition::Failed { .. } | Condition::Resting { .. }
        );
        !is_away
    }

    /// Whether a job may wait for it: nothing is known against it, or it rests.
    pub(super) fn is_left(&self) -> bool {
        !matches!(self.condition, Condition::Failed { .. })
    }

    /// The job's attempts on this device, if it gave it up.
    pub(super) fn attempts_of(&self, job: &JobId) -> Option<&Attempts> {
        self.health.given_up.get(job)
    }

    /// Notes that the job got further on the device: it computes.
    pub(super) fn proved(&mut self, job: &JobId) {
        self.health.failed.clear();
        self.health.given_up.remove(job);
        (self.health.rests, self.health.rests_until) = (0, Duration::ZERO);
    }

    /// Takes the device out because it has failed a job several times; it is to be probed.
    pub(super) fn doubted(
        &mut self,
        job: JobId,
        attempts: Attempts,
        cause: &str,
        now: Duration,
    ) -> Problem {
        self.leave_use(now);
        let is_old = |at: Duration| now.saturating_sub(at) > FAILURES_WINDOW;
        let failed = &mut self.health.failed;
        failed.retain(|(known, at)| *known != job && !is_old(*at));
        failed.push((job.clone(), now));
        let cause = format!(
            "workers on it failed job {job} several times in a row (last: {cause}); it is being \
             probed"
        );
        self.health.given_up.insert(job, attempts);
        self.is_doubted = true;
        self.condition = Condition::Probing;
        let kind = ProblemKind::Probing;
        Problem { kind, cause }
    }

    /// Takes the device out because it cannot be used.
    pub(super) fn unusable(&mut self, cause: String, now: Duration) -> Problem {
        self.leave_use(now);
        let pause = doubled(PROBE_AGAIN, self.problems, PROBE_AGAIN_MAX);
        self.problems += 1;
        self.condition = Condition::Failed { until: now + pause };
        let kind = ProblemKind::Failed;
        Problem { kind, cause }
    }

    /// Begins again with the queue: the device has no job, and a probe that was under way is made
    /// anew.
    pub(super) fn begin_again(&mut self, now: Duration) {
        self.placed = None;
        if let Condition::Probing = self.condition {
            self.condition = Condition::Resting { until: now };
        }
    }

    /// Forgets earlier problems if the device was usable for a while.
    fn leave_use(&mut self, now: Duration) {
        if let Condition::Usable { since } = self.condition
            && now.saturating_sub(since) >= OF_USE_AFTER
        {
            self.problems = 0;
        }
    }

    /// Whether the device is to be probed now; it then counts as being probed.
    pub(super) fn probe_is_due(&mut self, now: Duration) -> bool {
        let is_due = matches!(
            self.condition,
            Condition::Failed { until } | Condition::Resting { until } if now >= until
        );
        if is_due {
            self.condition = Condition::Probing;
        }
        is_due
    }

    /// Takes the outcome of a probe; `None` if nobody asked for one. Returns the device's problem.
    pub(super) fn probed(
        &mut self,
        problem: Option<String>,
        now: Duration,
    ) -> Option<Option<Problem>> {
        let is_untried = self.is_untried();
        if !is_untried && !matches!(self.condition, Condition::Probing) {
            return None;
        }
        let is_doubted = std::mem::take(&mut self.is_doubted);
        self.condition = Condition::Usable { since: now };
        if let Some(cause) = problem {
            // What it did to jobs is explained.
            self.health.failed.clear();
            self.health.given_up.clear();
            self.health.rests_until = Duration::ZERO;
            return Some(Some(self.unusable(cause, now)));
        }
        if is_doubted && self.health.failed.len() >= FAILED_JOBS_MAX {
            let pause = doubled(REST_FIRST, self.health.rests, REST_MAX);
            self.health.rests += 1;
            self.health.rests_until = now + pause;
            return Some(Some(self.rest(now)));
        }
        // The daemon was started again during the rest.
        let is_resting = is_untried && now < self.health.rests_until;
        Some(is_resting.then(|| self.rest(now)))
    }

    fn rest(&mut self, now: Duration) -> Problem {
        let until = self.health.rests_until;
        self.condition = Condition::Resting { until };
        let failed = self.health.failed.iter();
        let jobs: Vec<String> = failed.map(|(job, _)| job.to_string()).collect();
        let cause = format!(
            "workers on it failed one job after the other ({}), although a probe finds nothing \
             wrong; it rests for {} s (see to the device, and to what those jobs have in common)",
            jobs.join(", "),
            until.saturating_sub(now).as_secs()
        );
        let kind = ProblemKind::Quarantined;
        Problem { kind, cause }
    }
}
