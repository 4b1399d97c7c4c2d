//! What the schedule asks of the ledger.

use r1d_ledger::State as LedgerState;
use r1d_link::record::progress;
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_runner::restart::Progress;
use r1d_runner::schedule::{Candidate, Queue};
use std::sync::Arc;

/// The ledger's state at the time of an event.
pub(crate) struct LedgerQueue(pub Arc<LedgerState>);

impl Queue for LedgerQueue {
    fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let running = self.0.running().into_iter();
        let jobs = running.chain(self.0.queued().cloned());
        jobs.map(|record| Candidate {
            job: record.job().clone(),
            devices: record.submission.devices as usize,
            is_running: record.state() == State::Running,
            strikes: record.strikes.count,
        })
    }

    fn progress(&self, job: &JobId) -> Option<Progress> {
        self.0.job(job).map(|record| progress(record))
    }

    fn strikes(&self, job: &JobId) -> u32 {
        self.0.job(job).map_or(0, |record| record.strikes.count)
    }

    fn epoch(&self, job: &JobId) -> u64 {
        self.0.job(job).map_or(0, |record| record.progress.epoch)
    }
}
