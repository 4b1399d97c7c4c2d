//! Where each file of a state directory lies: the one place that knows their names.
//!
//! | path | what it is |
//! |---|---|
//! | `lock` | locked by the daemon that owns the directory; its text is the daemon's process id |
//! | `workers.lock` | held by every worker that the daemon started, as its standard output: it outlives a killed daemon |
//! | `ledger.redb` | the ledger |
//! | `devices.json` | which devices failed jobs and rest: without it they are tried again |
//! | `cache/` | compiled plugins |
//! | `kernels/` | compiled kernels of GPUs: made again where one is missing |
//! | `plugins/<sha256>.wasm` | components that judge jobs, or did |
//! | `token-sets/` | what jobs read, tokenised: made again where it is missing |
//! | `jobs/<id>/` | everything that a job writes |
//!
//! In a job's directory:
//!
//! | path | what it is |
//! |---|---|
//! | `job.toml` | the job as run, every default filled in |
//! | `inputs.json` | the files that the job reads, as they were when it was submitted |
//! | `metrics.jsonl` | a line per committed step: `stage`, `step` (from 1), TRL's names |
//! | `metrics.blocks` | the same as the ledger keeps them, except for a stage's last few |
//! | `tensorboard/<stage>/` | the same as TensorBoard event files |
//! | `log.jsonl` | the job's log |
//! | `traces/<stage>-<N>.jsonl` | how long the parts of the last steps took: a line per step, for 100 steps from N on |
//! | `status.json` | the job's status when a stage, an evaluation or the job itself last ended |
//! | `journal/stage-<index>/` | rollouts of the steps since the oldest checkpoint kept |
//! | `rollouts/<stage>-step-<N>.parquet` | every rollout of committed step N (from 1) with its verdicts |
//! | `datasets/<stage>.jsonl` | what a rejection-sampling stage kept; `datasets/<stage>.json` has its counts and its SHA-256 |
//! | `checkpoints/<stage>/step-<N>/` | the state after N steps; elsewhere if the job has `checkpoint.to` |
//! | `final/` | the Hugging Face directory |

use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The ledger's name in a state directory.
pub const LEDGER_FILE: &str = "ledger.redb";
/// The directories in a state directory.
pub const OWN_DIRECTORIES: [&str; 5] = [JOBS, PLUGINS, CACHE, KERNELS, TOKEN_SETS];
const JOBS: &str = "jobs";
const PLUGINS: &str = "plugins";
const CACHE: &str = "cache";
const KERNELS: &str = "kernels";
const TOKEN_SETS: &str = "token-sets";

/// Steps whose traces are in one file.
pub const TRACES_PER_FILE: u64 = 100;

/// The paths in a state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    root: PathBuf,
}

impl StateLayout {
    /// Names the paths in the state directory `root`; nothing has to be there.
    pub fn new(root: &Path) -> StateLayout {
        StateLayout { root: root.into() }
    }

    /// The state directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that the daemon locks.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The file that workers hold.
    pub fn workers_lock(&self) -> PathBuf {
        self.root.join("workers.lock")
    }

    /// The ledger's file.
    pub fn ledger(&self) -> PathBuf {
        self.root.join(LEDGER_FILE)
    }

    /// What is known of the devices' health.
    pub fn devices(&self) -> PathBuf {
        self.root.join("devices.json")
    }

    /// The directory of the components that judge jobs.
    pub fn plugins(&self) -> PathBuf {
        self.root.join(PLUGINS)
    }

    /// The directory of compiled plugins.
    pub fn cache(&self) -> PathBuf {
        self.root.join(CACHE)
    }

    /// The directory of compiled kernels of GPUs.
    pub fn kernels(&self) -> PathBuf {
        self.root.join(KERNELS)
    }

    /// The folder of token sets.
    pub fn token_sets(&self) -> PathBuf {
        self.root.join(TOKEN_SETS)
    }

    /// The directory of all jobs.
    pub fn jobs(&self) -> PathBuf {
        self.root.join(JOBS)
    }

    /// The paths of a job.
    pub fn job(&self, job: &JobId) -> JobLayout {
        JobLayout::new(self.jobs().join(&job.0))
    }
}

/// The paths in a job's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobLayout {
    /// The directory of everything that the job writes.
    pub dir: PathBuf,
}

impl JobLayout {
    /// Names the paths in a job's directory, wherever it lies; nothing has to be there.
    pub fn new(dir: PathBuf) -> JobLayout {
        JobLayout { dir }
    }

    /// Names the paths of a job of the state directory `state_dir`.
    pub fn of(state_dir: &Path, job: &JobId) -> JobLayout {
        StateLayout::new(state_dir).job(job)
    }

    /// The job as run.
    pub fn job_toml(&self) -> PathBuf {
        self.dir.join("job.toml")
    }

    /// The record of the files that the job reads.
    pub fn inputs(&self) -> PathBuf {
        self.dir.join("inputs.json")
    }

    /// The metrics of the committed steps.
    pub fn metrics(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// The ledger's file of the metrics of the committed steps.
    pub fn metrics_blocks(&self) -> PathBuf {
        self.dir.join("metrics.blocks")
    }

    /// The directory with a directory of TensorBoard event files for each stage.
    pub fn tensorboards(&self) -> PathBuf {
        self.dir.join("tensorboard")
    }

    /// The directory of a stage's TensorBoard event files.
    pub fn tensorboard(&self, stage: &str) -> PathBuf {
        self.tensorboards().join(stage)
    }

    /// The job's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log.jsonl")
    }

    /// The directory of the traces.
    pub fn traces_dir(&self) -> PathBuf {
        self.dir.join("traces")
    }

    /// The file with the trace of step `step`, from 1, and those of the steps around it.
    pub fn traces(&self, stage: &str, step: u64) -> PathBuf {
        let first = step.saturating_sub(1) / TRACES_PER_FILE * TRACES_PER_FILE + 1;
        self.traces_dir().join(format!("{stage}-{first:06}.jsonl"))
    }

    /// The job's status, for readers without a daemon.
    pub fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }

    /// The directory of the journal.
    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The directory of the rollout files.
    pub fn rollouts_dir(&self) -> PathBuf {
        self.dir.join("rollouts")
    }

    /// The file with the rollouts of committed step `step`, from 1.
    pub fn rollouts(&self, stage: &str, step: u64) -> PathBuf {
        let name = format!("{stage}-step-{step:06}.parquet");
        self.rollouts_dir().join(name)
    }

    /// The steps (from 1) of a stage that left rollouts, in order.
    pub fn rollout_steps(&self, storage: &dyn Storage, stage: &str) -> Result<Vec<u64>> {
        let step = |name: &String| {
            let name = name.strip_prefix(stage)?.strip_prefix("-step-")?;
            name.strip_suffix(".parquet")?.parse().ok()
        };
        let names = match storage.list(&self.rollouts_dir()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let mut steps: Vec<u64> = names.iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The directory of the data sets that the job's stages make.
    pub fn datasets(&self) -> PathBuf {
        self.dir.join("datasets")
    }

    /// The directory of the job's checkpoints. `to` is the job's `checkpoint.to`, below which each
    /// job has a directory.
    pub fn checkpoints(&self, to: Option<&Path>, job: &JobId) -> PathBuf {
        match to {
            Some(elsewhere) => elsewhere.join(&job.0),
            None => self.dir.join("checkpoints"),
        }
    }

    /// The directory of the model that the job leaves.
    pub fn final_dir(&self) -> PathBuf {
        self.dir.join("final")
    }
}

/// The rows that a rejection-sampling stage kept, in the directory of its job's data sets
/// ([`JobLayout::datasets`]).
pub fn data_set(datasets: &Path, stage: &str) -> PathBuf {
    datasets.join(format!("{stage}.jsonl"))
}

/// The record of a stage's data set, beside its rows: counts and SHA-256.
pub fn data_set_record(datasets: &Path, stage: &str) -> PathBuf {
    datasets.join(format!("{stage}.json"))
}

/// The directory of a stage's state after `step` steps, in the directory of its job's checkpoints
/// ([`JobLayout::checkpoints`]).
pub fn checkpoint(checkpoints: &Path, stage: &str, step: u64) -> PathBuf {
    checkpoints.join(stage).join(format!("step-{step}"))
}

/// The directory that the worker of an attempt writes for a checkpoint, before the attempt renames
/// it to `dir`: another attempt's worker never writes to it.
pub fn unplaced(dir: &Path, epoch: u64) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.e{epoch}"))
}

/// Removes what workers of earlier attempts have written below the directory of a job's checkpoints
/// and no attempt put in its place. It is only in the way, so an error is ignored.
pub fn remove_unplaced(storage: &dyn Storage, checkpoints: &Path) {
    for stage in storage.list_dirs(checkpoints).unwrap_or_default() {
        let stage = checkpoints.join(stage);
        let names = storage.list_dirs(&stage).unwrap_or_default();
        for name in names.iter().filter(|name| name.starts_with('.')) {
            let _ = storage.remove_dir(&stage.join(name));
        }
    }
}

/// The step that the name of a checkpoint's directory names; `None` for any other name.
pub fn checkpoint_step(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    #[test]
    fn a_stage_finds_its_own_rollouts() {
        let dir = tempfile::tempdir().unwrap();
        let layout = JobLayout::new(dir.path().into());
        assert!(layout.rollout_steps(&Disk, "rl").unwrap().is_empty());
        std::fs::create_dir(layout.rollouts_dir()).unwrap();
        for (stage, step) in [
            ("rl", 1_000_000),
            ("rl", 2),
            ("rl", 11),
            ("rl-step", 40),
            ("b", 9),
        ] {
            std::fs::write(layout.rollouts(stage, step), "").unwrap();
        }
        let steps = |stage| layout.rollout_steps(&Disk, stage).unwrap();
        assert_eq!(steps("rl"), [2, 11, 1_000_000]);
        assert_eq!(steps("rl-step"), [40]);
        assert!(steps("none").is_empty());
    }

    #[test]
    fn checkpoints_lie_with_the_job_or_where_it_says() {
        let (layout, job) = (
            JobLayout::of(Path::new("/s"), &JobId("7qx".into())),
            JobId("7qx".into()),
        );
        let at = |to| checkpoint(&layout.checkpoints(to, &job), "rl", 50);
        assert_eq!(at(None), Path::new("/s/jobs/7qx/checkpoints/rl/step-50"));
        assert_eq!(
            at(Some(Path::new("/big"))),
            Path::new("/big/7qx/rl/step-50")
        );
        assert_eq!(checkpoint_step("step-50"), Some(50));
        assert_eq!(checkpoint_step(".step-50.partial"), None);
        let unplaced = unplaced(Path::new("/big/7qx/rl/step-50"), 3);
        assert_eq!(unplaced, Path::new("/big/7qx/rl/.step-50.e3"));
    }
}
