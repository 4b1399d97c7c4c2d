//! What a job needs that others can take away from it: the files that it reads, the directory of
//! its checkpoints, disks that it writes to. The job is not at fault if one of these is missing, so
//! it does not end: it waits ([`crate::outside_waits`]) until all are back.

use crate::checkpoints::{self, Journals};
use crate::context::NodeContext;
use crate::inputs;
use crate::review;
use r1d_job::Job;
use r1d_proto::ids::JobId;
use r1d_proto::remedy::remedy;
use r1d_store::JobLayout;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Begins the name of a file that is written and removed again, to see whether a directory takes
/// anything. The whole name is that of a file that is being written ([`r1d_store::remove_parts`]):
/// one that a killed daemon leaves is removed by the next.
const PROBE_PREFIX: &str = ".r1d-probe";
/// Bytes of it: what a full disk has no room for.
const PROBE_BYTES: usize = 64 << 10;

/// Describes what is amiss and what to do about it; `None` if the job can go on. Blocks.
pub(crate) fn amiss(node: &NodeContext, job: &JobId) -> Option<String> {
    let record = node.ledger.job(job)?;
    let outputs = JobLayout::of(&node.state_dir, job);
    let parsed = Job::parse(&record.submission.job_toml, Path::new("/")).ok()?;
    inputs::unlike(&outputs.inputs())
        .or_else(|| {
            checkpoints::check(
                &record,
                &parsed,
                &outputs,
                &node.state_dir,
                Journals::Present,
            )
            .err()
        })
        .or_else(|| {
            review::hashes(&record, &parsed, &outputs.datasets())
                .err()
                .map(|error| error.to_string())
        })
        .or_else(|| unwritable(&outputs.dir))
        .or_else(|| unwritable(&outputs.checkpoints(parsed.checkpoint.to.as_deref(), job)))
}

/// As [`amiss`], and reads all bytes of what finished stages left for those to come: for a job that
/// would fail otherwise.
pub(crate) fn harmed(node: &NodeContext, job: &JobId) -> Option<String> {
    amiss(node, job).or_else(|| {
        let record = node.ledger.job(job)?;
        let outputs = JobLayout::of(&node.state_dir, job);
        let parsed = Job::parse(&record.submission.job_toml, Path::new("/")).ok()?;
        checkpoints::harmed(&record, &parsed)
            .or_else(|| review::harmed(&record, &parsed, &outputs.datasets()))
    })
}

/// Why nothing can be written in a directory, or where it would be made.
fn unwritable(dir: &Path) -> Option<String> {
    let there = dir.ancestors().find(|dir| dir.symlink_metadata().is_ok())?;
    let error = probe(there).err()?;
    let what = remedy(&error).unwrap_or("see to that file system");
    Some(format!(
        "nothing can be written in {}: {error}: {what}",
        there.display()
    ))
}

/// Writes a file that was not there, and removes it. The directory may be a user's: what has the
/// file's name already, another's file or a link, is not touched, and the next number is tried.
fn probe(dir: &Path) -> io::Result<()> {
    static PROBES: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = PROBES.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(
            "{PROBE_PREFIX}.{}-{number}.part",
            std::process::id()
        ));
        let mut file = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            created => created?,
        };
        let written = file
            .write_all(&[0; PROBE_BYTES])
            .and_then(|()| file.sync_all());
        // It is only in the way where it cannot be removed.
        let removed = fs::remove_file(&path);
        return written.and(removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::remedy::said_by_the_system;

    #[test]
    fn a_ledger_on_a_full_disk_is_for_somebody_to_mend() {
        let error = r1d_ledger::LedgerError::Io {
            path: "/s/ledger.redb".into(),
            source: std::sync::Arc::new(io::Error::from_raw_os_error(28)),
        };
        let found = said_by_the_system(&error).expect("what the system said");
        assert_eq!(found.raw_os_error(), Some(28));
    }

    #[test]
    fn a_directory_that_takes_nothing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unwritable(dir.path()), None);
        assert_eq!(unwritable(&dir.path().join("not/yet")), None);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let said = unwritable(&file.join("below")).unwrap();
        assert!(
            said.contains(&file.display().to_string())
                && said.contains("put there what was there before"),
            "{said}"
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    /// Whoever may write in the directory may have put anything there, under either name.
    #[test]
    fn what_has_the_name_of_a_probe_is_neither_followed_nor_removed() {
        use std::os::unix::fs::symlink;
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = elsewhere.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let own = |number: u32| {
            dir.path()
                .join(format!(".r1d-probe.{}-{number}.part", std::process::id()))
        };
        fs::write(dir.path().join(".probe"), "a user's").unwrap();
        (0..500).for_each(|number| symlink(&victim, own(number)).unwrap());
        (500..1000).for_each(|number| fs::write(own(number), "a user's").unwrap());
        assert_eq!(unwritable(dir.path()), None);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(dir.path().join(".probe")).unwrap(), b"a user's");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1001,
            "nothing is removed or left behind"
        );
    }
}
