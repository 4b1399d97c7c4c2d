//! The limit on the size of a process's files (`RLIMIT_FSIZE`), which an operator may set.

use rustix::process::Signal;
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Has a write beyond the limit fail with an error, `EFBIG`, from now on, as one fails on a full
/// disk: by itself the system would end the process (`SIGXFSZ`). To be called within a runtime.
/// Programs that the process starts begin with the system's way again.
pub fn is_an_error() -> io::Result<()> {
    // The handler stays when nobody listens any more.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}
