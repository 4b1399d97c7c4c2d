//! Whether the daemon works for a job, according to the ledger.

use r1d_ledger::{Command, LedgerError, Session};
use r1d_proto::ids::JobId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_ledger::Memory;

    /// A clean stop comes while the job's reading still waits for a thread: it is no strike.
    #[test]
    fn a_run_that_was_put_down_is_not_taken_up_by_what_it_had_queued() {
        let ledger = Session::open(Arc::new(Memory::default()), 1);
        let (job, (reward_versions, keys)) = (JobId("a".into()), Default::default());
        let (name, job_toml) = ("n".into(), "seed = 1".into());
        let submit = Command::Submit {
            job: job.clone(),
            name,
            priority: 0,
            job_toml,
            request: None,
            reward_versions,
            keys,
            reuses: false,
            owner: None,
            held: false,
            at: 1,
        };
        ledger.apply(submit).unwrap();
        let taken_up = || ledger.job(&job).unwrap().strikes.taken_up;
        let upkeep = Upkeep::default();
        assert!(upkeep.take_up(&ledger, &job).unwrap());
        assert!(taken_up());
        upkeep.put_down(&ledger, &job);
        assert!(!upkeep.take_up(&ledger, &job).unwrap());
        assert!(!taken_up());
    }
}
