//! What the controller, which decides between jobs, and a node, which has the devices and the jobs'
//! files, say to each other; and how both read a job's record.
//!
//! ```text
//!  controller ── Order: place, stop, probe, watch; a client's work ─▶ node
//!             ◀─ Report: released, ended, probed; live status; the work's answer ──
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`message`], [`order`], [`report`] | what a message is; those of either side |
//! | [`work`] | what a node does for a client of the controller, and its answers |
//! | [`removal`] | what a decision about removals has to know of each job |
//! | [`memory`] | the link between a controller and a node in one process |
//! | [`record`], [`status`] | what both read off a job's record: its progress, its end, its status |
//!
//! A message is plain data ([`Message`]): it means the same after it was encoded, so the two sides
//! can be processes of two machines. Besides these messages they share only the ledger
//! ([`r1d_ledger::Record`]): each writes commands in a session of its own and reads the state. A
//! node writes to the ledger before it reports. Rollouts never pass. Times in a message are on the
//! monotonic clock of the node's process, which is the controller's too as long as both are one
//! process.

#![warn(clippy::too_many_lines)]

pub mod memory;
pub mod message;
pub mod order;
pub mod record;
pub mod removal;
pub mod report;
pub mod status;
pub mod work;

pub use memory::{ControllerEnd, Inbox, NodeEnd, Outbox, in_memory};
pub use message::Message;
pub use order::Order;
pub use report::{DeviceUse, JobSnapshot, Report};
pub use work::{Answer, Work, WorkId, WorkResult};
