//! Workers of a daemon before this one. Two processes never share a device: no job begins before
//! the last of them has ended, which takes a moment, or for ever where one is stopped or hangs in
//! its driver. Then somebody has to end it, and is told which.

use crate::state_dir::StateDir;
use r1d_proto::world::SharedClock;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks: at first, and at most.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// For workers to notice that their daemon is gone, and leave. After each word of the log the next
/// one waits twice as long.
const LEAVE_MAX: Duration = Duration::from_secs(60);

pub(crate) struct OldWorkers {
    state: Arc<StateDir>,
    clock: SharedClock,
    /// Since the first look that found one.
    wait: Option<Wait>,
}

struct Wait {
    since: Duration,
    pause: Duration,
    /// The wait after which the log hears of it again.
    word: Duration,
}

/// Why no job may begin.
pub(crate) struct Remaining {
    pub cause: String,
    /// When to look again.
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

    /// Looks for them; `None` when all are gone. The log hears of them at first, and then ever more
    /// seldom.
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
            let lock = state.workers();
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
