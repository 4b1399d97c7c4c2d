//! Workers of earlier daemons. Two processes never share a device: no job begins before the last of
//! these workers has ended. That takes a moment, or for ever if a worker is stopped or hangs in its
//! driver; then the log says which process an operator has to end.

use crate::state_dir::StateDir;
use r1d_proto::world::SharedClock;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks: the first, and the longest.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// Time that workers have to notice that their daemon is gone, and to leave. The log then reports
/// them, and again each time that this has doubled.
const LEAVE_MAX: Duration = Duration::from_secs(60);

pub(crate) struct OldWorkers {
    state: Arc<StateDir>,
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
pub(crate) struct Remaining {
    pub cause: String,
    /// Time until the next look.
    pub pause: Duration,
}

impl OldWorkers {
    pub(crate) fn new(state: Arc<StateDir>, clock: SharedClock) -> OldWorkers {
        OldWorkers {
            state,
            clock,
            wait: None,
        }
    }

    /// Looks for old workers; `None` if all are gone. They are logged at once, and then ever more
    /// rarely.
    pub(crate) fn look(&mut self) -> Option<Remaining> {
        let Some(pids) = self.state.old_workers() else {
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
        let cause = told(&pids, &self.state);
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

fn told(pids: &[u32], state: &StateDir) -> String {
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>();
    match &list[..] {
        [] => {
            let lock = state.layout().workers_lock();
            format!(
                "a worker of the daemon before this one still runs, as {} is locked: jobs begin \
                 when it has ended",
                lock.display()
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
