//! The events that the schedule takes, the commands that it returns, and what it asks of the
//! ledger.

use crate::life::{History, JobEnd, LifeOutcome};
use crate::restart::Progress;
use r1d_proto::ids::JobId;

/// A job that may be given a device, as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The job.
    pub job: JobId,
    /// Devices that it needs, all at once: at least one.
    pub devices: usize,
    /// Whether it was running already: it then goes on.
    pub is_running: bool,
    /// Ends of the daemon that are held against it.
    pub strikes: u32,
}

/// What the schedule asks of the ledger at the time of an event.
pub trait Queue {
    /// The jobs that may be given a device: those that are running, then the queued ones in the
    /// order in which they are to run.
    fn candidates(&self) -> impl Iterator<Item = Candidate>;

    /// How much of the job is durable; `None` if the ledger does not know the job.
    fn progress(&self, job: &JobId) -> Option<Progress>;

    /// Ends of the daemon that are held against the job.
    fn strikes(&self, job: &JobId) -> u32;

    /// The newest epoch of the job.
    fn epoch(&self, job: &JobId) -> u64;
}

/// Something happened to the queue, to a device, or to a job in hand. Devices go by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleEvent {
    /// The ledger changed, or time has passed.
    Tick,
    /// The outcome of the look at a device that the node takes when it starts: what keeps the
    /// device from being used. It is heeded once.
    Tried {
        /// The device.
        device: usize,
        /// What is wrong with it; `None` if nothing is.
        problem: Option<String>,
    },
    /// Answer to [`ScheduleCommand::Probe`]: what keeps the device from being used.
    Probed {
        /// The device.
        device: usize,
        /// What is wrong with it; `None` if nothing is.
        problem: Option<String>,
    },
    /// A job has released its devices and waits for people without any.
    Released {
        /// The first of them.
        device: usize,
        /// The job.
        job: JobId,
    },
    /// A job that was placed is handed back, with all of its devices.
    Ended {
        /// The device that the outcome is about: of a gang, that of the rank which failed; rank 0's
        /// where none did.
        device: usize,
        /// The job.
        job: JobId,
        /// What becomes of it; `None` if what ran it panicked.
        outcome: Option<LifeOutcome>,
    },
    /// What a job waits for outside of it may be there again.
    Mended {
        /// The job.
        job: JobId,
    },
    /// A user has cancelled, paused or requeued the job: what is remembered of it counts no more.
    Decided {
        /// The job.
        job: JobId,
    },
    /// The ledger has taken the job's end.
    Recorded {
        /// The job.
        job: JobId,
    },
    /// Whether no job may begin, because workers of an earlier daemon are still there.
    Held(bool),
    /// The daemon stops: no job is placed any more.
    Stop,
}

/// Something to do for the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleCommand {
    /// Run the job on these devices. [`ScheduleEvent::Ended`] hands it back, and all of them.
    Place {
        /// The devices, in the order of the gang's ranks; one for most jobs.
        devices: Vec<usize>,
        /// The job.
        job: JobId,
        /// The epoch that it goes on in; `None` for a new one.
        resumed: Option<u64>,
        /// The attempts before: of those on devices that it gave up, only those on this one count.
        history: History,
        /// Whether the job gives its device up after a few failures of the worker. It does not
        /// where it has given up each that is left.
        doubts_device: bool,
    },
    /// Have a small worker compute on the device, and compare.
    Probe {
        /// The device.
        device: usize,
    },
    /// Show people that a device is as it should be, or why it gets no jobs.
    Show {
        /// The device.
        device: usize,
        /// Its state; `None` if it is as it should be.
        problem: Option<Problem>,
    },
    /// Look, now and then, whether what the job waits for is there: [`ScheduleEvent::Mended`].
    Watch {
        /// The job.
        job: JobId,
        /// What it waits for.
        cause: String,
    },
    /// Look no longer.
    Unwatch {
        /// The job.
        job: JobId,
    },
    /// Record the job's end in the ledger, however often that takes: [`ScheduleEvent::Recorded`].
    Record {
        /// The job.
        job: JobId,
        /// Its end.
        end: JobEnd,
    },
}

/// Why a device gets no jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// The problem in words, and what follows.
    pub cause: String,
}

/// The kinds of a device's problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It failed a job several times, and is being probed.
    Probing,
    /// It cannot be used, or does not compute as it should.
    Failed,
    /// It fails one job after the other, although a probe finds nothing.
    Quarantined,
}

impl ProblemKind {
    /// The word that people are shown.
    pub fn word(self) -> &'static str {
        match self {
            ProblemKind::Probing => "probing",
            ProblemKind::Failed => "failed",
            ProblemKind::Quarantined => "quarantined",
        }
    }
}
