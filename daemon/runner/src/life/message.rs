//! The events that a job's life takes, and the commands that it returns.

use crate::message::End;
use crate::restart::{Attempts, Progress};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Something happened to a job that has, or had, a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeEvent {
    /// Answer to [`LifeCommand::Open`].
    Opened {
        /// The newest epoch that the ledger has for the job.
        epoch: u64,
        /// What the inputs are.
        inputs: Inputs,
    },
    /// Answer to [`LifeCommand::Start`].
    Started {
        /// The attempt's epoch, or the one that it was to go on in. The ledger may have given it
        /// although the attempt did not begin.
        epoch: Option<u64>,
        /// Whether the attempt has a worker, or how it ended.
        begun: Result<(), End>,
    },
    /// The attempt has ended.
    Ended {
        /// How it ended.
        end: End,
    },
    /// A step of the attempt is committed.
    Committed,
    /// Answer to [`LifeCommand::JoinWriter`]: nothing writes for the job any more.
    WriterJoined,
    /// Answer to [`LifeCommand::AwaitReview`].
    Reviewed,
    /// Answer to [`LifeCommand::LookOutside`]: what is amiss outside of the job, if anything is.
    Looked(Option<String>),
    /// Answer to [`LifeCommand::Record`]: whether the ledger could take the end.
    Recorded(Result<(), String>),
    /// The job was cancelled or paused, another queue begins, or the daemon stops.
    Stop {
        /// Whether the step in flight is to be committed first.
        after_step: bool,
        /// Whether a step is in flight.
        in_step: bool,
    },
    /// Time has passed.
    Tick,
}

/// A job's inputs, as they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// They are loaded.
    Ready,
    /// A data set waits for people to review it.
    Review {
        /// The stage that has made it.
        stage: String,
        /// Its number of rows.
        rows: u64,
    },
    /// They cannot be had: the attempt ends before it began.
    Ended(End),
    /// The job is given up without another look.
    GivenUp {
        /// The reason, for the job's status.
        error: String,
    },
}

/// What the ledger says of a job at the time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobStanding {
    /// How much of it is durable.
    pub progress: Progress,
    /// Whether it has ended or was paused, so that no attempt may follow.
    pub is_over: bool,
    /// Whether a stage that people review has finished since the inputs were opened.
    pub has_to_review: bool,
}

/// Something to do for a job. Commands of one decision are carried out in order, each after the
/// one before it; a later decision drops what is left of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeCommand {
    /// Join the writer of a life before this one, take the job up, and open its inputs.
    Open,
    /// Begin an attempt: an epoch in the ledger, a fresh worker.
    Start {
        /// The epoch that it goes on in; `None` for a new one.
        resumed: Option<u64>,
    },
    /// Let the machine of the attempt that has begun do its work; [`LifeEvent::Ended`] ends it.
    Work,
    /// Wait until people have reviewed a data set.
    AwaitReview {
        /// The stage that has made it.
        stage: String,
    },
    /// See whether something that the job needs is amiss.
    LookOutside,
    /// Kill the attempt's worker, and wait until its process is gone.
    EndWorker,
    /// Stop the attempt's writer, and wait until its thread is gone.
    JoinWriter,
    /// Tell the ledger that the daemon no longer works for the job.
    PutDown,
    /// Release the device: from now on, neither it nor its worker is touched.
    ReleaseDevice,
    /// Count a restart of the device's worker.
    CountRestart,
    /// Record the job's end in the ledger.
    Record(JobEnd),
    /// Write the job's status into its directory.
    LeaveStatus,
    /// Take the job's live status away.
    ClearStatus,
    /// Show in the live status that the job has ended, although the ledger cannot record it.
    ShowUnrecorded {
        /// The end, and why it is not recorded.
        error: String,
    },
    /// Write a line to the job's log.
    Log(LogLevel, String),
    /// Hand the job back to the queue: this life is over.
    Report(LifeOutcome),
}

/// How urgent a line of the job's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What goes as it should.
    Info,
    /// What is out of the ordinary, and mended.
    Warn,
    /// What ends the job.
    Error,
}

/// The attempts at a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Those that count against it.
    pub attempts: Attempts,
    /// The number of the last one, of all that there were.
    pub number: u64,
}

/// A job's end, as the ledger records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnd {
    /// The newest epoch known: an end recorded in an older one is refused.
    pub epoch: u64,
    /// The directory of the exported model, or why the job failed.
    pub result: Result<PathBuf, String>,
}

/// What becomes of the job, for the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LifeOutcome {
    /// The end is in the ledger, or the job was stopped and goes on later.
    Over,
    /// The job goes on as soon as a device is free.
    Ready {
        /// The epoch in which it goes on; `None` for a new one.
        epoch: Option<u64>,
    },
    /// The device can be used by no job: this one goes on as soon as another is free.
    DeviceUnusable {
        /// The epoch in which it goes on; `None` for a new one.
        epoch: Option<u64>,
        /// What is wrong with the device.
        cause: String,
    },
    /// Workers failed the job again and again, which may be the device's fault: the job goes on
    /// another, if there is one.
    DeviceDoubted {
        /// The job's attempts, those on this device included.
        history: History,
        /// Why the last one ended.
        cause: String,
    },
    /// Something outside of the job is amiss: it goes on once that is mended.
    WaitsOutside {
        /// The epoch in which it goes on; `None` for a new one.
        epoch: Option<u64>,
        /// What is amiss.
        cause: String,
    },
    /// The ledger could not take the end, which is to be tried again.
    Unrecorded(JobEnd),
}
