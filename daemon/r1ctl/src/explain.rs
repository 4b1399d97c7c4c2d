//! `r1ctl explain`: the keys of the job file and of `r1d.toml`, from the table that checks them.

use crate::cli::Output;
use crate::error::{Ended, Error};
use crate::print;
use r1d_job::reference;
use serde::Serialize;

#[derive(Serialize)]
struct Explained<'a> {
    key: &'a str,
    explanation: &'a str,
}

/// Explains one key. Without a key, prints the whole reference; as JSON, the schema of the job
/// file.
pub(crate) fn run(key: Option<&str>, output: Output) -> Result<Ended, Error> {
    let Some(key) = key else {
        match output {
            Output::Table => print::data(&reference::page())?,
            Output::Json => print::json(&reference::job_schema())?,
        }
        return Ok(Ended::Ok);
    };
    let text = reference::explain(key).map_err(Error::UnknownKey)?;
    match output {
        Output::Table => print::data(&format!("{}\n", text.trim_end()))?,
        Output::Json => print::json(&Explained {
            key,
            explanation: text.trim_end(),
        })?,
    }
    Ok(Ended::Ok)
}
