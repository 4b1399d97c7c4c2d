//! The state directory that a daemon owns, and its lock.

use r1d_proto::remedy::to_mend;
use r1d_store::{Disk, JobLayout, StateLayout, create_dir};
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a state directory lets others do at most, as `StateDirectoryMode` of the systemd unit: its
/// group may reach the socket, nobody else anything.
const STATE_MODE: u32 = 0o750;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("state directory {}: {source}{}", path.display(), to_mend(source))]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("state directory {} is in use by r1d with process id {pid}: stop that one, or choose \
             another with --state-dir", path.display())]
    InUse { path: PathBuf, pid: String },
    #[error(
        "state directory {}: its ledger, ledger.redb, is gone, and there are {jobs} jobs in \
         {0}/jobs, which only a ledger can go on with: put a copy of the ledger back; or, to \
         start anew without these jobs, move {0}/jobs away",
        path.display()
    )]
    NoLedger { path: PathBuf, jobs: usize },
    #[error(
        "state directory {} was removed, or replaced by another, while the daemon ran: what it \
         would record now is lost. It ends; started again, it begins with what is there",
        path.display()
    )]
    Gone { path: PathBuf },
}

/// A state directory that this process owns.
pub(crate) struct StateDir {
    layout: StateLayout,
    lock: File,
}

impl StateDir {
    /// Creates the directory if need be, and locks it.
    pub(crate) fn lock(root: &Path) -> Result<StateDir, StateError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StateError::Io { path, source }
        };
        let layout = StateLayout::new(root);
        create(root).map_err(io(root))?;
        create_dir(&Disk, &layout.jobs()).map_err(io(&layout.jobs()))?;
        let path = layout.lock();
        let mut lock = open(&path).map_err(io(&path))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).map_err(io(&path))?;
            return Err(StateError::InUse {
                path: root.into(),
                pid: pid.trim().into(),
            });
        }
        let own = format!("{}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(own.as_bytes()))
            .map_err(io(&path))?;
        Ok(StateDir { layout, lock })
    }

    /// Refuses to begin a new ledger beside the jobs of an old one: these jobs would be forgotten,
    /// and their directories would stay for ever.
    pub(crate) fn check_ledger(&self) -> Result<(), StateError> {
        if self.layout.ledger().exists() {
            return Ok(());
        }
        let jobs = std::fs::read_dir(self.layout.jobs()).map_err(|source| StateError::Io {
            path: self.layout.root().into(),
            source,
        })?;
        let jobs = jobs
            .flatten()
            .filter(|entry| JobLayout::new(entry.path()).job_toml().exists())
            .count();
        if jobs > 0 {
            Err(StateError::NoLedger {
                path: self.layout.root().into(),
                jobs,
            })
        } else {
            Ok(())
        }
    }

    /// Checks that the directory at the path is still the one that this process locked.
    pub(crate) fn is_in_place(&self) -> Result<(), StateError> {
        let (held, found) = (self.lock.metadata(), std::fs::metadata(self.layout.lock()));
        match (held, found) {
            (Ok(held), Ok(found)) if (held.dev(), held.ino()) == (found.dev(), found.ino()) => {
                Ok(())
            }
            (_, Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StateError::Io {
                    path: self.layout.root().into(),
                    source: error,
                })
            }
            _ => Err(StateError::Gone {
                path: self.layout.root().into(),
            }),
        }
    }

    /// The paths in the directory.
    pub(crate) fn layout(&self) -> &StateLayout {
        &self.layout
    }
}

/// Creates the directory if it is not there: users' data, and what models write, are not for
/// everybody. One that is there is its operator's.
fn create(root: &Path) -> std::io::Result<()> {
    if root.exists() {
        return Ok(());
    }
    create_dir(&Disk, root)?;
    let made = std::fs::metadata(root)?.permissions().mode();
    std::fs::set_permissions(root, Permissions::from_mode(made & STATE_MODE))
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_state_directory_is_not_for_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let (root, own) = (dir.path().join("deep/state"), dir.path().join("own"));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        StateDir::lock(&root).unwrap();
        assert_eq!(mode(&root) & !0o750, 0, "{:o}", mode(&root));
        assert_eq!(mode(&root) & 0o700, 0o700);
        // One that is there is its operator's.
        std::fs::create_dir(&own).unwrap();
        std::fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
        StateDir::lock(&own).unwrap();
        assert_eq!(mode(&own), 0o755);
    }
}
