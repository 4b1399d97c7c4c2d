//! The traces of a job's last steps: how long their parts took.
//!
//! A line per step, appended and not synced: a crash may take the last ones, and nothing depends on
//! them. A file has the steps of one hundred; when one is begun, the one before the last goes.

use r1d_ledger::JobRecord;
use r1d_proto::storage::Storage;
use r1d_proto::trace::StepTrace;
use r1d_store::layout::TRACES_PER_FILE;
use r1d_store::{Disk, JobLayout, create_dir};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error("job `{job}` has no trace of stage {stage:?}{}: {known}", of(*step))]
    Unknown {
        job: String,
        stage: String,
        step: Option<u64>,
        known: String,
    },
    #[error("job `{job}` has no stage {stage:?}; it has {known}")]
    NoStage {
        job: String,
        stage: String,
        known: String,
    },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

fn of(step: Option<u64>) -> String {
    step.map_or(String::new(), |step| format!(" step {step}"))
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> TraceError {
    let path = path.to_path_buf();
    move |source| TraceError::File { path, source }
}

/// Appends a step's trace, and removes those that are too old.
pub(crate) fn append(
    storage: &dyn Storage,
    layout: &JobLayout,
    trace: &StepTrace,
) -> Result<(), TraceError> {
    let dir = layout.traces_dir();
    create_dir(storage, &dir).map_err(file_error(&dir))?;
    let path = layout.traces(&trace.stage, trace.step);
    let line = serde_json::to_string(trace).unwrap_or_default() + "\n";
    let appended = storage.append(&path);
    appended
        .and_then(|mut file| file.append(line.as_bytes()))
        .map_err(file_error(&path))?;
    let Some(old) = trace.step.checked_sub(2 * TRACES_PER_FILE) else {
        return Ok(());
    };
    let old = layout.traces(&trace.stage, old);
    match storage.remove(&old) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(file_error(&old)(error)),
        _ => Ok(()),
    }
}

/// Reads the trace of a stage and step (from 1), or of the newest. Blocks.
pub(crate) fn read(
    record: &JobRecord,
    layout: &JobLayout,
    stage: Option<String>,
    step: Option<u64>,
) -> Result<StepTrace, TraceError> {
    let begun = &record.progress.stages;
    let last = begun.last().map(|stage| stage.name.clone());
    let stage = stage.or(last).unwrap_or_default();
    let known = begun.iter().find(|known| known.name == stage);
    if known.is_none() && !stage.is_empty() {
        return Err(TraceError::NoStage {
            job: record.job().to_string(),
            stage,
            known: stages_begun(record),
        });
    }
    let committed = known.map_or(0, |stage| stage.step);
    let mut found = match step {
        Some(step) => of_file(&layout.traces(&stage, step))?,
        None => newest(layout, &stage, committed)?,
    };
    found.retain(|trace| step.is_none_or(|step| step == trace.step));
    // A step that was done twice has two lines, of which the last one counts.
    found.pop().ok_or_else(|| TraceError::Unknown {
        job: record.job().to_string(),
        known: match committed {
            0 => "it has committed none of its steps".into(),
            committed => format!(
                "it has committed {committed}, and the last {} or so have one once the next \
                 step has begun",
                2 * TRACES_PER_FILE
            ),
        },
        stage,
        step,
    })
}

/// The stages that a job has begun, in words.
pub(crate) fn stages_begun(record: &JobRecord) -> String {
    let begun = record.progress.stages.iter();
    let names: Vec<&str> = begun.map(|stage| stage.name.as_str()).collect();
    if names.is_empty() {
        "begun none yet".into()
    } else {
        names.join(", ")
    }
}

/// The traces of the newest file.
fn newest(layout: &JobLayout, stage: &str, committed: u64) -> Result<Vec<StepTrace>, TraceError> {
    let last = of_file(&layout.traces(stage, committed))?;
    match committed.checked_sub(TRACES_PER_FILE) {
        Some(before) if last.is_empty() => of_file(&layout.traces(stage, before)),
        _ => Ok(last),
    }
}

/// The lines of a file that are whole; a crash may have cut one.
fn of_file(path: &Path) -> Result<Vec<StepTrace>, TraceError> {
    let bytes = match Disk.read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.map_err(file_error(path))?,
    };
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(step: u64) -> StepTrace {
        StepTrace {
            stage: "rl".into(),
            step,
            ..StepTrace::default()
        }
    }

    #[test]
    fn the_last_steps_have_traces_whatever_a_crash_has_cut() {
        let dir = tempfile::tempdir().unwrap();
        let layout = JobLayout::new(dir.path().into());
        for step in (1..=350).filter(|step| *step != 340) {
            append(&Disk, &layout, &trace(step)).unwrap();
            if step == 349 {
                let torn = layout.traces("rl", step);
                let mut file = Disk.append(&torn).unwrap();
                // The end of a line that a crash has cut is that of the next one.
                file.append(b"{\"stage\":\"rl\",\"st\n").unwrap();
            }
        }
        let steps = |step: u64| {
            let traces = of_file(&layout.traces("rl", step)).unwrap();
            traces.iter().map(|trace| trace.step).collect::<Vec<_>>()
        };
        assert_eq!(std::fs::read_dir(layout.traces_dir()).unwrap().count(), 2);
        assert_eq!((steps(150).len(), steps(250).len()), (0, 100));
        assert_eq!((steps(350).len(), steps(350).last()), (49, Some(&350)));
        for committed in [350, 400, 401] {
            let newest = newest(&layout, "rl", committed).unwrap().pop();
            assert_eq!(newest, Some(trace(350)), "{committed}");
        }
        assert_eq!(newest(&layout, "rl", 600).unwrap(), []);
    }
}
