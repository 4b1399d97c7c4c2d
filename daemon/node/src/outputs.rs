//! What a job leaves for people and tools: metrics, TensorBoard events, its status.

use crate::ends::{unkept, unrecorded};
use crate::job_log::JobLog;
use crate::tensorboard;
use r1d_ledger::{JobRecord, LedgerError, Session};
use r1d_proto::control::job::JobStatus;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_proto::user_file;
use r1d_proto::worker::Metrics;
use r1d_runner::End;
use r1d_store::{Disk, JobLayout, Journal, StoreError, create_dir, remove_parts, write_file};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Steps whose metrics are read at once: a stage may have millions.
const STEPS_AT_ONCE: u64 = 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error(transparent)]
    File(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("cannot write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl OutputError {
    /// The end of the attempt that this error causes.
    pub(crate) fn end(&self) -> End {
        match self {
            OutputError::Ledger(error) => unrecorded(error),
            error => unkept(error),
        }
    }
}

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> OutputError {
    let path = path.to_path_buf();
    move |source| OutputError::Write { path, source }
}

/// The file of a stage's TensorBoard events.
fn events_file(layout: &JobLayout, stage: &str) -> PathBuf {
    layout.tensorboard(stage).join(tensorboard::FILE)
}

/// Creates the job's directories so that their names survive a crash of the machine.
pub(crate) fn create(layout: &JobLayout) -> Result<(), OutputError> {
    for dir in [&layout.dir, &layout.rollouts_dir()] {
        create_dir(&Disk, dir).map_err(write_error(dir))?;
    }
    Ok(())
}

/// Removes the files that an earlier daemon had not finished writing, from the job's directory and
/// that of its checkpoints.
pub(crate) fn remove_unfinished(layout: &JobLayout, checkpoints: &Path) {
    let tensorboard = layout.tensorboards();
    let stages = Disk.list_dirs(&tensorboard).unwrap_or_default();
    let own = [
        layout.dir.clone(),
        layout.rollouts_dir(),
        layout.datasets(),
        checkpoints.to_path_buf(),
    ];
    let dirs = own
        .into_iter()
        .chain(stages.iter().map(|stage| tensorboard.join(stage)));
    dirs.for_each(|dir| remove_parts(&Disk, &dir));
}

/// Removes checkpoints that the ledger has no record of, and says so in the job's log.
pub(crate) fn remove_unrecorded(
    storage: &dyn Storage,
    checkpoints: &Path,
    record: &JobRecord,
    stages: &[String],
    log: &JobLog,
) {
    let stages = stages.iter().map(String::as_str);
    r1d_ledger::remove_unrecorded(storage, checkpoints, record, stages, |dir, removed| {
        let dir = dir.display();
        match removed {
            Ok(()) => log.info(format!(
                "removed {dir}, a checkpoint that did not come on record"
            )),
            Err(error) => log.warn(format!(
                "{dir}, a checkpoint that did not come on record, stays: {error}"
            )),
        }
    });
}

/// Rewrites `metrics.jsonl` and the event files from the ledger: after a crash they may lack
/// lines, or end in the middle of one.
pub(crate) fn rewrite_metrics(
    layout: &JobLayout,
    ledger: &Session,
    job: &JobId,
    stages: &[String],
) -> Result<(), OutputError> {
    for (index, stage) in (0..).zip(stages) {
        let path = events_file(layout, stage);
        let Some((_, first)) = ledger.metrics_in(job, index, 0..1)?.pop() else {
            // If the ledger is an older copy, this file has steps that it does not know.
            match Disk.remove(&path) {
                Err(error)
                    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    return Err(write_error(&path)(error));
                }
                _ => continue,
            }
        };
        create_parent(&Disk, &path)?;
        rewrite(&path, |file| {
            let failed = write_error(&path);
            file.write_all(&tensorboard::header(&first))
                .map_err(failed)?;
            for_each_step(ledger, job, index, |step, metrics| {
                let event = tensorboard::event(step + 1, metrics);
                file.write_all(&event).map_err(write_error(&path))
            })
        })?;
    }
    let path = layout.metrics();
    rewrite(&path, |file| {
        (0..).zip(stages).try_for_each(|(index, stage)| {
            for_each_step(ledger, job, index, |step, metrics| {
                let line = line(stage, step + 1, metrics);
                file.write_all(line.as_bytes()).map_err(write_error(&path))
            })
        })
    })
}

/// Reads `metrics.jsonl`: the rows of these stages, by index and step (from 0). Whatever is no such
/// line is left out.
fn read_metrics(layout: &JobLayout, stages: &[String]) -> BTreeMap<(u32, u64), Metrics> {
    let Ok(file) = user_file::open(&layout.metrics()) else {
        return BTreeMap::new();
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines.filter_map(|line| parse_line(&line, stages)).collect()
}

/// Reads what [`line`] wrote.
fn parse_line(line: &str, stages: &[String]) -> Option<((u32, u64), Metrics)> {
    let mut object: Map<String, Value> = serde_json::from_str(line).ok()?;
    let stage = object.remove("stage")?;
    let stage = stages.iter().position(|name| stage == *name)?;
    let step = object.remove("step")?.as_u64()?.checked_sub(1)?;
    let value = |value: Value| match value {
        Value::Null => Some(f64::NAN),
        value => value.as_f64(),
    };
    let metrics = object.into_iter();
    let metrics = metrics.map(|(name, number)| Some((name, value(number)?)));
    Some((
        (u32::try_from(stage).ok()?, step),
        metrics.collect::<Option<_>>()?,
    ))
}

/// Makes the job's metrics whole from `metrics.jsonl`, where their file is damaged and that holds
/// the same rows.
pub(crate) fn mend_metrics(
    layout: &JobLayout,
    ledger: &Session,
    job: &JobId,
    stages: &[String],
    log: &JobLog,
) -> Result<(), OutputError> {
    if ledger.mend_metrics(job, &|| read_metrics(layout, stages))? {
        log.warn(format!(
            "{} was damaged or gone: it is made again from metrics.jsonl, whose rows are the same",
            layout.metrics_blocks().display()
        ));
    }
    Ok(())
}

/// Replaces a file by what `fill` writes.
fn rewrite(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    let mut failed = None;
    let written = write_file(&Disk, path, |file| {
        fill(file).map_err(|error| {
            failed = Some(error);
            std::io::Error::other("its contents could not be read")
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

/// Reads the metrics of a stage's committed steps, some at a time.
fn for_each_step(
    ledger: &Session,
    job: &JobId,
    stage: u32,
    mut each: impl FnMut(u64, &Metrics) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    let mut next = 0;
    loop {
        let rows = ledger.metrics_in(job, stage, next..next + STEPS_AT_ONCE)?;
        for (step, metrics) in &rows {
            each(*step, metrics)?;
            next = step + 1;
        }
        if rows.is_empty() {
            return Ok(());
        }
    }
}

/// Removes what was sampled in a stage, and in those after it.
pub(crate) fn forget_journals(layout: &JobLayout, stage: u32) -> Result<(), OutputError> {
    let dir = layout.journal();
    Journal::remove_from(&Disk, &dir, stage).map_err(write_error(&dir))
}

/// Writes the job's status into its directory, for readers without a daemon.
pub(crate) fn write_status(layout: &JobLayout, status: &JobStatus) -> Result<(), OutputError> {
    let text = serde_json::to_string_pretty(status).unwrap_or_default() + "\n";
    Ok(write_file(&Disk, &layout.status(), |file| {
        file.write_all(text.as_bytes())
    })?)
}

/// Appends a step that the ledger has committed; `step` from 1.
pub(crate) fn append_metrics(
    storage: &dyn Storage,
    layout: &JobLayout,
    stage: &str,
    step: u64,
    metrics: &Metrics,
) -> Result<(), OutputError> {
    append(
        storage,
        &layout.metrics(),
        line(stage, step, metrics).as_bytes(),
    )?;
    let path = events_file(layout, stage);
    let mut bytes = Vec::new();
    if !path.exists() {
        create_parent(storage, &path)?;
        bytes = tensorboard::header(metrics);
    }
    bytes.extend(tensorboard::event(step, metrics));
    append(storage, &path, &bytes)
}

fn create_parent(storage: &dyn Storage, path: &Path) -> Result<(), OutputError> {
    let parent = path.parent().unwrap_or(path);
    create_dir(storage, parent).map_err(write_error(parent))
}

fn append(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let appended = storage.append(path).and_then(|mut file| file.append(bytes));
    appended.map_err(write_error(path))
}

/// Formats one line of `metrics.jsonl`. Numbers that JSON cannot represent (NaN, infinities) become
/// null.
fn line(stage: &str, step: u64, metrics: &Metrics) -> String {
    let mut object = Map::new();
    object.insert("stage".into(), Value::from(stage));
    object.insert("step".into(), Value::from(step));
    object.extend(
        metrics
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(*value))),
    );
    format!("{}\n", Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_stage_and_step_and_survives_odd_numbers() {
        let metrics = Metrics::from([("loss".into(), 0.5), ("kl".into(), f64::NAN)]);
        let written = line("rl", 3, &metrics);
        assert_eq!(
            written,
            "{\"stage\":\"rl\",\"step\":3,\"kl\":null,\"loss\":0.5}\n"
        );
        let stages = ["sft".into(), "rl".into()];
        let (of, read) = parse_line(&written, &stages).unwrap();
        assert_eq!((of, read["loss"]), ((1, 2), 0.5));
        assert!(read["kl"].is_nan());
        for other in ["", "{}", "[1]", &written.replace("rl", "dpo")] {
            assert!(parse_line(other, &stages).is_none(), "{other}");
        }
    }
}
