//! Files of this crate's that must be whole: written beside their place, synced, renamed, and the name synced.

use std::fs::{self, File, OpenOptions};
use std::io::{Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `parts`, one behind the other, to `path`. Several threads and processes may write one path at a time: each has a file of its own
/// beside it, and the last to end wins.
pub(crate) fn write(path: &Path, mode: u32, parts: &[&[u8]]) -> Result<()> {
    let beside = beside(path);
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// `NAME.part-<process>-<number>`: a number for each write of the process.
fn beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".part-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_writers_of_one_path_all_succeed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wasm");
        for _ in 0..50 {
            std::thread::scope(|scope| {
                let writers: Vec<_> = (0..8u8)
                    .map(|i| {
                        scope.spawn({
                            let path = &path;
                            move || write(path, 0o644, &[&[i; 64]])
                        })
                    })
                    .collect();
                writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
            });
            let bytes = fs::read(&path).unwrap();
            assert!(bytes.len() == 64 && bytes.iter().all(|byte| *byte == bytes[0]), "one writer's, whole");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
