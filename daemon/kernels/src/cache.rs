//! Compiled kernels on disk. What the compiler makes of a text is the same each time and takes it
//! seconds; with a cache only the first worker of a machine waits for it.
//!
//! A file is named by the SHA-256 of all that the code depends on: the compiler's version, its
//! options, and the text. It holds the SHA-256 of name and code, and then the code, so that a torn
//! or a misplaced file is compiled again.

use crate::error::Result;
use r1d_store::Disk;
use r1d_store::blobs::{BlobHash, Blobs};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::OnceLock;

/// Bytes of compiled code that are kept, those that were used last (`LIM-1`).
const BYTES_MAX: u64 = 256 << 20;
const SUM_BYTES: usize = 32;

static KEPT: OnceLock<Blobs> = OnceLock::new();

/// Keeps what this process compiles from now on in `dir`, which need not exist. The first directory
/// that is named counts.
pub fn keep_compiled_in(dir: &Path) {
    let _ = KEPT.set(Blobs::open(Disk::shared(), dir, ".cubin"));
}

/// The code that `compile` makes, or has made before of the same `parts`.
pub(crate) fn compiled(parts: &[&[u8]], compile: impl Fn() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    match KEPT.get() {
        Some(kept) => compiled_in(kept, parts, compile),
        None => compile(),
    }
}

fn compiled_in(
    kept: &Blobs,
    parts: &[&[u8]],
    compile: impl Fn() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let name = name(parts);
    if let Some(code) = read(kept, &name) {
        return Ok(code);
    }
    let code = compile()?;
    let file = [&sum(&name, &code)[..], &code].concat();
    let written = kept.put(&name, &file);
    let written = written.and_then(|()| kept.collect(BYTES_MAX, |other| *other == name));
    if let Err(error) = written {
        // The code is there all the same: the next worker compiles it again.
        tracing::warn!(dir = %kept.dir().display(), %error, "compiled kernels are not kept");
    }
    Ok(code)
}

/// The code of this name, if it is there and whole.
fn read(kept: &Blobs, name: &BlobHash) -> Option<Vec<u8>> {
    let mut file = std::fs::read(kept.path(name)).ok()?;
    let whole = file
        .split_at_checked(SUM_BYTES)
        .is_some_and(|(found, code)| sum(name, code)[..] == *found);
    if !whole {
        let path = kept.path(name);
        tracing::warn!(path = %path.display(), "compiled kernels are damaged: compiling again");
        return None;
    }
    // Only the order in which files go depends on it.
    let _ = kept.touch(name);
    Some(file.split_off(SUM_BYTES))
}

/// The hash of the parts and of where each ends.
fn name(parts: &[&[u8]]) -> BlobHash {
    let mut hash = Sha256::new_with_prefix("r1d compiled kernel 1");
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    BlobHash::from_bytes(hash.finalize().into())
}

fn sum(name: &BlobHash, code: &[u8]) -> [u8; SUM_BYTES] {
    let hash = Sha256::new_with_prefix(name.bytes());
    hash.chain_update(code).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A directory of compiled code, and a compiler that counts its calls.
    struct Compiler {
        kept: Blobs,
        calls: Cell<u32>,
    }

    impl Compiler {
        fn in_dir(dir: &Path) -> Compiler {
            Compiler {
                kept: Blobs::open(Disk::shared(), dir, ".cubin"),
                calls: Cell::new(0),
            }
        }

        fn compile(&self, parts: &[&[u8]]) -> Vec<u8> {
            let compile = || {
                self.calls.set(self.calls.get() + 1);
                Ok(parts.concat())
            };
            compiled_in(&self.kept, parts, compile).unwrap()
        }
    }

    #[test]
    fn the_same_text_is_compiled_once_and_another_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Compiler::in_dir(dir.path());
        assert_eq!(first.compile(&[b"13.0", b"a text"]), b"13.0a text");
        let second = Compiler::in_dir(dir.path());
        assert_eq!(second.compile(&[b"13.0", b"a text"]), b"13.0a text");
        assert_eq!(second.calls.get(), 0);
        // Where a part ends counts, and so does each of them.
        second.compile(&[b"13.0a", b" text"]);
        second.compile(&[b"13.1", b"a text"]);
        assert_eq!(second.calls.get(), 2);
    }

    #[test]
    fn a_damaged_or_misplaced_file_is_compiled_again() {
        let dir = tempfile::tempdir().unwrap();
        let compiler = Compiler::in_dir(dir.path());
        compiler.compile(&[b"one"]);
        compiler.compile(&[b"two"]);
        let path = |part: &[u8]| compiler.kept.path(&name(&[part]));
        let whole = std::fs::read(path(b"one")).unwrap();
        let damaged = [
            Vec::new(),
            whole[..SUM_BYTES - 1].to_vec(),
            whole[..whole.len() - 1].to_vec(),
            [&whole[..whole.len() - 1], b"!"].concat(),
            std::fs::read(path(b"two")).unwrap(),
        ];
        for bytes in damaged {
            let before = compiler.calls.get();
            std::fs::write(path(b"one"), bytes).unwrap();
            assert_eq!(compiler.compile(&[b"one"]), b"one");
            assert_eq!(compiler.calls.get(), before + 1);
            assert_eq!(std::fs::read(path(b"one")).unwrap(), whole);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_compiled_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let compiler = Compiler::in_dir(&file);
        assert_eq!(compiler.compile(&[b"one"]), b"one");
        assert_eq!(compiler.compile(&[b"one"]), b"one");
        assert_eq!(compiler.calls.get(), 2);
    }
}
