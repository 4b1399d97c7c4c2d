//! The ledger's state as the schedule asks it, as the daemon has it.

use r1d_ledger::{JobRecord, State};
use r1d_proto::control::job::State as RunState;
use r1d_proto::ids::JobId;
use r1d_runner::restart::Progress;
use r1d_runner::schedule::{Candidate, Queue};

pub(crate) struct LedgerQueue<'a>(pub &'a State);

pub(crate) fn progress(record: &JobRecord) -> Progress {
    let stages = &record.progress.stages;
    let finished = stages.iter().filter(|stage| stage.ended_at.is_some());
    Progress {
        stages_finished: finished.count() as u64,
        steps: stages.iter().map(|stage| stage.step).sum(),
        evals: 0,
        checkpoints: stages.iter().map(|stage| stage.durable_step()).sum(),
    }
}

impl Queue for LedgerQueue<'_> {
    fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let running = self.0.running().into_iter();
        let jobs = running.chain(self.0.queued().cloned());
        jobs.map(|record| Candidate {
            job: record.job().clone(),
            devices: record.submission.devices as usize,
            is_running: record.state() == RunState::Running,
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
