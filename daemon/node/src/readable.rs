//! Whose files a client may have read. The daemon reads what its own user can, and that is what
//! all jobs have left in its state directory: there a user names only files of own jobs.

use crate::context::NodeContext;
use crate::inputs;
use crate::removal::facts::{paths_of, without_links};
use r1d_job::Job;
use r1d_ledger::JobRecord;
use r1d_proto::ids::JobId;
use r1d_store::StateLayout;
use r1d_store::layout::OWN_DIRECTORIES;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a client may not have a file read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReadable {
    #[error(
        "{} belongs to job {job}, which is {owner}'s: ask them, or an administrator, for a copy \
         elsewhere", path.display()
    )]
    OfJob {
        path: PathBuf,
        job: JobId,
        owner: String,
    },
    #[error("{} is in the daemon's state directory, and of no job: it is for administrators",
        .0.display())]
    OfDaemon(PathBuf),
}

/// Checks that all files that a job names, or that are found where it names a directory or a
/// pattern, are `reader`'s to read. Blocks.
pub(crate) fn check_job(
    node: &NodeContext,
    reader: Option<u32>,
    job: &Job,
) -> Result<(), NotReadable> {
    if reader.is_none() {
        return Ok(());
    }
    let found = inputs::paths(job).into_iter().chain(inputs::named(job));
    check(node, reader, found.chain(paths_of(&job.to_toml())))
}

/// Checks that files are `reader`'s to read, a user id; `None` reads everybody's. Symbolic links
/// are followed. Blocks.
pub(crate) fn check(
    node: &NodeContext,
    reader: Option<u32>,
    paths: impl IntoIterator<Item = PathBuf>,
) -> Result<(), NotReadable> {
    let Some(uid) = reader else {
        return Ok(());
    };
    let state_dir = without_links(&node.state_dir);
    let jobs = without_links(&StateLayout::new(&node.state_dir).jobs());
    for path in paths {
        let real = without_links(&path);
        if !real.starts_with(&state_dir) && !real.starts_with(&jobs) {
            continue;
        }
        let Some(record) = job_of(node, &jobs, &real) else {
            if is_shared(&state_dir, &real) {
                continue;
            }
            return Err(NotReadable::OfDaemon(path));
        };
        let owner = record.owner.as_ref();
        if owner.is_none_or(|owner| owner.uid != uid) {
            return Err(NotReadable::OfJob {
                path,
                job: record.job().clone(),
                owner: owner.map_or_else(|| "nobody".into(), |owner| owner.name.clone()),
            });
        }
    }
    Ok(())
}

/// Whether a path lies in a directory that an administrator has put into the state directory, such
/// as one of models.
fn is_shared(state_dir: &Path, path: &Path) -> bool {
    let is_own = |name: &OsStr| OWN_DIRECTORIES.iter().any(|own| name == *own);
    path.strip_prefix(state_dir).is_ok_and(|below| {
        let mut names = below.components().map(|name| name.as_os_str());
        names.next().is_some_and(|name| !is_own(name)) && names.next().is_some()
    })
}

/// The job in whose directory below `jobs` a path lies, both without links.
fn job_of(node: &NodeContext, jobs: &Path, path: &Path) -> Option<Arc<JobRecord>> {
    let first = path.strip_prefix(jobs).ok()?.components().next()?;
    let job = JobId(first.as_os_str().to_str()?.to_owned());
    node.ledger.job(&job)
}
