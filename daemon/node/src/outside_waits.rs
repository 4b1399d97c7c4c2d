//! Waits for what is outside of jobs ([`crate::outside`]). As many may wait as there are jobs, so a
//! waiting job is only a timer; a few look at a time, and each more rarely the longer it has
//! waited.

use crate::tasks;
use r1d_runner::restart::Progress;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Jobs that are checked at a time (`LIM-1`): each check takes a thread, and a disk may hang.
const LOOKS_MAX: usize = 16;
/// Time before the first look.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Time between two looks of a job that has waited for minutes.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a job waited for when an attempt at it last ended so.
pub(crate) struct Lacked {
    pub(crate) cause: String,
    /// What was durable of the job then.
    pub(crate) progress: Progress,
    /// Attempts in a row that ended for this cause, and brought the job no further.
    pub(crate) attempts: usize,
}

impl Lacked {
    /// Another attempt has ended for a cause, with so much of the job durable.
    pub(crate) fn again(before: Option<Lacked>, cause: String, progress: Progress) -> Lacked {
        let same = before.filter(|before| before.cause == cause && before.progress == progress);
        Lacked {
            attempts: same.map_or(1, |before| before.attempts + 1),
            cause,
            progress,
        }
    }
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
    /// Waits until `amiss` returns `None`, and returns whether it named a cause before. `told` is
    /// called with each cause. What it does not see is found by attempts alone: so many have ended
    /// for one cause, and the first look is the later.
    pub(crate) async fn until_mended(
        &self,
        amiss: impl Fn() -> Option<String> + Send + Sync + 'static,
        told: impl Fn(&str),
        attempts: usize,
    ) -> bool {
        let amiss = Arc::new(amiss);
        let mut was_seen = false;
        for pause in pauses().skip(attempts.saturating_sub(1)) {
            tokio::time::sleep(pause).await;
            let (turn, amiss) = (self.0.clone().acquire_owned().await, amiss.clone());
            let looked = tasks::blocking(move || {
                let _turn = turn;
                amiss()
            });
            match looked.await {
                Ok(Some(cause)) => {
                    was_seen = true;
                    told(&cause);
                }
                // A panic is met again, and reported, when the job goes on.
                Ok(None) | Err(_) => break,
            }
        }
        was_seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_end_alike_are_counted_until_one_gets_further() {
        let progress = |steps| Progress {
            stages_finished: 0,
            steps,
            evals: 0,
            checkpoints: 0,
        };
        let mut lacked = None;
        for (cause, steps, attempts) in [
            ("a", 1, 1),
            ("a", 1, 2),
            ("a", 1, 3),
            ("b", 1, 1),
            ("b", 1, 2),
            ("b", 2, 1),
        ] {
            let now = Lacked::again(lacked, cause.into(), progress(steps));
            assert_eq!(now.attempts, attempts, "{cause} {steps}");
            lacked = Some(now);
        }
    }

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
