//! Submissions from the moment that they arrive until the ledger has them.
//!
//! A submission is carried out to its end, whether or not its client stays: a lost connection does
//! not undo it. A client that asks again finds the job of its first try:
//!
//! - with the same id, always: while the first submission is being read the client gets that one's
//!   answer, later the ledger knows the job; another job with the same id is refused;
//! - without the id (the person typed the command again), as long as the first client left without
//!   an answer, the job has not ended, its files have not been written to since, and
//!   [`FOUND_AGAIN_MAX`] has not passed.

use crate::node::WorkProgress;
use r1d_proto::control::error::ControlError;
use r1d_proto::control::{Request, Response};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Submissions without a listener that are remembered (`LIM-1`).
const UNHEARD_MAX: usize = 256;
/// How long an equal submission finds one whose client left before the answer.
const FOUND_AGAIN_MAX: Duration = Duration::from_secs(3600);

pub(crate) type ClientAnswer = Result<Response, ControlError>;

/// A submission that is being read.
#[derive(Clone)]
pub(crate) struct Underway {
    pub progress: WorkProgress,
    /// A hash of the request; see [`contents`].
    pub contents: String,
    answer: watch::Receiver<Option<ClientAnswer>>,
}

#[derive(Clone, Default)]
pub(crate) struct Submissions(Arc<Mutex<SubmissionTable>>);

#[derive(Default)]
struct SubmissionTable {
    underway: HashMap<String, Underway>,
    unheard: VecDeque<Unheard>,
}

/// A submission whose client left before it had an answer.
struct Unheard {
    contents: String,
    id: String,
    since: Duration,
}

/// Everything that a submission asks for, and the user who asks, as one hash.
pub(crate) fn contents(uid: u32, request: &Request) -> String {
    let text = serde_json::to_vec(&(uid, request)).unwrap_or_default();
    let hash = Sha256::digest(text);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Submissions {
    fn lock(&self) -> MutexGuard<'_, SubmissionTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The submission with this id, if it is being read.
    pub(crate) fn underway(&self, id: &str) -> Option<Underway> {
        self.lock().underway.get(id).cloned()
    }

    /// Begins a submission. Its answer goes to the guard, whose drop ends it.
    pub(crate) fn begin(
        &self,
        id: &str,
        contents: String,
        progress: WorkProgress,
    ) -> (Underway, ReadingGuard) {
        let (sender, answer) = watch::channel(None);
        let underway = Underway {
            progress,
            contents,
            answer,
        };
        self.lock().underway.insert(id.into(), underway.clone());
        (
            underway,
            ReadingGuard {
                submissions: self.clone(),
                id: id.into(),
                answer: sender,
            },
        )
    }

    /// Takes the id of an equal submission whose client left before the answer.
    pub(crate) fn find_unheard(&self, contents: &str, now: Duration) -> Option<String> {
        let mut inner = self.lock();
        inner
            .unheard
            .retain(|unheard| now.saturating_sub(unheard.since) < FOUND_AGAIN_MAX);
        let at = inner
            .unheard
            .iter()
            .position(|unheard| unheard.contents == contents)?;
        inner.unheard.remove(at).map(|unheard| unheard.id)
    }

    pub(crate) fn left_unheard(&self, contents: String, id: String, since: Duration) {
        let mut inner = self.lock();
        if inner.unheard.len() >= UNHEARD_MAX {
            inner.unheard.pop_front();
        }
        inner.unheard.push_back(Unheard {
            contents,
            id,
            since,
        });
    }
}

/// Held by the reader of a submission.
pub(crate) struct ReadingGuard {
    submissions: Submissions,
    id: String,
    answer: watch::Sender<Option<ClientAnswer>>,
}

impl ReadingGuard {
    pub(crate) fn answer(self, answer: ClientAnswer) {
        self.answer.send_replace(Some(answer));
    }
}

impl Drop for ReadingGuard {
    fn drop(&mut self) {
        self.submissions.lock().underway.remove(&self.id);
    }
}

impl Underway {
    /// Waits for the answer; `None` if the reading ended without one (a panic).
    pub(crate) async fn answered(mut self) -> Option<ClientAnswer> {
        let answer = self.answer.wait_for(Option::is_some).await.ok()?;
        answer.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn whoever_asks_again_is_given_the_same_answer() {
        let submissions = Submissions::default();
        let (first, begun) = submissions.begin("r-1", "abc".into(), WorkProgress::default());
        let second = submissions.underway("r-1").unwrap();
        assert!(submissions.underway("r-2").is_none());
        begun.answer(Ok(Response::End));
        for client in [first, second] {
            assert_eq!(
                client.answered().now_or_never(),
                Some(Some(Ok(Response::End)))
            );
        }
        assert!(
            submissions.underway("r-1").is_none(),
            "the ledger has it now"
        );
    }

    #[test]
    fn a_reading_that_panicked_leaves_nobody_waiting() {
        let submissions = Submissions::default();
        let (client, begun) = submissions.begin("r-1", "abc".into(), WorkProgress::default());
        drop(begun);
        assert_eq!(client.answered().now_or_never(), Some(None));
        assert!(submissions.underway("r-1").is_none());
    }

    #[test]
    fn an_unheard_answer_is_found_once_and_for_a_while() {
        let submissions = Submissions::default();
        submissions.left_unheard("abc".into(), "r-1".into(), MINUTE);
        assert_eq!(submissions.find_unheard("abd", MINUTE), None);
        assert_eq!(
            submissions.find_unheard("abc", 2 * MINUTE),
            Some("r-1".into())
        );
        assert_eq!(
            submissions.find_unheard("abc", 2 * MINUTE),
            None,
            "who heard it may submit the same once more"
        );
        submissions.left_unheard("abc".into(), "r-1".into(), MINUTE);
        assert_eq!(
            submissions.find_unheard("abc", MINUTE + FOUND_AGAIN_MAX),
            None
        );
        for i in 0..2 * UNHEARD_MAX {
            submissions.left_unheard(i.to_string(), i.to_string(), MINUTE);
        }
        assert_eq!(submissions.lock().unheard.len(), UNHEARD_MAX);
    }
}
