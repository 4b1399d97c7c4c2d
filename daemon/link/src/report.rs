//! What a node tells the controller.

use crate::message::Message;
use crate::work::{WorkId, WorkResult};
use r1d_proto::control::job::{Activity, RankStatus};
use r1d_proto::ids::JobId;
use r1d_runner::life::LifeOutcome;
use r1d_runner::wait::Wait;
use serde::{Deserialize, Serialize};

/// Something that has happened on a node, or what it does now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// The node has lost the runs that it had in hand, by a panic: no job is placed any more. Works
    /// go on.
    Restarted,
    /// Why no job may begin on the node; `None` if jobs may.
    Held(Option<String>),
    /// What a first look at the device has found, when the node started.
    Tried {
        /// The device.
        device: usize,
        /// What keeps it from being used; `None` if nothing does.
        problem: Option<String>,
    },
    /// Answer to [`Order::Probe`](crate::Order::Probe).
    Probed {
        /// The number of the queue that has asked for the probe.
        queue: u64,
        /// The device.
        device: usize,
        /// What keeps it from being used; `None` if nothing does.
        problem: Option<String>,
    },
    /// A job has released its devices, and goes on without one.
    Released {
        /// The number of the queue that has placed it.
        queue: u64,
        /// The first of them.
        device: usize,
        /// The job.
        job: JobId,
    },
    /// A job that was placed is handed back.
    Ended {
        /// The number of the queue that has placed it.
        queue: u64,
        /// The device that the outcome is about: of a gang, that of the rank which failed; rank 0's
        /// where none did.
        device: usize,
        /// The job.
        job: JobId,
        /// What becomes of it; `None` if what ran it panicked.
        outcome: Option<LifeOutcome>,
    },
    /// What a watched job waited for may be there again.
    Mended {
        /// The job.
        job: JobId,
    },
    /// What a job's run does now.
    Job {
        /// The job.
        job: JobId,
        /// `None` if nothing is done for it any more.
        live: Option<Box<JobSnapshot>>,
    },
    /// What a device is used for now.
    Device {
        /// The device.
        device: usize,
        /// Its use.
        used: DeviceUse,
    },
    /// How far a client's work is.
    Progress {
        /// The number of the work.
        id: WorkId,
        /// What is done now.
        at: Activity,
    },
    /// A client's work is over.
    Answer {
        /// The number of the work.
        id: WorkId,
        /// Its answer, or why there is none.
        answer: Box<WorkResult>,
    },
}

/// A job as its run last reported it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobSnapshot {
    /// What it does.
    pub activity: Option<Activity>,
    /// What it waits for.
    pub waits: Vec<Wait>,
    /// Seconds until its last stage ends, as far as that can be estimated.
    pub eta_s: Option<f64>,
    /// Steps of every stage, from the plan.
    pub steps: Vec<u64>,
    /// What each rank does, if it is on several devices.
    pub ranks: Vec<RankStatus>,
    /// Whether it ends with the step in flight, because a user wants it so.
    pub is_stopping: bool,
    /// The job's error, if the ledger could not record it (a full disk).
    pub failed: Option<String>,
}

impl JobSnapshot {
    /// Whether a job's status shows the same of both; only `r1ctl why` shows its waits.
    pub fn is_shown_as(&self, other: &JobSnapshot) -> bool {
        let shown = |live: &JobSnapshot| (live.eta_s, live.activity.clone(), live.failed.clone());
        shown(self) == shown(other)
            && (self.is_stopping, &self.steps) == (other.is_stopping, &other.steps)
            && self.ranks == other.ranks
    }
}

/// What a device is used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUse {
    /// `idle`, `busy` or `restarting`.
    pub state: String,
    /// Process id of the worker, while there is one.
    pub worker_pid: Option<u32>,
    /// How often a job on this device was given a fresh worker after an attempt had ended early.
    pub worker_restarts: u32,
    /// The job that has the device.
    pub job: Option<JobId>,
}

impl DeviceUse {
    /// The state of a device that nothing uses.
    pub const IDLE: &str = "idle";

    /// A device that nothing uses.
    pub fn none() -> DeviceUse {
        DeviceUse {
            state: DeviceUse::IDLE.into(),
            worker_pid: None,
            worker_restarts: 0,
            job: None,
        }
    }
}

impl Message for Report {
    /// Of what is done now, only the newest counts.
    fn replaces(&self, earlier: &Report) -> bool {
        match (self, earlier) {
            (Report::Job { job, .. }, Report::Job { job: of, .. }) => job == of,
            (Report::Device { device, .. }, Report::Device { device: of, .. }) => device == of,
            (Report::Progress { id, .. }, Report::Progress { id: of, .. }) => id == of,
            _ => false,
        }
    }

    fn may_replace(&self) -> bool {
        matches!(
            self,
            Report::Job { .. } | Report::Device { .. } | Report::Progress { .. }
        )
    }
}
