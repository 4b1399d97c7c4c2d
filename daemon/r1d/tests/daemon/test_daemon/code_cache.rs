//! The compiled code of the shipped plugins, which the daemons of one build's tests share: each
//! would compile the same components again, and two cores would do little else.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The file with the key that authenticates a cache's code.
const KEY: &str = "key";

fn shared() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("code-cache")
}

/// Gives a daemon's cache, which is absent, a copy of what earlier daemons compiled.
pub(crate) fn seed(cache: &Path) {
    let Ok(names) = names(&shared()) else {
        return;
    };
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(cache);
    made.expect("the daemon's cache");
    // The daemon makes a key of its own where there is none, and compiles what that does not
    // verify.
    for name in names {
        let _ = fs::copy(shared().join(&name), cache.join(&name));
    }
}

/// Adds to the shared cache what a daemon has compiled under its key.
pub(crate) fn publish(cache: &Path) -> io::Result<()> {
    let shared = shared();
    if !shared.exists() {
        let begun = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        fs::copy(cache.join(KEY), begun.path().join(KEY))?;
        // Another test may be faster: its key counts.
        let _ = fs::rename(begun.path(), &shared);
    }
    if fs::read(cache.join(KEY))? != fs::read(shared.join(KEY))? {
        return Ok(());
    }
    for name in names(cache)? {
        let place = shared.join(&name);
        if name.ends_with(".code") && !place.exists() {
            let begun = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR"))?;
            fs::copy(cache.join(&name), begun.path())?;
            begun.persist(place)?;
        }
    }
    Ok(())
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(dir)?.flatten();
    Ok(entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}
