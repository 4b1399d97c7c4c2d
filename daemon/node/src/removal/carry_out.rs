//! Takes jobs off the record, and removes their files on a thread of its own, `removals`, which
//! finishes what an earlier daemon began.

use super::facts::{elsewhere, gather, named_jobs};
use super::files::{self, Orphans};
use super::sizes::Sizes;
use crate::context::NodeContext;
use crate::job_log::JobLog;
use crate::outputs;
use crate::tasks;
use r1d_ledger::{Command, LedgerError, Rejected};
use r1d_link::removal::{DiskSize, JobFacts};
use r1d_proto::control::removal::RemovalExtent;
use r1d_proto::ids::JobId;
use r1d_store::{Disk, StateLayout, remove_parts};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const THREAD: &str = "removals";
/// What a job's log tells of a removal that left the results alone; the reason follows.
pub(crate) const RESULTS_ALONE_STAY: &str = "checkpoints, rollouts and journal are removed";
/// Time between two looks at what is left, where nothing is removed.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Time between two looks at a job's writer that has not ended yet.
const WRITER_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum FileRemovalError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("cannot remove parts of job {job}: {source}")]
    Files { job: JobId, source: std::io::Error },
}

/// The thread that removes files, and what it is asked.
#[derive(Clone)]
pub(crate) struct FileRemovals(Arc<Shared>);

struct Shared {
    node: NodeContext,
    sizes: Mutex<Sizes>,
    /// Directories that are to be removed and that no record names.
    left_over: Mutex<BTreeSet<PathBuf>>,
    wake: SyncSender<()>,
}

impl FileRemovals {
    /// Finds what an earlier daemon has left in the state directory, and starts the thread. Nothing
    /// new may be begun before.
    pub(crate) fn start(node: NodeContext) -> std::io::Result<FileRemovals> {
        let (wake, woken) = sync_channel(1);
        let orphans = files::orphans(&Disk, &node.ledger.state(), &node.state_dir)?;
        let shared = Shared {
            node,
            sizes: Mutex::default(),
            left_over: Mutex::new(told(orphans).into_iter().collect()),
            wake,
        };
        let removals = FileRemovals(Arc::new(shared));
        let own = removals.clone();
        tasks::thread(THREAD, move || own.run(&woken))?;
        Ok(removals)
    }

    fn run(&self, woken: &Receiver<()>) {
        let Shared { node, .. } = &*self.0;
        let elsewhere = files::orphans_elsewhere(&Disk, &node.ledger.state(), &node.state_dir);
        lock(&self.0.left_over).extend(elsewhere);
        self.remove_unfinished();
        let mut failed = BTreeSet::new();
        loop {
            self.remove_left_over(&mut failed);
            let again = if self.finish() {
                LOOK_AGAIN
            } else {
                WRITER_AGAIN
            };
            if woken.recv_timeout(again) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// Removes the files that an earlier daemon had not finished writing: a job that waits may not
    /// have an attempt for long.
    fn remove_unfinished(&self) {
        let Shared { node, .. } = &*self.0;
        remove_parts(&Disk, &StateLayout::new(&node.state_dir).jobs());
        for record in node.ledger.jobs() {
            let outputs = node.layout(record.job());
            outputs::remove_unfinished(&outputs, &outputs.checkpoints(None, record.job()));
        }
    }

    /// Removes the files of jobs that are off the record. `false` if a writer still writes some.
    fn finish(&self) -> bool {
        let Shared { node, .. } = &*self.0;
        let mut all = true;
        for (job, removal) in node.ledger.state().removals() {
            if node.writers.is_writing(job) {
                all = false;
                continue;
            }
            let removed = files::remove_job(&Disk, &node.state_dir, job, removal);
            let forgotten = removed.map_err(|error| error.to_string()).and_then(|()| {
                let forget = Command::Forget { job: job.clone() };
                node.ledger.apply(forget).map_err(|error| error.to_string())
            });
            match forgotten {
                Ok(_) => tracing::info!(thread = THREAD, %job, "its files are removed"),
                Err(error) => tracing::warn!(
                    thread = THREAD, %job,
                    "its files are not all removed, which is tried again: {error}"
                ),
            }
        }
        all
    }

    /// Removes what is left over. What cannot be removed is tried again at the next look; `failed`
    /// holds the directories of which the log says so already.
    fn remove_left_over(&self, failed: &mut BTreeSet<PathBuf>) {
        let dirs = std::mem::take(&mut *lock(&self.0.left_over));
        for dir in dirs {
            match files::remove_dir(&Disk, &dir) {
                Ok(()) => {
                    failed.remove(&dir);
                    tracing::info!(thread = THREAD, "removed {}", dir.display());
                }
                // Only the sync failed. A new job may get a name that is free again.
                Err(_) if dir.try_exists().is_ok_and(|exists| !exists) => {
                    failed.remove(&dir);
                }
                Err(error) => {
                    if failed.insert(dir.clone()) {
                        tracing::warn!(
                            thread = THREAD,
                            "cannot remove {}, which is tried again: {error}",
                            dir.display()
                        );
                    }
                    lock(&self.0.left_over).insert(dir);
                }
            }
        }
    }

    /// What a decision has to know of all jobs. Blocks.
    pub(crate) fn facts(&self, counts_bytes: bool) -> Vec<JobFacts> {
        let Shared { node, sizes, .. } = &*self.0;
        let mut sizes = lock(sizes);
        gather(
            &node.ledger.state(),
            &node.state_dir,
            &|job| node.is_in_hand(job),
            counts_bytes.then_some(&mut *sizes),
        )
    }

    /// The disk that a job takes which has ended; none if there is no such job. Blocks.
    pub(crate) fn size(&self, job: &JobId) -> DiskSize {
        let Shared { node, sizes, .. } = &*self.0;
        let Some(record) = node.ledger.job(job) else {
            return DiskSize::default();
        };
        let elsewhere = elsewhere(&record, &node.state_dir);
        lock(sizes).of(&record, &node.state_dir, &elsewhere)
    }

    /// Takes a job off the record, or what it has besides its results out of sight, and has the
    /// files removed. When it returns, a crash undoes nothing of it. Blocks.
    pub(crate) fn take(
        &self,
        job: &JobId,
        extent: RemovalExtent,
        why: &str,
    ) -> Result<(), FileRemovalError> {
        let Shared { node, .. } = &*self.0;
        let unknown = || LedgerError::from(Rejected::UnknownJob { job: job.clone() });
        let record = node.ledger.job(job).ok_or_else(unknown)?;
        let elsewhere = elsewhere(&record, &node.state_dir);
        match extent {
            RemovalExtent::Whole => {
                let job = job.clone();
                node.ledger.apply(Command::Remove { job, elsewhere })?;
            }
            RemovalExtent::AllButResults => {
                let mut aside = Vec::new();
                let put = files::put_aside(&Disk, &node.state_dir, job, &elsewhere, &mut aside);
                lock(&self.0.left_over).extend(aside);
                let failed = |source| FileRemovalError::Files {
                    job: job.clone(),
                    source,
                };
                put.map_err(failed)?;
                JobLog::new(node.layout(job).log(), &job.0, node.clock.clone())
                    .info(format!("{RESULTS_ALONE_STAY}: {why}"));
            }
        }
        lock(&self.0.sizes).forget(job);
        // A full channel has the thread look again already.
        let _ = self.0.wake.try_send(());
        Ok(())
    }
}

/// Whether a job file names files of a job that was removed since they were read.
pub(crate) fn removed_since(node: &NodeContext, job_toml: &str) -> Option<JobId> {
    let state = node.ledger.state();
    let is_gone = |job: &JobId| {
        let dir = node.layout(job).dir;
        state.removals().contains_key(job) || (state.job(job).is_none() && !dir.exists())
    };
    let named = named_jobs(job_toml, &state, &node.state_dir);
    named.into_iter().find(is_gone)
}

/// Says what is known of nobody, and returns what is to be removed.
fn told(orphans: Orphans) -> Vec<PathBuf> {
    for dir in &orphans.unknown {
        tracing::warn!(
            "{} is of a job that the ledger does not know, and stays: put the ledger back that \
             knows it, or remove the directory",
            dir.display()
        );
    }
    orphans.left_over
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
