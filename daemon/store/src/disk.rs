//! [`Storage`] on a real file system.

use r1d_proto::storage::{Append, FileFacts, Storage};
use r1d_proto::user_file;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// The file system of the machine. Files are opened as [`user_file`] does: only regular ones.
pub struct Disk;

impl Disk {
    /// The file system, for several owners.
    pub fn shared() -> Arc<dyn Storage> {
        Arc::new(Disk)
    }
}

impl Storage for Disk {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            made => made,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        names(dir, |kind| kind.is_file())
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        names(dir, |kind| kind.is_dir())
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        Ok(Box::new(DiskFile(user_file::append(path)?)))
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn Append>> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(mode).open(path)?;
        Ok(Box::new(DiskFile(file)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        user_file::read(path, u64::MAX)
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        user_file::open(path)?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        let metadata = std::fs::metadata(path)?;
        let since_epoch = metadata.modified()?.duration_since(UNIX_EPOCH);
        Ok(FileFacts {
            bytes: metadata.len(),
            // A file of before 1970 is as old as any.
            modified: since_epoch.unwrap_or_default(),
        })
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut source = user_file::open(from)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(to)?;
        let copied = io::copy(&mut source, &mut file).and_then(|_| file.sync_data());
        if copied.is_err() {
            // Nobody finds half a file in its place.
            let _ = std::fs::remove_file(to);
        }
        copied
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let is_here = dir.as_os_str().is_empty();
        File::open(if is_here { Path::new(".") } else { dir })?.sync_all()
    }
}

fn names(dir: &Path, is_wanted: impl Fn(FileType) -> bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // Skip names that are not UTF-8: r1d never writes such files.
        if let (true, Ok(name)) = (
            is_wanted(entry.file_type()?),
            entry.file_name().into_string(),
        ) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

struct DiskFile(File);

impl Append for DiskFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
