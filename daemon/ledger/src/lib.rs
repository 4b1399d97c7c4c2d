//! The record of what was decided and what was sampled: the part of r1d that outlives every
//! process.
//!
//! | module | what it holds |
//! |---|---|
//! | [`command`] | commands to the ledger, and its answers |
//! | [`record`] | what the ledger knows of one job |
//! | [`state`] | the state machine: a pure function of the commands, without IO, clock or randomness |
//! | [`ledger`] | the state machine on disk: one durable redb transaction per command |
//! | [`journal`] | every rollout before it is used: append-only, checksummed segments, one per step |
//! | [`disk`] | the journal's storage on a real file system |
//!
//! Both keep `STEP-1`: a step's rollouts are in the journal, durable, before the ledger commits the
//! step, and the ledger commits it once. A committed step can then be rebuilt from the newest
//! checkpoint by training on the journaled rollouts.

pub mod command;
pub mod disk;
pub mod journal;
pub mod ledger;
mod place;
pub mod record;
mod segment;
pub mod state;
mod step;
mod watched;

pub use command::{Command, Effect, Rejected};
pub use disk::Disk;
pub use journal::{Cut, Entry, Journal, JournalError, Refused};
pub use ledger::{Ledger, LedgerError, is_damage_expected};
pub use record::{
    CheckpointRecord, JobRecord, Pause, Removal, Reuse, RewardVersion, StageRecord, Standing,
    Strikes, User,
};
pub use state::{FindError, State};
pub use step::StepRecord;
