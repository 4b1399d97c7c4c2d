//! What the ledger knows of one job.

use r1d_proto::control::{EvalResult, State as RunState};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A job's record, in three parts by how often they change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    pub submission: Submission,
    pub progress: Progress,
    /// In the order in which they were first recorded.
    pub evals: Vec<EvalResult>,
    /// Who judges, from which step on; of each plugin in the order of steps.
    pub reward_versions: Vec<RewardVersion>,
    pub reuse: Reuse,
    /// The id that the client made for the submission; none in a job of an earlier release.
    pub request: Option<String>,
    pub strikes: Strikes,
}

/// Whether the daemon survives the job. A job that ends its daemon (by the memory that it takes, or
/// by an abort) does so again at each start, so the count has to outlive the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strikes {
    /// The daemon works for the job now, or ended while it did.
    pub taken_up: bool,
    /// Times in a row that the daemon ended without a word while it worked for the job, and nothing
    /// of it was committed in between.
    pub count: u32,
}

/// What is known of a job's stages that makes one job's outcome another's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reuse {
    /// Of each stage, hex: stages with one key have one outcome. Empty in a job of an earlier
    /// release.
    pub keys: Vec<String>,
    /// Finished stages of other jobs are taken over.
    pub enabled: bool,
    /// The stages that were, and from which job.
    pub taken: BTreeMap<u32, JobId>,
}

/// A component that judges where the job names `plugin`, from a step on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardVersion {
    /// As the job file has it: a name or an absolute path.
    pub plugin: String,
    /// Of the component, hex.
    pub sha256: String,
    pub stage: u32,
    /// From 0.
    pub step: u64,
    pub at: u64,
}

/// What was submitted; never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    pub job: JobId,
    pub name: String,
    /// Higher goes first.
    pub priority: i32,
    /// The job file with every default filled in.
    pub job_toml: String,
    /// Seconds since the Unix epoch, as are all times here.
    pub submitted_at: u64,
    /// Jobs submitted before this one.
    pub sequence: u64,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub state: RunState,
    /// Times that the job was started; 0 while it has not been.
    pub epoch: u64,
    pub started_at: Option<u64>,
    pub ended_at: Option<u64>,
    /// The stages begun so far, by index in the job file.
    pub stages: Vec<StageRecord>,
    pub error: Option<String>,
    /// The final Hugging Face directory.
    pub model: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    pub name: String,
    pub kind: String,
    /// `Running`, or how it ended.
    pub state: RunState,
    /// Steps that the stage has in all.
    pub steps: u64,
    /// Steps committed.
    pub step: u64,
    /// Oldest first, one per step.
    pub checkpoints: Vec<CheckpointRecord>,
    pub begun_at: u64,
    pub ended_at: Option<u64>,
    /// The last committed step's.
    pub metrics: Metrics,
}

/// A whole checkpoint: the weights after `step` committed steps of its stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    pub step: u64,
    pub dir: PathBuf,
    /// Hex.
    pub manifest_sha256: String,
}

impl JobRecord {
    pub fn job(&self) -> &JobId {
        &self.submission.job
    }

    pub fn state(&self) -> RunState {
        self.progress.state
    }

    /// The stage at work, with its index.
    pub fn stage_at_work(&self) -> Option<(u32, &StageRecord)> {
        let (index, stage) = self.progress.stages.iter().enumerate().next_back()?;
        (stage.state == RunState::Running).then_some((index as u32, stage))
    }

    /// Times that the job was taken up again after a crash.
    pub fn restarts(&self) -> u32 {
        u32::try_from(self.progress.epoch.saturating_sub(1)).unwrap_or(u32::MAX)
    }
}

impl StageRecord {
    /// Where to take the stage up again, and what survives the loss of everything since.
    pub fn newest_checkpoint(&self) -> Option<&CheckpointRecord> {
        self.checkpoints.last()
    }

    /// Steps that the newest checkpoint holds.
    pub fn durable_step(&self) -> u64 {
        self.newest_checkpoint()
            .map_or(0, |checkpoint| checkpoint.step)
    }
}
