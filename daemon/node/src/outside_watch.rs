//! Looks, for jobs that wait for something outside of them, whether it is there again
//! ([`crate::outside_waits`]).

use crate::context::NodeContext;
use crate::job_log::JobLog;
use crate::outside;
use crate::outside_waits::{self, Lacked, Looks};
use crate::tasks;
use r1d_link::Report;
use r1d_link::record::{NOTHING_DONE, progress};
use r1d_proto::ids::JobId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The jobs that wait, and what they wait for. Clones share them.
#[derive(Clone)]
pub(crate) struct OutsideWatch {
    node: NodeContext,
    looks: Looks,
    known: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// Dropping the sender ends the wait.
    waits: HashMap<JobId, oneshot::Sender<()>>,
    /// What the last attempt at a job ended for, where that is waited for.
    lacked: HashMap<JobId, Lacked>,
}

fn log_of(node: &NodeContext, job: &JobId) -> JobLog {
    JobLog::new(node.layout(job).log(), &job.0, node.clock.clone())
}

impl OutsideWatch {
    pub(crate) fn new(node: NodeContext) -> OutsideWatch {
        OutsideWatch {
            node,
            looks: Looks::default(),
            known: Arc::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Waiting> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing outside of the job is amiss. What attempt after attempt ends for is told
    /// once.
    pub(crate) fn watch(&self, job: JobId, cause: String) {
        let log = log_of(&self.node, &job);
        let record = self.node.ledger.job(&job);
        let far = record.as_deref().map_or(NOTHING_DONE, progress);
        let lacked = Lacked::again(self.known().lacked.remove(&job), cause, far);
        let attempts = lacked.attempts;
        if attempts == 1 {
            log.warn(format!("the job waits: {}", lacked.cause));
        }
        let (wait, ended) = oneshot::channel();
        let mut known = self.known();
        known.lacked.insert(job.clone(), lacked);
        known.waits.insert(job.clone(), wait);
        drop(known);
        let watch = self.clone();
        tasks::spawn("files of a job", async move {
            tokio::select! {
                was_seen = watch.until_mended(&job, &log, attempts) => watch.mended(&job, was_seen),
                _ = ended => {}
            }
        });
    }

    /// Returns whether a look has seen what was amiss.
    async fn until_mended(&self, job: &JobId, log: &JobLog, attempts: usize) -> bool {
        let amiss = {
            let (node, job) = (self.node.clone(), job.clone());
            move || outside::amiss(&node, &job)
        };
        let told = |cause: &str| {
            let is_new = (self.node.live).renew_wait(job, &outside_waits::awaited(cause));
            if is_new {
                log.warn(format!("the job waits: {cause}"));
            }
        };
        self.looks.until_mended(amiss, told, attempts).await
    }

    /// Nothing outside of the job is amiss any more, as far as a look tells.
    fn mended(&self, job: &JobId, was_seen: bool) {
        if !self.end(job) {
            return;
        }
        let log = log_of(&self.node, job);
        let goes_on = "the job goes on as soon as a device is free: what it waited for is there";
        let tried = "the job is tried again as soon as a device is free, until what it waits for \
                     is there";
        let attempts = self
            .known()
            .lacked
            .get(job)
            .map_or(0, |known| known.attempts);
        match (was_seen, attempts) {
            (true, _) => {
                self.forget(job);
                log.info(goes_on);
            }
            (false, 0 | 1) => log.info(tried),
            (false, _) => {}
        }
        self.node
            .live
            .reports()
            .send(Report::Mended { job: job.clone() });
    }

    /// Whether the job waits.
    #[cfg(test)]
    pub(crate) fn is_watched(&self, job: &JobId) -> bool {
        self.known().waits.contains_key(job)
    }

    /// Ends the job's wait; `false` if it waits for nothing.
    fn end(&self, job: &JobId) -> bool {
        let is_waiting = self.known().waits.remove(job).is_some();
        if is_waiting {
            self.node.live.clear(job);
        }
        is_waiting
    }

    /// Forgets what the job has waited for.
    pub(crate) fn forget(&self, job: &JobId) {
        self.known().lacked.remove(job);
    }

    /// Ends the job's wait, if it waits, and forgets what it has waited for.
    pub(crate) fn unwatch(&self, job: &JobId) {
        self.forget(job);
        self.end(job);
    }

    /// Ends all waits: another queue begins, which takes the jobs up again.
    pub(crate) fn end_all(&self) {
        let waiting: Vec<JobId> = self.known().waits.keys().cloned().collect();
        for job in waiting {
            self.unwatch(&job);
        }
    }
}
