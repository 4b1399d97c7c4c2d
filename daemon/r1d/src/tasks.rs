//! The one place that starts tasks and threads, so that each has a kind that says what its end
//! means.

use std::future::Future;
use tokio::task::{JoinError, JoinHandle};

/// A task whose end is awaited or noticed by whoever holds its other end; cancelled by dropping
/// that end. Dropping the handle cancels nothing.
#[allow(clippy::disallowed_methods, reason = "the one owner of tasks")]
pub(crate) fn spawn<T: 'static>(
    name: &'static str,
    task: impl Future<Output = T> + 'static,
) -> JoinHandle<T> {
    tracing::trace!(task = name, "started");
    tokio::task::spawn_local(task)
}

/// Work that blocks (files, the ledger, tokenisation), away from the actors. It runs to its end
/// even when nobody awaits it any more.
#[allow(clippy::disallowed_methods, reason = "the one owner of tasks")]
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    tokio::task::spawn_blocking(work).await
}

/// A thread of its own for a sequence of blocking work.
pub(crate) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
}
