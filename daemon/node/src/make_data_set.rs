//! Makes the data set of a stage: one row for each completion that rejection sampling kept, in the
//! order of the committed steps.
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
//! crash writes the same bytes.

use crate::datasets::{DataSetError, DataSetRecord, write_record};
use crate::digest;
use crate::loaded_job::LoadedJob;
use r1d_data::{DataError, Json, Message, ReadBack, Row};
use r1d_ingest::SetError;
use r1d_job::{DataSource, Stage};
use r1d_proto::storage::Storage;
use r1d_runner::Source;
use r1d_runner::metrics::Unscored;
use r1d_store::rollouts::RolloutFile;
use r1d_store::{JobLayout, StoreError, create_dir, layout, write_file};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

fn rate(kept: u64, sampled: u64) -> f64 {
    kept as f64 / sampled.max(1) as f64
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
        Some(error) => return Err(error.of(&stage.name, &dir)),
        None if made.rows == 0 => return Err(nothing_kept(&stage.name, &made, kept, &unscored)),
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

impl StepError {
    /// The error as that of the data set of this stage.
    fn of(self, stage: &str, dir: &Path) -> DataSetError {
        match self {
            StepError::Write(source) => DataSetError::Write {
                path: layout::data_set(dir, stage),
                source,
            },
            StepError::Data(error) => error.into(),
            StepError::Read(error) => error.into(),
            StepError::Rows(error) => error.into(),
            StepError::Stopped => DataSetError::Stopped(stage.into()),
        }
    }
}

fn nothing_kept(stage: &str, made: &DataSetRecord, kept: u64, unscored: &Unscored) -> DataSetError {
    let illegible = match made.illegible {
        0 => String::new(),
        count => format!(", {count} because their token ids are no text"),
    };
    DataSetError::NothingKept {
        stage: stage.into(),
        sampled: made.sampled,
        rate: rate(kept, made.sampled),
        illegible,
        unscored: if unscored.is_any() {
            format!("; {unscored}")
        } else {
            String::new()
        },
    }
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
}
