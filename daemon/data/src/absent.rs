//! Files that a job names and that do not exist: which key names them, and what was perhaps meant.

use crate::error::DataError;
use r1d_job::file::keys::nearest;
use std::path::Path;

/// Most entries of a directory among which a similar name is looked for.
const ENTRIES_MAX: usize = 4096;

/// Returns the error of `key`, whose path leads to no file. The hint is a similar name in the same
/// directory, or the directory that is missing; without either it is `otherwise`.
pub fn absent(key: impl Into<String>, path: &Path, otherwise: &str) -> DataError {
    DataError::Absent {
        key: key.into(),
        path: path.into(),
        hint: hint(path).unwrap_or_else(|| otherwise.into()),
    }
}

/// Whether nothing has this name, not even a link that leads nowhere.
pub fn is_absent(path: &Path) -> bool {
    let found = std::fs::symlink_metadata(path);
    found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn hint(path: &Path) -> Option<String> {
    let (directory, name) = (path.parent()?, path.file_name()?.to_str()?);
    if is_absent(directory) {
        let missing = path
            .ancestors()
            .skip(1)
            .take_while(|above| is_absent(above));
        let first = missing.last()?.display();
        return Some(format!(
            "there is no directory {first} (a relative path begins where the job file is)"
        ));
    }
    let entries = std::fs::read_dir(directory).ok()?.take(ENTRIES_MAX);
    let names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let near = nearest(name, names.iter().map(String::as_str))?;
    is_similar(name, near).then(|| format!("there is `{near}` in its directory"))
}

/// Whether one name may be a slip of the other: few letters differ, or one contains the other.
fn is_similar(name: &str, other: &str) -> bool {
    strsim::normalized_damerau_levenshtein(name, other) > 0.6
        || name.contains(other)
        || other.contains(name)
}
