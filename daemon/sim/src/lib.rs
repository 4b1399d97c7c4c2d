//! A simulated world for tests: a clock that moves only when a test moves it, and a disk that loses
//! power.
//!
//! Everything random here is a function of a seed, so a failing test prints the seed that replays
//! it.

#![warn(clippy::too_many_lines)]

pub mod clock;
pub mod disk;
mod tree;

pub use clock::SimClock;
pub use disk::{SimDisk, SimFile};
