//! The daemon's actors. Each file is one actor: its messages, its state, its handlers.
//!
//! ```text
//! control socket ─▶ jobs ─▶ run (one per running job) ─▶ worker (one per device) ─▶ r1d-worker
//!                             ├─▶ writer, a thread: files and ledger
//!                             └─▶ scoring, a task: the reward pool
//! ```
//! Mailboxes are bounded and sends awaited, so a slow party holds its askers back instead of
//! filling memory.

pub(crate) mod control;
pub(crate) mod jobs;
pub(crate) mod run;
pub(crate) mod supervise;
pub(crate) mod worker;

/// Messages that may wait for an actor (`LIM-1`).
pub(crate) const MAILBOX_MAX_MESSAGES: usize = 64;
