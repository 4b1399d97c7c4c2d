//! Workers of earlier daemons. Two processes never share a device: no job begins before the last of
//! these workers has ended. That takes a moment, or for ever if a worker is stopped or hangs in its
//! driver; then the log says which process an operator has to end.

use r1d_link::{Outbox, Report};
use r1d_proto::world::SharedClock;
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks: the first, and the longest.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// Time that workers have to notice that their daemon is gone, and to leave. The log then reports
/// them, and again each time that this has doubled.
const LEAVE_MAX: Duration = Duration::from_secs(60);

/// The lock that each worker holds as its standard output. A daemon that gets it is alone.
pub(crate) struct WorkersLock {
    path: PathBuf,
    file: File,
}

impl WorkersLock {
    /// Opens the file of the lock, which is made if need be.
    pub(crate) fn open(path: &Path) -> std::io::Result<WorkersLock> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(WorkersLock {
            path: path.into(),
            file,
        })
    }

    /// The process ids of earlier daemons' workers, as far as this process may see them. `None` if
    /// all are gone; from then on the lock is this daemon's.
    fn old_workers(&self) -> Option<Vec<u32>> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => None,
            Err(_) => Some(self.holders()),
        }
    }

    /// Processes that have the workers' lock as their standard output. The kernel's list of locks
    /// is no help: it has the process that took the lock, a daemon that is gone. This daemon's own
    /// probes have it too.
    fn holders(&self) -> Vec<u32> {
        let Ok(lock) = self.file.metadata() else {
            return Vec::new();
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let holds = |pid: &u32| {
            let held = std::fs::metadata(format!("/proc/{pid}/fd/1"));
            held.is_ok_and(|held| (held.dev(), held.ino()) == (lock.dev(), lock.ino()))
        };
        let parent = format!("PPid:\t{}", std::process::id());
        let is_own = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.is_ok_and(|status| status.lines().any(|line| line == parent))
        };
        let mut holders: Vec<u32> = pids.filter(|pid| holds(pid) && !is_own(pid)).collect();
        holders.sort_unstable();
        holders
    }

    /// A handle of the workers' lock, for a worker to hold.
    pub(crate) fn handle(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

pub(crate) struct OldWorkers {
    lock: Arc<WorkersLock>,
    clock: SharedClock,
    /// The wait since the first look that found a worker.
    wait: Option<Wait>,
}

struct Wait {
    since: Duration,
    pause: Duration,
    /// How long the wait lasts until the log reports it again.
    word: Duration,
}

/// Why no job may begin yet.
struct Remaining {
    cause: String,
    /// Time until the next look.
    pause: Duration,
}

impl OldWorkers {
    pub(crate) fn new(lock: Arc<WorkersLock>, clock: SharedClock) -> OldWorkers {
        OldWorkers {
            lock,
            clock,
            wait: None,
        }
    }

    /// Reports that no job may begin, until the last old worker is gone.
    pub(crate) async fn wait(mut self, reports: Outbox<Report>) {
        while let Some(Remaining { cause, pause }) = self.look() {
            reports.send(Report::Held(Some(cause)));
            tokio::time::sleep(pause).await;
        }
        reports.send(Report::Held(None));
    }

    /// Looks for old workers; `None` if all are gone. They are logged at once, and then ever more
    /// rarely.
    fn look(&mut self) -> Option<Remaining> {
        let Some(pids) = self.lock.old_workers() else {
            if self.wait.take().is_some() {
                tracing::info!("the workers of the daemon before this one are gone");
            }
            return None;
        };
        let now = self.clock.now();
        let is_first = self.wait.is_none();
        let wait = self.wait.get_or_insert(Wait {
            since: now,
            pause: LOOK_AGAIN,
            word: LEAVE_MAX,
        });
        let cause = told(&pids, &self.lock);
        if is_first {
            tracing::warn!("{cause}");
        } else if now.saturating_sub(wait.since) >= wait.word {
            let waited_s = now.saturating_sub(wait.since).as_secs();
            tracing::error!(
                "after {waited_s} s {cause}; where nothing ends it, its driver hangs, and the \
                 machine has to be restarted"
            );
            wait.word *= 2;
        }
        wait.pause = LOOK_AGAIN_MAX.min(wait.pause + wait.pause / 4);
        Some(Remaining {
            cause,
            pause: wait.pause,
        })
    }
}

fn told(pids: &[u32], lock: &WorkersLock) -> String {
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>();
    match &list[..] {
        [] => {
            format!(
                "a worker of the daemon before this one still runs, as {} is locked: jobs begin \
                 when it has ended",
                lock.path.display()
            )
        }
        [pid] => {
            format!(
                "a worker of the daemon before this one, process {pid}, still runs: jobs begin \
                 when it has ended (`kill -9 {pid}`)"
            )
        }
        pids => format!(
            "workers of the daemon before this one, processes {}, still run: jobs begin when they \
             have ended (`kill -9 {}`)",
            pids.join(", "),
            pids.join(" ")
        ),
    }
}
