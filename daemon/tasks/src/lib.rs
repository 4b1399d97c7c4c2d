//! The one place that starts tasks, threads and actors: each has a kind that defines what its end
//! means. Actors that have to outlive a panic are [supervised](supervise()).

#![warn(clippy::too_many_lines)]

mod supervise;

pub use supervise::{Alive, MAILBOX_MAX_MESSAGES, Restarting, Supervised, supervise};

use std::future::Future;
use tokio::task::{JoinError, JoinHandle};

/// Starts a task whose end is awaited, or noticed at the other end of a channel; dropping that end
/// cancels it. Dropping the handle cancels nothing.
#[allow(clippy::disallowed_methods, reason = "the one owner of tasks")]
pub fn spawn<T: 'static>(
    name: &'static str,
    task: impl Future<Output = T> + 'static,
) -> JoinHandle<T> {
    tracing::trace!(task = name, "started");
    tokio::task::spawn_local(task)
}

/// Runs blocking work (files, the ledger, tokenisation) away from the actors. It runs to its end
/// even if its caller no longer awaits it.
#[allow(clippy::disallowed_methods, reason = "the one owner of tasks")]
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    tokio::task::spawn_blocking(work).await
}

/// Starts a thread for a sequence of blocking work. An error means that the system has none left.
pub fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
}
