//! The durable files of r1d: how each is written so that no crash leaves a part of it, and where it
//! lies. Other crates write durable files only through this one.
//!
//! | module | what it holds |
//! |---|---|
//! | [`layout`] | the paths of a state directory and of the jobs in it |
//! | [`disk`] | the storage on a real file system; tests hand in a simulated one |
//! | [`directory`] | directories whose names survive a crash, and that appear whole or not at all |
//! | [`blobs`] | files that are named by a hash, and go when nothing needs them |
//! | [`fence`] | the storage of one attempt, which fails once a later one has begun |
//! | [`link`] | second names for files that do not change any more |
//! | [`mod@replace`] | files that appear whole or not at all |
//! | [`journal`] | every rollout before it is used: append-only, checksummed segments, one per step |
//! | [`entry`], `segment`, `step` | the journal's records, their bytes, and what they add up to |
//! | `journal_files`, `step_file` | the names of its files; the file of a step that is still written |
//! | [`rollouts`] | scored rollouts as Parquet, one file per committed step |
//!
//! The journal keeps its half of `STEP-1`: a step's rollouts are durable before the ledger commits
//! the step.

#![warn(clippy::too_many_lines)]

pub mod blobs;
pub mod directory;
pub mod disk;
pub mod entry;
pub mod error;
pub mod fence;
pub mod journal;
pub mod journal_error;
mod journal_files;
pub mod layout;
pub mod link;
pub mod replace;
pub mod rollouts;
mod segment;
mod step;
mod step_file;

pub use blobs::{BlobHash, Blobs, Collected};
pub use directory::{PartialDir, create_dir, sync_parent};
pub use disk::Disk;
pub use entry::{Entry, Refused};
pub use error::StoreError;
pub use fence::Fence;
pub use journal::Journal;
pub use journal_error::{Cut, JournalError};
pub use layout::{JobLayout, StateLayout};
pub use link::{link_dir, link_files, remove_dir};
pub use replace::{FILE_MODE, PRIVATE_MODE, create_file, remove_parts, replace, write_file};
pub use rollouts::RolloutRow;
pub use step::StepRecord;
