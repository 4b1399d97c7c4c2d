//! Removes jobs that have ended: the ones that a user names, and those beyond limits.
//!
//! | module | what it holds |
//! |---|---|
//! | [`decide`] | which jobs go, and how much of each: a pure function of what the node knows |
//! | `clock` | how far the clock is believed |
//! | `carry_out` | has the node take jobs off the record; keeps r1d.toml's limits |
//!
//! The record of a job ends first, in one transaction; from then on nobody can refer to the job,
//! and the ledger knows that its files are to go, which the node removes. What a job that stays
//! needs does not go: who submits a job, and who decides what goes, do it one after the other.

mod carry_out;
mod clock;
pub mod decide;

pub(crate) use carry_out::Removals;
pub(crate) use decide::Selection;
