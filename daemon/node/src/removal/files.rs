//! Removes files: all of a job that is off the record, what a job has besides its results, and what
//! an earlier daemon has left, in the state directory and below `checkpoint.to`. Each can be cut
//! off at any moment and begun again. Blocks.

use super::facts::elsewhere;
use super::sizes::{DISPOSABLE, GONE_PREFIX};
use crate::checkpoints::{self, OWNER_FILE};
use r1d_ledger::{JobRecord, Removal, State as LedgerState, unrecorded};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_store::{JobLayout, StateLayout, sync_parent};
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

/// What a submission that a crash cut short may have left in its job's directory.
const OF_A_SUBMISSION: [&str; 2] = ["job.toml", "inputs.json"];

/// Removes all files of a job that is off the record. Those in a directory of another state
/// directory stay: this one is a copy, or was one.
pub fn remove_job(
    storage: &dyn Storage,
    state_dir: &Path,
    job: &JobId,
    removal: &Removal,
) -> Result<()> {
    for dir in &removal.elsewhere {
        if checkpoints::is_of_another(dir, state_dir) {
            tracing::warn!(%job, "{} belongs to another state directory, and stays", dir.display());
            continue;
        }
        // The file that says whose directory it is goes last.
        for name in present(storage.list_dirs(dir))? {
            remove_dir(storage, &dir.join(name))?;
        }
        for name in present(storage.list(dir))? {
            if name != OWNER_FILE {
                storage.remove(&dir.join(name))?;
            }
        }
        remove_dir(storage, dir)?;
    }
    remove_dir(storage, &JobLayout::of(state_dir, job).dir)
}

/// Takes what a job has besides its results out of sight, and adds to `aside` where it is to be
/// removed, also if an error ends it half-way.
pub fn put_aside(
    storage: &dyn Storage,
    state_dir: &Path,
    job: &JobId,
    elsewhere: &[PathBuf],
    aside: &mut Vec<PathBuf>,
) -> Result<()> {
    let own = JobLayout::of(state_dir, job).dir;
    let mut dirs: Vec<PathBuf> = DISPOSABLE.iter().map(|name| own.join(name)).collect();
    for dir in elsewhere
        .iter()
        .filter(|dir| !checkpoints::is_of_another(dir, state_dir))
    {
        let stages = present(storage.list_dirs(dir))?;
        let stages = stages.iter().filter(|name| !name.starts_with(GONE_PREFIX));
        dirs.extend(stages.map(|name| dir.join(name)));
    }
    for dir in dirs {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let gone = dir.with_file_name(format!("{GONE_PREFIX}{name}"));
        // An earlier try was cut off.
        remove_dir(storage, &gone)?;
        match storage.rename(&dir, &gone) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            renamed => renamed?,
        }
        aside.push(gone);
        sync_parent(storage, &dir)?;
    }
    Ok(())
}

/// Removes a directory with all that is in it, if there is one.
pub fn remove_dir(storage: &dyn Storage, dir: &Path) -> Result<()> {
    match storage.remove_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => {
            removed?;
            sync_parent(storage, dir)
        }
    }
}

/// What an earlier daemon has left.
#[derive(Debug, Default)]
pub struct Orphans {
    /// Directories that nobody needs.
    pub left_over: Vec<PathBuf>,
    /// Directories of jobs that the ledger does not know: it may be an older copy.
    pub unknown: Vec<PathBuf>,
}

/// Finds what an earlier daemon has left in the state directory, before anything new is begun.
pub fn orphans(storage: &dyn Storage, state: &LedgerState, state_dir: &Path) -> Result<Orphans> {
    let jobs = StateLayout::new(state_dir).jobs();
    let mut found = Orphans::default();
    for name in storage.list_dirs(&jobs)? {
        let (job, dir) = (JobId(name.clone()), jobs.join(&name));
        match state.job(&job) {
            Some(record) => found.left_over.extend(of_a_job(storage, &dir, record)),
            None if state.removals().contains_key(&job) => {}
            None if is_of_a_submission(storage, &dir) => found.left_over.push(dir),
            None => found.unknown.push(dir),
        }
    }
    Ok(found)
}

/// Finds what was to be removed of jobs on record outside of the state directory, where a file
/// system may hang. What cannot be read is left out.
pub fn orphans_elsewhere(
    storage: &dyn Storage,
    state: &LedgerState,
    state_dir: &Path,
) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for record in state.jobs() {
        for dir in elsewhere(&record, state_dir) {
            if checkpoints::is_of_another(&dir, state_dir) {
                continue;
            }
            let names = storage.list_dirs(&dir).unwrap_or_default();
            let gone = names.iter().filter(|name| name.starts_with(GONE_PREFIX));
            found.extend(gone.map(|name| dir.join(name)));
        }
    }
    found
}

/// What is in a job's directory without being needed: what was to be removed, the journal of a job
/// that has nothing more to do, and checkpoints that a job which has ended has no record of.
fn of_a_job(storage: &dyn Storage, dir: &Path, record: &JobRecord) -> Vec<PathBuf> {
    let checkpoints = unrecorded_put_aside(storage, dir, record);
    let is_left = |name: &String| {
        name.starts_with(GONE_PREFIX) || (name == "journal" && record.state() == State::Succeeded)
    };
    let names = present(storage.list_dirs(dir)).unwrap_or_default();
    names
        .into_iter()
        .filter(is_left)
        .map(|name| dir.join(name))
        .chain(checkpoints)
        .collect()
}

/// Takes checkpoints of a job that has ended out of sight if they are not on record, and returns
/// where they are to be removed: once they have these names, the job may be requeued meanwhile.
/// Those of steps that the record does not have either may be of a newer ledger, and stay. What
/// cannot be renamed is left to the next attempt, or the next start.
fn unrecorded_put_aside(storage: &dyn Storage, dir: &Path, record: &JobRecord) -> Vec<PathBuf> {
    if !record.state().is_final() {
        return Vec::new();
    }
    let checkpoints = JobLayout::new(dir.into()).checkpoints(None, record.job());
    let mut aside = Vec::new();
    for stage in &record.progress.stages {
        let dir = checkpoints.join(&stage.name);
        let names = storage.list_dirs(&dir).unwrap_or_default();
        let gone = names.iter().filter(|name| name.starts_with(GONE_PREFIX));
        aside.extend(gone.map(|name| dir.join(name)));
        for (step, left) in unrecorded(storage, &dir, Some(stage)) {
            let gone = dir.join(format!("{GONE_PREFIX}step-{step}"));
            let is_known = step <= stage.step && !aside.contains(&gone);
            if is_known && storage.rename(&left, &gone).is_ok() {
                aside.push(gone);
            }
        }
    }
    aside
}

/// Whether a directory has nothing but what a job has before it is queued.
fn is_of_a_submission(storage: &dyn Storage, dir: &Path) -> bool {
    let is_a_part = |name: &String| OF_A_SUBMISSION.iter().any(|whole| name.contains(whole));
    let files = storage
        .list(dir)
        .is_ok_and(|names| names.iter().all(is_a_part));
    let dirs = storage.list_dirs(dir).is_ok_and(|names| {
        let is_empty = |name: &String| {
            let dir = dir.join(name);
            let counts = (storage.list(&dir), storage.list_dirs(&dir));
            matches!(counts, (Ok(files), Ok(dirs)) if files.is_empty() && dirs.is_empty())
        };
        names
            .iter()
            .all(|name| name == "rollouts" && is_empty(name))
    });
    files && dirs
}

/// The names in a directory; none if it is not there.
fn present(names: Result<Vec<String>>) -> Result<Vec<String>> {
    match names {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}
