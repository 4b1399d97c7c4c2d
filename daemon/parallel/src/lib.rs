//! How one job is spread over the devices of a gang: plain arithmetic, without tensors or
//! processes, for whoever plans, starts or is a rank.
//!
//! | module | what it holds |
//! |---|---|
//! | [`layout`] | [`Layout`]: ranks, the groups that they form, and who owns which expert |
//! | [`blocks`] | the blocks of optimiser states that ranks share |
//! | [`balance`] | work of known cost for ranks that end together |
//! | [`micro_batches`] | which of a step's 2^k micro-batches are whose, in layout-independent mode |

#![warn(clippy::too_many_lines)]

pub mod balance;
pub mod blocks;
pub mod layout;
pub mod micro_batches;

pub use layout::{Layout, LayoutError};
