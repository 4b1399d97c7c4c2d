//! What all parts of a node share.

use crate::devices::DeviceMemory;
use crate::job_sets::Ingest;
use crate::live_reports::LiveReports;
use crate::open_jobs::OpenJobs;
use crate::outputs;
use crate::writers::JobWriters;
use r1d_ledger::Session;
use r1d_link::status::{Outlines, Shown};
use r1d_proto::ids::JobId;
use r1d_proto::world::SharedClock;
use r1d_rewards::Rewards;
use r1d_store::JobLayout;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What all parts of a node share.
#[derive(Clone)]
pub(crate) struct NodeContext {
    /// The record of jobs, which the controller owns.
    pub ledger: Arc<Session>,
    pub live: LiveReports,
    pub clock: SharedClock,
    pub state_dir: PathBuf,
    pub open_jobs: OpenJobs,
    pub ingest: Ingest,
    pub rewards: Arc<Rewards>,
    pub writers: JobWriters,
    pub outlines: Outlines,
    /// The names of the devices.
    pub devices: Arc<[String]>,
    /// The memory that they have.
    pub device_memory: DeviceMemory,
    /// What settings decide of how workers compute: a part of each stage's key ([`crate::reuse`]).
    pub kernels: Arc<str>,
    /// Held while a review replaces a data set, and while a stage begins to read one
    /// ([`crate::review`]).
    pub reviews: Arc<Mutex<()>>,
}

impl NodeContext {
    /// The paths of a job.
    pub(crate) fn layout(&self, job: &JobId) -> JobLayout {
        JobLayout::of(&self.state_dir, job)
    }

    /// Writes the job's status into its directory. If there is no room, only the log says so: the
    /// next status may find some. Blocks.
    pub(crate) fn leave_status(&self, job: &JobId) {
        let Some(record) = self.ledger.job(job) else {
            return;
        };
        let live = self.live.live(job);
        let shown = Shown {
            record: &record,
            live: live.as_ref(),
            ledger: &self.ledger.state(),
            now_s: self.clock.unix().as_secs(),
        };
        let status = self.outlines.status(&shown, &self.state_dir);
        if let Err(error) = outputs::write_status(&self.layout(job), &status) {
            tracing::warn!(%job, "its status is not in its directory: {error}");
        }
    }

    /// Whether something of the job's last attempt is left, or of the opening of its inputs.
    pub(crate) fn is_in_hand(&self, job: &JobId) -> bool {
        self.live.live(job).is_some() || self.writers.is_writing(job)
    }
}
