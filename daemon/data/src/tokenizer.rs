//! Hugging Face tokenizers.

use crate::error::DataError;
use std::path::{Path, PathBuf};

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
}

impl Tokenizer {
    /// `path` is a `tokenizer.json` or a directory with one. Beside it are read, where they are: `generation_config.json`,
    /// `tokenizer_config.json` and `config.json` (end-of-sequence and beginning-of-sequence ids, in this order).
    pub fn open(path: &Path) -> Result<Tokenizer, DataError> {
        let _ = path;
        todo!()
    }

    /// Ids of `text`; `add_special` adds what the tokenizer's post-processor adds (usually the beginning of the sequence).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
        let _ = (text, add_special);
        todo!()
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        let _ = (ids, skip_special);
        todo!()
    }

    /// Ids that end a completion. At least one.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The id that ends a training row: the first of [`Tokenizer::eos_ids`].
    pub fn eos_id(&self) -> u32 {
        self.eos_ids[0]
    }

    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Ids, added tokens included.
    pub fn vocab_size(&self) -> u32 {
        self.inner.get_vocab_size(true) as u32
    }

    /// Refuses a tokenizer whose largest id has no row in an embedding of `vocab_size` rows.
    pub fn check_vocabulary(&self, vocab_size: u32) -> Result<(), DataError> {
        let _ = vocab_size;
        todo!()
    }

    /// The directory that holds the tokenizer's files.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}
