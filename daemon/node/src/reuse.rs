//! A finished stage is not done again: if the next stage of a job has the settings and inputs of
//! one that another job has finished, it takes over that stage's results.
//!
//! A stage's key is the SHA-256 of all that its outcome depends on ([`r1d_job::fingerprint`]): its
//! settings and place, the contents of its data, tokenizer and templates, its plugins' hashes, the
//! model's configuration, and the keys of the stages that it builds on. Weight files of a model are
//! identified by name, size and time of the last change: they are too large to be read at each
//! submission.
//!
//! Files are linked if the file system can, else copied. A file that was taken over does not change
//! under either owner's name, because both jobs only ever remove whole files. The ledger records
//! the stage in one transaction after its files are in place; if the daemon is killed before, the
//! next try clears them away.

use crate::checkpoints::{CheckpointError, is_unharmed, is_whole};
use crate::context::NodeContext;
use crate::datasets::DataSets;
use crate::digest;
use crate::file_hashes::FileHashes;
use crate::inputs::{Inputs, weight_files};
use crate::job_log::JobLog;
use crate::loaded_job::LoadedJob;
use r1d_job::fingerprint::{Depends, depends};
use r1d_job::{Job, Stage, Weights};
use r1d_ledger::{CheckpointRecord, Command, JobRecord, LedgerError, StageRecord};
use r1d_proto::control::job::{EvalResult, State};
use r1d_proto::ids::JobId;
use r1d_store::{Disk, JobLayout, StoreError, layout, link_dir, link_files, remove_dir};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most files of one checkpoint.
const FILES_MAX: usize = 100_000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReuseError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    File(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ReuseError {
    let path = path.to_path_buf();
    move |source| ReuseError::Io { path, source }
}

/// Computes the key of each stage in hexadecimal. It is empty for a stage whose data set people
/// review, and for the stages that build on it. `plugins` has the hashes of those that judge.
/// Blocks: reads all data whose hashes are not `known`.
pub(crate) fn keys(
    job: &Job,
    plugins: &BTreeMap<String, String>,
    node: &NodeContext,
    known: Option<&Inputs>,
) -> Result<Vec<String>, ReuseError> {
    let devices = format!("{}; {}", kinds_of_devices(node), node.kernels);
    let hashes = Hashes {
        known,
        read: &node.ingest.hashes,
    };
    let mut keys: Vec<String> = Vec::new();
    let mut data = BTreeMap::new();
    for index in 0..job.stages.len() {
        let Some(on) = depends(job, index) else { break };
        // People may change this data set, so the outcome of later stages is this job's alone.
        let reviewed = job.stages.get(index).is_some_and(Stage::is_reviewed);
        let key = if reviewed
            || on
                .stages
                .iter()
                .any(|before| keys.get(*before).is_none_or(String::is_empty))
        {
            String::new()
        } else {
            key(job, &on, plugins, &keys, &devices, &mut data, hashes)?
        };
        keys.push(key);
    }
    Ok(keys)
}

/// The kinds of devices that this node has, as in `cpu cuda`.
fn kinds_of_devices(node: &NodeContext) -> String {
    let kind = |name: &String| name.split(':').next().unwrap_or_default().to_owned();
    let kinds: BTreeSet<String> = node.devices.iter().map(kind).collect();
    kinds.into_iter().collect::<Vec<_>>().join(" ")
}

/// The release, and size and time of the daemon's executable and of the worker's beside it.
pub(crate) fn build() -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let worker = own.with_file_name("r1d-worker");
    let known = [&own, &worker]
        .map(|path| fs::metadata(path).map_or_else(|_| String::new(), |file| identity(&file)));
    format!("{} {}", env!("CARGO_PKG_VERSION"), known.join(" "))
}

fn identity(file: &fs::Metadata) -> String {
    let changed = file
        .modified()
        .ok()
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    format!(
        "{} bytes, changed {}",
        file.len(),
        changed.unwrap_or_default().as_nanos()
    )
}

/// Hashes parts with their lengths, so that different lists of parts never give the same text.
#[derive(Default)]
struct KeyParts(Sha256);

impl KeyParts {
    fn add(&mut self, name: &str, value: &str) {
        for part in [name, value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    fn hex(self) -> String {
        digest::hex(self.0)
    }
}

fn key(
    job: &Job,
    on: &Depends,
    plugins: &BTreeMap<String, String>,
    before: &[String],
    devices: &str,
    data: &mut BTreeMap<String, String>,
    hashes: Hashes<'_>,
) -> Result<String, ReuseError> {
    let mut parts = KeyParts::default();
    // Another build may compute differently; other devices and kernels round differently.
    parts.add("build", &build());
    parts.add("devices", devices);
    parts.add("settings", &on.settings);
    for name in &on.data {
        if !data.contains_key(name)
            && let Some(source) = job.data.get(name)
        {
            let mut contents = KeyParts::default();
            for file in r1d_data::files(source).map_err(|error| ReuseError::Io {
                path: source.path.clone(),
                source: io::Error::other(error),
            })? {
                contents.add("file", &hashes.of(&file)?);
            }
            data.insert(name.clone(), contents.hex());
        }
        parts.add(name, data.get(name).map_or("", String::as_str));
    }
    for stage in &on.stages {
        parts.add("stage", before.get(*stage).map_or("", String::as_str));
    }
    for plugin in &on.plugins {
        parts.add(plugin, plugins.get(plugin).map_or("", String::as_str));
    }
    for file in &on.files {
        parts.add("template", &hashes.of(file)?);
    }
    for dir in &on.directories {
        add_directory(&mut parts, dir, hashes)?;
    }
    let tokenizer = job
        .models()
        .nth(on.model)
        .map(|model| model.tokenizer().to_path_buf());
    let mut templates = on.files.iter().chain(&on.directories).chain(&tokenizer);
    if templates.any(|path| r1d_data::template::asks_for_date(path)) {
        parts.add("date", job.date.as_deref().unwrap_or_default());
    }
    if let Some(model) = job.models().nth(on.model) {
        parts.add("config", &hashes.of(&model.config())?);
        add_tokenizer(&mut parts, model.tokenizer(), hashes)?;
        if let Weights::Directory(dir) = model {
            add_directory(&mut parts, dir, hashes)?;
        }
    }
    Ok(parts.hex())
}

/// Finds the hashes of files: in the job's record of its inputs, or else by reading those that were
/// not read before.
#[derive(Clone, Copy)]
struct Hashes<'a> {
    known: Option<&'a Inputs>,
    read: &'a FileHashes,
}

impl Hashes<'_> {
    fn of(self, path: &Path) -> Result<String, ReuseError> {
        match self.known.and_then(|known| known.sha256_of(path)) {
            Some(hash) => Ok(hash.to_owned()),
            None => self.read.sha256(path, &|| Ok(())).map_err(io_error(path)),
        }
    }
}

fn add_tokenizer(
    parts: &mut KeyParts,
    tokenizer: &Path,
    hashes: Hashes<'_>,
) -> Result<(), ReuseError> {
    for file in &r1d_data::tokenizer::files(tokenizer) {
        parts.add(
            &file.file_name().unwrap_or_default().to_string_lossy(),
            &hashes.of(file)?,
        );
    }
    Ok(())
}

/// Adds a model directory: weight files by name, size and time, small files by content.
fn add_directory(parts: &mut KeyParts, dir: &Path, hashes: Hashes<'_>) -> Result<(), ReuseError> {
    for path in weight_files(dir) {
        let known = identity(&fs::metadata(&path).map_err(io_error(&path))?);
        parts.add(
            &path.strip_prefix(dir).unwrap_or(&path).to_string_lossy(),
            &known,
        );
    }
    add_tokenizer(parts, dir, hashes)
}

/// A complete stage that another job has finished: the job and the stage's record.
struct ReusableStage {
    job: Arc<JobRecord>,
    stage: StageRecord,
}

/// The newest finished stage with this key, of any job but `own`.
fn find(node: &NodeContext, own: Option<&JobId>, index: usize, key: &str) -> Option<ReusableStage> {
    if key.is_empty() {
        return None;
    }
    let is_other = |record: &&Arc<JobRecord>| Some(record.job()) != own;
    let whole = |job: Arc<JobRecord>| {
        if job.reuse.keys.get(index).map(String::as_str) != Some(key) {
            return None;
        }
        let stage = job.progress.stages.get(index)?.clone();
        (stage.state == State::Succeeded && is_there(node, &job, index, &stage)).then(|| {
            let stage = StageRecord::clone(&stage);
            ReusableStage { job, stage }
        })
    };
    node.ledger
        .jobs()
        .iter()
        .rev()
        .filter(is_other)
        .cloned()
        .find_map(whole)
}

/// Whether everything that a stage left for others still exists: its last checkpoint and its data
/// set.
fn is_there(node: &NodeContext, job: &JobRecord, index: usize, record: &StageRecord) -> bool {
    let Ok(parsed) = Job::parse(&job.submission.job_toml, Path::new("/")) else {
        return false;
    };
    let Some(settings) = parsed.stages.get(index) else {
        return false;
    };
    let outputs = JobLayout::of(&node.state_dir, job.job());
    let made = settings.rejection_sampling().is_none() || {
        let dir = outputs.datasets();
        let sets = DataSets {
            dir,
            finished: BTreeSet::from([record.name.clone()]),
        };
        sets.find(&record.name).is_ok_and(|found| found.is_some())
    };
    let saved = || {
        record.newest_checkpoint().is_some_and(|checkpoint| {
            checkpoint.step == record.steps && is_whole(checkpoint).is_ok()
        })
    };
    made && (!settings.trains() || saved())
}

/// Stages that a planned job would take over, and from which jobs.
pub(crate) fn plan(node: &NodeContext, loaded_job: &LoadedJob) -> BTreeMap<usize, JobId> {
    let plugins = loaded_job.component_hashes();
    let keys = keys(&loaded_job.job, &plugins, node, None).unwrap_or_default();
    let found = keys
        .iter()
        .enumerate()
        .filter_map(|(index, key)| Some((index, find(node, None, index, key)?.job.job().clone())));
    found.collect()
}

/// Takes over the next stages, one after the other, as far as possible. Returns later stages that
/// can be taken over when it is their turn. Blocks.
pub(crate) fn take_over(
    node: &NodeContext,
    record: &Arc<JobRecord>,
    outputs: &JobLayout,
    job: &Job,
    log: &JobLog,
) -> BTreeSet<usize> {
    if !record.reuse.enabled {
        return BTreeSet::new();
    }
    let id = record.job();
    let at_work = record.stage_at_work().is_some();
    let mut next = record.progress.stages.len();
    let mut later = BTreeSet::new();
    for (index, key) in record.reuse.keys.iter().enumerate().skip(next) {
        let Some(found) = find(node, Some(id), index, key) else {
            continue;
        };
        if at_work || index != next {
            later.insert(index);
            continue;
        }
        let of = found.job.job().clone();
        match take(node, record, outputs, job, index, found) {
            Ok(()) => {
                let name = job.stages.get(index).map_or("", |stage| &stage.name);
                log.info(format!(
                    "stage {name} is taken over from job {of}, which has finished it with the \
                     same settings and inputs"
                ));
                next += 1;
            }
            Err(error) => {
                log.warn(format!(
                    "a stage of job {of} cannot be taken over and is done again: {error}"
                ));
            }
        }
    }
    later
}

fn take(
    node: &NodeContext,
    own: &JobRecord,
    outputs: &JobLayout,
    job: &Job,
    index: usize,
    found: ReusableStage,
) -> Result<(), ReuseError> {
    let ReusableStage {
        job: other,
        stage: mut record,
    } = found;
    let theirs = JobLayout::of(&node.state_dir, other.job());
    let stage = index as u32;
    let newest = record.newest_checkpoint().cloned();
    record.checkpoints.clear();
    if let Some(checkpoint) = newest {
        let all = outputs.checkpoints(job.checkpoint.to.as_deref(), own.job());
        let dir = layout::checkpoint(&all, &record.name, checkpoint.step);
        link_dir(&Disk, &checkpoint.dir, &dir, FILES_MAX)?;
        let copied = CheckpointRecord { dir, ..checkpoint };
        // A stage that was taken over has no earlier checkpoint to go back to. Damage that only a
        // worker finds would fail the job, although the stage could simply be done again.
        is_unharmed(&copied).inspect_err(|_| {
            // A copy that stays would only be in the way of the stage that is done again, which
            // clears it too.
            let _ = remove_dir(&Disk, &copied.dir);
        })?;
        record.checkpoints.push(copied);
    }
    let files = (1..=record.steps).map(|step| {
        (
            theirs.rollouts(&record.name, step),
            outputs.rollouts(&record.name, step),
        )
    });
    let made = ["jsonl", "json"].map(|ending| format!("{}.{ending}", record.name));
    let made = made.into_iter().map(|name| {
        (
            theirs.datasets().join(&name),
            outputs.datasets().join(&name),
        )
    });
    link_files(&Disk, files.chain(made).filter(|(from, _)| from.is_file()))?;
    let metrics = node.ledger.metrics(other.job(), stage)?;
    let first = job.first_of_own_model() == Some(index);
    let is_its = |of: &Option<String>| of.as_ref().map_or(first, |of| *of == record.name);
    let evals = other
        .evals
        .iter()
        .filter(|eval| is_its(&eval.stage))
        .map(|eval| EvalResult::clone(eval))
        .collect();
    let (job, of, record) = (own.job().clone(), other.job().clone(), Box::new(record));
    let command = Command::ReuseStage {
        job,
        epoch: own.progress.epoch,
        of,
        stage,
        record,
        metrics,
        evals,
    };
    node.ledger.apply(command)?;
    Ok(())
}
