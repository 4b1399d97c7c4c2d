//! The ledger: what was decided about jobs. It is the part of r1d's state that outlives every
//! process.
//!
//! | module | what it holds |
//! |---|---|
//! | [`command`] | commands to the ledger, and its answers |
//! | [`record`] | what the ledger knows of one job |
//! | [`state`] | the state machine: a pure function of the commands, without IO, clock or randomness |
//! | `job_commands`, `listing` | what commands do to one job's record; the index of all jobs by state, with the queue in its order |
//! | [`limits`] | what a job may have on record |
//! | [`attempt`] | what an attempt makes durable in journal, files and ledger, and in which order |
//! | [`Record`] | the ledger's interface, on disk or in memory; a [`Session`] numbers its commands |
//! | [`ledger`] | the state machine on disk: one durable redb transaction per group of commands |
//! | `group`, `answers` | commands that share one sync; commands that are sent again |
//! | `tables`, `stored`, `format1` | the file's tables and rows; the older format |
//! | `metrics`, `place`, `watched` | metrics of committed steps; paths in the file; whether a sync has failed |
//! | [`changes`] | counters that wake whoever watches one job |
//! | [`Memory`] | the state machine in memory, for tests |
//!
//! With the journal (`r1d-store`) it keeps `STEP-1`: a step's rollouts are in the journal, durable,
//! before the ledger commits the step, and the ledger commits it once. A committed step can then be
//! rebuilt from the newest checkpoint by training on the journaled rollouts.

#![warn(clippy::too_many_lines)]

mod answers;
mod api;
pub mod attempt;
pub mod changes;
pub mod command;
mod error;
mod format1;
mod group;
mod job_commands;
pub mod ledger;
pub mod limits;
mod listing;
mod memory;
mod metrics;
mod place;
pub mod record;
mod session;
pub mod state;
mod stored;
mod tables;
mod unrecorded;
mod watched;

pub use answers::{ANSWERS_MAX, SESSIONS_MAX};
pub use api::{Record, RowsOf};
pub use attempt::{AttemptError, AttemptWriter};
pub use changes::Changes;
pub use command::{Command, CommandId, Effect, NewJob, Rejected};
pub use error::LedgerError;
pub use ledger::Ledger;
pub use ledger::file::is_damage_expected;
pub use memory::Memory;
pub use record::{
    CheckpointRecord, JobRecord, Pause, Removal, Reuse, RewardVersion, StageRecord, Standing,
    Strikes, User,
};
pub use session::Session;
pub use state::{FindError, State};
pub use stored::FORMAT_VERSION;
pub use unrecorded::{remove_unrecorded, unrecorded};
