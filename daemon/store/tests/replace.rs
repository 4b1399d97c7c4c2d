//! Replaced files, and what their errors say.

use r1d_store::{Disk, StoreError, remove_parts, write_file};
use std::io::Error;
use std::path::PathBuf;

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let (directory, path) = file("result.json", "old");
    for raw in [28, 122, 13] {
        let error = write_file(&Disk, &path, |file| {
            file.write_all(b"half of the n")?;
            Err(Error::from_raw_os_error(raw))
        });
        let message = error.unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("cannot write {}: ", path.display())),
            "{message}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }
    write_file(&Disk, &path, |file| file.write_all(b"new")).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
}

#[test]
fn what_cannot_be_written_is_named_with_what_the_system_says() {
    let (_directory, path) = file("result.json", "old");
    let full = write_file(&Disk, &path, |_| Err(Error::from_raw_os_error(28))).unwrap_err();
    assert!(
        matches!(&full, StoreError::Write { source, .. } if source.raw_os_error() == Some(28)),
        "{full}"
    );
    assert!(
        full.to_string()
            .contains("result.json: No space left on device"),
        "{full}"
    );
}

#[test]
fn writers_of_one_path_do_not_share_a_part_file() {
    let (_directory, path) = file("status.json", "old");
    // The second begins and ends while the first writes.
    write_file(&Disk, &path, |outer| {
        outer.write_all(b"the first, ")?;
        write_file(&Disk, &path, |inner| inner.write_all(b"the second"))
            .map_err(|error| Error::other(error.to_string()))?;
        assert_eq!(std::fs::read_to_string(&path)?, "the second");
        outer.write_all(b"whole")
    })
    .unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "the first, whole");
}

#[test]
fn what_a_dead_writer_left_is_removed_and_nothing_else() {
    let (directory, path) = file("status.json", "old");
    let left = path.with_file_name(".status.json.1-0.part");
    std::fs::write(&left, "half").unwrap();
    write_file(&Disk, &path, |file| {
        remove_parts(&Disk, directory.path());
        file.write_all(b"new")
    })
    .unwrap();
    assert!(!left.exists());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
}
