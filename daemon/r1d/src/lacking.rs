//! Waiting for the files of jobs, of which there may be as many as there are jobs: what waits is a
//! path and a timer, few look at a time, and each the more seldom the longer it has waited.

use crate::{inputs, tasks};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Jobs whose files are looked at at a time (`LIM-1`): each takes a thread, and a disk may hang.
const LOOKS_MAX: usize = 16;
/// Before the first look.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Between two looks of a job that has waited for minutes.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A job that waits for its files.
pub struct Lacking {
    /// In which it goes on, where one was begun.
    pub epoch: Option<u64>,
    /// Dropping it ends the wait.
    pub _wait: oneshot::Sender<()>,
}

/// What a job waits for that waits for its files, as `r1ctl why` says it.
pub fn awaited(cause: &str) -> String {
    format!("{cause}; the job goes on when that is mended, or cancel it")
}

/// Takes turns at looking.
#[derive(Clone)]
pub struct Looks(Arc<Semaphore>);

impl Default for Looks {
    fn default() -> Looks {
        Looks(Arc::new(Semaphore::new(LOOKS_MAX)))
    }
}

/// The times between looks: each a quarter longer than the one before, up to the longest.
fn pauses() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(PAUSE_MIN), |pause| Some(PAUSE_MAX.min(*pause + *pause / 4)))
}

impl Looks {
    /// Waits until the files are as `recorded` says ([`inputs::unlike`]). `told` hears at each look what is amiss.
    pub async fn until_as_they_were(&self, recorded: PathBuf, told: impl Fn(&str)) {
        for pause in pauses() {
            tokio::time::sleep(pause).await;
            let (turn, recorded) = (self.0.clone().acquire_owned().await, recorded.clone());
            let looked = tasks::blocking(move || {
                let _turn = turn;
                inputs::unlike(&recorded)
            });
            match looked.await {
                Ok(Some(cause)) => told(&cause),
                // A panic is told by whoever opens the files.
                Ok(None) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_stays_away_is_looked_for_ever_more_seldom() {
        let (first, later): (Vec<_>, Vec<_>) = (pauses().take(5).collect(), pauses().skip(20).take(100).collect());
        assert!(first[0] == PAUSE_MIN && first.is_sorted() && first[4] > 2 * PAUSE_MIN, "{first:?}");
        assert!(later.iter().all(|pause| *pause == PAUSE_MAX), "{later:?}");
    }
}
