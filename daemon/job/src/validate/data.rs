//! Which data sets a stage reads.

use super::nearest::or_nearest;
use crate::data::DataSource;
use crate::error::JobError;
use crate::job::Job;
use crate::stage::Stage;
use std::borrow::Cow;

/// Checks the data sets that a stage reads, and returns the first of them.
pub(super) fn check<'a>(
    job: &'a Job,
    index: usize,
    stage: &Stage,
    place: &str,
) -> Result<Cow<'a, DataSource>, JobError> {
    if stage.rejection_sampling().is_some() && job.data.contains_key(&stage.name) {
        return Err(JobError::unsound(
            place,
            format!(
                "[data.{}] has the name of this stage, and so of the data set that it makes",
                stage.name
            ),
            "give one of them another name",
        ));
    }
    for name in stage.data_sets().chain(stage.held_out()) {
        check_made(job, index, stage, name, place)?;
    }
    if let Some(name) = stage.held_out() {
        data_of(job, name, place)?;
        if stage.data_sets().any(|data| data == name) {
            return Err(JobError::unsound(
                place,
                format!("eval_data = {name:?} is what the stage trains on"),
                "name rows that it does not train on, or leave it out",
            ));
        }
    }
    let data = data_of(job, &stage.data, place)?;
    for (i, name) in stage.more_data.iter().enumerate() {
        data_of(job, name, place)?;
        if *name == stage.data || stage.more_data.iter().take(i).any(|other| other == name) {
            return Err(JobError::unsound(
                place,
                format!("{name:?} is named twice in `data` and `more_data`"),
                "name it once",
            ));
        }
    }
    Ok(data)
}

/// Checks a data set that a stage makes: it is there once that stage is finished, and holds prompts
/// and completions.
fn check_made(
    job: &Job,
    index: usize,
    stage: &Stage,
    name: &str,
    place: &str,
) -> Result<(), JobError> {
    let Some(maker) = job.maker(name).filter(|_| !job.data.contains_key(name)) else {
        return Ok(());
    };
    let mut before = job.stages.iter().take(index);
    if !before.any(|before| before.name == maker.name) {
        return Err(JobError::unsound(
            place,
            format!("it reads what stage {name:?} keeps, which does not come before it"),
            "put that stage before this one, or name another data set",
        ));
    }
    match stage.kind.settings().other_rows() {
        None => Ok(()),
        Some(rows) => Err(JobError::unsound(
            place,
            format!(
                "stage {name:?} keeps prompts and completions, and a {} stage reads {rows}",
                stage.kind_name()
            ),
            "read it with kind = \"sft\"",
        )),
    }
}

/// The data set of this name.
pub(super) fn data_of<'a>(
    job: &'a Job,
    name: &str,
    place: &str,
) -> Result<Cow<'a, DataSource>, JobError> {
    job.source(name).ok_or_else(|| {
        let stages = job.stages.iter();
        let makers = stages.filter(|stage| stage.rejection_sampling().is_some());
        let makers = makers.map(|stage| stage.name.as_str());
        let near = or_nearest(name, job.data.keys().map(String::as_str).chain(makers));
        JobError::unsound(
            place,
            format!("`data` = {name:?} is no data set of this job{near}"),
            format!("add a table [data.{name}] or name another"),
        )
    })
}
