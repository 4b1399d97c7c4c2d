//! When checkpoints are written, how many are kept, and where.

use r1d_job_macros::{Keys, Read, Write};
use std::path::PathBuf;

/// When checkpoints are written, how many are kept, and where.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(
    path = "checkpoint",
    meaning = "Checkpoints: a job that is killed goes on from the newest, replaying journaled \
               steps after it, and ends with the same bits."
)]
pub struct Checkpoint {
    /// Steps between checkpoints inside a stage; 0: only at its end.
    #[key(takes = steps(0), default = 50, unit = "steps")]
    pub every_steps: u64,
    /// Number of checkpoints kept per stage, the newest ones.
    #[key(
        takes = integer(1, 1_000_000),
        default = 3,
        unit = "checkpoints",
        meaning = "The newest of each stage that are kept."
    )]
    pub keep: u32,
    /// Directory of the checkpoints. `None`: the job's directory under the daemon's state
    /// directory.
    #[key(
        with = url,
        unset = "the job's directory under the daemon's state directory",
        meaning = "Where checkpoints go: file:// and an absolute path."
    )]
    pub to: Option<PathBuf>,
}

/// A directory of this machine as a URL.
mod url {
    use crate::error::JobError;
    use crate::file::setting::{path_text, read_by_serde};
    use crate::file::{Fields, Kind};
    use std::path::PathBuf;
    use toml::Value;

    const FIX: &str = "write file:// and an absolute path, as in \"file:///srv/r1d/checkpoints\"";

    pub(super) fn kind() -> Kind {
        Kind::Text
    }

    pub(super) fn from_value(
        value: &Value,
        from: &Fields<'_>,
        key: &str,
    ) -> Result<Option<PathBuf>, JobError> {
        let url: String = read_by_serde(value, from, key)?;
        match url.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Ok(Some(path.into())),
            Some((scheme, _)) if scheme != "file" => Err(JobError::NotInThisRelease {
                place: from.place.clone(),
                what: format!("`{key}` = {url:?} ({scheme}://)"),
                fix: format!(": {FIX}"),
            }),
            _ => Err(from.unsound(
                format!("`{key}` = {url:?} is not where a checkpoint can go"),
                FIX,
            )),
        }
    }

    pub(super) fn to_value(directory: &Option<PathBuf>) -> Option<Value> {
        let directory = directory.as_ref()?;
        Some(format!("file://{}", path_text(directory)).into())
    }
}
