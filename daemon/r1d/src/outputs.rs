//! The files of a job under the state directory: the one place that knows their names.
//!
//! | path | what it is |
//! |---|---|
//! | `job.toml` | the job as run, every default filled in |
//! | `metrics.jsonl` | a line per committed step: `stage`, `step` (from 1), TRL's names |
//! | `tensorboard/<stage>/` | the same as TensorBoard event files |
//! | `log.jsonl` | the job's log |
//! | `status.json` | the job's status when a stage, an evaluation or the job itself last ended |
//! | `journal/` | rollouts of the steps since the oldest checkpoint kept |
//! | `rollouts/<stage>-step-<N>.parquet` | every rollout of committed step N (from 1) with its verdicts |
//! | `datasets/<stage>.jsonl` | what a rejection-sampling stage kept; `datasets/<stage>.json` has its counts and its SHA-256 |
//! | `checkpoints/<stage>/step-<N>/` | the state after N steps; elsewhere if the job has `checkpoint.to` |
//! | `final/` | the Hugging Face directory |
//! | `inputs.json` | the files that the job reads, as they were when it was submitted |

use crate::tensorboard;
use r1d_data::DataError;
use r1d_data::storage::write_atomically;
use r1d_job::Job;
use r1d_ledger::{Ledger, LedgerError};
use r1d_proto::control::JobStatus;
use r1d_proto::ids::JobId;
use r1d_proto::replace::remove_parts;
use r1d_proto::storage::create_dir_durably;
use r1d_proto::user_file;
use r1d_proto::worker::Metrics;
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The paths of one job.
#[derive(Clone, Debug)]
pub(crate) struct Outputs {
    pub dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error(transparent)]
    Data(#[from] DataError),
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

impl Outputs {
    pub(crate) fn new(dir: PathBuf) -> Outputs {
        Outputs { dir }
    }

    pub(crate) fn job_toml(&self) -> PathBuf {
        self.dir.join("job.toml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log.jsonl")
    }

    pub(crate) fn inputs(&self) -> PathBuf {
        self.dir.join("inputs.json")
    }

    fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    pub(crate) fn final_dir(&self) -> PathBuf {
        self.dir.join("final")
    }

    /// The directory of the data sets that the job's stages make.
    pub(crate) fn datasets(&self) -> PathBuf {
        self.dir.join("datasets")
    }

    /// The directory of the job's checkpoints.
    pub(crate) fn checkpoints(&self, job: &Job, id: &JobId) -> PathBuf {
        match &job.checkpoint.to {
            Some(elsewhere) => elsewhere.join(&id.0),
            None => self.dir.join("checkpoints"),
        }
    }

    /// The file with the rollouts of committed step `step`, from 1.
    pub(crate) fn rollouts(&self, stage: &str, step: u64) -> PathBuf {
        self.dir
            .join("rollouts")
            .join(format!("{stage}-step-{step:06}.parquet"))
    }

    /// The newest step (from 1) of a stage, up to `committed`, that left rollouts.
    pub(crate) fn last_rollouts(&self, stage: &str, committed: u64) -> Option<u64> {
        let entries = std::fs::read_dir(self.dir.join("rollouts")).ok()?;
        let step = |name: String| {
            name.strip_prefix(stage)?
                .strip_prefix("-step-")?
                .strip_suffix(".parquet")?
                .parse()
                .ok()
        };
        entries
            .flatten()
            .filter_map(|entry| step(entry.file_name().into_string().ok()?))
            .filter(|step| *step <= committed)
            .max()
    }

    fn metrics(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    fn tensorboard(&self, stage: &str) -> PathBuf {
        self.dir
            .join("tensorboard")
            .join(stage)
            .join(tensorboard::FILE)
    }

    /// Creates the job's directories so that their names survive a crash of the machine. Removes
    /// files that an earlier daemon had not finished writing.
    pub(crate) fn create(&self) -> Result<(), OutputError> {
        for dir in [&self.dir, &self.dir.join("rollouts")] {
            create_dir_durably(dir).map_err(write_error(dir))?;
            remove_parts(dir);
        }
        remove_parts(&self.datasets());
        Ok(())
    }

    /// Rewrites `metrics.jsonl` and the event files from the ledger: after a crash they may lack
    /// lines, or end in the middle of one.
    pub(crate) fn rewrite_metrics(
        &self,
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
            let path = self.tensorboard(stage);
            if steps.is_empty() {
                // If the ledger is an older copy, this file has steps that it does not know.
                match std::fs::remove_file(&path) {
                    Err(error)
                        if !matches!(
                            error.kind(),
                            ErrorKind::NotFound | ErrorKind::NotADirectory
                        ) =>
                    {
                        return Err(write_error(&path)(error));
                    }
                    _ => {}
                }
            } else {
                create_parent(&path)?;
                write_atomically(&path, |file| file.write_all(&events))?;
            }
        }
        Ok(write_atomically(&self.metrics(), |file| {
            file.write_all(lines.as_bytes())
        })?)
    }

    /// Removes what was sampled in a stage, and in those after it.
    pub(crate) fn forget_journals(&self, stage: u32) -> Result<(), OutputError> {
        let dir = self.journal();
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
    pub(crate) fn write_status(&self, status: &JobStatus) -> Result<(), OutputError> {
        let text = serde_json::to_string_pretty(status).unwrap_or_default() + "\n";
        Ok(write_atomically(&self.status(), |file| {
            file.write_all(text.as_bytes())
        })?)
    }

    /// Appends a step that the ledger has committed; `step` from 1.
    pub(crate) fn append_metrics(
        &self,
        stage: &str,
        step: u64,
        metrics: &Metrics,
    ) -> Result<(), OutputError> {
        append(&self.metrics(), line(stage, step, metrics).as_bytes())?;
        let path = self.tensorboard(stage);
        create_parent(&path)?;
        let mut bytes = if path.exists() {
            Vec::new()
        } else {
            tensorboard::header(metrics)
        };
        bytes.extend(tensorboard::event(step, metrics));
        append(&path, &bytes)
    }
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
    fn a_stage_finds_its_own_newest_rollouts() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new(dir.path().into());
        outputs.create().unwrap();
        for (stage, step) in [("rl", 2), ("rl", 11), ("rl-step", 40), ("other", 90)] {
            std::fs::write(outputs.rollouts(stage, step), "").unwrap();
        }
        assert_eq!(outputs.last_rollouts("rl", 20), Some(11));
        assert_eq!(outputs.last_rollouts("rl", 10), Some(2));
        assert_eq!(outputs.last_rollouts("rl-step", 40), Some(40));
        assert_eq!(outputs.last_rollouts("none", 20), None);
    }

    #[test]
    fn a_line_names_stage_and_step_and_survives_odd_numbers() {
        let metrics = Metrics::from([("loss".into(), 0.5), ("kl".into(), f64::NAN)]);
        assert_eq!(
            line("rl", 3, &metrics),
            "{\"stage\":\"rl\",\"step\":3,\"kl\":null,\"loss\":0.5}\n"
        );
    }
}
