//! Waits for what is outside of jobs ([`crate::outside`]). As many may wait as there are jobs, so a
//! waiting job is only a timer; a few look at a time, and each more rarely the longer it has
//! waited.

use crate::tasks;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Jobs that are checked at a time (`LIM-1`): each check takes a thread, and a disk may hang.
const LOOKS_MAX: usize = 16;
/// Time before the first look.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Time between two looks of a job that has waited for minutes.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The wait of one job.
pub(crate) struct OutsideWait {
    /// The epoch in which the job goes on; `None` if none had begun.
    pub epoch: Option<u64>,
    /// Dropping the sender ends the wait.
    pub _wait: oneshot::Sender<()>,
}

/// Describes, for `r1ctl why`, the wait for something outside of the job.
pub(crate) fn awaited(cause: &str) -> String {
    format!("{cause}; the job goes on when that is mended, or cancel it")
}

/// Limits how many checks run at a time.
#[derive(Clone)]
pub(crate) struct Looks(Arc<Semaphore>);

impl Default for Looks {
    fn default() -> Looks {
        Looks(Arc::new(Semaphore::new(LOOKS_MAX)))
    }
}

/// The times between looks: each a quarter longer than the one before, up to the longest.
fn pauses() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(PAUSE_MIN), |pause| {
        Some(PAUSE_MAX.min(*pause + *pause / 4))
    })
}

impl Looks {
    /// Waits until `amiss` returns `None`. `told` is called with each cause that it returns.
    pub(crate) async fn until_mended(
        &self,
        amiss: impl Fn() -> Option<String> + Send + Sync + 'static,
        told: impl Fn(&str),
    ) {
        let amiss = Arc::new(amiss);
        for pause in pauses() {
            tokio::time::sleep(pause).await;
            let (turn, amiss) = (self.0.clone().acquire_owned().await, amiss.clone());
            let looked = tasks::blocking(move || {
                let _turn = turn;
                amiss()
            });
            match looked.await {
                Ok(Some(cause)) => told(&cause),
                // A panic is met again, and reported, when the job goes on.
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
        let (first, later): (Vec<_>, Vec<_>) = (
            pauses().take(5).collect(),
            pauses().skip(20).take(100).collect(),
        );
        assert!(
            first[0] == PAUSE_MIN && first.is_sorted() && first[4] > 2 * PAUSE_MIN,
            "{first:?}"
        );
        assert!(later.iter().all(|pause| *pause == PAUSE_MAX), "{later:?}");
    }
}
