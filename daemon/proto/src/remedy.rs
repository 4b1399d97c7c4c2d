//! What people can do about an error of the operating system.

use rustix::io::Errno;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// What the system says where the machine is out of something, or its disk or network fails,
/// whatever file is at hand.
const MACHINES: [Errno; 18] = [
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOMEM,
    Errno::NOBUFS,
    Errno::AGAIN,
    Errno::IO,
    Errno::NXIO,
    Errno::NODEV,
    Errno::REMOTEIO,
    Errno::STALE,
    Errno::TIMEDOUT,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::NETDOWN,
    Errno::NETUNREACH,
    Errno::NOTCONN,
    Errno::CONNRESET,
    Errno::SHUTDOWN,
];

/// Whether the operating system's error within `error` says nothing of the file that was at hand:
/// the machine is out of something, or fails.
pub fn is_the_machines(error: &(dyn Error + 'static)) -> bool {
    let number = said_by_the_system(error).and_then(Errno::from_io_error);
    number.is_some_and(|number| MACHINES.contains(&number))
}

/// What people can do about a failed write; `None` if only the daemon is at fault.
pub fn remedy(error: &io::Error) -> Option<&'static str> {
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
        _ => match Errno::from_io_error(error)? {
            Errno::MFILE => Some("let the daemon open more files (LimitNOFILE= of its unit)"),
            Errno::NFILE => Some("let the machine open more files (fs.file-max)"),
            Errno::FBIG => Some("let the daemon write larger files (LimitFSIZE= of its unit)"),
            Errno::NOMEM | Errno::NOBUFS => Some("see to the machine's memory"),
            Errno::AGAIN => Some("let the daemon start more processes (TasksMax= of its unit)"),
            _ => Some("see to that file system"),
        },
    }
}

/// What people can do about an error, behind a colon; nothing if only the daemon is at fault.
pub fn to_mend(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => ": let the daemon's user read and write there".into(),
        _ => remedy(error).map_or_else(String::new, |what| format!(": {what}")),
    }
}

/// Whether an error stays until somebody has mended it, however often it is tried again: what is
/// there may not be used, or is something else.
pub fn is_lasting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidInput
    )
}

/// The operating system's error within `error`, if there is one.
pub fn said_by_the_system<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| {
        (*error).source()
    })
    .find_map(|error| {
        // The ledger shares one among the commands of a group.
        let shared = || error.downcast_ref::<Arc<io::Error>>().map(Arc::as_ref);
        error.downcast_ref().or_else(shared)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_is_out_of_is_no_fault_of_a_file() {
        let is_the_machines = |number| is_the_machines(&io::Error::from_raw_os_error(number));
        // EMFILE, ENFILE, ENOMEM, EIO, ESTALE; ENOENT, EACCES, EISDIR, EINVAL.
        assert_eq!([24, 23, 12, 5, 116].map(is_the_machines), [true; 5]);
        assert_eq!([2, 13, 21, 22].map(is_the_machines), [false; 4]);
    }

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
        // EIO, ENODEV, ESTALE, ENOTCONN; EFBIG; ENOENT, ENOTDIR, EISDIR, EEXIST.
        assert_eq!(
            [5, 19, 116, 107].map(of),
            [Some("see to that file system"); 4]
        );
        assert!(of(27).is_some_and(|what| what.contains("larger files")));
        // EMFILE, ENFILE.
        assert!(
            [24, 23]
                .map(of)
                .iter()
                .all(|what| what.is_some_and(|what| what.contains("open more files")))
        );
        assert_eq!(of(12), Some("see to the machine's memory"));
        assert!(of(11).is_some_and(|what| what.contains("TasksMax=")));
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
}
