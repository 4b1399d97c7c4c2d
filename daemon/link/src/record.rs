//! What controller and node read off a job's record alike: how far the job is, and how its end is
//! written down.

use r1d_ledger::{Command, JobRecord};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_runner::life::JobEnd;
use r1d_runner::restart::Progress;

/// What is durable of a job that has not begun.
pub const NOTHING_DONE: Progress = Progress {
    stages_finished: 0,
    steps: 0,
    evals: 0,
    checkpoints: 0,
};

/// How much of what the job did itself is durable. A stage that was taken over shows of no device
/// that it computes.
pub fn progress(record: &JobRecord) -> Progress {
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

/// The command that records a job's end at `at`, in seconds since 1970.
pub fn ending(job: &JobId, JobEnd { epoch, result }: JobEnd, at: u64) -> Command {
    let (state, error, model) = match result {
        Ok(model) => (State::Succeeded, None, Some(model)),
        Err(error) => (State::Failed, Some(error), None),
    };
    Command::Finish {
        job: job.clone(),
        epoch,
        state,
        error,
        model,
        at,
    }
}
