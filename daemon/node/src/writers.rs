//! The writers of attempts: a job has at most one, and what one that is over still writes goes
//! nowhere.

use crate::upkeep::give_up;
use r1d_ledger::Session;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_store::{Disk, Fence};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longest time from the end of an attempt to the end of its writer, which has one write in hand at
/// most.
pub(crate) const WRITER_END_MAX: Duration = Duration::from_secs(600);

/// The writers that may still write, by job. A job has at most one; the storage of one that is over
/// takes nothing any more.
#[derive(Clone, Default)]
pub(crate) struct JobWriters {
    known: Arc<Mutex<HashMap<JobId, Known>>>,
    holds: Holds,
}

/// How often jobs are held, each at least once.
type Holds = Arc<Mutex<HashMap<JobId, usize>>>;

/// Held by work on a job's files beside its writer: they are not removed meanwhile.
pub(crate) struct Hold {
    job: JobId,
    holds: Holds,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        match holds.get_mut(&self.job) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                holds.remove(&self.job);
            }
        }
    }
}

#[derive(Clone)]
struct Known {
    stop: Arc<AtomicBool>,
    fence: Fence,
    /// Closed when the thread has ended, even by a panic.
    gone: watch::Receiver<()>,
}

/// Held by a writer's thread as long as it runs.
pub(crate) struct Writing {
    stop: Arc<AtomicBool>,
    storage: Arc<dyn Storage>,
    _alive: watch::Sender<()>,
}

impl Writing {
    /// Whether the thread is to end after the task in hand.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The flag that [`Writing::is_stopped`] reads.
    pub(crate) fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// The attempt's own storage.
    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        self.storage.clone()
    }
}

impl JobWriters {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<JobId, usize>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the job's files until the answer is dropped. No attempt waits for that.
    pub(crate) fn hold(&self, job: &JobId) -> Hold {
        *self.holds().entry(job.clone()).or_default() += 1;
        Hold {
            job: job.clone(),
            holds: self.holds.clone(),
        }
    }

    /// Begins the writing of an attempt, and ends that of those before. The job must have no other
    /// writer.
    pub(crate) fn begin(&self, job: &JobId) -> Writing {
        let (alive, gone) = watch::channel(());
        let stop = Arc::new(AtomicBool::new(false));
        let mut known = self.lock();
        known.retain(|_, known| known.gone.has_changed().is_ok());
        let fence = known.get(job).map(|known| known.fence.clone());
        let fence = fence.unwrap_or_default();
        let storage = fence.next(Disk::shared());
        let before = known.insert(
            job.clone(),
            Known {
                stop: stop.clone(),
                fence,
                gone,
            },
        );
        r1d_proto::invariant!("STEP-1", before.is_none(), "job {job} has two writers");
        Writing {
            stop,
            storage,
            _alive: alive,
        }
    }

    /// Stops the job's writer after the task in hand, and returns when it has ended. Queued tasks
    /// are lost as in a crash.
    async fn end(&self, job: &JobId) {
        let known = self.lock().get(job).cloned();
        if let Some(Known { stop, mut gone, .. }) = known {
            stop.store(true, Ordering::Relaxed);
            // Nothing is ever sent: the error is the thread's end.
            while gone.changed().await.is_ok() {}
        }
    }

    /// Whether a writer of the job, or somebody who holds it, may still write.
    pub(crate) fn is_writing(&self, job: &JobId) -> bool {
        if self.holds().contains_key(job) {
            return true;
        }
        let known = self.lock();
        known
            .get(job)
            .is_some_and(|known| known.gone.has_changed().is_ok())
    }

    /// Waits until no writer of the job is left. A thread that hangs in the disk can only be ended
    /// with its process, and no attempt may begin beside it. In that case the daemon gives up, and
    /// systemd starts a fresh one; that is held against no other job.
    pub(crate) async fn none(&self, job: &JobId, ledger: &Arc<Session>) {
        if tokio::time::timeout(WRITER_END_MAX, self.end(job))
            .await
            .is_err()
        {
            let what = "the writer of the job's last attempt";
            give_up(ledger, job, what, WRITER_END_MAX).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;
    use futures_util::FutureExt;
    use r1d_ledger::{Command as LedgerCommand, Memory, NewJob};
    use std::sync::mpsc as threads;

    fn job(name: &str) -> JobId {
        JobId(name.into())
    }

    fn ledger() -> Arc<Session> {
        let ledger = Arc::new(Session::open(Arc::new(Memory::default()), 1));
        for name in ["a", "b", "c"] {
            let job = job(name);
            let submit = LedgerCommand::Submit(NewJob::of(job, "seed = 1"));
            ledger.apply(submit).unwrap();
        }
        ledger
    }

    /// When a job's next attempt begins, its last writer has ended: the task in hand is finished,
    /// queued tasks are not begun.
    #[actix::test]
    async fn the_next_attempt_waits_for_the_last_ones_writer() {
        let (writers, ledger) = (JobWriters::default(), ledger());
        assert!(
            writers.none(&job("a"), &ledger).now_or_never().is_some(),
            "nobody has written yet"
        );
        let writing = writers.begin(&job("a"));
        let (begun, has_begun) = threads::channel();
        let (finish, may_finish) = threads::channel::<()>();
        let (queue, tasks) = threads::channel::<u32>();
        let (wrote, written) = threads::channel();
        tasks::thread("writer", move || {
            while let Some(task) = tasks.recv().ok().filter(|_| !writing.is_stopped()) {
                begun.send(()).unwrap();
                let _ = may_finish.recv();
                wrote.send(task).unwrap();
            }
            drop(writing);
        })
        .unwrap();
        queue.send(1).unwrap();
        queue.send(2).unwrap();
        has_begun.recv().unwrap();
        let a = job("a");
        let mut next = Box::pin(writers.none(&a, &ledger));
        assert!(
            (&mut next).now_or_never().is_none(),
            "the first write is in hand"
        );
        assert!(
            writers.none(&job("b"), &ledger).now_or_never().is_some(),
            "another job's writer is nobody's business"
        );
        finish.send(()).unwrap();
        next.await;
        assert_eq!(written.iter().collect::<Vec<_>>(), [1]);
        drop(writers.begin(&job("a")));
    }

    /// Nothing of a job that is held goes; its next attempt does not wait.
    #[actix::test]
    async fn a_job_is_held_until_its_last_hold_is_dropped() {
        let (writers, ledger) = (JobWriters::default(), ledger());
        let (one, other) = (writers.hold(&job("a")), writers.hold(&job("a")));
        drop(one);
        assert!(writers.is_writing(&job("a")) && !writers.is_writing(&job("b")));
        assert!(writers.none(&job("a"), &ledger).now_or_never().is_some());
        drop(other);
        assert!(!writers.is_writing(&job("a")));
    }

    #[actix::test]
    async fn a_writer_that_panicked_is_gone() {
        let (writers, ledger) = (JobWriters::default(), ledger());
        let writing = writers.begin(&job("a"));
        tasks::thread("writer", move || {
            let _writing = writing;
            panic!("planted");
        })
        .unwrap();
        writers.none(&job("a"), &ledger).await;
        drop(writers.begin(&job("a")));
    }
}
