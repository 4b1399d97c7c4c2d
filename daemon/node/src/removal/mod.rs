//! The files of jobs that are removed: what a decision has to know of them, and their end. Which
//! jobs go is for the controller.
//!
//! | module | what it holds |
//! |---|---|
//! | [`facts`], [`sizes`] | what a decision has to know, from the ledger and the disk |
//! | [`carry_out`] | takes jobs off the record; the thread that removes their files |
//! | [`files`] | removes files, so that it can be begun again |
//!
//! The record of a job ends first, in one transaction; from then on nobody can refer to the job,
//! and the ledger knows that its files are to go. A daemon that is killed in between has the next
//! one go on.

pub(crate) mod carry_out;
pub mod facts;
pub mod files;
pub mod sizes;

pub(crate) use carry_out::{FileRemovals, RESULTS_ALONE_STAY, removed_since};
