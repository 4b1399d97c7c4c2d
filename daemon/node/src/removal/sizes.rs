//! How much disk jobs take that have ended. A job is measured once: nothing changes its files any
//! more. Blocks.

use r1d_ledger::JobRecord;
use r1d_link::removal::DiskSize;
use r1d_proto::ids::JobId;
use r1d_store::JobLayout;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is in a job's directory besides its results. Its checkpoints may lie elsewhere.
pub const DISPOSABLE: [&str; 3] = ["checkpoints", "rollouts", "journal"];
/// Begins the name of a directory that is being removed.
pub const GONE_PREFIX: &str = ".removed-";
/// Most jobs whose sizes are kept (`LIM-1`).
const SIZES_MAX: usize = 100_000;
/// Size of a block in what the system counts, whatever the file system's.
const BLOCK_BYTES: u64 = 512;

/// The sizes that are known, each with the end of the job that was measured.
#[derive(Default)]
pub struct Sizes(HashMap<JobId, (Option<u64>, DiskSize)>);

impl Sizes {
    /// The size of a job that has ended and has these directories elsewhere.
    pub fn of(&mut self, record: &JobRecord, state_dir: &Path, elsewhere: &[PathBuf]) -> DiskSize {
        let ended_at = record.progress.ended_at;
        match self.0.get(record.job()) {
            Some((end, size)) if *end == ended_at => return *size,
            _ => {}
        }
        let dir = JobLayout::of(state_dir, record.job()).dir;
        let more = DISPOSABLE.map(|name| dir.join(name));
        let more_bytes = more
            .iter()
            .chain(elsewhere)
            .map(|dir| bytes_below(dir))
            .sum();
        let all = elsewhere.iter().map(|dir| bytes_below(dir)).sum::<u64>() + bytes_below(&dir);
        let size = DiskSize {
            all_bytes: all,
            more_bytes,
        };
        if self.0.len() >= SIZES_MAX {
            self.0.clear();
        }
        self.0.insert(record.job().clone(), (ended_at, size));
        size
    }

    /// Forgets the size of a job of which something goes.
    pub fn forget(&mut self, job: &JobId) {
        self.0.remove(job);
    }
}

/// The bytes that a directory takes. A file with several names counts in parts, one for each name:
/// jobs share the files of stages that they have taken over. What cannot be read, and what is being
/// removed, counts nothing.
fn bytes_below(dir: &Path) -> u64 {
    let (mut bytes, mut dirs) = (0u64, vec![dir.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.is_dir() {
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(GONE_PREFIX.as_bytes()) {
                    continue;
                }
                dirs.push(entry.path());
            } else {
                bytes += found.blocks() * BLOCK_BYTES / found.nlink().max(1);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two jobs that share a file take its bytes once.
    #[test]
    fn a_shared_file_counts_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b/deep"));
        fs::create_dir_all(&a).unwrap();
        fs::create_dir_all(&b).unwrap();
        fs::write(a.join("x"), vec![1; 64 << 10]).unwrap();
        let alone = bytes_below(&a);
        assert!(alone >= 64 << 10);
        fs::hard_link(a.join("x"), b.join("x")).unwrap();
        assert_eq!(bytes_below(&a) + bytes_below(&dir.path().join("b")), alone);
        assert_eq!(bytes_below(&dir.path().join("none")), 0);
    }

    #[test]
    fn what_is_being_removed_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join(format!("deep/{GONE_PREFIX}s0/step-1"));
        fs::create_dir_all(&gone).unwrap();
        fs::write(gone.join("x"), vec![1; 64 << 10]).unwrap();
        assert_eq!(bytes_below(dir.path()), 0);
    }
}
