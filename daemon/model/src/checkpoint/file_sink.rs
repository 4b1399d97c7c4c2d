//! Where the files of a model's directory go: to the disk at once ([`Folder`]), or into memory, for
//! another thread to write ([`super::snapshot`]).

use crate::error::{ModelError, Result};
use r1d_torch::work;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Takes the files of a directory, one after the other. Paths are relative to the directory.
pub trait FileSink {
    /// Makes a folder, whose parent must be there.
    fn folder(&mut self, path: &Path) -> Result<()>;

    /// Begins a file of `bytes` bytes; what is put next is its contents.
    fn file(&mut self, path: &Path, bytes: u64) -> Result<()>;

    /// Adds bytes to the file that was begun last.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;

    /// Adds the values of a tensor, row by row, to the file that was begun last. It may change once
    /// this returns.
    fn put_tensor(&mut self, tensor: &Tensor) -> Result<()>;

    /// Adds a whole file.
    fn put_file(&mut self, path: &Path, contents: &[u8]) -> Result<()> {
        self.file(path, contents.len() as u64)?;
        self.put(contents)
    }
}

/// Bytes that are passed to the file system at a time.
const WRITE_BYTES: usize = 8 << 20;
/// Bytes after which the file system has to write them to the disk: a sync of a whole large file
/// would report no progress until its end.
const SYNC_BYTES: usize = 64 << 20;

/// A directory on disk that is filled at once.
pub struct Folder {
    dir: PathBuf,
    file: Option<(PathBuf, File)>,
    unsynced: usize,
}

impl Folder {
    /// Fills `dir`, which must exist.
    pub fn of(dir: &Path) -> Folder {
        Folder {
            dir: dir.to_owned(),
            file: None,
            unsynced: 0,
        }
    }
}

impl FileSink for Folder {
    fn folder(&mut self, path: &Path) -> Result<()> {
        let path = self.dir.join(path);
        std::fs::create_dir(&path).map_err(ModelError::io(&path))
    }

    fn file(&mut self, path: &Path, _: u64) -> Result<()> {
        let path = self.dir.join(path);
        let file = File::create(&path).map_err(ModelError::io(&path))?;
        (self.file, self.unsynced) = (Some((path, file)), 0);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let Some((path, file)) = &mut self.file else {
            return Err(ModelError::Input(
                "bytes of a file that was not begun".into(),
            ));
        };
        for part in bytes.chunks(WRITE_BYTES) {
            file.write_all(part).map_err(ModelError::io(path))?;
            self.unsynced += part.len();
            if self.unsynced >= SYNC_BYTES {
                file.sync_data().map_err(ModelError::io(path))?;
                self.unsynced = 0;
            }
            work::moved(part.len() as u64);
        }
        Ok(())
    }

    /// The tensor comes to the host alone, so that no two are in memory twice.
    fn put_tensor(&mut self, tensor: &Tensor) -> Result<()> {
        let host = tensor
            .f_detach()?
            .f_to_device(Device::Cpu)?
            .f_contiguous()?;
        let mut bytes = vec![0; host.numel() * host.kind().elt_size_in_bytes()];
        host.f_copy_data_u8(&mut bytes, host.numel())?;
        self.put(&bytes)
    }
}
