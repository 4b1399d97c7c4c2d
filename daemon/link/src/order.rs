//! What the controller tells a node.

use crate::message::Message;
use crate::work::{Work, WorkId};
use r1d_proto::ids::JobId;
use r1d_runner::life::History;
use serde::{Deserialize, Serialize};

/// Something that a node is to do. Orders are taken in the order in which they were given, and
/// works begin in it; devices go by their index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// A queue begins, in place of those before: what they have placed is stopped, and their probes
    /// are broken off; neither is reported any more. What is placed from now on begins when no such
    /// run has its job or its device any more.
    Begin {
        /// The number of the queue: higher than those before.
        queue: u64,
    },
    /// Run the job on these devices; [`Report::Ended`](crate::Report::Ended) hands it back, and all
    /// of them.
    Place {
        /// The devices, in the order of the gang's ranks; one for most jobs.
        devices: Vec<usize>,
        /// The job.
        job: JobId,
        /// The epoch that it goes on in; `None` for a new one.
        resumed: Option<u64>,
        /// The attempts before, which count.
        history: History,
        /// Whether the job gives a device up after a few failures of its worker.
        doubts_device: bool,
    },
    /// Stop a job that was placed, if it still is: [`Report::Ended`](crate::Report::Ended).
    Stop {
        /// The job.
        job: JobId,
        /// Whether the step in flight is committed first. If not, what is being handed over is
        /// interrupted.
        after_step: bool,
    },
    /// Have a small worker compute on the device: [`Report::Probed`](crate::Report::Probed).
    Probe {
        /// The device.
        device: usize,
    },
    /// Look, now and then, whether what the job waits for is there:
    /// [`Report::Mended`](crate::Report::Mended).
    Watch {
        /// The job.
        job: JobId,
        /// What it waits for.
        cause: String,
    },
    /// Look no longer, and forget what the job waited for.
    Unwatch {
        /// The job.
        job: JobId,
    },
    /// The ledger has an end of the job that its run did not record: what the run left in the live
    /// status goes.
    Recorded {
        /// The job.
        job: JobId,
    },
    /// Do something for a client: [`Report::Answer`](crate::Report::Answer).
    Work {
        /// The number of the work, by which it is answered.
        id: WorkId,
        /// The work.
        work: Box<Work>,
    },
    /// Nobody waits for the work's answer any more: end it soon, and answer whatever there is.
    Abandon {
        /// The number of the work.
        id: WorkId,
    },
}

impl Message for Order {}
