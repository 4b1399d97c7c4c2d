//! What a job relies on between its data files and the worker.

mod dataset;
mod examples;
mod preferences;
mod questions;
mod rollouts;
mod storage;
mod supervision;
mod template;
mod tokenizer;

use r1d_data::Tokenizer;
use r1d_job::DataSource;
use std::path::{Path, PathBuf};

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
}

/// A byte-level BPE tokenizer of 320 ids whose end of sequence is 1.
pub fn tokenizer() -> Tokenizer {
    Tokenizer::open(&golden("plain")).unwrap()
}

/// A data set without columns.
pub fn source(path: impl Into<PathBuf>) -> DataSource {
    DataSource::new("train", path)
}

/// A file in a directory that lives as long as the value.
pub fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    (directory, path)
}
