//! What a node does for a client of the controller: it has the files that the client asks about.

use crate::removal::{DiskSize, JobFacts};
use r1d_proto::control::content::LogLine;
use r1d_proto::control::error::ControlError;
use r1d_proto::control::removal::RemovalExtent;
use r1d_proto::control::{Response, SampleSort};
use r1d_proto::ids::JobId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The number of a work, which the controller gives.
pub type WorkId = u64;

/// A work's answer, or why there is none.
pub type WorkResult = Result<Answer, ControlError>;

/// Something that a node does for a client. Jobs go by their whole id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// What a job would do: [`Answer::Response`].
    Plan {
        /// The job file.
        job_toml: String,
        /// SHA-256 by plugin: by its name, or its absolute path.
        pins: BTreeMap<String, String>,
        /// The user whose jobs' files may be read, by id; `None`: everybody's.
        reader: Option<u32>,
    },
    /// Read and check all that a job needs before it is queued: [`Answer::Accepted`].
    Accept {
        /// The job file.
        job_toml: String,
        /// SHA-256 by plugin: by its name, or its absolute path.
        pins: BTreeMap<String, String>,
        /// The user whose jobs' files may be read, by id; `None`: everybody's.
        reader: Option<u32>,
    },
    /// Make the directory of a job that is about to be queued: [`Answer::Directory`].
    MakeDirectory {
        /// The job.
        job: JobId,
        /// The job file, every setting filled in.
        job_toml: String,
        /// The record of its inputs.
        inputs: String,
    },
    /// Remove the directory of a job that was not queued after all: [`Answer::Done`].
    RemoveDirectory {
        /// The job.
        job: JobId,
    },
    /// Let another component judge: [`Answer::Response`].
    Reload {
        /// The job.
        job: JobId,
        /// The plugin whose place it takes, or the reward.
        plugin: String,
        /// The new component.
        file: PathBuf,
        /// The user whose jobs' files may be read, by id; `None`: everybody's.
        reader: Option<u32>,
    },
    /// The data sets that a job's stages have made: [`Answer::Response`].
    DataSets {
        /// The job.
        job: JobId,
    },
    /// Accept a data set, or replace it: [`Answer::Response`].
    Review {
        /// The job.
        job: JobId,
        /// The stage that has made the data set.
        stage: String,
        /// What takes its place.
        file: Option<PathBuf>,
        /// The user whose jobs' files may be read, by id; `None`: everybody's.
        reader: Option<u32>,
    },
    /// The review that a job waits for, in words: [`Answer::Review`].
    AwaitedReview {
        /// The job.
        job: JobId,
    },
    /// Samples of a committed step: [`Answer::Response`].
    Samples {
        /// The job.
        job: JobId,
        /// The stage; `None` for the newest that has samples.
        stage: Option<String>,
        /// The step, from 1; `None` for the newest.
        step: Option<u64>,
        /// Their order.
        sort: SampleSort,
        /// Most samples.
        limit: u32,
    },
    /// How long the parts of a committed step took: [`Answer::Response`].
    Trace {
        /// The job.
        job: JobId,
        /// The stage; `None` for the last one that has begun.
        stage: Option<String>,
        /// The step, from 1; `None` for the newest that has a trace.
        step: Option<u64>,
    },
    /// The offset in bytes of the first line of a job's log that is wanted: [`Answer::Offset`].
    FindInLog {
        /// The job.
        job: JobId,
        /// Which lines are wanted.
        tail: Tail,
    },
    /// The next lines of a job's log: [`Answer::Lines`].
    ReadLog {
        /// The job.
        job: JobId,
        /// Where they begin, in bytes.
        offset: u64,
    },
    /// Write a line to a job's log: [`Answer::Done`].
    Log {
        /// The job.
        job: JobId,
        /// The line.
        line: String,
        /// Whether it warns.
        is_warning: bool,
    },
    /// Write a job's status into its directory: [`Answer::Done`].
    LeaveStatus {
        /// The job.
        job: JobId,
    },
    /// Whether the files that a job reads have not been written to since it was submitted:
    /// [`Answer::Whether`].
    IsUntouched {
        /// The job.
        job: JobId,
    },
    /// The plugins that the node has: [`Answer::Plugins`].
    Plugins,
    /// What a decision about removals has to know of all jobs: [`Answer::Facts`].
    RemovalFacts {
        /// Whether a limit asks for bytes, which take long to count.
        counts_bytes: bool,
    },
    /// The disk that a job takes which has ended: [`Answer::Size`].
    Measure {
        /// The job.
        job: JobId,
    },
    /// Wait until nothing of the last attempts of jobs that have ended is left: [`Answer::Done`].
    PutDown {
        /// The jobs.
        jobs: BTreeSet<JobId>,
    },
    /// Take a job off the record, or what it has besides its results out of sight; its files go
    /// later: [`Answer::Done`]. After that, a crash undoes nothing of it.
    Remove {
        /// The job.
        job: JobId,
        /// How much of it.
        extent: RemovalExtent,
        /// The reason, in words.
        why: String,
    },
}

/// Which lines of a log are wanted; `None` leaves a bound out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// At most so many of the last lines.
    pub lines: Option<u64>,
    /// Only lines that were written at this time or later, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
}

/// What came of a work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// What the client gets.
    Response(Response),
    /// The job can be queued.
    Accepted(Accepted),
    /// What became of the directory.
    Directory(Directory),
    /// The review that is waited for, in words; `None` if none is.
    Review(Option<String>),
    /// An offset in bytes.
    Offset(u64),
    /// Whole lines of a log.
    Lines {
        /// The lines.
        lines: Vec<LogLine>,
        /// Bytes that they take in the log; 0 if there are no more yet.
        bytes: u64,
    },
    /// Yes or no.
    Whether(bool),
    /// Names of plugins.
    Plugins(Vec<String>),
    /// Facts of all jobs, in the order of submission.
    Facts(Vec<JobFacts>),
    /// The disk that a job takes.
    Size(DiskSize),
}

/// A job that was read and checked, with all that was decided about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Its name.
    pub name: String,
    /// The job file's priority.
    pub priority: i32,
    /// The job file, every setting filled in.
    pub job_toml: String,
    /// Devices that it runs on at once.
    pub devices: u32,
    /// The record of its inputs.
    pub inputs: String,
    /// SHA-256 of the components that judge, by plugin.
    pub plugins: BTreeMap<String, String>,
    /// The keys of its stages.
    pub keys: Vec<String>,
    /// What looks like a mistake, but may be meant.
    pub warnings: Vec<String>,
}

/// What became of the directory of a job that is about to be queued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Directory {
    /// It is there, with the job file and the record of the inputs.
    Made,
    /// There is one of this name already.
    Taken,
    /// This job, whose files the job names, was removed while they were read.
    Removed(JobId),
}
