//! Records: what the ledger knows of one job.

use r1d_proto::control::job::{EvalResult, State as RunState};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A job's record, in parts by how often they change. A copy shares the parts: a command copies
/// only those that it changes, whatever the length of the job's file and of its evaluations.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRecord {
    /// What was submitted.
    pub submission: Arc<Submission>,
    /// How far the job is.
    pub progress: JobProgress,
    /// Outcomes of evaluations, in the order in which they were first recorded.
    pub evals: Arc<Vec<Arc<EvalResult>>>,
    /// Which component judges from which step on; those of one plugin are in the order of steps.
    pub reward_versions: Arc<Vec<RewardVersion>>,
    /// Keys of the job's stages, and stages that were taken over.
    pub reuse: Arc<Reuse>,
    /// The id that the client gave the submission; `None` in a job of an earlier release.
    pub request: Option<String>,
    /// Sudden ends of the daemon that count against the job.
    pub strikes: Strikes,
    /// Who submitted the job; `None` in a job of an earlier release.
    pub owner: Option<User>,
    /// What users have decided about its turn since.
    pub standing: Standing,
}

/// A user of the machine, as the system names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's id.
    pub uid: u32,
    /// The user's name; the id in digits where the system knows no name.
    pub name: String,
}

/// What users have decided about a job's turn since it was submitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Who has paused the job; `Some` exactly while it is paused.
    pub pause: Option<Pause>,
    /// The job's place in the queue of its priority since it was requeued; `None`: that of its
    /// submission ([`Submission::sequence`]).
    pub place: Option<u64>,
    /// When the job came back into the queue; `None`: with its submission.
    pub queued_at: Option<u64>,
    /// How often a job that had begun was started again because a user had let it go on.
    pub resumptions: u32,
}

/// Keeps a job out of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who has paused the job; `None` if the daemon could not tell.
    pub by: Option<User>,
    /// When.
    pub at: u64,
}

/// A job that was removed, until its files are gone as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Directories of the job outside of the state directory.
    pub elsewhere: Vec<PathBuf>,
}

/// Whether the daemon survives the job. A job that ends its daemon (by the memory that it takes, or
/// by an abort) does so again at each start, so the count has to outlive the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strikes {
    /// Whether the daemon works for the job now, or ended while it did.
    pub taken_up: bool,
    /// How often in a row the daemon ended suddenly while it worked for the job, with nothing of
    /// the job committed in between.
    pub count: u32,
}

/// What decides whether a stage of one job can be taken over from another job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reuse {
    /// The key of each stage, hex: stages with one key have one outcome. A key is empty if the
    /// stage was judged by another component than the job was submitted with; the list is, in a job
    /// of an earlier release.
    pub keys: Vec<String>,
    /// Whether finished stages of other jobs are taken over.
    pub enabled: bool,
    /// Stages that were taken over, by index from 0, and the job that did them.
    pub taken: BTreeMap<u32, JobId>,
}

/// A component that judges where the job names `plugin`, from a step on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardVersion {
    /// The plugin as the job file names it: a name or an absolute path.
    pub plugin: String,
    /// SHA-256 of the component, hex.
    pub sha256: String,
    /// Index of the stage in the job file, from 0.
    pub stage: u32,
    /// The first step that the component judges, from 0.
    pub step: u64,
    /// When it was set, in seconds since the Unix epoch.
    pub at: u64,
}

/// What was submitted; never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// The job's id.
    pub job: JobId,
    /// The job file's `name`.
    pub name: String,
    /// Place in the queue: higher priorities go first.
    pub priority: i32,
    /// The job file with every default filled in.
    pub job_toml: String,
    /// Devices that the job runs on at once: at least one.
    pub devices: u32,
    /// When the job was submitted, in seconds since the Unix epoch, as are all times here.
    pub submitted_at: u64,
    /// Number of jobs that were submitted before this one.
    pub sequence: u64,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq)]
pub struct JobProgress {
    /// The job's state.
    pub state: RunState,
    /// Epoch of the newest attempt: how often the job was started, 0 if never.
    pub epoch: u64,
    /// When the first attempt began.
    pub started_at: Option<u64>,
    /// When the job ended.
    pub ended_at: Option<u64>,
    /// The stages begun so far, by index in the job file.
    pub stages: Vec<Arc<StageRecord>>,
    /// Why the job failed.
    pub error: Option<String>,
    /// The final Hugging Face directory, once written.
    pub model: Option<PathBuf>,
}

impl JobProgress {
    /// The progress of a job that was never started.
    pub(crate) fn of(state: RunState) -> JobProgress {
        JobProgress {
            state,
            epoch: 0,
            started_at: None,
            ended_at: None,
            stages: Vec::new(),
            error: None,
            model: None,
        }
    }
}

/// A stage that has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The stage's name, unique in its job.
    pub name: String,
    /// The stage's kind: `sft`, `grpo`, …
    pub kind: String,
    /// `Running`, or how it ended.
    pub state: RunState,
    /// Steps that the stage has in all.
    pub steps: u64,
    /// Steps committed.
    pub step: u64,
    /// Checkpoints on record, oldest first, one per step.
    pub checkpoints: Vec<CheckpointRecord>,
    /// When the stage began.
    pub begun_at: u64,
    /// When the stage ended.
    pub ended_at: Option<u64>,
    /// Metrics of the last committed step.
    pub metrics: Metrics,
}

/// A whole checkpoint: the weights after `step` committed steps of its stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Steps of the stage that the checkpoint holds.
    pub step: u64,
    /// The checkpoint's directory.
    pub dir: PathBuf,
    /// SHA-256 of the manifest, hex.
    pub manifest_sha256: String,
}

impl JobRecord {
    /// The job's id.
    pub fn job(&self) -> &JobId {
        &self.submission.job
    }

    /// The job's state.
    pub fn state(&self) -> RunState {
        self.progress.state
    }

    /// The stage at work, with its index.
    pub fn stage_at_work(&self) -> Option<(u32, &StageRecord)> {
        let (index, stage) = self.progress.stages.iter().enumerate().next_back()?;
        (stage.state == RunState::Running).then_some((index as u32, stage))
    }

    /// How often the job was taken up again after a crash.
    pub fn restarts(&self) -> u32 {
        let again = u32::try_from(self.progress.epoch.saturating_sub(1)).unwrap_or(u32::MAX);
        again.saturating_sub(self.standing.resumptions)
    }

    /// Since when the job has been in the queue, if it is there.
    pub fn queued_since(&self) -> u64 {
        let submitted_at = self.submission.submitted_at;
        self.standing.queued_at.unwrap_or(submitted_at)
    }

    /// The job's place among the queued jobs of its priority; lower ones go first.
    pub fn place(&self) -> u64 {
        self.standing.place.unwrap_or(self.submission.sequence)
    }
}

impl StageRecord {
    /// The newest checkpoint: the stage is taken up again from there, after the loss of everything
    /// since.
    pub fn newest_checkpoint(&self) -> Option<&CheckpointRecord> {
        self.checkpoints.last()
    }

    /// Steps that the newest checkpoint holds.
    pub fn durable_step(&self) -> u64 {
        self.newest_checkpoint()
            .map_or(0, |checkpoint| checkpoint.step)
    }
}
