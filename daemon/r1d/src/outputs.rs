//! What a job leaves for people and tools: metrics, TensorBoard events, its status.

use crate::tensorboard;
use r1d_ledger::{Ledger, LedgerError};
use r1d_proto::control::JobStatus;
use r1d_proto::ids::JobId;
use r1d_proto::user_file;
use r1d_proto::worker::Metrics;
use r1d_store::{Disk, JobLayout, StoreError, create_dir, remove_parts, write_file};
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

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

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> OutputError {
    let path = path.to_path_buf();
    move |source| OutputError::Write { path, source }
}

/// The file of a stage's TensorBoard events.
fn events_file(layout: &JobLayout, stage: &str) -> PathBuf {
    layout.tensorboard(stage).join(tensorboard::FILE)
}

/// Creates the job's directories so that their names survive a crash of the machine. Removes
/// files that an earlier daemon had not finished writing.
pub(crate) fn create(layout: &JobLayout) -> Result<(), OutputError> {
    for dir in [&layout.dir, &layout.rollouts_dir()] {
        create_dir(&Disk, dir).map_err(write_error(dir))?;
        remove_parts(&Disk, dir);
    }
    remove_parts(&Disk, &layout.datasets());
    Ok(())
}

/// Rewrites `metrics.jsonl` and the event files from the ledger: after a crash they may lack
/// lines, or end in the middle of one.
pub(crate) fn rewrite_metrics(
    layout: &JobLayout,
    ledger: &Ledger,
    job: &JobId,
    stages: &[String],
) -> Result<(), OutputError> {
    let mut lines = String::new();
    for (index, stage) in stages.iter().enumerate() {
        let steps = ledger.metrics(job, index as u32)?;
        let mut events = steps
            .first()
            .map_or_else(Vec::new, |(_, first)| tensorboard::header(first));
        for (step, metrics) in &steps {
            lines.push_str(&line(stage, step + 1, metrics));
            events.extend(tensorboard::event(step + 1, metrics));
        }
        let path = events_file(layout, stage);
        if steps.is_empty() {
            // If the ledger is an older copy, this file has steps that it does not know.
            match std::fs::remove_file(&path) {
                Err(error)
                    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    return Err(write_error(&path)(error));
                }
                _ => {}
            }
        } else {
            create_parent(&path)?;
            write_file(&Disk, &path, |file| file.write_all(&events))?;
        }
    }
    Ok(write_file(&Disk, &layout.metrics(), |file| {
        file.write_all(lines.as_bytes())
    })?)
}

/// Removes what was sampled in a stage, and in those after it.
pub(crate) fn forget_journals(layout: &JobLayout, stage: u32) -> Result<(), OutputError> {
    let dir = layout.journal();
    let of = |name: &OsStr| name.to_str()?.strip_prefix("stage-")?.parse::<u32>().ok();
    for entry in std::fs::read_dir(&dir).map_err(write_error(&dir))? {
        let path = entry.map_err(write_error(&dir))?.path();
        if path
            .file_name()
            .and_then(of)
            .is_some_and(|found| found >= stage)
        {
            std::fs::remove_dir_all(&path).map_err(write_error(&path))?;
        }
    }
    Ok(())
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
    layout: &JobLayout,
    stage: &str,
    step: u64,
    metrics: &Metrics,
) -> Result<(), OutputError> {
    append(&layout.metrics(), line(stage, step, metrics).as_bytes())?;
    let path = events_file(layout, stage);
    create_parent(&path)?;
    let mut bytes = if path.exists() {
        Vec::new()
    } else {
        tensorboard::header(metrics)
    };
    bytes.extend(tensorboard::event(step, metrics));
    append(&path, &bytes)
}

fn create_parent(path: &Path) -> Result<(), OutputError> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(write_error(parent))
}

fn append(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let mut file = user_file::append(path).map_err(write_error(path))?;
    file.write_all(bytes).map_err(write_error(path))
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
        assert_eq!(
            line("rl", 3, &metrics),
            "{\"stage\":\"rl\",\"step\":3,\"kl\":null,\"loss\":0.5}\n"
        );
    }
}
