//! A file system as durable files need it, handed in like the clock: a simulator's can tear a
//! write, fill up and lose power.

use std::io;
use std::path::Path;
use std::time::Duration;

/// A directory tree. Contract:
/// - what was appended and not synced may be lost, wholly or in part, by a crash of the machine; a
///   crash of the process loses nothing appended;
/// - that a file or directory was created, linked, renamed or removed survives a crash of the
///   machine after [`Storage::sync_dir`] of the directory that its name is in;
/// - errors are the file system's own, of kind `NotFound` for what does not exist and `StorageFull`
///   where no room is left.
pub trait Storage: Send + Sync + 'static {
    /// Creates one directory in an existing one; the directory may exist.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names of the files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Names of the directories in a directory, sorted.
    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file at its end; creates it if it does not exist.
    fn append(&self, path: &Path) -> io::Result<Box<dyn Append>>;
    /// Creates a new file of this mode, less the umask; an error of kind `AlreadyExists` if there
    /// is anything of that name.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn Append>>;
    /// Reads the whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Reads `length` bytes of a file from `offset`; an error of kind `UnexpectedEof` if the file
    /// ends before.
    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// The size of a file, and when it changed last.
    fn facts(&self, path: &Path) -> io::Result<FileFacts>;
    /// Makes the time of a file's last change the present; a crash of the machine may undo it.
    fn touch(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name, which must be free.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Copies a file to a new name, which must be free; the copy's bytes survive a crash of the
    /// machine when it returns.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file or directory; replaces a file `to` if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory survive a crash of the machine.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Bytes in the file.
    pub bytes: u64,
    /// When it was written or touched last, since the Unix epoch.
    pub modified: Duration,
}

/// A file open at its end.
pub trait Append: Send {
    /// Bytes in the file.
    fn length(&self) -> io::Result<u64>;
    /// Writes all of `bytes`; after an error any first part of them may be in the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to its first `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Returns once everything appended survives a crash. After an error, nothing appended since
    /// the last success may be trusted to.
    fn sync(&mut self) -> io::Result<()>;
}
