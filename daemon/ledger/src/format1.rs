//! The ledger's file of format 1, as releases before format 2 wrote it: what its rows hold, and how
//! it is brought up. Nothing here changes any more.
//!
//! Rows are postcard. The tables `graders`, `reuse`, `requests`, `strikes`, `owners`, `standing`
//! and `removals` came one by one, and may be missing.

use crate::error::{LedgerError, io_error, storage_error};
use crate::metrics;
use crate::place;
use crate::record::{self, JobRecord};
use crate::tables::{self, MetricsChange};
use crate::watched::WatchedPath;
use r1d_proto::control;
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use r1d_store::Disk;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The format's number.
pub(crate) const VERSION: u64 = 1;
/// Most rows of metrics that are read before they are written.
const ROWS_MAX: usize = 4096;

type JobTable = TableDefinition<'static, &'static str, &'static [u8]>;
type ListTable = TableDefinition<'static, (&'static str, u64), &'static [u8]>;

const SUBMISSIONS: JobTable = TableDefinition::new("submissions");
const PROGRESS: JobTable = TableDefinition::new("progress");
const REUSE: JobTable = TableDefinition::new("reuse");
const STRIKES: JobTable = TableDefinition::new("strikes");
const OWNERS: JobTable = TableDefinition::new("owners");
const STANDING: JobTable = TableDefinition::new("standing");
const REMOVALS: JobTable = TableDefinition::new("removals");
const EVALS: ListTable = TableDefinition::new("evals");
const REWARD_VERSIONS: ListTable = TableDefinition::new("graders");
const REQUESTS: TableDefinition<&str, &str> = TableDefinition::new("requests");
const METRICS: TableDefinition<(&str, u32, u64), &[u8]> = TableDefinition::new("metrics");

#[derive(Deserialize)]
struct SubmissionV1 {
    job: String,
    name: String,
    priority: i32,
    job_toml: String,
    submitted_at: u64,
    sequence: u64,
}

#[derive(Deserialize)]
struct ProgressV1 {
    state: StateV1,
    epoch: u64,
    started_at: Option<u64>,
    ended_at: Option<u64>,
    stages: Vec<StageV1>,
    error: Option<String>,
    model: Option<PathBuf>,
}

#[derive(Deserialize)]
enum StateV1 {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Paused,
}

#[derive(Deserialize)]
struct StageV1 {
    name: String,
    kind: String,
    state: StateV1,
    steps: u64,
    step: u64,
    checkpoints: Vec<CheckpointV1>,
    begun_at: u64,
    ended_at: Option<u64>,
    metrics: Metrics,
}

#[derive(Deserialize)]
struct CheckpointV1 {
    step: u64,
    dir: PathBuf,
    manifest_sha256: String,
}

#[derive(Deserialize)]
struct EvalV1 {
    stage: Option<String>,
    step: u64,
    data: String,
    metrics: Metrics,
    example: Option<ExampleV1>,
}

#[derive(Deserialize)]
struct ExampleV1 {
    prompt: String,
    completion: String,
    reference: Option<String>,
}

#[derive(Deserialize)]
struct RewardVersionV1 {
    plugin: String,
    sha256: String,
    stage: u32,
    step: u64,
    at: u64,
}

#[derive(Default, Deserialize)]
struct ReuseV1 {
    keys: Vec<String>,
    enabled: bool,
    taken: BTreeMap<u32, String>,
}

#[derive(Default, Deserialize)]
struct StrikesV1 {
    taken_up: bool,
    count: u32,
}

#[derive(Deserialize)]
struct UserV1 {
    uid: u32,
    name: String,
}

#[derive(Default, Deserialize)]
struct StandingV1 {
    pause: Option<PauseV1>,
    place: Option<u64>,
    resumptions: u32,
}

#[derive(Deserialize)]
struct PauseV1 {
    by: Option<UserV1>,
    at: u64,
}

#[derive(Deserialize)]
struct RemovalV1 {
    elsewhere: Vec<PathBuf>,
}

/// Brings the ledger at `path` up: writes all that it holds to a new file, and the metrics to the
/// jobs' files, and puts the new file in its place when all is on the disk. Killed at any moment,
/// it leaves the old ledger or the new one; it is then begun anew.
pub(crate) fn migrate(path: &Path) -> Result<(), LedgerError> {
    let failed = |error: redb::Error| storage_error(path, error);
    let root = path.parent().unwrap_or(Path::new(""));
    let database = WatchedPath::new(path)
        .open()
        .map_err(|error| failed(error.into()))?;
    let mut unwritten = None;
    let replaced = tables::replace(path, |write| {
        tables::create(write)?;
        for_each_job(&database, root, |read, record| {
            tables::write_job(write, root, None, &record)?;
            write_metrics(read, write, root, record.job()).inspect_err(|_| {
                unwritten = Some(metrics::path(root, record.job()));
            })
        })?;
        let read = database.begin_read()?;
        for (job, removal) in all::<RemovalV1>(&read, REMOVALS)? {
            let elsewhere = removal.elsewhere;
            tables::write_removal(write, &JobId(job), Some(&record::Removal { elsewhere }))?;
        }
        Ok(())
    });
    replaced.map_err(|error| match (error, unwritten) {
        (redb::Error::Io(error), Some(path)) => io_error(&path, error),
        (error, _) => failed(error),
    })
}

fn for_each_job(
    database: &Database,
    root: &Path,
    mut each: impl FnMut(&ReadTransaction, JobRecord) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let read = database.begin_read()?;
    for (job, submission) in all::<SubmissionV1>(&read, SUBMISSIONS)? {
        let progress: Option<ProgressV1> = one(&read, PROGRESS, &job)?;
        let Some(progress) = progress else {
            let what = format!("job `{job}` has no progress");
            return Err(redb::Error::Corrupted(what));
        };
        let requests = known(read.open_table(REQUESTS))?;
        let request = match &requests {
            Some(requests) => requests.get(job.as_str())?,
            None => None,
        };
        let (reuse, strikes) = (
            one::<ReuseV1>(&read, REUSE, &job)?.unwrap_or_default(),
            one::<StrikesV1>(&read, STRIKES, &job)?.unwrap_or_default(),
        );
        let standing: StandingV1 = one(&read, STANDING, &job)?.unwrap_or_default();
        let evals = list::<EvalV1>(&read, EVALS, &job)?.into_iter();
        let versions = list::<RewardVersionV1>(&read, REWARD_VERSIONS, &job)?.into_iter();
        let taken = reuse.taken.into_iter();
        let id = JobId(submission.job.clone());
        let record = JobRecord {
            progress: progress.into_record(&id, root),
            submission: Arc::new(submission.into()),
            evals: Arc::new(evals.map(|eval| Arc::new(eval.into())).collect()),
            reward_versions: Arc::new(versions.map(Into::into).collect()),
            reuse: Arc::new(record::Reuse {
                keys: reuse.keys,
                enabled: reuse.enabled,
                taken: taken.map(|(stage, of)| (stage, JobId(of))).collect(),
            }),
            request: request.map(|request| request.value().to_owned()),
            strikes: record::Strikes {
                taken_up: strikes.taken_up,
                count: strikes.count,
            },
            owner: one::<UserV1>(&read, OWNERS, &job)?.map(Into::into),
            standing: standing.into(),
        };
        each(&read, record)?;
    }
    Ok(())
}

/// Puts a job's metrics into its file.
fn write_metrics(
    read: &ReadTransaction,
    write: &WriteTransaction,
    root: &Path,
    job: &JobId,
) -> Result<(), redb::Error> {
    let put = |stage: u32, rows: &mut Vec<(u64, Metrics)>| -> Result<(), redb::Error> {
        let blocks = metrics::append(&Disk, &metrics::path(root, job), rows)?;
        rows.clear();
        let change = MetricsChange {
            blocks,
            ..MetricsChange::default()
        };
        tables::write_metrics(write, job, stage, &change)
    };
    let (mut rows, mut at) = (Vec::new(), 0);
    let table = read.open_table(METRICS)?;
    for row in table.range((job.0.as_str(), 0, 0)..=(job.0.as_str(), u32::MAX, u64::MAX))? {
        let (key, value) = row?;
        let (_, stage, step) = key.value();
        if stage != at || rows.len() == ROWS_MAX {
            put(at, &mut rows)?;
        }
        at = stage;
        rows.push((step, decode("metrics", value.value())?));
    }
    put(at, &mut rows)
}

fn decode<T: DeserializeOwned>(table: &str, bytes: &[u8]) -> Result<T, redb::Error> {
    postcard::from_bytes(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a record of table `{table}`: {error}")))
}

fn all<T: DeserializeOwned>(
    read: &ReadTransaction,
    table: JobTable,
) -> Result<Vec<(String, T)>, redb::Error> {
    let Some(rows) = known(read.open_table(table))? else {
        return Ok(Vec::new());
    };
    rows.iter()?
        .map(|row| {
            let (job, bytes) = row?;
            Ok((
                job.value().to_owned(),
                decode("submissions", bytes.value())?,
            ))
        })
        .collect()
}

fn one<T: DeserializeOwned>(
    read: &ReadTransaction,
    table: JobTable,
    job: &str,
) -> Result<Option<T>, redb::Error> {
    let Some(rows) = known(read.open_table(table))? else {
        return Ok(None);
    };
    let row = rows.get(job)?;
    row.map(|bytes| decode("a job's", bytes.value()))
        .transpose()
}

fn list<T: DeserializeOwned>(
    read: &ReadTransaction,
    table: ListTable,
    job: &str,
) -> Result<Vec<T>, redb::Error> {
    let Some(rows) = known(read.open_table(table))? else {
        return Ok(Vec::new());
    };
    rows.range((job, 0)..=(job, u64::MAX))?
        .map(|row| decode("a list", row?.1.value()))
        .collect()
}

/// The table, or `None` in a ledger of an earlier release, which lacks it.
fn known<T>(table: Result<T, redb::TableError>) -> Result<Option<T>, redb::TableError> {
    match table {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        table => table.map(Some),
    }
}

impl From<SubmissionV1> for record::Submission {
    fn from(row: SubmissionV1) -> record::Submission {
        record::Submission {
            job: JobId(row.job),
            name: row.name,
            priority: row.priority,
            job_toml: row.job_toml,
            devices: 1,
            submitted_at: row.submitted_at,
            sequence: row.sequence,
        }
    }
}

impl ProgressV1 {
    fn into_record(self, job: &JobId, root: &Path) -> record::JobProgress {
        let stages = self.stages.into_iter();
        record::JobProgress {
            state: self.state.into(),
            epoch: self.epoch,
            started_at: self.started_at,
            ended_at: self.ended_at,
            stages: stages
                .map(|stage| Arc::new(stage.into_record(job, root)))
                .collect(),
            error: self.error,
            model: self.model.map(|path| place::from_file(&path, job, root)),
        }
    }
}

impl StageV1 {
    fn into_record(self, job: &JobId, root: &Path) -> record::StageRecord {
        let checkpoints = self.checkpoints.into_iter();
        let checkpoints = checkpoints.map(|checkpoint| record::CheckpointRecord {
            step: checkpoint.step,
            dir: place::from_file(&checkpoint.dir, job, root),
            manifest_sha256: checkpoint.manifest_sha256,
        });
        record::StageRecord {
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

impl From<StateV1> for control::job::State {
    fn from(state: StateV1) -> control::job::State {
        match state {
            StateV1::Queued => control::job::State::Queued,
            StateV1::Running => control::job::State::Running,
            StateV1::Succeeded => control::job::State::Succeeded,
            StateV1::Failed => control::job::State::Failed,
            StateV1::Cancelled => control::job::State::Cancelled,
            StateV1::Paused => control::job::State::Paused,
        }
    }
}

impl From<EvalV1> for control::job::EvalResult {
    fn from(row: EvalV1) -> control::job::EvalResult {
        control::job::EvalResult {
            stage: row.stage,
            step: row.step,
            data: row.data,
            metrics: row.metrics,
            example: row.example.map(|example| control::job::EvalExample {
                prompt: example.prompt,
                completion: example.completion,
                reference: example.reference,
            }),
        }
    }
}

impl From<RewardVersionV1> for record::RewardVersion {
    fn from(row: RewardVersionV1) -> record::RewardVersion {
        record::RewardVersion {
            plugin: row.plugin,
            sha256: row.sha256,
            stage: row.stage,
            step: row.step,
            at: row.at,
        }
    }
}

impl From<UserV1> for record::User {
    fn from(row: UserV1) -> record::User {
        record::User {
            uid: row.uid,
            name: row.name,
        }
    }
}

impl From<StandingV1> for record::Standing {
    fn from(row: StandingV1) -> record::Standing {
        record::Standing {
            pause: row.pause.map(|pause| record::Pause {
                by: pause.by.map(Into::into),
                at: pause.at,
            }),
            place: row.place,
            queued_at: None,
            resumptions: row.resumptions,
        }
    }
}
