//! `r1ctl dataset review --export`: a copy of a made data set to edit. The files are read and
//! written here, from the paths that the daemon names.

use crate::error::Error;
use r1d_proto::control::content::MadeDataSet;
use r1d_proto::user_file;
use std::io::ErrorKind;
use std::path::Path;

/// Copies the rows of `stage` to `to`, which must not exist: an export never overwrites an edited
/// file.
pub(crate) fn export<'a>(
    sets: &'a [MadeDataSet],
    stage: &str,
    to: &Path,
) -> Result<&'a MadeDataSet, Error> {
    let Some(set) = sets.iter().find(|set| set.stage == stage) else {
        let known: Vec<&str> = sets.iter().map(|set| set.stage.as_str()).collect();
        let known = if known.is_empty() {
            "none".into()
        } else {
            known.join(", ")
        };
        return Err(Error::DataSet(format!(
            "stage `{stage}` has made no data set; those that have: {known}"
        )));
    };
    let unread = |source| Error::File {
        path: set.file.clone(),
        source,
    };
    let unwritten = |source| Error::File {
        path: to.into(),
        source,
    };
    let mut from = user_file::open(&set.file).map_err(unread)?;
    let mut file = match std::fs::File::create_new(to) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::DataSet(format!(
                "{} is there already, and may be somebody's work: name another file, or remove it",
                to.display()
            )));
        }
        created => created.map_err(unwritten)?,
    };
    std::io::copy(&mut from, &mut file).map_err(unwritten)?;
    Ok(set)
}
