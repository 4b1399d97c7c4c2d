//! The error of a key that its table does not have.

use super::keys::{self, Table};
use crate::error::JobError;
use r1d_proto::shown;

/// The error of an unknown key, with what may have been meant: its name here, another table that
/// has it, or the nearest key. `files` are the top levels of all files.
pub(super) fn unknown(
    name: &str,
    spec: &Table,
    files: &[&'static Table],
    place: String,
) -> JobError {
    let renamed = keys::ALSO_KNOWN_AS
        .iter()
        .find(|(other, here)| *other == name && spec.key(here).is_some());
    let elsewhere = || {
        let all = files.iter().flat_map(|file| keys::tables(file));
        all.filter(|table| table.path == spec.path && !std::ptr::eq(*table, spec))
            .find(|table| table.key(name).is_some())
    };
    let hint = if let Some((_, here)) = renamed {
        format!("; here it is called `{here}`")
    } else if spec.path == "models.NAME" && ["dtype", "fp8"].contains(&name) {
        "; [model] says it for every model of the job".into()
    } else if let Some(other) = elsewhere() {
        format!(
            "; it belongs to {}",
            other.meaning.split(':').next().unwrap_or_default()
        )
    } else {
        // The comparison costs the product of both lengths, and no key is that long.
        match keys::nearest(&shown::quote(name), spec.keys().map(|key| key.name)) {
            Some(near) => format!("; the nearest known key is `{near}`"),
            None => String::new(),
        }
    };
    JobError::UnknownKey {
        place,
        key: shown::quote(name),
        hint,
    }
}
