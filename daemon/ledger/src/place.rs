//! Paths in the ledger's file, which may be moved or copied with all that is beside it.
//!
//! A path below the ledger's own directory is written relative to it, and read as a path below the
//! directory in which the ledger is found. Earlier releases wrote every path absolute: one that
//! ends as a job's own files do is treated in the same way. All other paths are written and read as
//! they are.

use r1d_proto::ids::JobId;
use std::path::{Component, Path, PathBuf};

/// The path as it is stored in a ledger in `root`.
pub(crate) fn to_file(path: &Path, root: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_path_buf()
}

/// A path of the job's as it is read from a ledger in `root`.
pub(crate) fn from_file(path: &Path, job: &JobId, root: &Path) -> PathBuf {
    match own_tail(path, job) {
        _ if path.is_relative() => root.join(path),
        Some(tail) => root.join(tail),
        None => path.to_path_buf(),
    }
}

/// The end of a path, if it is `jobs/<id>/final` or `jobs/<id>/checkpoints/<stage>/step-<N>`. A
/// directory that the job's `checkpoint.to` names never ends so: its checkpoints are
/// `<to>/<id>/<stage>/step-<N>`.
fn own_tail(path: &Path, job: &JobId) -> Option<PathBuf> {
    let parts: Vec<Component> = path.components().collect();
    let is = |part: &Component, name: &str| part.as_os_str() == name;
    [3, 5].into_iter().find_map(|length| {
        let tail = parts.get(parts.len().checked_sub(length)?..)?;
        let is_own = match tail {
            [jobs, id, last] => is(jobs, "jobs") && is(id, &job.0) && is(last, "final"),
            [jobs, id, checkpoints, _, _] => {
                is(jobs, "jobs") && is(id, &job.0) && is(checkpoints, "checkpoints")
            }
            _ => false,
        };
        is_own.then(|| tail.iter().collect())
    })
}
