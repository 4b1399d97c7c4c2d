//! The job file as it is sent: with every path absolute and every default filled in.

use crate::error::Error;
use r1d_job::Job;
use r1d_job::limits::JOB_MAX_BYTES;
use r1d_proto::user_file;
use std::path::Path;

pub(crate) fn read(file: &Path) -> Result<Job, Error> {
    let unread = |source| Error::ReadJob {
        file: file.into(),
        source,
    };
    let text = user_file::read_text(file, JOB_MAX_BYTES as u64).map_err(unread)?;
    // Paths in the file are relative to its own directory, wherever r1ctl is called from.
    let absolute = std::path::absolute(file).map_err(unread)?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    Job::parse(&text, directory).map_err(|source| Error::Job {
        file: file.into(),
        source: Box::new(source),
    })
}
