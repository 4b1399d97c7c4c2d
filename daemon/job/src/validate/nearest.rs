//! What a name that nobody has may have meant.

use crate::file::keys::nearest;

/// The end of an error's text, ` (the nearest is "train")`; empty if no name is known.
pub(super) fn or_nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(name, known)
        .map(|near| format!(" (the nearest is {near:?})"))
        .unwrap_or_default()
}
