//! The tokenizers that are open: jobs that name the same files share one, which may take tens of
//! megabytes.

use crate::file_hashes::FileHashes;
use r1d_data::{DataError, Tokenizer, tokenizer};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The path by which a tokenizer was opened, and its files, each with its SHA-256.
type TokenizerKey = (PathBuf, Vec<(PathBuf, String)>);

/// Opens tokenizers. Clones share them.
#[derive(Clone)]
pub(crate) struct Tokenizers {
    hashes: FileHashes,
    open: Arc<Mutex<BTreeMap<TokenizerKey, Weak<Tokenizer>>>>,
}

impl Tokenizers {
    pub(crate) fn new(hashes: FileHashes) -> Tokenizers {
        Tokenizers {
            hashes,
            open: Arc::default(),
        }
    }

    /// The tokenizer at a path, as [`Tokenizer::open`] opens it. Blocks; one is read at a time,
    /// because reading takes several times the memory of what is read.
    pub(crate) fn open(&self, path: &Path) -> Result<Arc<Tokenizer>, DataError> {
        let hash = |file: PathBuf| {
            let sha256 = self.hashes.sha256(&file, &|| Ok(()))?;
            Ok((file, sha256))
        };
        let files = tokenizer::files(path).into_iter().map(hash);
        let Ok(files) = files.collect::<io::Result<Vec<_>>>() else {
            // What cannot be read is named by who reads it.
            return Ok(Arc::new(Tokenizer::open(path)?));
        };
        let key = (path.to_path_buf(), files);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let opened = Arc::new(Tokenizer::open(path)?);
        open.retain(|_, known| known.strong_count() > 0);
        open.insert(key, Arc::downgrade(&opened));
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_the_same_files_shares_a_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let write = |unknown: &str| {
            let text = format!(
                r#"{{"version": "1.0", "model": {{"type": "WordLevel",
                    "vocab": {{"a": 0, "b": 1}}, "unk_token": "{unknown}"}}}}"#
            );
            std::fs::write(&path, text).unwrap();
        };
        let ends = dir.path().join("generation_config.json");
        std::fs::write(&ends, r#"{"eos_token_id": 0}"#).unwrap();
        write("a");
        let tokenizers = Tokenizers::new(FileHashes::default());
        let open = || tokenizers.clone().open(dir.path()).unwrap();
        let first = open();
        assert!(Arc::ptr_eq(&first, &open()));
        write("b");
        let second = open();
        assert!(!Arc::ptr_eq(&first, &second), "its file is another");
        assert_eq!(first.encode("x", false).unwrap(), [0]);
        assert_eq!(second.encode("x", false).unwrap(), [1]);
        std::fs::write(&ends, r#"{"eos_token_id": 1}"#).unwrap();
        assert_eq!(open().eos_ids(), [1], "so does a file beside it");
        drop((first, second));
        assert!(tokenizers.open(Path::new("/nowhere")).is_err());
        open();
        assert_eq!(
            tokenizers.open.lock().unwrap().len(),
            1,
            "nobody has the others"
        );
    }
}
