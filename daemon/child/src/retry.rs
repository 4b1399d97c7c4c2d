//! How often a child that gave no answer is replaced.

use crate::{Blame, Lost};
use rustix::event::{Timespec, poll};
use std::time::Duration;

/// Children that are tried one after the other for one request.
pub const TRIES_MAX: usize = 1 + PAUSES.len();
/// The pauses between them: what takes a machine's memory may be gone in a moment.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Interval at which one that waits looks whether the outcome is still wanted.
const LOOK_MS: u64 = 100;

/// Why there is no outcome of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending<E> {
    /// It gave no answer.
    Lost(Lost),
    /// It told why, or is not wanted any more.
    Other(E),
}

/// Returns what `attempt` does, which starts a child. If the child is lost, another is tried after
/// a `pause`, which is told what became of the last, and whose error ends the tries. After
/// [`TRIES_MAX`] the machine is to blame, unless each child was. Each loss is a line of the log,
/// which names the child as `what`.
pub fn with_retries<T, E>(
    what: &str,
    mut attempt: impl FnMut() -> Result<T, Ending<E>>,
    mut pause: impl FnMut(&Lost, Duration) -> Result<(), E>,
) -> Result<T, Ending<E>> {
    let mut blame = Blame::Itself;
    let mut pauses = PAUSES.into_iter();
    loop {
        let lost = match attempt() {
            Err(Ending::Lost(lost)) => lost,
            ended => return ended,
        };
        if lost.blame == Blame::Outside {
            blame = Blame::Outside;
        }
        let Some(next) = pauses.next() else {
            let cause = format!("{TRIES_MAX} times in a row {}", lost.cause);
            let lost = Lost {
                cause,
                blame,
                ..lost
            };
            tracing::warn!("{what} is lost: {}: {}", lost.cause, lost.consequence());
            return Err(Ending::Lost(lost));
        };
        let s = next.as_secs_f64();
        tracing::warn!(
            "{what} is lost: {}: another is started in {s} s",
            lost.cause
        );
        pause(&lost, next).map_err(Ending::Other)?;
    }
}

/// Waits for `pause`, as long as the outcome is `wanted`; returns whether it still is.
pub fn pause(pause: Duration, mut wanted: impl FnMut() -> bool) -> bool {
    let look = Timespec {
        tv_sec: 0,
        tv_nsec: (LOOK_MS * 1_000_000) as _,
    };
    for _ in 0..pause.as_millis() as u64 / LOOK_MS {
        // A signal only makes the wait shorter.
        let _ = poll(&mut [], Some(&look));
        if !wanted() {
            return false;
        }
    }
    wanted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None,
            ..ProptestConfig::default() })]

        /// The first child that answers counts, and only what all children do is blamed on them.
        #[test]
        fn tries_end_at_the_first_answer_or_after_the_last(
            lost in proptest::collection::vec(any::<bool>(), 0..8),
        ) {
            let (mut left, mut pauses) = (lost.iter(), 0);
            let ended = with_retries(
                "a child",
                || match left.next() {
                    Some(is_outside) => {
                        let blame = if *is_outside { Blame::Outside } else { Blame::Itself };
                        Err(Ending::Lost(Lost::ended("it died".into(), blame)))
                    }
                    None => Ok(()),
                },
                |_, _| {
                    pauses += 1;
                    Ok::<(), ()>(())
                },
            );
            prop_assert_eq!(pauses, lost.len().min(TRIES_MAX - 1));
            if lost.len() < TRIES_MAX {
                prop_assert_eq!(ended, Ok(()));
            } else {
                let is_outside = lost[..TRIES_MAX].contains(&true);
                let blame = if is_outside { Blame::Outside } else { Blame::Itself };
                let cause = "5 times in a row it died".into();
                prop_assert_eq!(ended, Err(Ending::Lost(Lost::ended(cause, blame))));
            }
        }
    }

    #[test]
    fn who_leaves_ends_the_tries() {
        let lost = Lost::ended("it died".into(), Blame::Outside);
        let attempt = || Err::<(), _>(Ending::Lost(lost.clone()));
        assert_eq!(
            with_retries("a child", attempt, |_, _| Err("gone")),
            Err(Ending::Other("gone"))
        );
    }
}
