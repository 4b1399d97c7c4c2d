//! What a job needs that others can take away from it: the files that it reads, the directory of
//! its checkpoints, disks that it writes to. The job is not at fault if one of these is missing, so
//! it does not end: it waits ([`crate::outside_waits`]) until all are back.

use crate::checkpoints;
use crate::inputs;
use crate::outputs::Outputs;
use crate::state_dir::job_dir;
use crate::status::JobViews;
use r1d_job::Job;
use r1d_proto::ids::JobId;
use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// A file that is written and removed again, to check that a directory can be written to.
const PROBE_FILE: &str = ".probe";
/// Size of [`PROBE_FILE`]: a full disk has no room for it.
const PROBE_BYTES: usize = 64 << 10;

/// Describes what is amiss and what to do about it; `None` if the job can go on. Blocks.
pub(crate) fn amiss(views: &JobViews, job: &JobId) -> Option<String> {
    let record = views.ledger.job(job)?;
    let outputs = Outputs::new(job_dir(&views.state_dir, job));
    let parsed = Job::parse(&record.submission.job_toml, Path::new("/")).ok()?;
    inputs::unlike(&outputs.inputs())
        .or_else(|| checkpoints::check(&record, &parsed, &outputs, &views.state_dir).err())
        .or_else(|| unwritable(&outputs.dir))
        .or_else(|| unwritable(&outputs.checkpoints(&parsed, job)))
}

/// Why nothing can be written in a directory, or where it would be made.
fn unwritable(dir: &Path) -> Option<String> {
    let there = dir.ancestors().find(|dir| dir.symlink_metadata().is_ok())?;
    let probe = there.join(PROBE_FILE);
    let write = || {
        let mut file = fs::File::create(&probe)?;
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    };
    let written = write();
    // A probe that cannot be removed is reported too.
    let removed = fs::remove_file(&probe);
    let error = written.and(removed).err()?;
    let what = remedy(&error).unwrap_or("see to that file system");
    Some(format!(
        "nothing can be written in {}: {error}: {what}",
        there.display()
    ))
}

/// What people can do about a failed write; `None` if only the daemon is at fault.
pub(crate) fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("make room on that file system"),
        ErrorKind::ReadOnlyFilesystem => Some("make that file system writable again"),
        ErrorKind::PermissionDenied => Some("let the daemon's user write there"),
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => None,
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::AlreadyExists => error
            .raw_os_error()
            .map(|_| "put there what was there before"),
        _ => error.raw_os_error().map(|_| "see to that file system"),
    }
}

/// The operating system's error within `error`, if there is one.
pub(crate) fn said_by_the_system<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| {
        (*error).source()
    })
    .find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_of_a_write_is_for_somebody_to_mend() {
        let of = |number| remedy(&io::Error::from_raw_os_error(number));
        // ENOSPC, EDQUOT; EROFS; EACCES, EPERM.
        assert_eq!(
            [28, 122].map(of),
            [Some("make room on that file system"); 2]
        );
        assert_eq!(of(30), Some("make that file system writable again"));
        assert_eq!(
            [13, 1].map(of),
            [Some("let the daemon's user write there"); 2]
        );
        // EIO, EMFILE, ENODEV, ESTALE, ENOTCONN, EFBIG; ENOENT, ENOTDIR, EISDIR, EEXIST.
        assert_eq!(
            [5, 24, 19, 116, 107, 27].map(of),
            [Some("see to that file system"); 6]
        );
        assert_eq!(
            [2, 20, 21, 17].map(of),
            [Some("put there what was there before"); 4]
        );
        // EINVAL, ENAMETOOLONG: another try would fail in the same way.
        assert_eq!([22, 36].map(of), [None; 2]);
        // An error that a reader found in a file does not come from the operating system.
        assert_eq!(
            remedy(&io::Error::new(ErrorKind::InvalidData, "cut short")),
            None
        );
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
}
