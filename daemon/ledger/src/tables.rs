//! The tables of the ledger's file, format 2.
//!
//! | table | key | value |
//! |---|---|---|
//! | `format` | `"version"` | u64: [`FORMAT_VERSION`] |
//! | `format` | `"forgotten session"` | u64: the highest session whose answers are forgotten |
//! | `submissions` | job | [`stored::SubmissionRow`] |
//! | `progress` | job | [`stored::ProgressRow`], with paths as [`crate::place`] writes them |
//! | `stages` | job, index | [`stored::StageRow`], with such paths |
//! | `evals` | job, index | [`stored::EvalRow`] |
//! | `reward_versions` | job, index | [`stored::RewardVersionRow`] |
//! | `removals` | removed job | [`stored::RemovalRow`] |
//! | `answers` | session, number | [`stored::AnswerRow`]: what a command did |
//! | `metrics` | job, stage, step | metrics by name, of the steps behind the last block |
//! | `metrics_blocks` | job, stage, first step | [`Block`] |
//!
//! A change writes the rows that differ between a job's record before it and behind it, so no
//! command needs to know its tables.

use crate::answers::{AnswersChange, KnownAnswers};
use crate::command::CommandId;
use crate::metrics::Block;
use crate::record::{JobRecord, Removal, RewardVersion, StageRecord};
use crate::state::State;
use crate::stored::{self, FORMAT_VERSION, decode, encode};
use r1d_proto::control::job::EvalResult;
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use r1d_store::{Disk, sync_parent};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

type ByJob = TableDefinition<'static, &'static str, &'static [u8]>;
type ByIndex = TableDefinition<'static, (&'static str, u64), &'static [u8]>;
type ByStep = TableDefinition<'static, (&'static str, u32, u64), &'static [u8]>;

/// The one table that every format has.
pub(crate) const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
const SUBMISSIONS: ByJob = TableDefinition::new("submissions");
const PROGRESS: ByJob = TableDefinition::new("progress");
const STAGES: ByIndex = TableDefinition::new("stages");
const EVALS: ByIndex = TableDefinition::new("evals");
const REWARD_VERSIONS: ByIndex = TableDefinition::new("reward_versions");
const REMOVALS: ByJob = TableDefinition::new("removals");
/// Made when the first answer is remembered: earlier files of the format lack it, and releases that
/// do not know it leave it as it is.
const ANSWERS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("answers");
const FORGOTTEN_SESSION: &str = "forgotten session";
const METRICS: ByStep = TableDefinition::new("metrics");
const METRICS_BLOCKS: ByStep = TableDefinition::new("metrics_blocks");

/// Begins a transaction of two phases: after a crash its pages are known to be whole. With one
/// phase, a last transaction whose pages do not fit their checksums is taken for one that a crash
/// cut short, so that a damaged page would undo a command that was acknowledged. redb then also
/// finds its free pages on file, and need not walk all others before the daemon is ready.
pub(crate) fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    Ok(write)
}

/// Reads the file's format; `None` in a new file.
pub(crate) fn version(database: &Database) -> Result<Option<u64>, redb::Error> {
    let table = match database.begin_read()?.open_table(FORMAT) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    Ok(table.get("version")?.map(|version| version.value()))
}

/// Makes a new file a ledger without jobs.
pub(crate) fn create(write: &WriteTransaction) -> Result<(), redb::Error> {
    write
        .open_table(FORMAT)?
        .insert("version", FORMAT_VERSION)?;
    for table in [SUBMISSIONS, PROGRESS, REMOVALS] {
        write.open_table(table)?;
    }
    for table in [STAGES, EVALS, REWARD_VERSIONS] {
        write.open_table(table)?;
    }
    for table in [METRICS, METRICS_BLOCKS] {
        write.open_table(table)?;
    }
    Ok(())
}

/// Makes a whole new file beside `path`, has `fill` write it in one transaction, and puts it in the
/// place of `path`. Killed at any moment, it leaves what was at `path`, or the new file.
pub(crate) fn replace(
    path: &Path,
    fill: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let beside = path.with_extension("redb.new");
    // An earlier crash left it half-made.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let database = Database::create(&beside)?;
    let write = begin(&database)?;
    fill(&write)?;
    write.commit()?;
    drop(database);
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, path)?;
    Ok(sync_parent(&Disk, path)?)
}

/// Reads all jobs of a ledger in the directory `root`.
pub(crate) fn load(database: &Database, root: &Path) -> Result<State, redb::Error> {
    let read = database.begin_read()?;
    let (submissions, progress) = (read.open_table(SUBMISSIONS)?, read.open_table(PROGRESS)?);
    let mut records = Vec::new();
    for row in submissions.iter()? {
        let (key, submission) = row?;
        let job = key.value();
        let Some(progress) = progress.get(job)? else {
            let what = format!("job `{job}` has no progress");
            return Err(redb::Error::Corrupted(what));
        };
        let rows = stored::JobRows {
            submission: decode("submissions", submission.value())?,
            progress: decode("progress", progress.value())?,
            stages: list(&read, STAGES, job)?,
            evals: list(&read, EVALS, job)?,
            reward_versions: list(&read, REWARD_VERSIONS, job)?,
        };
        records.push(rows.into_record(JobId(job.to_string()), root));
    }
    let mut removals = BTreeMap::new();
    for row in read.open_table(REMOVALS)?.iter()? {
        let (job, removal) = row?;
        let removal: stored::RemovalRow = decode("removals", removal.value())?;
        removals.insert(JobId(job.value().to_string()), removal.into());
    }
    Ok(State::from_records(records, removals).with_answers(answers(&read)?))
}

fn answers(read: &ReadTransaction) -> Result<KnownAnswers, redb::Error> {
    let forgotten = read.open_table(FORMAT)?.get(FORGOTTEN_SESSION)?;
    let forgotten = forgotten.map_or(0, |session| session.value());
    let table = match read.open_table(ANSWERS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(KnownAnswers::default()),
        table => table?,
    };
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, answer) = row?;
        let (session, number) = key.value();
        let answer: stored::AnswerRow = decode("answers", answer.value())?;
        rows.push((CommandId { session, number }, answer.into()));
    }
    Ok(KnownAnswers::from_rows(rows, forgotten))
}

/// Writes what a command did, and removes what is forgotten for it.
pub(crate) fn write_answers(
    write: &WriteTransaction,
    change: &AnswersChange,
) -> Result<(), redb::Error> {
    let Some((id, answered)) = &change.new else {
        return Ok(());
    };
    let mut table = write.open_table(ANSWERS)?;
    let row = encode(&stored::AnswerRow::new(answered)?)?;
    table.insert((id.session, id.number), row.as_slice())?;
    for gone in &change.gone {
        table.remove((gone.session, gone.number))?;
    }
    if let Some(session) = change.forgotten {
        write
            .open_table(FORMAT)?
            .insert(FORGOTTEN_SESSION, session)?;
    }
    Ok(())
}

fn list<T: DeserializeOwned>(
    read: &ReadTransaction,
    table: ByIndex,
    job: &str,
) -> Result<Vec<T>, redb::Error> {
    let rows = read.open_table(table)?;
    rows.range((job, 0)..=(job, u64::MAX))?
        .map(|row| decode("a list", row?.1.value()))
        .collect()
}

/// Writes what differs between two records of a job in a ledger in the directory `root`.
pub(crate) fn write_job(
    write: &WriteTransaction,
    root: &Path,
    before: Option<&Arc<JobRecord>>,
    now: &JobRecord,
) -> Result<(), redb::Error> {
    let job = now.job().0.as_str();
    if before.is_none() {
        let row = stored::SubmissionRow::from(now);
        write
            .open_table(SUBMISSIONS)?
            .insert(job, encode(&row)?.as_slice())?;
    }
    let progress = stored::ProgressRow::new(now, root);
    if before
        .map(|before| stored::ProgressRow::new(before, root))
        .as_ref()
        != Some(&progress)
    {
        write
            .open_table(PROGRESS)?
            .insert(job, encode(&progress)?.as_slice())?;
    }
    let known = before.map_or(&[][..], |before| &before.progress.stages);
    let stage = |stage: &Arc<StageRecord>| stored::StageRow::new(stage, root);
    write_list(
        write,
        STAGES,
        job,
        (known, &now.progress.stages),
        Arc::ptr_eq,
        stage,
    )?;
    let known = before.map_or(&[][..], |before| &before.evals);
    let eval = |eval: &Arc<EvalResult>| stored::EvalRow::from(&**eval);
    write_list(write, EVALS, job, (known, &now.evals), Arc::ptr_eq, eval)?;
    let known = before.map_or(&[][..], |before| &before.reward_versions);
    let is_same = |old: &RewardVersion, new: &RewardVersion| old == new;
    let version = |version: &RewardVersion| stored::RewardVersionRow::from(version);
    let lists = (known, &now.reward_versions[..]);
    write_list(write, REWARD_VERSIONS, job, lists, is_same, version)
}

/// Writes the items of a list that differ from those before, and removes those that are gone.
fn write_list<T, R: Serialize>(
    write: &WriteTransaction,
    table: ByIndex,
    job: &str,
    (before, now): (&[T], &[T]),
    is_same: impl Fn(&T, &T) -> bool,
    row: impl Fn(&T) -> R,
) -> Result<(), redb::Error> {
    // Most commands change no list at all.
    let is_new = |index: usize, item: &T| !before.get(index).is_some_and(|old| is_same(old, item));
    let new = now
        .iter()
        .enumerate()
        .filter(|(index, item)| is_new(*index, item));
    for (index, item) in new {
        let row = encode(&row(item))?;
        write
            .open_table(table)?
            .insert((job, index as u64), row.as_slice())?;
    }
    if now.len() < before.len() {
        let gone = (job, now.len() as u64)..=(job, u64::MAX);
        write.open_table(table)?.retain_in(gone, |_, _| false)?;
    }
    Ok(())
}

/// Writes the removal of a job, or its end. The rows of a removed job go with it.
pub(crate) fn write_removal(
    write: &WriteTransaction,
    job: &JobId,
    removal: Option<&Removal>,
) -> Result<(), redb::Error> {
    let id = job.0.as_str();
    let Some(removal) = removal else {
        write.open_table(REMOVALS)?.remove(id)?;
        return Ok(());
    };
    let removal = encode(&stored::RemovalRow::from(removal))?;
    write.open_table(REMOVALS)?.insert(id, removal.as_slice())?;
    for table in [SUBMISSIONS, PROGRESS] {
        write.open_table(table)?.remove(id)?;
    }
    for table in [STAGES, EVALS, REWARD_VERSIONS] {
        let rows = (id, 0)..=(id, u64::MAX);
        write.open_table(table)?.retain_in(rows, |_, _| false)?;
    }
    for table in [METRICS, METRICS_BLOCKS] {
        let rows = (id, 0, 0)..=(id, u32::MAX, u64::MAX);
        write.open_table(table)?.retain_in(rows, |_, _| false)?;
    }
    Ok(())
}

/// What a command does to the metrics of a stage, in this order.
#[derive(Default)]
pub(crate) struct MetricsChange {
    /// The steps from this one on are forgotten, and blocks that have any of them.
    pub(crate) forgotten_from: Option<u64>,
    /// Rows that are in a block now, by its first step.
    pub(crate) blocks: Vec<(u64, Block)>,
    /// New rows.
    pub(crate) rows: Vec<(u64, Metrics)>,
}

pub(crate) fn write_metrics(
    write: &WriteTransaction,
    job: &JobId,
    stage: u32,
    change: &MetricsChange,
) -> Result<(), redb::Error> {
    let job = job.0.as_str();
    if let Some(step) = change.forgotten_from {
        let rows = (job, stage, step)..=(job, stage, u64::MAX);
        write.open_table(METRICS)?.retain_in(rows, |_, _| false)?;
        let mut blocks = write.open_table(METRICS_BLOCKS)?;
        let all = (job, stage, 0)..=(job, stage, u64::MAX);
        let mut failed = None;
        blocks.retain_in(all, |(_, _, first), block| {
            let block = decode::<Block>("metrics_blocks", block);
            block.map_or_else(
                |error| {
                    failed = Some(error);
                    true
                },
                |block| first + block.steps <= step,
            )
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    for (first, block) in &change.blocks {
        let rows = (job, stage, *first)..(job, stage, first + block.steps);
        write.open_table(METRICS)?.retain_in(rows, |_, _| false)?;
        let row = encode(block)?;
        write
            .open_table(METRICS_BLOCKS)?
            .insert((job, stage, *first), row.as_slice())?;
    }
    for (step, metrics) in &change.rows {
        let row = encode(metrics)?;
        let known = write
            .open_table(METRICS)?
            .insert((job, stage, *step), row.as_slice())?
            .is_some();
        r1d_proto::invariant!(
            "STEP-1",
            !known,
            "step {step} of stage {stage} of job {job} was committed before"
        );
    }
    Ok(())
}

/// Number of a stage's rows that are in no block: they are of steps in a row.
pub(crate) fn row_count(
    read: &ReadTransaction,
    job: &JobId,
    stage: u32,
) -> Result<u64, redb::Error> {
    let job = job.0.as_str();
    let table = read.open_table(METRICS)?;
    let mut rows = table.range((job, stage, 0)..=(job, stage, u64::MAX))?;
    let Some(first) = rows.next().transpose()? else {
        return Ok(0);
    };
    let first = first.0.value().2;
    let last = rows.next_back().transpose()?;
    Ok(last.map_or(1, |(last, _)| last.value().2 - first + 1))
}

/// Reads the rows of these steps that are in no block.
pub(crate) fn rows(
    read: &ReadTransaction,
    job: &JobId,
    stage: u32,
    steps: Range<u64>,
) -> Result<Vec<(u64, Metrics)>, redb::Error> {
    let job = job.0.as_str();
    let table = read.open_table(METRICS)?;
    let mut rows = Vec::new();
    for row in table.range((job, stage, steps.start)..(job, stage, steps.end.max(steps.start)))? {
        let (key, value) = row?;
        rows.push((key.value().2, decode("metrics", value.value())?));
    }
    Ok(rows)
}

/// The blocks that have any of these steps, by their first step.
pub(crate) fn blocks(
    read: &ReadTransaction,
    job: &JobId,
    stage: u32,
    steps: Range<u64>,
) -> Result<Vec<(u64, Block)>, redb::Error> {
    let job = job.0.as_str();
    let table = read.open_table(METRICS_BLOCKS)?;
    let mut before = table.range((job, stage, 0)..=(job, stage, steps.start))?;
    let first = before.next_back().transpose()?;
    let start = first.map_or(steps.start, |(key, _)| key.value().2);
    let mut blocks = Vec::new();
    for row in table.range((job, stage, start)..(job, stage, steps.end.max(start)))? {
        let (key, value) = row?;
        let (first, block) = (
            key.value().2,
            decode::<Block>("metrics_blocks", value.value())?,
        );
        if first.saturating_add(block.steps) > steps.start {
            blocks.push((first, block));
        }
    }
    Ok(blocks)
}
