//! Removes jobs that have ended: the ones that a user names, those beyond limits, and what a crash
//! has left.
//!
//! | module | what it holds |
//! |---|---|
//! | [`decide`] | which jobs go, and how much of each: a pure function |
//! | [`facts`], [`sizes`] | what a decision has to know, from the ledger and the disk |
//! | [`carry_out`] | takes jobs off the record; the thread that removes their files |
//! | [`files`] | removes files, so that it can be begun again |
//!
//! The record of a job ends first, in one transaction; from then on nobody can refer to the job,
//! and the ledger knows that its files are to go. A daemon that is killed in between has the next
//! one go on. What a job that stays needs does not go: who submits a job, and who decides what
//! goes, do it one after the other.

mod carry_out;
mod decide;
mod facts;
mod files;
#[cfg(test)]
mod simulation;
mod sizes;

pub(crate) use carry_out::{RemovalError, Removals, removed_since};
pub(crate) use decide::Selection;
