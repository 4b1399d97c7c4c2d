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
    } else if let Some(others) = of_other_tables(name, spec, files) {
        format!("; it belongs to {others}")
    } else {
        // The comparison costs the product of both lengths, and no key is that long.
        let name = shown::quote(name);
        let near = keys::nearest(&name, spec.keys().map(|key| key.name));
        match near.filter(|near| strsim::normalized_damerau_levenshtein(&name, near) >= NEAR) {
            Some(near) => format!("; the nearest known key is `{near}`"),
            None => "; `r1ctl explain` lists the keys that there are".into(),
        }
    };
    JobError::UnknownKey {
        place,
        key: shown::quote(name),
        hint,
    }
}

/// What a key has in common with a name that is taken for a slip of it, of 1 for the same.
const NEAR: f64 = 0.5;
/// Most tables that an error names.
const TABLES_MAX: usize = 3;

/// The other tables that have the key, in words; `None` if none has, or too many to choose from.
fn of_other_tables(name: &str, spec: &Table, files: &[&'static Table]) -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    let all = files.iter().flat_map(|file| keys::tables(file));
    for table in all.filter(|table| table.path != spec.path && table.key(name).is_some()) {
        let shown = match table.path {
            "" => "the top level".into(),
            path => format!("[{path}]"),
        };
        if !found.contains(&shown) {
            found.push(shown);
        }
    }
    (1..=TABLES_MAX)
        .contains(&found.len())
        .then(|| found.join(", "))
}
