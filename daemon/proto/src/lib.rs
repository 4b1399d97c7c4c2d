//! The messages that the processes of r1d send each other, and the records that they keep.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ids`] | names of jobs and samples |
//! | [`rollout`] | the rollout record, the central type of a reinforcement-learning step |
//! | [`sampling_mask`] | the ids that each token was drawn from |
//! | [`verdict`] | the outcome of a reward for a completion |
//! | [`hyperparameters`] | sampling, objective and optimiser settings, as they travel to a worker |
//! | [`worker`] | the protocol between `r1d` and an `r1d-worker` |
//! | [`parts`] | its requests that are longer than a frame |
//! | [`rendezvous`] | what ranks of a gang ask their daemon in order to find each other |
//! | [`control`] | the protocol between `r1ctl` and `r1d` |
//! | [`plugin`] | what `r1d plugin` prints and `r1ctl plugin` shows |
//! | [`trace`] | what took how long in a step, and the form in which trace viewers read it |
//! | [`frame`] | the wire format that carries both |
//! | [`world`] | clock and randomness, handed in so that a simulator can replace them |
//! | [`storage`] | a file system as durable files need it, handed in for the same reason |
//! | [`file_limit`] | writes beyond the limit on a process's files are errors |
//! | [`remedy`] | what people can do about an error of the operating system |
//! | [`shown`] | other people's text in errors and logs: cut, without escape sequences |
//! | [`user_file`] | opening the files that a user names: regular ones only, never more than a limit |
//! | [`invariant`](mod@invariant) | the named invariants and the macro that checks them |
//!
//! This crate knows nothing of job files, tensors or networks.

#![warn(clippy::too_many_lines)]

pub mod control;
pub mod file_limit;
pub mod frame;
pub mod hyperparameters;
pub mod ids;
pub mod invariant;
mod narrow;
pub mod parts;
pub mod plugin;
pub mod remedy;
pub mod rendezvous;
pub mod rollout;
pub mod sampling_mask;
pub mod shown;
pub mod storage;
pub mod trace;
pub mod user_file;
pub mod verdict;
pub mod worker;
pub mod world;
