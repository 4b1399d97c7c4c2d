//! Compiled code on disk, so that a plugin is compiled once per machine.
//!
//! wasmtime runs whatever bytes it is given as code: one flipped bit, or a file that somebody else
//! put there, would become machine code of the daemon. So every file carries a MAC under a key that
//! only the daemon can read, over everything that the code belongs to:
//!
//! ```text
//! <component sha256>-<engine, first 8 bytes>.code
//!  0          8                  40
//!  +----------+------------------+---------------------
//!  | "R1DCODE1" | HMAC-SHA256      | serialised code …     MAC over: component sha256 · engine compatibility · code
//!  +----------+------------------+---------------------
//! ```
//! A file that does not fit is compiled again and replaced.

use crate::error::RewardError;
use hmac::{Hmac, KeyInit, Mac};
use r1d_proto::user_file;
use r1d_store::{Disk, PRIVATE_MODE, create_file, replace};
use sha2::Sha256;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"R1DCODE1";
const MAC_BYTES: usize = 32;
/// Number of files kept; the least recently written are removed first.
const FILES_MAX: usize = 64;

pub(crate) struct CodeCache {
    dir: PathBuf,
    key: [u8; 32],
    compatibility: [u8; 32],
}

impl CodeCache {
    /// Opens the cache. Creates the directory (0700) and the key (0600) if they are missing.
    pub(crate) fn open(dir: &Path, compatibility: [u8; 32]) -> Result<CodeCache, RewardError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |cause| RewardError::Cache { path, cause }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(at(dir))?;
        let path = dir.join("key");
        let key = read_key(&path)
            .and_then(|key| key.map_or_else(|| make_key(&path), Ok))
            .map_err(at(&path))?;
        Ok(CodeCache {
            dir: dir.into(),
            key,
            compatibility,
        })
    }

    /// The code of a component, if this daemon compiled it for this engine and it has not been
    /// changed since.
    pub(crate) fn load(&self, component_sha256: &[u8; 32]) -> Option<Vec<u8>> {
        let path = self.path(component_sha256);
        let file = user_file::read(&path, u64::MAX).ok()?;
        let code = self.verify(component_sha256, &file);
        if code.is_none() {
            tracing::warn!(path = %path.display(), "cached code of a reward plugin does not \
                                                    verify: compiling it again");
        }
        code.map(<[u8]>::to_vec)
    }

    fn verify<'a>(&self, component_sha256: &[u8; 32], file: &'a [u8]) -> Option<&'a [u8]> {
        let (mac, code) = file.strip_prefix(MAGIC)?.split_at_checked(MAC_BYTES)?;
        self.mac(component_sha256, code)?.verify_slice(mac).ok()?;
        Some(code)
    }

    /// Stores the code of a component. A failure to write only costs a compilation next time.
    pub(crate) fn store(&self, component_sha256: &[u8; 32], code: &[u8]) {
        let path = self.path(component_sha256);
        if let Err(e) = self.write(&path, component_sha256, code) {
            tracing::warn!(path = %path.display(), "cannot keep the compiled code of a reward \
                                                    plugin: {e}");
        }
    }

    fn write(&self, path: &Path, component_sha256: &[u8; 32], code: &[u8]) -> std::io::Result<()> {
        let Some(mac) = self.mac(component_sha256, code) else {
            return Ok(());
        };
        self.make_room()?;
        let parts: [&[u8]; 3] = [MAGIC, &mac.finalize().into_bytes(), code];
        replace(&Disk, path, PRIVATE_MODE, |file| {
            parts.iter().try_for_each(|part| file.write_all(part))
        })
    }

    fn make_room(&self) -> std::io::Result<()> {
        let mut files: Vec<_> = fs::read_dir(&self.dir)?
            .filter_map(|entry| entry.ok())
            .filter(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "code")
            })
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        let excess = (files.len() + 1).saturating_sub(FILES_MAX);
        files
            .iter()
            .take(excess)
            .try_for_each(|(_, path)| match fs::remove_file(path) {
                // Another process has made room.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            })
    }

    fn path(&self, component_sha256: &[u8; 32]) -> PathBuf {
        let engine = self
            .compatibility
            .first_chunk::<8>()
            .map_or(String::new(), |bytes| hex(bytes));
        self.dir
            .join(format!("{}-{engine}.code", hex(component_sha256)))
    }

    fn mac(&self, component_sha256: &[u8; 32], code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(component_sha256);
        mac.update(&self.compatibility);
        mac.update(code);
        Some(mac)
    }
}

/// Reads the key; `None` if there is none, or one that others could have read or written.
fn read_key(path: &Path) -> std::io::Result<Option<[u8; 32]>> {
    let mut file = match user_file::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) if is_useless(&e) => {
            tracing::warn!(path = %path.display(), "the key of the code cache cannot be read \
                                                    ({e}): making a new one");
            return remove_useless(path).map(|()| None);
        }
        file => file?,
    };
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the key of the code cache is open to others: \
                                                making a new one");
        fs::remove_file(path)?;
        return Ok(None);
    }
    let mut key = [0u8; 32];
    if file.read_exact(&mut key).is_err() {
        fs::remove_file(path)?;
        return Ok(None);
    }
    Ok(Some(key))
}

/// Whether what is in the place of a key can be none: it may not be read, or is no file.
fn is_useless(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::IsADirectory | ErrorKind::InvalidInput
    )
}

/// Removes what is in the place of a key. A directory with something in it is somebody's, and
/// stays.
fn remove_useless(path: &Path) -> std::io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    }
}

/// Makes a key, which is complete as soon as its file exists. If another process was faster, its
/// key is returned.
fn make_key(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut key = [0u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let created = create_file(&Disk, path, PRIVATE_MODE, |file| file.write_all(&key));
    match created {
        Ok(()) => Ok(key),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => read_key(path)?.ok_or(e),
        Err(e) => Err(e),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: [u8; 32] = [7; 32];

    fn cache(dir: &Path) -> CodeCache {
        CodeCache::open(dir, [9; 32]).unwrap()
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.store(&COMPONENT, b"machine code");
        let file = fs::read(cache.path(&COMPONENT)).unwrap();
        assert_eq!(
            cache.verify(&COMPONENT, &file),
            Some(b"machine code".as_slice())
        );
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(cache.verify(&COMPONENT, &bad), None, "bit {bit}");
        }
        for length in 0..file.len() {
            assert_eq!(
                cache.verify(&COMPONENT, &file[..length]),
                None,
                "cut to {length}"
            );
        }
    }

    #[test]
    fn code_belongs_to_one_component_one_engine_and_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = cache(dir.path());
        first.store(&COMPONENT, b"code");
        assert_eq!(
            cache(dir.path()).load(&COMPONENT).unwrap(),
            b"code",
            "a restarted daemon uses it"
        );
        let file = fs::read(first.path(&COMPONENT)).unwrap();
        assert!(first.verify(&[8; 32], &file).is_none());
        assert!(
            CodeCache::open(dir.path(), [1; 32])
                .unwrap()
                .verify(&COMPONENT, &file)
                .is_none()
        );
        fs::remove_file(dir.path().join("key")).unwrap();
        assert!(cache(dir.path()).load(&COMPONENT).is_none());
    }

    /// Code is compiled again, and the daemon starts.
    #[test]
    fn what_is_no_key_makes_room_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::create_dir(&path).unwrap();
        let key = cache(dir.path()).key;
        assert_eq!(fs::read(&path).unwrap(), key);
        fs::remove_file(&path).unwrap();
        std::os::unix::net::UnixListener::bind(&path).unwrap();
        let key = cache(dir.path()).key;
        assert_eq!(fs::read(&path).unwrap(), key);
        // A directory with something in it is somebody's.
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("mine")).unwrap();
        let refused = CodeCache::open(dir.path(), [0; 32]).err().unwrap();
        assert!(refused.to_string().contains(&path.display().to_string()));
        assert!(path.join("mine").is_dir());
    }

    #[test]
    fn the_key_is_the_daemons_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("key"), cache(dir.path()).key);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_ne!(
            cache(dir.path()).key,
            old,
            "a key that others could read is not used again"
        );
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn the_cache_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        for i in 0..FILES_MAX as u8 + 10 {
            cache.store(&[i; 32], b"code");
        }
        let files = fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some())
            .count();
        assert_eq!(files, FILES_MAX);
    }
}
