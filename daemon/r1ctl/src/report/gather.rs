//! Gathers what a report is made of: the job's status and samples, from the daemon or the job's
//! directory, and other files of that directory.

use crate::error::Error;
use crate::sibling;
use r1d_proto::control::content::{LogLine, Sample};
use r1d_proto::control::job::{JobStatus, StageStatus, State};
use r1d_proto::user_file;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};

/// Completions of a stage's last step that are searched for the best, the median and the worst.
pub(crate) const SAMPLES_MAX: u32 = 2048;

/// A metric that only a stage which samples reports.
pub(crate) const SAMPLED: &str = "completions/mean_length";

/// A job, as far as it came.
#[derive(Debug)]
pub(crate) struct Run {
    pub status: JobStatus,
    pub seed: Option<i64>,
    /// The models that the job starts from, by name; `base` is the job's own.
    pub models: BTreeMap<String, String>,
    pub devices: BTreeSet<String>,
    pub stages: Vec<Stage>,
    /// Seconds since the Unix epoch.
    pub reported_at: u64,
    /// What could not be read, and why.
    pub gaps: Vec<String>,
}

/// A stage: its settings and its results.
#[derive(Debug)]
pub(crate) struct Stage {
    pub status: StageStatus,
    /// The stage whose weights it starts from, or the model's name.
    pub from: String,
    /// Data sets of the job file, or stages that make them.
    pub data: Vec<String>,
    /// Stages whose models judge.
    pub judges: Vec<String>,
    /// Step (from 1) and value of each metric.
    pub curves: BTreeMap<String, Vec<(u64, f64)>>,
    pub made: Option<Made>,
    /// Samples of the last step that left some, best reward first.
    pub samples: Vec<Sample>,
}

/// The record of a data set that a stage made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Made {
    pub rows: u64,
    pub sha256: String,
    pub sampled: u64,
    pub acceptance_rate: f64,
    pub prompts: u64,
    pub prompts_with_rows: u64,
    /// Whether people have reviewed it.
    pub reviewed: bool,
    /// Rows and SHA-256 of what the stage made, if an edited file has replaced it.
    pub before_review: Option<(u64, String)>,
}

impl Stage {
    pub(crate) fn last(&self, metric: &str) -> Option<f64> {
        self.curves.get(metric)?.last().map(|(_, value)| *value)
    }

    pub(crate) fn samples_anything(&self) -> bool {
        self.curves.contains_key(SAMPLED)
    }
}

/// Gathers a report. `samples` is called for the samples of a stage.
pub(crate) fn gather(
    status: JobStatus,
    reported_at: u64,
    mut samples: impl FnMut(&str) -> Result<Vec<Sample>, Error>,
) -> Result<Run, Error> {
    let dir = status.directory.clone();
    let file: toml::Table = match read(&dir.join("job.toml"))? {
        Some(text) => text
            .parse()
            .map_err(|error: toml::de::Error| wrong(&dir.join("job.toml"), error.message()))?,
        None => toml::Table::new(),
    };
    let mut gaps = Vec::new();
    if file.is_empty() {
        gaps.push(format!(
            "{}: not there, so what the stages start from and read is not known",
            dir.join("job.toml").display()
        ));
    }
    let mut curves = curves(&dir.join("metrics.jsonl"))?;
    let mut stages = Vec::new();
    let mut without_samples: Vec<(String, Vec<String>)> = Vec::new();
    let status = advanced(status, &curves);
    for status in &status.stages {
        let curves = curves.remove(&status.name).unwrap_or_default();
        let mut stage = described(&file, status, curves);
        stage.made = json(
            &dir.join("datasets").join(format!("{}.json", status.name)),
            &mut gaps,
        );
        if stage.samples_anything() {
            match samples(&status.name) {
                Ok(found) => stage.samples = found,
                // Most often all stages fail with the same error, so it is reported once.
                Err(error) => {
                    let why = error.to_string();
                    match without_samples.iter_mut().find(|(other, _)| *other == why) {
                        Some((_, names)) => names.push(status.name.clone()),
                        None => without_samples.push((why, vec![status.name.clone()])),
                    }
                }
            }
        }
        stages.push(stage);
    }
    gaps.extend(
        without_samples
            .into_iter()
            .map(|(why, names)| format!("samples of {}: {why}", names.join(", "))),
    );
    let devices = devices(&dir.join("log.jsonl"));
    Ok(Run {
        seed: file.get("seed").and_then(toml::Value::as_integer),
        models: models(&file),
        status,
        devices,
        stages,
        reported_at,
        gaps,
    })
}

/// Reads the status that the daemon left in a job's directory.
pub(crate) fn left_status(dir: &Path) -> Result<JobStatus, Error> {
    let path = dir.join("status.json");
    let text = read(&path)?.ok_or_else(|| {
        wrong(
            &path,
            "not there: name the directory of a job that has begun under this release, or ask its \
             daemon with `r1ctl report JOB`",
        )
    })?;
    let status: JobStatus =
        serde_json::from_str(&text).map_err(|error| wrong(&path, &error.to_string()))?;
    Ok(JobStatus {
        directory: dir.into(),
        ..status
    })
}

/// Reads the samples of a stage from a job's directory with `r1d`, which can read Parquet.
pub(crate) fn left_samples(dir: &Path, stage: &str) -> Result<Vec<Sample>, Error> {
    let mut command = Command::new(sibling::find("r1d"));
    command
        .arg("samples")
        .arg(dir)
        .arg(sibling::option("stage", stage))
        .arg(sibling::option("limit", SAMPLES_MAX.to_string()));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = sibling::output(&mut command)?;
    if output.status.success() {
        serde_json::from_slice(&output.stdout).map_err(Error::SiblingAnswer)
    } else {
        Err(Error::Plugin(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}

fn described(
    file: &toml::Table,
    status: &StageStatus,
    curves: BTreeMap<String, Vec<(u64, f64)>>,
) -> Stage {
    let tables = file.get("stage").and_then(toml::Value::as_array);
    let table = tables
        .into_iter()
        .flatten()
        .find(|table| text(table, "name").as_deref() == Some(&status.name));
    let of = |key: &str| table.and_then(|table| text(table, key));
    let from = match (of("from").unwrap_or_else(|| "base".into()), of("model")) {
        (from, Some(model)) if from == "base" => model,
        (from, _) => from,
    };
    let list = |key: &str| {
        table
            .and_then(|table| table.get(key))
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
    };
    let data = of("data")
        .into_iter()
        .chain(list("more_data").filter_map(|name| name.as_str().map(String::from)));
    let judges = list("reward").filter_map(|reward| text(reward, "model"));
    Stage {
        status: status.clone(),
        from,
        data: data.chain(of("eval_data")).collect(),
        judges: judges.collect(),
        curves,
        made: None,
        samples: Vec::new(),
    }
}

fn text(table: &toml::Value, key: &str) -> Option<String> {
    table.get(key)?.as_str().map(String::from)
}

fn models(file: &toml::Table) -> BTreeMap<String, String> {
    let described = |model: &toml::Value| match (text(model, "path"), text(model, "init")) {
        (Some(path), _) => Some(path),
        (None, Some(init)) => Some(format!("random weights of {init}")),
        (None, None) => None,
    };
    let own = file
        .get("model")
        .and_then(described)
        .map(|model| ("base".to_owned(), model));
    let further = file
        .get("models")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flatten();
    own.into_iter()
        .chain(further.filter_map(|(name, model)| Some((name.clone(), described(model)?))))
        .collect()
}

/// Brings the status up to the last step of the metrics. A status that a job left was written when
/// something last ended, and later steps are in the metrics alone; the figures of a report must all
/// be of one moment.
fn advanced(mut status: JobStatus, curves: &Curves) -> JobStatus {
    for stage in &mut status.stages {
        let Some(curves) = curves.get(&stage.name) else {
            continue;
        };
        let known = stage.step;
        let Some(step) = curves
            .values()
            .flatten()
            .map(|(step, _)| *step)
            .max()
            .filter(|step| *step > known)
        else {
            continue;
        };
        let since = |points: &[(u64, f64)]| {
            points
                .iter()
                .filter(|(step, _)| *step > known)
                .map(|(_, seconds)| seconds)
                .sum::<f64>()
        };
        stage.seconds += curves.get("step_time").map_or(0.0, |points| since(points));
        let at = |points: &Vec<(u64, f64)>| {
            points
                .iter()
                .find(|(at, _)| *at == step)
                .map(|(_, value)| *value)
        };
        stage.metrics = curves
            .iter()
            .filter_map(|(name, points)| Some((name.clone(), at(points)?)))
            .collect();
        stage.step = step;
        if stage.state == State::Queued {
            stage.state = State::Running;
        }
        if status.state == State::Queued {
            status.state = State::Running;
        }
    }
    status
}

/// Largest document of a job's directory that is read; r1d writes no larger one.
const DOCUMENT_MAX_BYTES: u64 = 1 << 30;

type Curves = BTreeMap<String, BTreeMap<String, Vec<(u64, f64)>>>;

/// Reads the curves by stage and metric. The last line may be torn, if its step is being written.
fn curves(path: &Path) -> Result<Curves, Error> {
    let mut curves = Curves::new();
    let file = match user_file::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(curves),
        opened => opened.map_err(|source| Error::File {
            path: path.into(),
            source,
        })?,
    };
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|source| Error::File {
            path: path.into(),
            source,
        })?;
        let Ok(serde_json::Value::Object(line)) = serde_json::from_str(&line) else {
            continue;
        };
        let (Some(stage), Some(step)) = (
            line.get("stage").and_then(|stage| stage.as_str()),
            line.get("step").and_then(|step| step.as_u64()),
        ) else {
            continue;
        };
        let stage = curves.entry(stage.to_owned()).or_default();
        for (name, value) in line
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "stage" | "step"))
        {
            // Numbers that JSON cannot represent are null in the file.
            let value = value.as_f64().unwrap_or(f64::NAN);
            stage.entry(name.clone()).or_default().push((step, value));
        }
    }
    Ok(curves)
}

/// The devices of the workers that the job's log names.
fn devices(path: &Path) -> BTreeSet<String> {
    let Ok(file) = user_file::open(path) else {
        return BTreeSet::new();
    };
    let device = |line: &str| {
        let line: LogLine = serde_json::from_str(line).ok()?;
        Some(
            line.message
                .strip_prefix("worker ")?
                .split_once(" runs as process ")?
                .0
                .to_owned(),
        )
    };
    BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| device(&line))
        .collect()
}

/// Reads a file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match user_file::read_text(path, DOCUMENT_MAX_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            path: path.into(),
            source,
        }),
    }
}

fn json<T: DeserializeOwned>(path: &Path, gaps: &mut Vec<String>) -> Option<T> {
    let parsed = read(path).and_then(|text| {
        let parse = |text: String| {
            serde_json::from_str(&text).map_err(|error| wrong(path, &error.to_string()))
        };
        text.map(parse).transpose()
    });
    parsed.unwrap_or_else(|error| {
        gaps.push(error.to_string());
        None
    })
}

fn wrong(path: &Path, why: &str) -> Error {
    Error::File {
        path: path.into(),
        source: std::io::Error::other(why.to_owned()),
    }
}
