//! Checkpoints as they are found: whether they are the ones that the ledger has a record of, and
//! which state directory they belong to.
//!
//! A checkpoint is identified by the hash of its manifest, which lists the hashes of its files.
//! Another job's or another step's checkpoint in its place is therefore a damaged one, and is not
//! used. A job waits for what may be back soon (a directory that is not mounted or cannot be read),
//! and for what nothing can replace.
//!
//! `checkpoint.to` is outside of the state directory, and a copy of the state directory has the
//! same jobs. The file [`OWNER_FILE`] beside a job's checkpoints therefore names the state
//! directory that they belong to.

use crate::digest;
use crate::outputs::Outputs;
use crate::state_dir::LEDGER_FILE;
use r1d_job::Job;
use r1d_job::fingerprint::depends;
use r1d_ledger::{CheckpointRecord, JobRecord, Journal, StageRecord};
use r1d_proto::control::State;
use r1d_proto::replace::{FILE_MODE, replace};
use r1d_proto::storage::create_dir_durably;
use r1d_proto::user_file;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file in a job's directory below `checkpoint.to`; it holds the path of the state directory.
const OWNER_FILE: &str = "state-directory";
const OWNER_MAX_BYTES: u64 = 64 << 10;
/// Largest manifest that is read: enough for 100,000 files.
const MANIFEST_MAX_BYTES: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("checkpoint {} is not as it was recorded", .0.display())]
    Changed(PathBuf),
}

#[derive(Deserialize)]
struct Manifest {
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: PathBuf,
    bytes: u64,
    sha256: String,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    move |source| CheckpointError::Io { path, source }
}

/// Checks that the checkpoint's manifest has the hash on record, and that the listed files are
/// there.
pub(crate) fn is_whole(checkpoint: &CheckpointRecord) -> Result<(), CheckpointError> {
    manifest(checkpoint).map(drop)
}

/// Checks as [`is_whole`] does, and that every file has the contents on record. Reads the whole
/// checkpoint.
pub(crate) fn is_unharmed(checkpoint: &CheckpointRecord) -> Result<(), CheckpointError> {
    for entry in manifest(checkpoint)?.files {
        let path = checkpoint.dir.join(&entry.path);
        if digest::of_file(&path, &|| Ok(())).map_err(io_error(&path))? != entry.sha256 {
            return Err(CheckpointError::Changed(checkpoint.dir.clone()));
        }
    }
    Ok(())
}

fn manifest(checkpoint: &CheckpointRecord) -> Result<Manifest, CheckpointError> {
    let path = checkpoint.dir.join("manifest.json");
    let changed = || CheckpointError::Changed(checkpoint.dir.clone());
    let text = user_file::read(&path, MANIFEST_MAX_BYTES).map_err(io_error(&path))?;
    if digest::hex(Sha256::new_with_prefix(&text)) != checkpoint.manifest_sha256 {
        return Err(changed());
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|_| changed())?;
    for entry in &manifest.files {
        let path = checkpoint.dir.join(&entry.path);
        if fs::metadata(&path).map_err(io_error(&path))?.len() != entry.bytes {
            return Err(changed());
        }
    }
    Ok(manifest)
}

/// A checkpoint that is gone, or is not the one on record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub stage: u32,
    pub step: u64,
    /// Names the directory and what is wrong with it.
    pub what: String,
}

/// Returns what is wrong with a checkpoint, if anything is. An error means that it cannot be read
/// now.
fn lost(checkpoint: &CheckpointRecord) -> Result<Option<String>, String> {
    let dir = checkpoint.dir.display();
    match is_whole(checkpoint) {
        Ok(()) => Ok(None),
        Err(CheckpointError::Changed(_)) => {
            Ok(Some(format!("checkpoint {dir} is not as the job made it")))
        }
        Err(CheckpointError::Io { source, .. }) => match source.kind() {
            ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::FileTooLarge => Ok(Some(format!(
                "checkpoint {dir} is gone, or a part of it ({source})"
            ))),
            _ => Err(format!("checkpoint {dir} cannot be read ({source})")),
        },
    }
}

/// Finds the lost checkpoints of the stage at work: the job goes on from the one before each. An
/// error names what the job has to wait for. Blocks.
pub(crate) fn check(
    record: &JobRecord,
    job: &Job,
    outputs: &Outputs,
    state_dir: &Path,
) -> Result<Vec<Lost>, String> {
    let stages = &record.progress.stages;
    let last = job.stages.len().saturating_sub(1);
    let at_work = stages
        .iter()
        .position(|stage| stage.state != State::Succeeded)
        .unwrap_or(stages.len());
    let mut needed = depends(job, at_work.min(last)).unwrap_or_default().stages;
    // All stages are finished: the last weights are to be exported.
    needed.extend((at_work > last).then_some(last));
    let needed: Vec<(&StageRecord, &CheckpointRecord)> = needed
        .into_iter()
        .filter_map(|index| stages.get(index))
        .filter_map(|stage| Some((stage, stage.newest_checkpoint()?)))
        .collect();
    let own = stages
        .get(at_work)
        .map_or(&[][..], |stage| &stage.checkpoints);
    if let Some(to) = job
        .checkpoint
        .to
        .as_deref()
        .map(|_| outputs.checkpoints(job, record.job()))
    {
        let is_used = needed
            .iter()
            .map(|(_, checkpoint)| *checkpoint)
            .chain(own)
            .any(|checkpoint| checkpoint.dir.starts_with(&to));
        is_there(&to, is_used, state_dir)?;
    }
    for (stage, checkpoint) in needed {
        if let Some(what) = lost(checkpoint)? {
            return Err(format!(
                "{what}, and stage `{}`, which left it, is finished: put it back",
                stage.name
            ));
        }
    }
    let mut lost_ones = Vec::new();
    let mut from = 0;
    for checkpoint in own {
        match lost(checkpoint)? {
            Some(what) => lost_ones.push(Lost {
                stage: at_work as u32,
                step: checkpoint.step,
                what,
            }),
            None => from = checkpoint.step,
        }
    }
    let learns = job
        .stages
        .get(at_work)
        .is_some_and(|stage| stage.trains() && stage.rollouts().is_some());
    if let Some(stage) = stages.get(at_work).filter(|_| learns) {
        let file = |step| Journal::file(&outputs.journal(), at_work as u32, step);
        if let Some(missing) = (from..stage.step).map(file).find(|file| !file.exists()) {
            let what = lost_ones
                .pop()
                .map_or_else(|| "no checkpoint is left".into(), |lost| lost.what);
            return Err(format!(
                "{what}, and stage `{}` cannot be done again up to where it was without {}, which \
                 is gone too: put back what was there, or, where an old copy of the ledger was \
                 put back, a newer copy of the ledger",
                stage.name,
                missing.display()
            ));
        }
    }
    Ok(lost_ones)
}

/// Checks that the job's directory below `checkpoint.to` can be used.
fn is_there(dir: &Path, is_used: bool, state_dir: &Path) -> Result<(), String> {
    let shown = dir.display();
    let away = fs::read_dir(dir)
        .err()
        .filter(|error| is_used || error.kind() != ErrorKind::NotFound);
    if let Some(error) = away {
        return Err(format!(
            "{shown}, where the job's checkpoints are, is away ({error}): mount it or put it back"
        ));
    }
    match owner(dir) {
        Some(owner) if is_another(&owner, state_dir) => Err(format!(
            "the checkpoints in {shown} are of this job in the state directory {}, of which this \
             one ({}) is a copy: go on there, or move that one away",
            owner.display(),
            state_dir.display()
        )),
        _ => Ok(()),
    }
}

fn owner(dir: &Path) -> Option<PathBuf> {
    let path = user_file::read(&dir.join(OWNER_FILE), OWNER_MAX_BYTES).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(
        path.strip_suffix(b"\n").unwrap_or(&path),
    )))
}

/// Whether `path` holds another state directory, whatever the two are called.
fn is_another(path: &Path, state_dir: &Path) -> bool {
    let identity =
        |dir: &Path| fs::metadata(dir.join(LEDGER_FILE)).map(|found| (found.dev(), found.ino()));
    identity(path).is_ok_and(|other| identity(state_dir).is_ok_and(|own| own != other))
}

/// Marks the job's directory below `checkpoint.to` as this state directory's.
pub(crate) fn own(dir: &Path, state_dir: &Path) -> io::Result<()> {
    if owner(dir).as_deref() == Some(state_dir) {
        return Ok(());
    }
    create_dir_durably(dir)?;
    let line = [state_dir.as_os_str().as_bytes(), b"\n"].concat();
    replace(&dir.join(OWNER_FILE), FILE_MODE, |file| {
        file.write_all(&line)
    })
}
