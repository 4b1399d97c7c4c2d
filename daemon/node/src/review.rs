//! Reviews: people look at what a rejection-sampling stage kept (`review = true`) before anything
//! reads it.
//!
//! ```text
//! stage finished, data set made ─▶ the job waits, without a worker
//!     ─▶ accepted, or an edited file imported ─▶ the job goes on
//! ```
//!
//! The file that the stage made stays unchanged. An imported file is checked line by line and put
//! beside it, named by its hash; one rename, of the [record](DataSetRecord), makes it the data set.
//! It may be replaced until a later stage has begun to read it. The run that begins that stage
//! decides under the lock [`NodeContext::reviews`] which bytes the stage reads (`STEP-2`).

use crate::context::NodeContext;
use crate::datasets::{DataSetError, DataSetRecord, DataSets, made, write_record};
use crate::digest;
use crate::job_log::JobLog;
use r1d_data::{DataError, dataset};
use r1d_job::{DataSource, Job, JobError, Stage};
use r1d_ledger::JobRecord;
use r1d_proto::control::content::{MadeDataSet, Review};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_proto::user_file;
use r1d_store::{Disk, JobLayout, StoreError, layout, write_file};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter for the names of files that arrive at the same time.
static ARRIVALS: AtomicU64 = AtomicU64::new(0);
/// Longest line, which holds one row (`LIM-1`).
const LINE_MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReviewError {
    #[error("job `{job}` has no stage {stage:?}; those that make data sets: {known}")]
    NoStage {
        job: String,
        stage: String,
        known: String,
    },
    #[error("stage `{stage}` makes no data set: it is of kind {kind}")]
    MakesNone { stage: String, kind: String },
    #[error(
        "stage `{stage}` asks for no review: the job goes on by itself (`review = true` in its \
         [[stage]] makes it wait)"
    )]
    NotAsked { stage: String },
    #[error("stage `{stage}` has not made its data set yet")]
    NotMade { stage: String },
    #[error(
        "stage `{reader}` has begun to read the data set of stage `{stage}`: it cannot change any \
         more"
    )]
    Read { stage: String, reader: String },
    #[error("job `{job}` has ended: nothing will read the data set")]
    Ended { job: String },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} line {line}: {problem}", path.display())]
    Line {
        path: PathBuf,
        line: u64,
        problem: String,
    },
    #[error("{} has no row: a data set has at least one (to give the job up: `r1ctl cancel`)",
        .0.display())]
    Empty(PathBuf),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Write(#[from] StoreError),
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    #[error(transparent)]
    Job(#[from] JobError),
}

impl ReviewError {
    pub(crate) fn is_the_daemons(&self) -> bool {
        matches!(self, ReviewError::DataSet(_) | ReviewError::Job(_))
    }
}

/// A job and the directory of its data sets.
struct ReviewFolder {
    job: Job,
    dir: PathBuf,
}

impl ReviewFolder {
    fn open(node: &NodeContext, record: &JobRecord) -> Result<ReviewFolder, ReviewError> {
        let job = Job::parse(&record.submission.job_toml, Path::new("/"))?;
        Ok(ReviewFolder {
            job,
            dir: JobLayout::of(&node.state_dir, record.job()).datasets(),
        })
    }

    fn makers(&self) -> impl Iterator<Item = &Stage> {
        self.job
            .stages
            .iter()
            .filter(|stage| stage.rejection_sampling().is_some())
    }

    fn shown(&self, stage: &Stage, made: DataSetRecord) -> MadeDataSet {
        MadeDataSet {
            stage: stage.name.clone(),
            rows: made.rows,
            rows_made: made.rows_made(),
            sampled: made.sampled,
            acceptance_rate: made.acceptance_rate,
            review: match (made.reviewed, made.file.is_some(), stage.is_reviewed()) {
                (true, true, _) => Review::Imported,
                (true, false, _) => Review::Accepted,
                (false, _, true) => Review::Waiting,
                (false, _, false) => Review::NotAsked,
            },
            file: made.file_of(&self.dir, &stage.name),
            sha256: made.sha256,
        }
    }

    /// The stage of this name, if people can review what it has made.
    fn reviewed(&self, record: &JobRecord, stage: &str) -> Result<&Stage, ReviewError> {
        let Some(settings) = self.job.stages.iter().find(|known| known.name == stage) else {
            let known: Vec<&str> = self.makers().map(|stage| stage.name.as_str()).collect();
            let known = if known.is_empty() {
                "none".into()
            } else {
                known.join(", ")
            };
            return Err(ReviewError::NoStage {
                job: record.job().to_string(),
                stage: stage.into(),
                known,
            });
        };
        let stage = settings.name.clone();
        if settings.rejection_sampling().is_none() {
            let kind = settings.kind_name().into();
            return Err(ReviewError::MakesNone { stage, kind });
        }
        if !settings.is_reviewed() {
            return Err(ReviewError::NotAsked { stage });
        }
        if !is_finished(record, &settings.name) {
            return Err(ReviewError::NotMade { stage });
        }
        Ok(settings)
    }

    /// The first stage that has begun to read what `stage` made.
    fn reader(&self, record: &JobRecord, stage: &str) -> Option<&str> {
        let begun = self.job.stages.iter().take(record.progress.stages.len());
        begun
            .filter(|reader| reader.data_sets().any(|data| data == stage))
            .map(|reader| reader.name.as_str())
            .next()
    }
}

fn is_finished(record: &JobRecord, stage: &str) -> bool {
    record
        .progress
        .stages
        .iter()
        .any(|begun| begun.name == stage && begun.state == State::Succeeded)
}

/// The data sets that exist, in the order of their stages. Blocks.
pub(crate) fn list(
    node: &NodeContext,
    record: &JobRecord,
) -> Result<Vec<MadeDataSet>, ReviewError> {
    let folder = ReviewFolder::open(node, record)?;
    let finished = folder
        .makers()
        .filter(|stage| is_finished(record, &stage.name));
    finished
        .map(|stage| Ok(folder.shown(stage, made(&folder.dir, &stage.name)?)))
        .collect()
}

/// Describes the review that a job waits for, with the commands for it.
pub(crate) fn wanted(job: &JobId, stage: &str, rows: u64) -> String {
    format!(
        "somebody to review data set `{stage}` ({rows} rows): `r1ctl dataset review {job} \
         {stage}` with --export FILE, then --import FILE, or --accept"
    )
}

/// The first data set of a job that waits for its review: its stage and rows. Blocks.
pub(crate) fn awaited(
    record: &JobRecord,
    job: &Job,
    dir: &Path,
) -> Result<Option<(String, u64)>, DataSetError> {
    for stage in job
        .stages
        .iter()
        .filter(|stage| stage.is_reviewed() && is_finished(record, &stage.name))
    {
        let made = made(dir, &stage.name)?;
        if !made.reviewed {
            return Ok(Some((stage.name.clone(), made.rows)));
        }
    }
    Ok(None)
}

/// The SHA-256 of each data set that exists, by stage. Blocks.
pub(crate) fn hashes(
    record: &JobRecord,
    job: &Job,
    dir: &Path,
) -> Result<BTreeMap<String, String>, DataSetError> {
    let made_by =
        |stage: &Stage| stage.rejection_sampling().is_some() && is_finished(record, &stage.name);
    let finished = job.stages.iter().filter(|stage| made_by(stage));
    finished
        .map(|stage| Ok((stage.name.clone(), made(dir, &stage.name)?.sha256)))
        .collect()
}

/// Names a data set of a finished stage that is away or has other bytes. Reads them all.
pub(crate) fn harmed(record: &JobRecord, job: &Job, dir: &Path) -> Option<String> {
    let made_by =
        |stage: &&Stage| stage.rejection_sampling().is_some() && is_finished(record, &stage.name);
    let finished: BTreeSet<String> = job
        .stages
        .iter()
        .filter(made_by)
        .map(|stage| stage.name.clone())
        .collect();
    let sets = DataSets {
        dir: dir.into(),
        finished,
    };
    sets.finished
        .iter()
        .find_map(|stage| sets.find(stage).err())
        .map(|error| error.to_string())
}

/// Accepts what a stage made, or replaces it by `file`. Blocks.
pub(crate) fn review(
    node: &NodeContext,
    record: &JobRecord,
    stage: &str,
    file: Option<&Path>,
) -> Result<MadeDataSet, ReviewError> {
    let folder = ReviewFolder::open(node, record)?;
    let settings = folder.reviewed(record, stage)?;
    let mut reviewed = DataSetRecord {
        reviewed: true,
        ..made(&folder.dir, &settings.name)?
    };
    match file {
        None => reviewed.return_to_made(),
        Some(path) => {
            let source = folder.job.source(&settings.name);
            let source = source.ok_or_else(|| DataError::Source {
                name: settings.name.clone(),
                problem: "no data set of the job file is behind it".into(),
            })?;
            let (rows, sha256) = import(path, &folder.dir, &source)?;
            reviewed.take(rows, sha256, &settings.name);
        }
    }
    // No stage begins to read the data set while this is decided.
    let _held = node.reviews.lock().unwrap_or_else(PoisonError::into_inner);
    let now = node.ledger.job(record.job());
    let now = now.as_deref().unwrap_or(record);
    if now.state().is_final() {
        return Err(ReviewError::Ended {
            job: record.job().to_string(),
        });
    }
    if let Some(reader) = folder.reader(now, &settings.name) {
        return Err(ReviewError::Read {
            stage: settings.name.clone(),
            reader: reader.into(),
        });
    }
    write_record(&Disk, &folder.dir, &settings.name, &reviewed)?;
    let log = node.layout(record.job()).log();
    JobLog::new(log, &record.job().0, node.clock.clone()).info(match file {
        Some(_) => format!(
            "data set {} reviewed: the imported file's {} rows take the place of {}, sha256 {}",
            settings.name,
            reviewed.rows,
            reviewed.rows_made(),
            reviewed.sha256
        ),
        None => format!(
            "data set {} reviewed: its {} rows are accepted",
            settings.name, reviewed.rows
        ),
    });
    Ok(folder.shown(settings, reviewed))
}

/// Copies `path` to where [`DataSetRecord::file_of`] looks for it, and checks each line. Returns
/// rows and SHA-256.
fn import(path: &Path, dir: &Path, source: &DataSource) -> Result<(u64, String), ReviewError> {
    let columns = Columns::of(&layout::data_set(dir, &source.name))?;
    let mut rows = 0;
    let mut failed = None;
    let arrived = dir.join(format!(
        "{}.import-{}.jsonl",
        source.name,
        ARRIVALS.fetch_add(1, Ordering::Relaxed)
    ));
    let written = write_file(&Disk, &arrived, |file| {
        each_line(path, |number, line| {
            columns.check(line).map_err(|problem| ReviewError::Line {
                path: path.into(),
                line: number,
                problem,
            })?;
            rows += 1;
            file.write_all(line.as_bytes())
                .and_then(|()| file.write_all(b"\n"))
                .map_err(|source| ReviewError::File {
                    path: arrived.clone(),
                    source,
                })
        })
        .map_err(|error| {
            failed = Some(error);
            std::io::Error::other("rows")
        })
    });
    if let Some(error) = failed {
        return Err(error);
    }
    written?;
    let done = (|| {
        if rows == 0 {
            return Err(ReviewError::Empty(path.into()));
        }
        // Open the file as later stages will. The copy is checked, because the original may have
        // changed by now; an error names the original.
        let opened = |path: &Path| {
            dataset::check(&DataSource {
                path: path.into(),
                ..source.clone()
            })
        };
        if let Err(error) = opened(&arrived) {
            return Err(opened(path).err().unwrap_or(error).into());
        }
        let sha256 = digest::of_file(&arrived, &|| Ok(())).map_err(|source| ReviewError::File {
            path: arrived.clone(),
            source,
        })?;
        let place = dir.join(DataSetRecord::imported_name(&source.name, &sha256));
        Disk.rename(&arrived, &place)
            .map_err(|source| ReviewError::File {
                path: place,
                source,
            })?;
        Ok((rows, sha256))
    })();
    if done.is_err() {
        // If this fails too, the error that is reported stays the first one.
        let _ = std::fs::remove_file(&arrived);
    }
    done
}

/// Calls `f` with the number (from 1) and text of each line that is not blank.
fn each_line(
    path: &Path,
    mut f: impl FnMut(u64, &str) -> Result<(), ReviewError>,
) -> Result<(), ReviewError> {
    let unread = |source| ReviewError::File {
        path: path.into(),
        source,
    };
    let mut reader = BufReader::new(user_file::open(path).map_err(unread)?);
    let mut bytes = Vec::new();
    for number in 1.. {
        let wrong = |problem: String| ReviewError::Line {
            path: path.into(),
            line: number,
            problem,
        };
        bytes.clear();
        let length = (&mut reader)
            .take(LINE_MAX_BYTES + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(unread)?;
        if length == 0 {
            break;
        }
        if length as u64 > LINE_MAX_BYTES {
            return Err(wrong(format!("is longer than {LINE_MAX_BYTES} bytes")));
        }
        let line = std::str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8".into()))?;
        // Some editors put a byte order mark before the first line.
        let line = line.trim_start_matches('\u{feff}').trim();
        if !line.is_empty() {
            f(number, line)?;
        }
    }
    Ok(())
}

/// The columns of a data set that a stage made.
#[derive(Debug, Default)]
struct Columns {
    /// Columns that a row may have.
    known: BTreeSet<String>,
    /// Columns that every row must have.
    required: BTreeSet<String>,
}

impl Columns {
    /// This column is optional, because a reviewer cannot give an added row a reward.
    const NOT_REQUIRED: &str = "reward";

    fn of(made: &Path) -> Result<Columns, ReviewError> {
        let mut columns: Option<Columns> = None;
        each_line(made, |line, text| {
            let row: Map<String, Value> =
                serde_json::from_str(text).map_err(|error| ReviewError::Line {
                    path: made.into(),
                    line,
                    problem: error.to_string(),
                })?;
            let keys = || row.keys().cloned();
            let columns = columns.get_or_insert_with(|| Columns {
                known: keys().collect(),
                required: keys().collect(),
            });
            columns.known.extend(keys());
            columns.required.retain(|name| row.contains_key(name));
            Ok(())
        })?;
        let mut columns = columns.unwrap_or_default();
        columns.required.remove(Columns::NOT_REQUIRED);
        Ok(columns)
    }

    /// Checks a row; the error says what is wrong with it and how to mend it.
    fn check(&self, line: &str) -> Result<(), String> {
        let row: Value =
            serde_json::from_str(line).map_err(|error| format!("is not valid JSON: {error}"))?;
        let Value::Object(row) = row else {
            return Err("is no JSON object: a row is {\"prompt\": …, \"completion\": …}".into());
        };
        let said = |value: Option<&Value>| match value {
            Some(Value::String(text)) => !text.trim().is_empty(),
            Some(Value::Array(messages)) => !messages.is_empty(),
            _ => false,
        };
        if !said(row.get("prompt")) {
            return Err("has no `prompt`: a text, or a list of messages, that is not empty".into());
        }
        if !row
            .get("completion")
            .is_some_and(|completion| completion.is_string() && said(Some(completion)))
        {
            return Err("has no `completion`: a text that is not empty".into());
        }
        let names = || {
            self.known
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        if let Some(name) = row.keys().find(|name| !self.known.contains(*name)) {
            return Err(format!(
                "has a column `{name}`, which the data set does not have; it has {}",
                names()
            ));
        }
        if let Some(name) = self.required.iter().find(|name| !row.contains_key(*name)) {
            return Err(format!("lacks the column `{name}`; a row has {}", names()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made.jsonl");
        let rows = [
            r#"{"prompt":"1","completion":"2","reference":"2","reward":1.0,"level":3}"#,
            "",
            r#"{"prompt":"1","completion":"2","reference":"2","reward":1.0}"#,
        ];
        std::fs::write(&path, rows.join("\n")).unwrap();
        Columns::of(&path).unwrap()
    }

    #[test]
    fn rows_keep_the_columns_and_say_something() {
        let columns = columns();
        let check = |line: &str| columns.check(line);
        assert_eq!(
            check(r#"{"prompt":"a","completion":"b","reference":null}"#),
            Ok(()),
            "an added row has no reward, nor what only some rows have"
        );
        assert_eq!(
            check(
                r#"{"prompt":[{"role":"user","content":"a"}],"completion":"b","reference":"c","level":9,"reward":0}"#
            ),
            Ok(())
        );
        for (line, problem) in [
            ("{", "is not valid JSON"),
            ("[1]", "is no JSON object"),
            (r#"{"completion":"b","reference":"c"}"#, "has no `prompt`"),
            (
                r#"{"prompt":"  ","completion":"b","reference":"c"}"#,
                "has no `prompt`",
            ),
            (
                r#"{"prompt":"a","completion":["b"],"reference":"c"}"#,
                "has no `completion`",
            ),
            (
                r#"{"prompt":"a","completion":"","reference":"c"}"#,
                "has no `completion`",
            ),
            (
                r#"{"prompt":"a","completion":"b","referense":"c"}"#,
                "`referense`, which the data set does not have; it has `completion`, `level`",
            ),
            (
                r#"{"prompt":"a","completion":"b"}"#,
                "lacks the column `reference`",
            ),
        ] {
            let found = check(line).unwrap_err();
            assert!(found.contains(problem), "{line}: {found}");
        }
    }
}
