//! Whether the daemon works for a job, according to the ledger.

use crate::tasks;
use r1d_ledger::{Command, LedgerError, Session};
use r1d_proto::ids::JobId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest time for the ledger to put the other jobs down before the daemon gives up.
const PUT_DOWN_MAX: Duration = Duration::from_secs(30);
/// Exit status of a daemon that gives up (sysexits' EX_SOFTWARE).
const EXIT_GIVEN_UP: i32 = 70;

/// A run's word on whether the daemon works for its job. A run is put down once: what it had queued
/// before cannot take the job up again.
#[derive(Clone, Default)]
pub(crate) struct Upkeep(Arc<Mutex<bool>>);

impl Upkeep {
    fn is_down(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the job up, and returns whether it did: not after it was put down.
    pub(crate) fn take_up(&self, ledger: &Session, job: &JobId) -> Result<bool, LedgerError> {
        let is_down = self.is_down();
        if !*is_down {
            ledger.apply(Command::TakeUp { job: job.clone() })?;
        }
        Ok(!*is_down)
    }

    /// Records that the daemon no longer works for the job: an end of the daemon from now on is not
    /// held against it. Waits for the disk.
    pub(crate) fn put_down(&self, ledger: &Session, job: &JobId) {
        let mut is_down = self.is_down();
        *is_down = true;
        match ledger.apply(Command::PutDown { job: job.clone() }) {
            Ok(_) | Err(LedgerError::Rejected(_)) => {}
            Err(error) => {
                tracing::warn!(%job, "the ledger does not hear that the job was put down: {error}")
            }
        }
    }
}

/// Ends the daemon, because something of the job has not ended within `waited` and can only be
/// ended with its process; systemd starts a fresh one. That is held against no other job.
pub(crate) async fn give_up(ledger: &Arc<Session>, job: &JobId, what: &str, waited: Duration) {
    let waited = waited.as_secs();
    tracing::error!(%job, "{what} has not ended within {waited} s: the daemon gives up");
    let (ledger, job) = (ledger.clone(), job.clone());
    // If the ledger itself hangs, this cannot be recorded.
    let _ = tokio::time::timeout(
        PUT_DOWN_MAX,
        tasks::blocking(move || put_down_others(&ledger, &job)),
    )
    .await;
    std::process::exit(EXIT_GIVEN_UP);
}

/// Puts all other jobs down: the end of the daemon that follows is due to `job` or its disk.
fn put_down_others(ledger: &Session, job: &JobId) {
    let records = ledger.jobs();
    let others = records.iter().filter(|record| {
        record.strikes.taken_up && !record.state().is_final() && record.job() != job
    });
    for other in others.map(|record| record.job()) {
        if let Err(error) = ledger.apply(Command::PutDown { job: other.clone() }) {
            tracing::warn!(job = %other, "the ledger does not hear that the job was put down: \
                                          {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_ledger::{Memory, NewJob};

    fn ledger(jobs: &[&str]) -> Session {
        let ledger = Session::open(Arc::new(Memory::default()), 1);
        for name in jobs {
            let submit = Command::Submit(NewJob::of(job(name), "seed = 1"));
            ledger.apply(submit).unwrap();
        }
        ledger
    }

    fn job(name: &str) -> JobId {
        JobId(name.into())
    }

    /// A clean stop comes while the job's reading still waits for a thread: it is no strike.
    #[test]
    fn a_run_that_was_put_down_is_not_taken_up_by_what_it_had_queued() {
        let (ledger, job) = (ledger(&["a"]), job("a"));
        let taken_up = || ledger.job(&job).unwrap().strikes.taken_up;
        let upkeep = Upkeep::default();
        assert!(upkeep.take_up(&ledger, &job).unwrap());
        assert!(taken_up());
        upkeep.put_down(&ledger, &job);
        assert!(!upkeep.take_up(&ledger, &job).unwrap());
        assert!(!taken_up());
    }

    /// The daemon's end because of one job's disk is held against that job alone.
    #[test]
    fn a_job_that_hangs_costs_no_other_job_a_strike() {
        let ledger = ledger(&["a", "b", "c"]);
        for name in ["a", "b"] {
            ledger.apply(Command::TakeUp { job: job(name) }).unwrap();
        }
        put_down_others(&ledger, &job("a"));
        let taken_up = |name| ledger.job(&job(name)).unwrap().strikes.taken_up;
        assert_eq!(["a", "b", "c"].map(taken_up), [true, false, false]);
    }
}
