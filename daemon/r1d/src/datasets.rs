//! The data sets that a job's stages make: one row for each completion that rejection sampling
//! kept, in the order of the committed steps.
//!
//! | column | |
//! |---|---|
//! | `prompt` | as the source's row has it: text, or a list of messages |
//! | `completion` | text, without what ends it |
//! | `reference`, `domain` | if the source has them |
//! | the source's other columns | except those with a name of this table |
//! | `reward` | the weighted sum of the scores |
//!
//! The rows are a function of the committed rollouts, so a stage that is finished again after a
//! crash writes the same bytes. A record beside them holds their SHA-256, which is compared at each
//! reading.

use crate::digest;
use crate::loaded_job::LoadedJob;
use r1d_data::{DataError, Json, Message, ReadBack, Row};
use r1d_ingest::SetError;
use r1d_job::{DataSource, Stage};
use r1d_proto::storage::Storage;
use r1d_proto::user_file;
use r1d_runner::Source;
use r1d_runner::metrics::Unscored;
use r1d_store::rollouts::RolloutFile;
use r1d_store::{JobLayout, StoreError, create_dir, layout, write_file};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub(crate) enum DataSetError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    File(#[from] StoreError),
    #[error("cannot write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "stage `{stage}` kept none of its {sampled} completions (acceptance rate \
         {rate:.4}){illegible}{unscored}: lower `correct_at` or a reward's `min_score`, sample \
         more of each prompt (`num_generations`), or train the stages before it longer; `r1ctl \
         samples --stage {stage}` shows what it sampled"
    )]
    NothingKept {
        stage: String,
        sampled: u64,
        rate: f64,
        illegible: String,
        unscored: String,
    },
    #[error(transparent)]
    Rows(#[from] SetError),
    #[error("writing the data set of stage `{0}` was stopped")]
    Stopped(String),
    #[error("{} is not as stage `{stage}` left it ({problem}): put the file back, or submit the \
             job again", path.display())]
    Changed {
        stage: String,
        path: PathBuf,
        problem: String,
    },
}

/// How a data set came about: `datasets/<stage>.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DataSetRecord {
    /// Rows of the data set that later stages read.
    pub rows: u64,
    /// SHA-256 of the JSONL file that later stages read, in hexadecimal.
    pub sha256: String,
    /// Whether people have reviewed the data set ([`crate::review`]).
    #[serde(default)]
    pub reviewed: bool,
    /// The name of the file beside this record that later stages read; `None` for the stage's own
    /// `<stage>.jsonl`.
    #[serde(default)]
    pub file: Option<String>,
    /// Rows and SHA-256 of what the stage made, if an imported file has replaced it.
    #[serde(default)]
    pub before_review: Option<(u64, String)>,
    /// Completions that were sampled.
    pub sampled: u64,
    /// Share of the sampled completions that the stage's rewards let through.
    pub acceptance_rate: f64,
    /// Prompts that were sampled from; each pass over the data counts again.
    pub prompts: u64,
    pub prompts_with_rows: u64,
    /// Rows whose text the tokenizer encodes to other ids than were sampled.
    pub other_ids: u64,
    /// Completions that are left out because their token ids are not valid text.
    pub illegible: u64,
}

/// The data sets that exist when a job's inputs are opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataSets {
    pub dir: PathBuf,
    /// Names of the finished stages.
    pub finished: BTreeSet<String>,
}

impl DataSetRecord {
    pub(crate) fn rows_made(&self) -> u64 {
        self.before_review
            .as_ref()
            .map_or(self.rows, |(rows, _)| *rows)
    }

    /// The path of the file that later stages read.
    pub(crate) fn file_of(&self, dir: &Path, stage: &str) -> PathBuf {
        // Only the file name counts, so that a record cannot point to another directory.
        let named = self
            .file
            .as_deref()
            .and_then(|name| Path::new(name).file_name());
        named.map_or_else(|| layout::data_set(dir, stage), |name| dir.join(name))
    }

    /// The name of an imported file that replaces what the stage made.
    pub(crate) fn imported_name(stage: &str, sha256: &str) -> String {
        let short: String = sha256.chars().take(12).collect();
        format!("{stage}.reviewed-{short}.jsonl")
    }

    /// Makes the imported file the data set.
    pub(crate) fn take(&mut self, rows: u64, sha256: String, stage: &str) {
        self.return_to_made();
        self.before_review = Some((self.rows, self.sha256.clone()));
        self.file = Some(DataSetRecord::imported_name(stage, &sha256));
        (self.rows, self.sha256) = (rows, sha256);
    }

    /// Makes what the stage itself made the data set again.
    pub(crate) fn return_to_made(&mut self) {
        if let Some((rows, sha256)) = self.before_review.take() {
            (self.rows, self.sha256, self.file) = (rows, sha256, None);
        }
    }
}

fn rate(kept: u64, sampled: u64) -> f64 {
    kept as f64 / sampled.max(1) as f64
}

impl DataSets {
    /// The file of a finished stage's data set, after its bytes were compared with the record;
    /// `None` while the stage is not finished.
    pub(crate) fn find(&self, stage: &str) -> Result<Option<PathBuf>, DataSetError> {
        if !self.finished.contains(stage) {
            return Ok(None);
        }
        let record = made(&self.dir, stage)?;
        let path = record.file_of(&self.dir, stage);
        let changed = |problem: String| DataSetError::Changed {
            stage: stage.into(),
            path: path.clone(),
            problem,
        };
        if digest::of_file(&path, &|| Ok(())).map_err(|e| changed(e.to_string()))? == record.sha256
        {
            Ok(Some(path))
        } else {
            Err(changed("its SHA-256 is another".into()))
        }
    }
}

/// Largest record of a data set that is read; it holds a few numbers.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// Reads the record of a data set.
pub(crate) fn made(dir: &Path, stage: &str) -> Result<DataSetRecord, DataSetError> {
    let changed = |problem: String| DataSetError::Changed {
        stage: stage.into(),
        path: layout::data_set(dir, stage),
        problem,
    };
    let record = user_file::read(&layout::data_set_record(dir, stage), RECORD_MAX_BYTES)
        .map_err(|e| changed(format!("its record: {e}")))?;
    serde_json::from_slice(&record).map_err(|e| changed(format!("its record: {e}")))
}

pub(crate) fn write_record(
    storage: &dyn Storage,
    dir: &Path,
    stage: &str,
    made: &DataSetRecord,
) -> Result<(), DataSetError> {
    let record = serde_json::to_string_pretty(made).unwrap_or_default() + "\n";
    Ok(write_file(
        storage,
        &layout::data_set_record(dir, stage),
        |file| file.write_all(record.as_bytes()),
    )?)
}

/// A writer that passes bytes on and hashes them.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
}

impl<W> Hashed<W> {
    fn hex(self) -> String {
        digest::hex(self.hash)
    }
}

impl<W: std::io::Write> std::io::Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the rows that the stage (its index and settings) kept in its `steps` committed steps.
/// Blocks, for hours if there are millions of completions. `goes_on` gets the number of steps
/// written so far, again and again; it returns whether to write the rest.
pub(crate) fn make(
    storage: &dyn Storage,
    loaded_job: &LoadedJob,
    outputs: &JobLayout,
    (index, stage): (usize, &Stage),
    steps: u64,
    goes_on: &dyn Fn(u64, u64) -> bool,
) -> Result<DataSetRecord, DataSetError> {
    let dir = outputs.datasets();
    create_dir(storage, &dir).map_err(|source| DataSetError::Write {
        path: dir.clone(),
        source,
    })?;
    let source = loaded_job
        .job
        .source(&stage.data)
        .ok_or_else(|| DataError::Source {
            name: stage.data.clone(),
            problem: format!("stage `{}` reads it, and it is not in the job", stage.name),
        })?;
    let (mut made, mut kept, mut unscored) = (DataSetRecord::default(), 0, Unscored::default());
    let mut failed = None;
    let write = |file: &mut (dyn std::io::Write + Send)| {
        let mut file = Hashed {
            inner: file,
            hash: Sha256::new(),
        };
        for step in 1..=steps {
            let rollouts = outputs.rollouts(&stage.name, step);
            let goes_on = || goes_on(step - 1, steps);
            let counts = (&mut made, &mut kept, &mut unscored);
            if let Err(error) = write_step(
                loaded_job,
                &rollouts,
                (index, &source),
                &mut file,
                counts,
                &goes_on,
            ) {
                // The file is given up whatever the error is; that error is reported below.
                failed = Some(error);
                return Err(std::io::Error::other("rollouts"));
            }
        }
        if made.rows == 0 {
            return Err(std::io::Error::other("no rows"));
        }
        made.sha256 = file.hex();
        Ok(())
    };
    let written = write_file(storage, &layout::data_set(&dir, &stage.name), write);
    match failed {
        Some(StepError::Write(source)) => {
            return Err(DataSetError::Write {
                path: layout::data_set(&dir, &stage.name),
                source,
            });
        }
        Some(StepError::Data(error)) => return Err(error.into()),
        Some(StepError::Read(error)) => return Err(error.into()),
        Some(StepError::Rows(error)) => return Err(error.into()),
        Some(StepError::Stopped) => return Err(DataSetError::Stopped(stage.name.clone())),
        None if made.rows == 0 => {
            let illegible = match made.illegible {
                0 => String::new(),
                count => format!(", {count} because their token ids are no text"),
            };
            return Err(DataSetError::NothingKept {
                stage: stage.name.clone(),
                sampled: made.sampled,
                rate: rate(kept, made.sampled),
                illegible,
                unscored: if unscored.is_any() {
                    format!("; {unscored}")
                } else {
                    String::new()
                },
            });
        }
        None => written?,
    }
    made.acceptance_rate = rate(kept, made.sampled);
    write_record(storage, &dir, &stage.name, &made)?;
    Ok(made)
}

enum StepError {
    Stopped,
    Read(StoreError),
    Rows(SetError),
    Data(DataError),
    Write(std::io::Error),
}

fn write_step(
    loaded_job: &LoadedJob,
    rollouts: &Path,
    (stage, source): (usize, &DataSource),
    file: &mut dyn std::io::Write,
    (made, kept, unscored): (&mut DataSetRecord, &mut u64, &mut Unscored),
    goes_on: &dyn Fn() -> bool,
) -> Result<(), StepError> {
    let (mut prompts, mut prompts_with_rows) = (BTreeSet::new(), BTreeSet::new());
    let sampled = RolloutFile::open(rollouts).map_err(StepError::Read)?;
    for sampled in sampled.views(true).map_err(StepError::Read)? {
        let sampled = sampled.map_err(StepError::Read)?;
        if !goes_on() {
            return Err(StepError::Stopped);
        }
        made.sampled += 1;
        unscored.add(sampled.reward, &sampled.verdicts);
        prompts.insert(sampled.key.prompt);
        if sampled.advantage.is_none() {
            continue;
        }
        *kept += 1;
        let Some(tokenizer) = loaded_job.tokenizer(Source::Stage(stage)) else {
            continue;
        };
        match tokenizer
            .read_back(&sampled.completion_ids)
            .map_err(StepError::Data)?
        {
            ReadBack::Same => {}
            ReadBack::OtherIds => made.other_ids += 1,
            ReadBack::OtherText => {
                made.illegible += 1;
                continue;
            }
        }
        let read = loaded_job.row(Source::Stage(stage), sampled.row);
        if let Some(prompted) = read.map_err(StepError::Rows)? {
            let line =
                line(&prompted.row, source, &sampled.completion, sampled.reward).to_string() + "\n";
            file.write_all(line.as_bytes()).map_err(StepError::Write)?;
            made.rows += 1;
            prompts_with_rows.insert(sampled.key.prompt);
        }
    }
    made.prompts += prompts.len() as u64;
    made.prompts_with_rows += prompts_with_rows.len() as u64;
    Ok(())
}

fn line(row: &Row, source: &DataSource, completion: &str, reward: Option<f32>) -> Json {
    let text = |text: &Option<String>| text.clone().map_or(Json::Null, Json::Text);
    let prompt = if row.messages.is_empty() {
        text(&row.prompt)
    } else {
        Json::List(row.messages.iter().map(Message::to_json).collect())
    };
    let mut line = vec![
        ("prompt".to_string(), prompt),
        ("completion".into(), Json::Text(completion.into())),
    ];
    if source.reference.is_some() {
        line.push(("reference".into(), text(&row.reference)));
    }
    if source.domain.is_some() {
        line.push(("domain".into(), text(&row.domain)));
    }
    if source.tools.is_some() {
        line.push(("tools".into(), row.tools.clone().unwrap_or(Json::Null)));
    }
    // Use as many digits as distinguish it from its neighbours.
    let reward = reward
        .and_then(|reward| reward.to_string().parse::<f64>().ok())
        .filter(|reward| reward.is_finite());
    line.push((
        "reward".into(),
        reward.map_or(Json::Null, |reward| {
            Json::Number(serde_json::Value::from(reward).to_string())
        }),
    ));
    if let Some(Json::Object(meta)) = row.meta.as_deref().and_then(|meta| Json::parse(meta).ok()) {
        for (name, value) in meta {
            if !line.iter().any(|(known, _)| *known == name) {
                line.push((name, value));
            }
        }
    }
    Json::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_sources_columns_and_its_own_names_win() {
        let meta = Some(r#"{"level": 3, "reward": "theirs", "completion": "theirs"}"#.to_string());
        let source = |reference: Option<&str>, domain: Option<&str>| DataSource {
            prompt: Some("question".into()),
            reference: reference.map(String::from),
            domain: domain.map(String::from),
            ..DataSource::new("train", "train.jsonl")
        };
        let row = Row {
            prompt: Some("1 + 1".into()),
            reference: Some("2".into()),
            meta,
            ..Row::default()
        };
        let text = line(
            &row,
            &source(Some("answer"), None),
            "<answer>2</answer>",
            Some(1.1),
        )
        .to_string();
        let expected = r#"{"prompt":"1 + 1","completion":"<answer>2</answer>","reference":"2","reward":1.1,"level":3}"#;
        assert_eq!(text, expected);
        let messages = vec![Message::new("user", "hi")];
        let row = Row {
            prompt: Some("hi".into()),
            messages,
            domain: Some("chat".into()),
            ..Row::default()
        };
        let line = line(&row, &source(Some("answer"), Some("kind")), "hello", None).to_string();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(
            line["reference"].is_null(),
            "a row without one, of a data set that has them"
        );
        assert_eq!(
            line["prompt"],
            serde_json::json!([{"role": "user", "content": "hi"}])
        );
        assert_eq!(
            (line["domain"].as_str(), line["reward"].is_null()),
            (Some("chat"), true)
        );
    }

    #[test]
    fn changed_bytes_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let sets = DataSets {
            dir: dir.path().into(),
            finished: BTreeSet::from(["keep".into()]),
        };
        assert!(
            sets.find("other").unwrap().is_none(),
            "a stage that is not finished has none"
        );
        assert!(sets.find("keep").is_err());
        std::fs::write(layout::data_set(dir.path(), "keep"), "abc").unwrap();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into();
        let made = DataSetRecord {
            rows: 1,
            sha256,
            ..DataSetRecord::default()
        };
        std::fs::write(
            layout::data_set_record(dir.path(), "keep"),
            serde_json::to_string(&made).unwrap(),
        )
        .unwrap();
        assert_eq!(
            sets.find("keep").unwrap(),
            Some(layout::data_set(dir.path(), "keep"))
        );
        std::fs::write(layout::data_set(dir.path(), "keep"), "abd").unwrap();
        let error = sets.find("keep").unwrap_err().to_string();
        assert!(
            error.contains("keep.jsonl is not as stage `keep` left it"),
            "{error}"
        );
    }
}
