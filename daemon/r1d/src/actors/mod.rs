//! The daemon's actors. Each file is one actor: its messages, its state, its handlers.
//!
//! ```text
//! control socket ─▶ jobs ─▶ run (one per running job) ─▶ worker (one per device) ─▶ r1d-worker
//!                             ├─▶ writer, a thread: files and ledger
//!                             └─▶ scoring, a task: the reward pool
//! ```
//! Mailboxes are bounded and sends awaited, so a slow party holds its askers back instead of
//! filling memory.

pub mod control;
pub mod jobs;
pub mod run;
pub mod supervise;
pub mod worker;

/// Messages that may wait for an actor (`LIM-1`).
pub const MAILBOX_MAX_MESSAGES: usize = 64;
