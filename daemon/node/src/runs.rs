//! The runs that have not ended, whoever placed them. A run of an earlier queue may still be ending
//! when the next queue begins: until it has, no run of its job begins, and none on its devices.

use crate::run::RunHandle;
use crate::tasks;
use crate::upkeep::give_up;
use crate::writers::WRITER_END_MAX;
use r1d_ledger::Session;
use r1d_proto::ids::JobId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest time from the order to stop to the end of a run: that of its worker and of its writer.
pub(crate) const RUN_END_MAX: Duration = Duration::from_secs(WRITER_END_MAX.as_secs() + 60);

/// The runs that have not ended. Clones share them, and they outlive what has started the runs.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<Mutex<Vec<KnownRun>>>);

#[derive(Clone)]
struct KnownRun {
    job: JobId,
    devices: Vec<usize>,
    run: RunHandle,
}

impl KnownRun {
    fn is_in_the_way(&self, job: &JobId, devices: &[usize]) -> bool {
        let shares = || self.devices.iter().any(|device| devices.contains(device));
        self.job == *job || (shares() && self.run.has_device())
    }
}

impl Runs {
    /// The runs that have not ended yet.
    fn known(&self) -> MutexGuard<'_, Vec<KnownRun>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| !known.run.has_ended());
        known
    }

    /// Takes note of a run that has begun.
    pub(crate) fn began(&self, job: JobId, devices: Vec<usize>, run: RunHandle) {
        self.known().push(KnownRun { job, devices, run });
    }

    /// Whether a run has the job in hand.
    pub(crate) fn has(&self, job: &JobId) -> bool {
        self.known().iter().any(|known| known.job == *job)
    }

    /// Orders all runs to stop at once.
    pub(crate) fn stop_all(&self) {
        for known in self.known().iter() {
            tasks::spawn("stop of a run", known.run.clone().stop(false));
        }
    }

    /// Waits until neither the job nor one of the devices is in the hand of a run; `told` hears of
    /// the job of each run that is waited for. A run that does not end can only be ended with its
    /// process: the daemon then gives up, which is held against that run's job alone.
    pub(crate) async fn until_free(
        &self,
        (job, devices): (&JobId, &[usize]),
        told: impl Fn(&JobId),
        ledger: &Arc<Session>,
    ) {
        loop {
            let in_the_way = |known: &&KnownRun| known.is_in_the_way(job, devices);
            let Some(earlier) = self.known().iter().find(in_the_way).cloned() else {
                return;
            };
            told(&earlier.job);
            let ended = async {
                if earlier.job == *job {
                    earlier.run.ended().await;
                } else {
                    earlier.run.has_left().await;
                }
            };
            if tokio::time::timeout(RUN_END_MAX, ended).await.is_err() {
                let what = "a run of an earlier queue";
                give_up(ledger, &earlier.job, what, RUN_END_MAX).await;
            }
        }
    }

    /// Waits until all runs have ended. The caller's patience is the limit.
    pub(crate) async fn none(&self) {
        loop {
            let Some(known) = self.known().first().cloned() else {
                return;
            };
            known.run.ended().await;
        }
    }
}
