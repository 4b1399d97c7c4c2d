//! The job file as the daemon wants it: every path absolute, every default filled in.

use crate::error::Error;
use r1d_job::Job;
use std::path::Path;

pub fn read(file: &Path) -> Result<String, Error> {
    let unread = |source| Error::ReadJob { file: file.into(), source };
    let text = std::fs::read_to_string(file).map_err(unread)?;
    // Paths in the file are relative to its own directory, wherever r1ctl is called from.
    let absolute = std::path::absolute(file).map_err(unread)?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    let job = Job::parse(&text, directory).map_err(|source| Error::Job { file: file.into(), source })?;
    Ok(job.to_toml())
}
