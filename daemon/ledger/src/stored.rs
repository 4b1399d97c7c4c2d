//! What the tables of the ledger's file hold: types of the file's own, so that no change of what
//! `r1ctl` prints or of what the daemon keeps in memory changes the file.
//!
//! Rows are MessagePack maps with the names of the fields. A row can therefore gain a field without
//! a new format: an earlier row lacks it and gives the default, and an earlier release skips it.
//! (postcard, in which format 1 was written, knows neither names nor lengths.) What a field means,
//! and its name, never change: `tests/format-2` is a state directory that is read for ever.

use crate::answers::{CommandDigest, KnownAnswer};
use crate::command::Effect;
use crate::place;
use crate::record::{self, JobRecord, StageRecord};
use r1d_proto::control;
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the format of the ledger's file: a file of an earlier one is brought up when it is
/// opened, a file of a later one is refused.
pub const FORMAT_VERSION: u64 = 2;

/// Writes a row.
pub(crate) fn encode(row: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    rmp_serde::to_vec_named(row).map_err(|error| {
        redb::Error::Io(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            error.to_string(),
        ))
    })
}

/// Reads a row of the table with this name.
pub(crate) fn decode<T: DeserializeOwned>(table: &str, bytes: &[u8]) -> Result<T, redb::Error> {
    rmp_serde::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a record of table `{table}`: {error}")))
}

/// A job's row in `submissions`: never changes.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SubmissionRow {
    name: String,
    priority: i32,
    job_toml: String,
    /// 0 in a row of an earlier release, whose jobs run on one.
    devices: u32,
    submitted_at: u64,
    sequence: u64,
    request: Option<String>,
    owner: Option<UserRow>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct UserRow {
    uid: u32,
    name: String,
}

/// A job's row in `progress`: all that changes with its turn.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProgressRow {
    state: StateRow,
    epoch: u64,
    started_at: Option<u64>,
    ended_at: Option<u64>,
    error: Option<String>,
    model: Option<PathBuf>,
    taken_up: bool,
    strikes: u32,
    pause: Option<PauseRow>,
    place: Option<u64>,
    queued_at: Option<u64>,
    resumptions: u32,
    reuses: bool,
    keys: Vec<String>,
    taken: BTreeMap<u32, String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct PauseRow {
    by: Option<UserRow>,
    at: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum StateRow {
    #[default]
    Queued,
    Paused,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

/// A row in `stages`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StageRow {
    name: String,
    kind: String,
    state: StateRow,
    steps: u64,
    step: u64,
    checkpoints: Vec<CheckpointRow>,
    begun_at: u64,
    ended_at: Option<u64>,
    metrics: Metrics,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct CheckpointRow {
    step: u64,
    dir: PathBuf,
    manifest_sha256: String,
}

/// A row in `evals`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EvalRow {
    stage: Option<String>,
    step: u64,
    data: String,
    metrics: Metrics,
    example: Option<ExampleRow>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct ExampleRow {
    prompt: String,
    completion: String,
    reference: Option<String>,
}

/// A row in `reward_versions`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RewardVersionRow {
    plugin: String,
    sha256: String,
    stage: u32,
    step: u64,
    at: u64,
}

/// A row in `removals`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RemovalRow {
    elsewhere: Vec<PathBuf>,
}

/// A row in `answers`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AnswerRow {
    digest: CommandDigest,
    /// What the command did, an `Option<EffectRow>` in MessagePack: a release that does not know
    /// this effect reads the row nevertheless.
    effect: Vec<u8>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum EffectRow {
    Submitted,
    TakenUp,
    PutDown,
    Struck { count: u32 },
    Started { epoch: u64, restarts: u32 },
    StageBegun { step: u64, durable_step: u64 },
    StepCommitted { step: u64 },
    Checkpointed { durable_step: u64 },
    CheckpointDropped { durable_step: u64 },
    WentBack { step: u64 },
    EvalRecorded,
    StageFinished,
    RewardVersionSet,
    StageReused,
    Finished { state: StateRow },
    Cancelled { was: StateRow },
    Paused { was: StateRow },
    Resumed,
    Requeued { was: StateRow },
    Removed,
    Forgotten,
}

/// All rows of a job.
pub(crate) struct JobRows {
    pub(crate) submission: SubmissionRow,
    pub(crate) progress: ProgressRow,
    pub(crate) stages: Vec<StageRow>,
    pub(crate) evals: Vec<EvalRow>,
    pub(crate) reward_versions: Vec<RewardVersionRow>,
}

impl From<&JobRecord> for SubmissionRow {
    fn from(record: &JobRecord) -> SubmissionRow {
        let submission = &record.submission;
        SubmissionRow {
            name: submission.name.clone(),
            priority: submission.priority,
            job_toml: submission.job_toml.clone(),
            devices: submission.devices,
            submitted_at: submission.submitted_at,
            sequence: submission.sequence,
            request: record.request.clone(),
            owner: record.owner.as_ref().map(UserRow::from),
        }
    }
}

impl ProgressRow {
    /// The row of a job in a ledger in the directory `root`.
    pub(crate) fn new(record: &JobRecord, root: &Path) -> ProgressRow {
        let (progress, standing, reuse) = (&record.progress, &record.standing, &record.reuse);
        let taken = reuse.taken.iter();
        ProgressRow {
            state: progress.state.into(),
            epoch: progress.epoch,
            started_at: progress.started_at,
            ended_at: progress.ended_at,
            error: progress.error.clone(),
            model: (progress.model.as_ref()).map(|path| place::to_file(path, root)),
            taken_up: record.strikes.taken_up,
            strikes: record.strikes.count,
            pause: standing.pause.as_ref().map(PauseRow::from),
            place: standing.place,
            queued_at: standing.queued_at,
            resumptions: standing.resumptions,
            reuses: reuse.enabled,
            keys: reuse.keys.clone(),
            taken: taken.map(|(&stage, of)| (stage, of.0.clone())).collect(),
        }
    }
}

impl StageRow {
    /// The row of a stage in a ledger in the directory `root`.
    pub(crate) fn new(stage: &StageRecord, root: &Path) -> StageRow {
        let checkpoints = stage.checkpoints.iter().map(|checkpoint| CheckpointRow {
            step: checkpoint.step,
            dir: place::to_file(&checkpoint.dir, root),
            manifest_sha256: checkpoint.manifest_sha256.clone(),
        });
        StageRow {
            name: stage.name.clone(),
            kind: stage.kind.clone(),
            state: stage.state.into(),
            steps: stage.steps,
            step: stage.step,
            checkpoints: checkpoints.collect(),
            begun_at: stage.begun_at,
            ended_at: stage.ended_at,
            metrics: stage.metrics.clone(),
        }
    }

    fn into_record(self, job: &JobId, root: &Path) -> StageRecord {
        let checkpoints = self.checkpoints.into_iter();
        let checkpoints = checkpoints.map(|checkpoint| record::CheckpointRecord {
            step: checkpoint.step,
            dir: place::from_file(&checkpoint.dir, job, root),
            manifest_sha256: checkpoint.manifest_sha256,
        });
        StageRecord {
            name: self.name,
            kind: self.kind,
            state: self.state.into(),
            steps: self.steps,
            step: self.step,
            checkpoints: checkpoints.collect(),
            begun_at: self.begun_at,
            ended_at: self.ended_at,
            metrics: self.metrics,
        }
    }
}

impl JobRows {
    /// The record of a job in a ledger in the directory `root`.
    pub(crate) fn into_record(self, job: JobId, root: &Path) -> JobRecord {
        let (submission, progress) = (self.submission, self.progress);
        let stages = self.stages.into_iter();
        let stages = stages.map(|stage| Arc::new(stage.into_record(&job, root)));
        let evals = self.evals.into_iter().map(|eval| Arc::new(eval.into()));
        let versions = self.reward_versions.into_iter().map(Into::into);
        let taken = progress.taken.into_iter();
        JobRecord {
            progress: record::JobProgress {
                state: progress.state.into(),
                epoch: progress.epoch,
                started_at: progress.started_at,
                ended_at: progress.ended_at,
                stages: stages.collect(),
                error: progress.error,
                model: (progress.model).map(|path| place::from_file(&path, &job, root)),
            },
            submission: Arc::new(record::Submission {
                job,
                name: submission.name,
                priority: submission.priority,
                job_toml: submission.job_toml,
                devices: submission.devices.max(1),
                submitted_at: submission.submitted_at,
                sequence: submission.sequence,
            }),
            evals: Arc::new(evals.collect()),
            reward_versions: Arc::new(versions.collect()),
            reuse: Arc::new(record::Reuse {
                keys: progress.keys,
                enabled: progress.reuses,
                taken: taken.map(|(stage, of)| (stage, JobId(of))).collect(),
            }),
            request: submission.request,
            strikes: record::Strikes {
                taken_up: progress.taken_up,
                count: progress.strikes,
            },
            owner: submission.owner.map(Into::into),
            standing: record::Standing {
                pause: progress.pause.map(Into::into),
                place: progress.place,
                queued_at: progress.queued_at,
                resumptions: progress.resumptions,
            },
        }
    }
}

impl From<Effect> for EffectRow {
    fn from(effect: Effect) -> EffectRow {
        match effect {
            Effect::Submitted => EffectRow::Submitted,
            Effect::TakenUp => EffectRow::TakenUp,
            Effect::PutDown => EffectRow::PutDown,
            Effect::Struck { count } => EffectRow::Struck { count },
            Effect::Started { epoch, restarts } => EffectRow::Started { epoch, restarts },
            Effect::StageBegun { step, durable_step } => {
                EffectRow::StageBegun { step, durable_step }
            }
            Effect::StepCommitted { step } => EffectRow::StepCommitted { step },
            Effect::Checkpointed { durable_step } => EffectRow::Checkpointed { durable_step },
            Effect::CheckpointDropped { durable_step } => {
                EffectRow::CheckpointDropped { durable_step }
            }
            Effect::WentBack { step } => EffectRow::WentBack { step },
            Effect::EvalRecorded => EffectRow::EvalRecorded,
            Effect::StageFinished => EffectRow::StageFinished,
            Effect::RewardVersionSet => EffectRow::RewardVersionSet,
            Effect::StageReused => EffectRow::StageReused,
            Effect::Finished { state } => EffectRow::Finished {
                state: state.into(),
            },
            Effect::Cancelled { was } => EffectRow::Cancelled { was: was.into() },
            Effect::Paused { was } => EffectRow::Paused { was: was.into() },
            Effect::Resumed => EffectRow::Resumed,
            Effect::Requeued { was } => EffectRow::Requeued { was: was.into() },
            Effect::Removed => EffectRow::Removed,
            Effect::Forgotten => EffectRow::Forgotten,
        }
    }
}

impl From<EffectRow> for Effect {
    fn from(effect: EffectRow) -> Effect {
        match effect {
            EffectRow::Submitted => Effect::Submitted,
            EffectRow::TakenUp => Effect::TakenUp,
            EffectRow::PutDown => Effect::PutDown,
            EffectRow::Struck { count } => Effect::Struck { count },
            EffectRow::Started { epoch, restarts } => Effect::Started { epoch, restarts },
            EffectRow::StageBegun { step, durable_step } => {
                Effect::StageBegun { step, durable_step }
            }
            EffectRow::StepCommitted { step } => Effect::StepCommitted { step },
            EffectRow::Checkpointed { durable_step } => Effect::Checkpointed { durable_step },
            EffectRow::CheckpointDropped { durable_step } => {
                Effect::CheckpointDropped { durable_step }
            }
            EffectRow::WentBack { step } => Effect::WentBack { step },
            EffectRow::EvalRecorded => Effect::EvalRecorded,
            EffectRow::StageFinished => Effect::StageFinished,
            EffectRow::RewardVersionSet => Effect::RewardVersionSet,
            EffectRow::StageReused => Effect::StageReused,
            EffectRow::Finished { state } => Effect::Finished {
                state: state.into(),
            },
            EffectRow::Cancelled { was } => Effect::Cancelled { was: was.into() },
            EffectRow::Paused { was } => Effect::Paused { was: was.into() },
            EffectRow::Resumed => Effect::Resumed,
            EffectRow::Requeued { was } => Effect::Requeued { was: was.into() },
            EffectRow::Removed => Effect::Removed,
            EffectRow::Forgotten => Effect::Forgotten,
        }
    }
}

impl AnswerRow {
    pub(crate) fn new(answered: &KnownAnswer) -> Result<AnswerRow, redb::Error> {
        let effect = answered.effect.clone().map(EffectRow::from);
        Ok(AnswerRow {
            digest: answered.digest,
            effect: encode(&effect)?,
        })
    }
}

impl From<AnswerRow> for KnownAnswer {
    fn from(answer: AnswerRow) -> KnownAnswer {
        let effect = decode::<Option<EffectRow>>("answers", &answer.effect);
        KnownAnswer {
            digest: answer.digest,
            effect: effect.ok().flatten().map(Effect::from),
        }
    }
}

impl From<&record::User> for UserRow {
    fn from(user: &record::User) -> UserRow {
        UserRow {
            uid: user.uid,
            name: user.name.clone(),
        }
    }
}

impl From<UserRow> for record::User {
    fn from(user: UserRow) -> record::User {
        record::User {
            uid: user.uid,
            name: user.name,
        }
    }
}

impl From<&record::Pause> for PauseRow {
    fn from(pause: &record::Pause) -> PauseRow {
        PauseRow {
            by: pause.by.as_ref().map(UserRow::from),
            at: pause.at,
        }
    }
}

impl From<PauseRow> for record::Pause {
    fn from(pause: PauseRow) -> record::Pause {
        record::Pause {
            by: pause.by.map(Into::into),
            at: pause.at,
        }
    }
}

impl From<control::job::State> for StateRow {
    fn from(state: control::job::State) -> StateRow {
        match state {
            control::job::State::Queued => StateRow::Queued,
            control::job::State::Paused => StateRow::Paused,
            control::job::State::Running => StateRow::Running,
            control::job::State::Succeeded => StateRow::Succeeded,
            control::job::State::Failed => StateRow::Failed,
            control::job::State::Cancelled => StateRow::Cancelled,
        }
    }
}

impl From<StateRow> for control::job::State {
    fn from(state: StateRow) -> control::job::State {
        match state {
            StateRow::Queued => control::job::State::Queued,
            StateRow::Paused => control::job::State::Paused,
            StateRow::Running => control::job::State::Running,
            StateRow::Succeeded => control::job::State::Succeeded,
            StateRow::Failed => control::job::State::Failed,
            StateRow::Cancelled => control::job::State::Cancelled,
        }
    }
}

impl From<&control::job::EvalResult> for EvalRow {
    fn from(eval: &control::job::EvalResult) -> EvalRow {
        EvalRow {
            stage: eval.stage.clone(),
            step: eval.step,
            data: eval.data.clone(),
            metrics: eval.metrics.clone(),
            example: eval.example.as_ref().map(|example| ExampleRow {
                prompt: example.prompt.clone(),
                completion: example.completion.clone(),
                reference: example.reference.clone(),
            }),
        }
    }
}

impl From<EvalRow> for control::job::EvalResult {
    fn from(eval: EvalRow) -> control::job::EvalResult {
        control::job::EvalResult {
            stage: eval.stage,
            step: eval.step,
            data: eval.data,
            metrics: eval.metrics,
            example: eval.example.map(|example| control::job::EvalExample {
                prompt: example.prompt,
                completion: example.completion,
                reference: example.reference,
            }),
        }
    }
}

impl From<&record::RewardVersion> for RewardVersionRow {
    fn from(version: &record::RewardVersion) -> RewardVersionRow {
        RewardVersionRow {
            plugin: version.plugin.clone(),
            sha256: version.sha256.clone(),
            stage: version.stage,
            step: version.step,
            at: version.at,
        }
    }
}

impl From<RewardVersionRow> for record::RewardVersion {
    fn from(version: RewardVersionRow) -> record::RewardVersion {
        record::RewardVersion {
            plugin: version.plugin,
            sha256: version.sha256,
            stage: version.stage,
            step: version.step,
            at: version.at,
        }
    }
}

impl From<&record::Removal> for RemovalRow {
    fn from(removal: &record::Removal) -> RemovalRow {
        RemovalRow {
            elsewhere: removal.elsewhere.clone(),
        }
    }
}

impl From<RemovalRow> for record::Removal {
    fn from(removal: RemovalRow) -> record::Removal {
        record::Removal {
            elsewhere: removal.elsewhere,
        }
    }
}
