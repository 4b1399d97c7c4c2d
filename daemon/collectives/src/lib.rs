//! The collectives between the ranks of a gang. Libraries move bytes, only we add numbers: a
//! [`backend`] carries bytes between ranks, and every sum is ours, in an order of our own.
//!
//! | module | what it holds |
//! |---|---|
//! | [`process_group`] | [`ProcessGroup`]: all-to-all, all-gather, broadcast and barrier of tensors |
//! | [`sum`] | reduce-scatter and all-reduce, and sums along a tree that no layout changes |
//! | [`exchange`] | an all-to-all with gradients, for tokens that go to their experts and back |
//! | [`backend`] | what a transport has to do |
//! | [`in_process`] | ranks that are threads of one process: for tests, and a gang of one |
//! | [`gloo`] | libtorch's Gloo, over TCP |
//! | [`quic`] | a transport of our own, over QUIC, for small tensors |
//! | `nccl` | NVIDIA's NCCL, between GPUs, opened at run time |
//! | `staged` | tensors on GPUs over a transport of the host |
//! | [`open`] | a group by the name of its transport |
//! | [`rendezvous`] | where ranks find each other, and leave word of what failed |
//! | [`call`] | what a collective is called with, and what ranks tell each other before it |
//! | [`flight`] | the last calls of a group, and whom a failed one waited for |
//! | [`watch`] | whom a call waits for that is not over |
//!
//! A group is called by one thread, in the same order on all of its ranks, by ranks without rows
//! too. Each call has a name and a deadline. A call that fails ends its group: the gang's epoch is
//! over, and nothing is repaired in place.

#![warn(clippy::too_many_lines)]

pub mod backend;
mod bytes;
pub mod call;
pub mod exchange;
pub mod flight;
pub mod gloo;
pub mod in_process;
mod nccl;
pub mod open;
pub mod process_group;
pub mod quic;
mod shim;
mod staged;
pub mod sum;
pub mod watch;

pub use call::Call;
pub use process_group::{CollectiveError, ProcessGroup, Received, Traffic};
pub use r1d_rendezvous as rendezvous;
