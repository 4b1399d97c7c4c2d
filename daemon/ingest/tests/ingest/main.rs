//! Tests of token sets: their file, their folder, and what stages read from them.

mod examples;
mod file;
mod folder;
mod made;
mod order;
mod preferences;
mod supervision;

use r1d_data::{DataError, Telling, Template, Tokenizer};
use r1d_job::{DataSource, TemplateSource};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../data/tests/data/golden")
        .join(name)
}

/// A byte-level BPE tokenizer of 320 ids whose end of sequence is 1.
fn tokenizer() -> Tokenizer {
    Tokenizer::open(&golden("plain")).unwrap()
}

/// A data set without columns.
fn source(path: impl Into<PathBuf>) -> DataSource {
    DataSource::new("train", path)
}

/// A file in a directory that lives as long as the value.
fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

/// Opens a template with a job that sets no variables.
fn open(source: &TemplateSource, tokenizer: &Tokenizer) -> Result<Template, DataError> {
    Template::open(source, tokenizer, &Telling::default())
}
