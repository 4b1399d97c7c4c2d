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
use r1d_job::Job;
use r1d_job::fingerprint::depends;
use r1d_ledger::{CheckpointRecord, JobRecord, StageRecord};
use r1d_proto::control::job::State;
use r1d_proto::user_file;
use r1d_store::layout::{LEDGER_FILE, checkpoint_step};
use r1d_store::{Disk, FILE_MODE, JobLayout, Journal, JournalError, create_dir, replace};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file in a job's directory below `checkpoint.to`; it holds the path of the state directory.
pub(crate) const OWNER_FILE: &str = "state-directory";
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
    pub(crate) stage: u32,
    pub(crate) step: u64,
    /// Names the directory and what is wrong with it.
    pub(crate) what: String,
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

/// What there is to go on from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Checkpoints of the stage at work, for the job to go on from what is before each.
    pub(crate) lost: Vec<Lost>,
    /// Set where the steps since cannot be brought back.
    pub(crate) back: Option<Back>,
}

/// The place in the stage at work from which the job can go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Back {
    pub(crate) stage: u32,
    pub(crate) step: u64,
    /// Names what the steps since cannot be brought back without, and says what becomes of them.
    pub(crate) what: String,
}

/// How closely the journal is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journals {
    Present,
    /// All that is to be trained on again is read.
    Whole,
}

/// The finished stages whose last weights the job needs from here on, with those.
fn needed<'r>(record: &'r JobRecord, job: &Job) -> Vec<(&'r StageRecord, &'r CheckpointRecord)> {
    let stages = &record.progress.stages;
    let last = job.stages.len().saturating_sub(1);
    let at_work = at_work(record);
    let mut needed = depends(job, at_work.min(last)).unwrap_or_default().stages;
    // All stages are finished: the last weights are to be exported.
    needed.extend((at_work > last).then_some(last));
    let needed = needed.into_iter().filter_map(|index| stages.get(index));
    needed
        .filter_map(|stage| Some((&**stage, stage.newest_checkpoint()?)))
        .collect()
}

/// The index of the first stage that is not finished.
fn at_work(record: &JobRecord) -> usize {
    let stages = &record.progress.stages;
    stages
        .iter()
        .position(|stage| stage.state != State::Succeeded)
        .unwrap_or(stages.len())
}

fn put_back(what: &str, stage: &StageRecord) -> String {
    format!(
        "{what}, and stage `{}`, which left it, is finished: put it back",
        stage.name
    )
}

/// Names a checkpoint of a finished stage that the job needs and whose bytes are others. Reads all
/// that it needs.
pub(crate) fn harmed(record: &JobRecord, job: &Job) -> Option<String> {
    needed(record, job)
        .into_iter()
        .find_map(|(stage, checkpoint)| {
            let error = is_unharmed(checkpoint).err()?;
            Some(put_back(&error.to_string(), stage))
        })
}

/// The checkpoints of a stage that are lost, and the step of the newest that is not; 0 if none is
/// left.
fn lost_of(own: &[CheckpointRecord], stage: u32) -> Result<(Vec<Lost>, u64), String> {
    let (mut lost_ones, mut from) = (Vec::new(), 0);
    for checkpoint in own {
        let step = checkpoint.step;
        match lost(checkpoint)? {
            Some(what) => lost_ones.push(Lost { stage, step, what }),
            None => from = step,
        }
    }
    Ok((lost_ones, from))
}

/// What the job can go on from. An error names what it has to wait for. Blocks.
pub(crate) fn check(
    record: &JobRecord,
    job: &Job,
    outputs: &JobLayout,
    state_dir: &Path,
    journals: Journals,
) -> Result<Survey, String> {
    let stages = &record.progress.stages;
    let (at_work, needed) = (at_work(record), needed(record, job));
    let own = stages
        .get(at_work)
        .map_or(&[][..], |stage| &stage.checkpoints);
    check_elsewhere(record, job, outputs, state_dir)?;
    for (stage, checkpoint) in needed {
        if let Some(what) = lost(checkpoint)? {
            return Err(put_back(&what, stage));
        }
    }
    let (lost_ones, from) = lost_of(own, at_work as u32)?;
    let learns = job
        .stages
        .get(at_work)
        .is_some_and(|stage| stage.trains() && stage.rollouts().is_some());
    let Some(stage) = stages.get(at_work).filter(|_| learns) else {
        return Ok(Survey {
            lost: lost_ones,
            back: None,
        });
    };
    let journal = Journal::view(
        Disk::shared(),
        &outputs.journal(),
        record.job(),
        at_work as u32,
    );
    let journal = journal.map_err(unread)?;
    let unreadable = |step| unreadable(&journal, step, journals).transpose();
    let Some(without) = (from..stage.step).find_map(unreadable).transpose()? else {
        return Ok(Survey {
            lost: lost_ones,
            back: None,
        });
    };
    // Then newer checkpoints have taken the place of those on record.
    let is_older = || {
        newest_of(
            &outputs
                .checkpoints(job.checkpoint.to.as_deref(), record.job())
                .join(&stage.name),
        ) > Some(stage.durable_step())
    };
    match lost_ones.iter().rfind(|lost| lost.step > from) {
        Some(lost) if !is_older() => Err(format!(
            "{}, and stage `{}` cannot be brought back to its {} steps without it, \
             as {without}: put back what was there",
            lost.what, stage.name, stage.step
        )),
        _ => {
            let place = if from == 0 {
                "beginning".into()
            } else {
                format!("step {from}")
            };
            let what = format!(
                "stage `{}` cannot be brought back to its {} steps, as {without}: its steps are \
                 done again from its {place}",
                stage.name, stage.step
            );
            Ok(Survey {
                lost: lost_ones,
                back: Some(Back {
                    stage: at_work as u32,
                    step: from,
                    what,
                }),
            })
        }
    }
}

/// Checks that the directory of `checkpoint.to` is there, where the job has one and has used it.
fn check_elsewhere(
    record: &JobRecord,
    job: &Job,
    outputs: &JobLayout,
    state_dir: &Path,
) -> Result<(), String> {
    if job.checkpoint.to.is_none() {
        return Ok(());
    }
    let to = outputs.checkpoints(job.checkpoint.to.as_deref(), record.job());
    let stages = &record.progress.stages;
    // It was made before the first stage began; what is taken over from another job may lie there.
    let is_used = stages.len() > record.reuse.taken.len()
        || (stages.iter().flat_map(|stage| &stage.checkpoints))
            .any(|checkpoint| checkpoint.dir.starts_with(&to));
    is_there(&to, is_used, state_dir)
}

/// Why a committed step cannot be trained on again; an error where that says nothing of it.
fn unreadable(journal: &Journal, step: u64, journals: Journals) -> Result<Option<String>, String> {
    if journals == Journals::Present && journal.has(step) {
        return Ok(None);
    }
    match journal.replay(step) {
        Ok(_) => Ok(None),
        Err(JournalError::Missing { path, .. }) => {
            Ok(Some(format!("{} is gone, or not whole", path.display())))
        }
        Err(JournalError::Damaged { path, offset, what }) => Ok(Some(format!(
            "{} is damaged at byte {offset} ({what})",
            path.display()
        ))),
        Err(error) => Err(unread(error)),
    }
}

fn unread(error: JournalError) -> String {
    format!("{error}: put there what was there before")
}

/// The newest step that a stage's directory has a checkpoint of.
fn newest_of(dir: &Path) -> Option<u64> {
    let step_of = |entry: fs::DirEntry| checkpoint_step(entry.file_name().to_str()?);
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(step_of)
        .max()
}

/// Checks that the job's directory below `checkpoint.to` can be used.
fn is_there(dir: &Path, is_used: bool, state_dir: &Path) -> Result<(), String> {
    let unread = fs::read_dir(dir)
        .err()
        .filter(|error| is_used || error.kind() != ErrorKind::NotFound);
    if let Some(error) = unread {
        return Err(away(dir, &error.to_string()));
    }
    match owner(dir) {
        Some(owner) => is_not_another(dir, &owner, state_dir),
        None => Ok(()),
    }
}

/// Checks that the job's directory below `checkpoint.to`, which [`own`] has made this state
/// directory's, is still there: its file system may have gone since.
pub(crate) fn is_owned(dir: &Path, state_dir: &Path) -> Result<(), String> {
    match owner(dir) {
        Some(owner) => is_not_another(dir, &owner, state_dir),
        None => Err(away(dir, &format!("no {OWNER_FILE} in it"))),
    }
}

/// Whether another state directory's name is in a job's directory below `checkpoint.to`.
pub(crate) fn is_of_another(dir: &Path, state_dir: &Path) -> bool {
    owner(dir).is_some_and(|owner| is_another(&owner, state_dir))
}

fn away(dir: &Path, why: &str) -> String {
    format!(
        "{}, where the job's checkpoints are, is away ({why}): mount it or put it back",
        dir.display()
    )
}

fn is_not_another(dir: &Path, owner: &Path, state_dir: &Path) -> Result<(), String> {
    if is_another(owner, state_dir) {
        Err(format!(
            "the checkpoints in {} are of this job in the state directory {}, of which this \
             one ({}) is a copy: go on there, or move that one away",
            dir.display(),
            owner.display(),
            state_dir.display()
        ))
    } else {
        Ok(())
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
pub fn own(dir: &Path, state_dir: &Path) -> io::Result<()> {
    if owner(dir).as_deref() == Some(state_dir) {
        return Ok(());
    }
    create_dir(&Disk, dir)?;
    let line = [state_dir.as_os_str().as_bytes(), b"\n"].concat();
    replace(&Disk, &dir.join(OWNER_FILE), FILE_MODE, |file| {
        file.write_all(&line)
    })
}
