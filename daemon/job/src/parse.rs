//! Reading of a job file: from its text to a job that is sound.

use crate::complete::complete;
use crate::daemon::DaemonConfig;
use crate::error::JobError;
use crate::file::check;
use crate::file::document::Document;
use crate::file::{Fields, Read, Tabled};
use crate::job::Job;
use crate::limits::JOB_MAX_BYTES;
use crate::plan::InputFacts;
use crate::{size, validate};
use std::path::Path;

impl Job {
    /// Reads a job file. Relative paths resolve against `base_dir`, the job file's own directory.
    pub fn parse(text: &str, base_dir: &Path) -> Result<Job, JobError> {
        if text.len() > JOB_MAX_BYTES {
            return Err(JobError::TooLong {
                bytes: text.len(),
                limit: JOB_MAX_BYTES,
            });
        }
        let own = Job::table();
        let table = check::resolve(&Document::parse(text)?, own, &[own, DaemonConfig::table()])?;
        let file = Fields::root(&table, base_dir);
        let mut job = Job::read(&file)?;
        complete(&mut job, &file)?;
        validate::check(&job)?;
        size::check(&job, &InputFacts::default())?;
        Ok(job)
    }
}
