//! What the schedule and a job's life ask of the ledger.

use r1d_ledger::{JobRecord, State as LedgerState};
use r1d_proto::control::State;
use r1d_proto::ids::JobId;
use r1d_runner::restart::Progress;
use r1d_runner::schedule::{Candidate, Queue};
use std::sync::Arc;

/// What is durable of a job that has not begun.
pub(crate) const NOTHING_DONE: Progress = Progress {
    stages_finished: 0,
    steps: 0,
    evals: 0,
    checkpoints: 0,
};

/// How much of what the job did itself is durable. A stage that was taken over shows of no device
/// that it computes.
pub(crate) fn progress(record: &JobRecord) -> Progress {
    let taken = &record.reuse.taken;
    let stages = (0u32..).zip(record.progress.stages.iter());
    let own: Vec<_> = stages
        .filter(|(index, _)| !taken.contains_key(index))
        .map(|(_, stage)| stage)
        .collect();
    // Evaluations of the weights that the job starts from are taken over with a stage.
    let is_own = |of: &Option<String>| match of {
        Some(name) => own.iter().any(|stage| stage.name == *name),
        None => taken.is_empty(),
    };
    let finished = own.iter().filter(|stage| stage.ended_at.is_some());
    let evals = record.evals.iter().filter(|eval| is_own(&eval.stage));
    Progress {
        stages_finished: finished.count() as u64,
        steps: own.iter().map(|stage| stage.step).sum(),
        evals: evals.count() as u64,
        checkpoints: own.iter().map(|stage| stage.durable_step()).sum(),
    }
}

/// The ledger's state at the time of an event.
pub(crate) struct LedgerQueue(pub Arc<LedgerState>);

impl Queue for LedgerQueue {
    fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let running = self.0.running().into_iter();
        let jobs = running.chain(self.0.queued().cloned());
        jobs.map(|record| Candidate {
            job: record.job().clone(),
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
