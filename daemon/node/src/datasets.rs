//! The data sets that a job's stages have made ([`crate::make_data_set`]). A record beside each
//! holds its SHA-256, which is compared at each reading.

use crate::digest;
use r1d_data::DataError;
use r1d_ingest::SetError;
use r1d_proto::storage::Storage;
use r1d_proto::user_file;
use r1d_store::{StoreError, layout, write_file};
use serde::{Deserialize, Serialize};
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

#[cfg(test)]
mod tests {
    use super::*;

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
