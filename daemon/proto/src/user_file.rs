//! Files that a user names: each is opened once, without blocking, only if it is a regular file,
//! and never read beyond a limit.
//!
//! A path in a job is data from outside. A FIFO would block `open` for ever, a device has length 0
//! and no end, and a file of `/proc` may wait for an event. All of these are refused here, from the
//! one handle that is then read.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// `statfs` types of the kernel's own file systems, whose files hold no data of users: proc, sysfs,
/// debugfs, tracefs, cgroup2, cgroup, devpts, securityfs, configfs, pstore, efivarfs, bpf, mqueue,
/// binfmt_misc, selinuxfs.
const PSEUDO_FILE_SYSTEMS: [u64; 15] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x6367_7270,
    0x27_e0eb,
    0x1cd1,
    0x7363_6673,
    0x6265_6570,
    0x6165_676c,
    0xde5e_81e4,
    0xcafe_4a11,
    0x1980_0202,
    0x4249_4e4d,
    0xf97c_ff8c,
];

/// Whether `path` is in one of the kernel's own file systems, such as /proc and /sys, in which no
/// files can be made.
pub fn is_of_the_kernel(path: &Path) -> io::Result<bool> {
    Ok(is_pseudo(&rustix::fs::statfs(path)?))
}

fn is_pseudo(found: &rustix::fs::StatFs) -> bool {
    // The type is a signed number on some machines.
    PSEUDO_FILE_SYSTEMS.contains(&(found.f_type as u64 & 0xffff_ffff))
}

/// Opens `path` for reading if it is a regular file, following links; never blocks on anything
/// else.
///
/// Errors are the file system's own, or of kind `InvalidInput` with a text that says what the path
/// is instead.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(
        rustix::fs::open(path, flags, Mode::empty()).map_err(|refused| match refused {
            // A socket, or a device's driver that does not answer.
            rustix::io::Errno::NXIO => not_regular("a socket or a device"),
            rustix::io::Errno::NOENT => match std::fs::read_link(path) {
                Ok(to) => io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("it is a link to {}, where nothing is", to.display()),
                ),
                Err(_) => refused.into(),
            },
            other => other.into(),
        })?,
    );
    regular(file)
}

/// Opens a regular file to add to its end, and creates it if it does not exist; never blocks on
/// anything else.
///
/// Errors are those of [`open`].
pub fn append(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).map_err(
            |refused| match refused {
                // A pipe without a reader, or a socket or device as above.
                rustix::io::Errno::NXIO => not_regular("a pipe, a socket or a device"),
                rustix::io::Errno::ISDIR => not_regular("a directory"),
                other => other.into(),
            },
        )?;
    regular(File::from(file))
}

fn regular(file: File) -> io::Result<File> {
    if let Some(what) = instead(&file.metadata()?) {
        return Err(not_regular(what));
    }
    if is_pseudo(&rustix::fs::fstatfs(&file)?) {
        return Err(not_regular("a file of the kernel's, as in /proc"));
    }
    Ok(file)
}

/// Names what the metadata belongs to if that is not a regular file; `None` for a regular file.
pub fn instead(found: &std::fs::Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    match (kind.is_file(), kind.is_dir()) {
        (true, _) => None,
        (_, true) => Some("a directory"),
        _ => Some("a pipe, a socket or a device"),
    }
}

/// Reads all of the regular file `path`, of at most `bytes_max` bytes.
///
/// Errors are those of [`open`], or of kind `FileTooLarge` with a text that names the limit.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file is larger than the limit of {bytes_max} bytes"),
        ));
    }
    Ok(bytes)
}

/// Reads all of a text in UTF-8, like [`read`]; other bytes are an error of kind `InvalidData`.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read(path, bytes_max)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the file is not text in UTF-8"))
}

fn not_regular(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {what}, and only a regular file is read"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(path: &Path) -> io::ErrorKind {
        open(path).map(drop).map_err(|e| e.kind()).unwrap_err()
    }

    fn make_fifo(path: &Path) {
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::RWXU, 0).unwrap();
    }

    #[test]
    fn a_device_a_pipe_a_directory_a_socket_and_a_file_of_the_kernels_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, link, socket) = (
            dir.path().join("fifo"),
            dir.path().join("x.jsonl"),
            dir.path().join("socket"),
        );
        make_fifo(&fifo);
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [
            &fifo,
            &link,
            &socket,
            dir.path(),
            Path::new("/proc/self/status"),
            Path::new("/dev/null"),
        ] {
            assert_eq!(
                kind(path),
                io::ErrorKind::InvalidInput,
                "{}",
                path.display()
            );
        }
        assert_eq!(kind(&dir.path().join("none")), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_regular_file_is_not_added_to_either() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, zero, file) = (
            dir.path().join("fifo"),
            dir.path().join("zero"),
            dir.path().join("log"),
        );
        make_fifo(&fifo);
        std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
        for path in [&fifo, &zero, dir.path()] {
            assert_eq!(
                append(path).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{}",
                path.display()
            );
        }
        // A pipe with a reader is refused, too.
        let _reader = open_fifo(&fifo);
        assert_eq!(
            append(&fifo).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        for word in ["one ", "two"] {
            io::Write::write_all(&mut append(&file).unwrap(), word.as_bytes()).unwrap();
        }
        assert_eq!(read_text(&file, 10).unwrap(), "one two");
    }

    fn open_fifo(path: &Path) -> File {
        File::from(
            rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap(),
        )
    }

    #[test]
    fn a_link_to_nothing_is_named_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("model.safetensors");
        std::os::unix::fs::symlink("../blobs/6f2a", &link).unwrap();
        let error = open(&link).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (
                io::ErrorKind::NotFound,
                "it is a link to ../blobs/6f2a, where nothing is".into()
            )
        );
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_not_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&path, "four").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_text(&link, 4).unwrap(), "four");
        assert_eq!(
            read(&path, 3).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(
            read_text(&path, 3).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
